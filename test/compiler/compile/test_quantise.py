# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A trunk in int8 gives nearly the same features, and bad folders are refused in a sentence."""

import logging
from pathlib import Path
import platform

import cv2
from graph_samples import net, run, SPEC, tensor
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import pytest

from uncertainty_seg.backends.cpu.openvino import core_of_process
from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks
from uncertainty_seg.compiler.algebra.split import split_trunk_head
from uncertainty_seg.compiler.frontend.lint import lint
from uncertainty_seg.compiler.frontend.static_input import take_bytes
from uncertainty_seg.compiler.onnx_tools import build_model, float_info
from uncertainty_seg.compiler.precision import halve_weights
from uncertainty_seg.compiler.quantise_trunk import (
    calibration_images,
    quantise_trunk,
    quantised,
    QUANTISERS,
)
from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.core.preprocess import fit_image, Geometry
from uncertainty_seg.errors import ConfigError, DatasetError, GraphError

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (8, 16, 3), np.uint8) for _ in range(12)]
# Without VNNI, ONNX Runtime and OpenVINO add pairs of products in 16 bits on x86.
ADDS_IN_32_BITS = platform.machine() != 'x86_64' or 'vnni' in Path('/proc/cpuinfo').read_text()
ROOM = InputSpec(16, 8, 'letterbox', 'rgb', (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def trunk() -> onnx.ModelProto:
    """Normalisation, a 3x3 convolution with bias, ReLU."""
    masked, sites = dropout_to_masks(take_bytes(net('element'), SPEC))
    return split_trunk_head(masked, sites)[0]


def two_layers(spread: float) -> onnx.ModelProto:
    """Two 1x1 convolutions; what is between them differs by `spread` from channel to channel."""
    scale = np.array([spread, 1, 1], np.float32)
    first, second = (np.diag(v).astype(np.float32)[:, :, None, None] for v in (scale, 1 / scale))
    nodes = [
        helper.make_node('Cast', ['image'], ['float'], to=TensorProto.FLOAT),
        helper.make_node('Transpose', ['float'], ['planes'], perm=[0, 3, 1, 2]),
        helper.make_node('Conv', ['planes', 'first'], ['between'], 'one', kernel_shape=[1, 1]),
        helper.make_node('Conv', ['between', 'second'], ['features'], kernel_shape=[1, 1]),
    ]
    image = helper.make_tensor_value_info('image', TensorProto.UINT8, [1, 8, 16, 3])
    return build_model('trunk', nodes, [image], [float_info('features', (1, 3, 8, 16))],
                       [tensor('first', first), tensor('second', second)])


def needs(quantiser: str) -> None:
    if quantiser == 'nncf':
        pytest.importorskip('nncf')


def write(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((20, 20, 3), 10 * index, np.uint8))
    return folder


@pytest.mark.parametrize('quantiser', QUANTISERS)
def test_features_move_by_a_few_steps_of_the_scale(quantiser: str) -> None:
    needs(quantiser)
    found = quantised(trunk(), IMAGES, quantiser)
    model = onnx.load_from_string(found.data)
    other = RNG.integers(0, 256, (1, 8, 16, 3), np.uint8)
    right, got = (run(m, {'image': other})[0] for m in (trunk(), model))
    error = np.sqrt(((got - right) ** 2).mean()) / right.std()
    assert 0 < error < 0.03
    assert 0 < found.feature_error < 0.03
    assert (found.num_layers, found.float_layers) == (1, ())


@pytest.mark.parametrize('quantiser', QUANTISERS)
def test_the_file_keeps_its_border_and_the_rules_of_all_files(quantiser: str) -> None:
    needs(quantiser)
    model = onnx.load_from_string(quantised(trunk(), IMAGES, quantiser).data)
    onnx.checker.check_model(model, full_check=True)
    assert list(model.graph.input) == list(trunk().graph.input)
    assert list(model.graph.output) == list(trunk().graph.output)
    assert {e.domain: e.version for e in model.opset_import} == {'': 17}
    assert lint(model) == []


def test_openvino_gives_what_onnx_runtime_does() -> None:
    pytest.importorskip('openvino')
    if not ADDS_IN_32_BITS:
        pytest.skip('this processor adds products of 8 bits in 16, where they saturate')
    data = quantised(trunk(), IMAGES).data
    core = core_of_process()
    config = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1}
    got = core.compile_model(core.read_model(data), 'CPU', config)([IMAGES[0][None]])[0]
    right = run(onnx.load_from_string(data), {'image': IMAGES[0][None]})[0]
    np.testing.assert_allclose(got, right, atol=0.02 * right.std())


def test_weights_are_int8_by_channel_and_everything_is_around_zero() -> None:
    model = onnx.load_from_string(quantised(trunk(), IMAGES).data)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = [v for v in values.values() if v.dtype == np.int8 and v.shape == (8, 3, 3, 3)]
    assert len(weights) == 1
    scales = [n for n in model.graph.node if n.op_type in ('QuantizeLinear', 'DequantizeLinear')]
    assert sorted(values[n.input[1]].size for n in scales) == [1, 1, 8]
    for node in scales:
        assert values[node.input[2]].dtype == np.int8  # TensorRT takes no other
        assert not values[node.input[2]].any()
    convolution = next(n for n in model.graph.node if n.op_type == 'Conv')
    assert values[convolution.input[2]].dtype == np.float32


def test_nothing_is_rounded_between_a_layer_and_its_relu() -> None:
    model = onnx.load_from_string(quantised(trunk(), IMAGES).data)
    ops = [node.op_type for node in model.graph.node]
    assert ops[ops.index('Conv'):] == ['Conv', 'Relu']


def test_a_layer_that_alone_spoils_the_features_stays_in_float() -> None:
    assert quantised(two_layers(1.0), IMAGES).float_layers == ()
    found = quantised(two_layers(1e4), IMAGES)
    assert found.float_layers == ('Conv_3',)
    model = onnx.load_from_string(found.data)
    assert [n.op_type for n in model.graph.node].count('DequantizeLinear') == 2
    assert found.feature_error < 0.05


def test_a_trunk_that_stands_no_int8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('uncertainty_seg.compiler.quantise_trunk._WORST_ERROR', 1e-9)
    with pytest.raises(GraphError, match='every layer of the trunk spoils the features in int8'):
        quantised(trunk(), IMAGES)


def test_halved_weights_are_quantised_as_whole_ones_of_the_same_values() -> None:
    model = trunk()
    big = np.random.default_rng(2).normal(size=(64, 3, 3, 3)).astype(np.float16)
    for index, tensor_ in enumerate(model.graph.initializer):
        if tensor_.name == 'w1':
            model.graph.initializer[index].CopyFrom(tensor('w1', big.astype(np.float32)))
        if tensor_.name == 'b1':
            model.graph.initializer[index].CopyFrom(tensor('b1', np.zeros(64, np.float32)))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 64
    del model.graph.value_info[:]
    assert quantised(halve_weights(model), IMAGES).data == quantised(model, IMAGES).data


def test_a_trunk_without_layers_is_refused() -> None:
    from conftest import tiny_trunk

    with pytest.raises(GraphError, match='no convolution or matrix product, expected one to qua'):
        quantised(tiny_trunk(), IMAGES)


def test_an_unknown_quantiser_is_refused() -> None:
    with pytest.raises(ConfigError, match="quantiser 'magic', expected one of onnxruntime, nncf"):
        quantised(trunk(), IMAGES, 'magic')


def test_no_image_is_refused() -> None:
    with pytest.raises(DatasetError, match='no calibration image, expected at least one'):
        quantised(trunk(), [])


def test_a_folder_becomes_the_bytes_of_a_trunk(tmp_path: Path) -> None:
    folder = write(tmp_path / 'sea', [f'{i}.png' for i in range(6)])
    model = onnx.load_from_string(quantise_trunk(trunk(), SPEC, folder, limit=4))
    assert 'DequantizeLinear' in {node.op_type for node in model.graph.node}


def test_images_are_fitted_as_the_pipeline_does(tmp_path: Path) -> None:
    photograph = RNG.integers(0, 256, (40, 30, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), photograph)
    found = calibration_images(tmp_path, ROOM)
    np.testing.assert_array_equal(
        found.images[0], fit_image(photograph, Geometry.of(40, 30, ROOM), ROOM))


def test_a_limit_spreads_over_the_sorted_names_of_all_folders(tmp_path: Path) -> None:
    folder = write(tmp_path / 'sea', ['0.png', '1.PNG', '2.png', 'deep/3.png'])
    (folder / 'notes.txt').write_text('no image')
    found = calibration_images(folder, SPEC, limit=2)
    assert [int(image[0, 0, 0]) for image in found.images] == [0, 20]
    assert len(calibration_images(folder, SPEC).images) == 4


def test_unreadable_images_are_counted_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / 'sea', ['0.png', '1.png'])
    (folder / '2.jpg').write_bytes(b'no image')
    with caplog.at_level(logging.WARNING):
        found = calibration_images(folder, SPEC)
    assert (len(found.images), found.num_unreadable) == (2, 1)
    assert '1 of 3 calibration images cannot be read and are left out' in caplog.text


@pytest.mark.parametrize('files, words', [
    (None, 'is no folder, expected one with photographs'),
    ([], 'holds no image, expected photographs'),
    (['a.jpg', 'b.png'], 'none of the 2 images of .* can be read'),
])
def test_a_folder_without_images_is_refused(
    tmp_path: Path, files: list[str] | None, words: str
) -> None:
    folder = tmp_path / 'sea'
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / name).write_bytes(b'')
    with pytest.raises(DatasetError, match=words):
        calibration_images(folder, SPEC)
