# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The real runtimes on a network small enough to know its answer, and bundles that do not fit.

Every test here runs on each runtime that is installed; what is one runtime's own is tested in
test_onnxrt.py and test_openvino.py.

"""

from collections.abc import Callable
import dataclasses
import logging
from pathlib import Path

from conftest import tiny_card, tiny_head, tiny_trunk
from fake_backend import FakeBackend
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import pytest

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.backends.cpu.openvino import OpenVinoBackend
from uncertainty_seg.backends.cpu.streaming import StreamingBackend
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import make_masks, ones_masks
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import maps_from_logits, UncertaintyMaps
from uncertainty_seg.errors import (
    BackendError,
    ConfigError,
    ModelBundleError,
    ShapeError,
)
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle

SETTINGS = Settings(threads=1, reduction='exact')
Kind = type[StreamingBackend]


@pytest.fixture(params=[OnnxRuntimeBackend, OpenVinoBackend], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    pytest.importorskip(request.param.name)
    return request.param


@pytest.fixture
def bundle(tiny_bundle: Path) -> ModelBundle:
    return load_bundle(str(tiny_bundle))


def noise(height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def plain(*color: int) -> np.ndarray:
    return np.full((48, 64, 3), color, np.uint8)


def assert_close(one: UncertaintyMaps, other: UncertaintyMaps, tolerance: float) -> None:
    assert one.present == other.present
    for name in one.present:
        a, b = getattr(one, name), getattr(other, name)
        if name == 'label':
            assert (a == b).all()
        else:
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=name)


def test_a_plain_colour_gives_the_answer_worked_out_by_hand(
    kind: Kind, bundle: ModelBundle
) -> None:
    backend = kind(bundle, SETTINGS)
    masks = {'drop': np.array([[0, 2, 2], [2, 2, 2]], np.float32).reshape(2, 3, 1, 1)}
    maps = backend.run(plain(255, 51, 0), masks, 2.0)
    # Logits are 8 x m: (0, 3.2, 0) and (16, 3.2, 0), halved by the temperature.
    z = np.array([[0, 1.6, 0], [8, 1.6, 0]])
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    mean = p.mean(0)
    entropy = -(mean * np.log(mean)).sum() / np.log(3)
    within = -(p * np.log(p)).sum() / 2 / np.log(3)
    assert (maps.label == mean.argmax()).all()
    assert maps.confidence == pytest.approx(mean.max(), abs=2e-6)
    assert maps.entropy == pytest.approx(entropy, abs=2e-6)
    assert maps.aleatoric == pytest.approx(within, abs=2e-6)
    assert maps.mutual_information == pytest.approx(entropy - within, abs=2e-6)
    assert maps.variation_ratio == pytest.approx(0.5)
    assert maps.total_variance == pytest.approx(p.var(0).sum(), abs=2e-6)


@pytest.mark.parametrize(('passes', 'reduction'), [
    (1, 'exact'), (8, 'exact'), (50, 'exact'), (20, 'coarse')])
def test_it_agrees_with_the_fake_which_does_the_same_arithmetic(
    kind: Kind, bundle: ModelBundle, passes: int, reduction: str
) -> None:
    masks = make_masks(bundle.card.dropout_sites, passes, 3)
    with kind(bundle, dataclasses.replace(SETTINGS, reduction=reduction)) as backend:
        assert not backend.timings_ms
        real = backend.run(noise()[:, ::-1][:, ::-1], masks, 1.3)
        assert list(backend.timings_ms) == ['trunk', 'head', 'reduction']
        assert min(backend.timings_ms.values()) > 0
    fake = FakeBackend(bundle.card, reduction=reduction).run(noise(), masks, 1.3)
    assert_close(real, fake, 4e-6)


def test_same_bits_for_any_threads_and_memory_budget(kind: Kind, bundle: ModelBundle) -> None:
    masks = make_masks(bundle.card.dropout_sites, 50, 0)
    results = []
    for threads, budget in ((1, 64), (2, 64), (3, 1)):
        backend = kind(bundle, Settings(threads=threads, memory_budget_mb=budget))
        maps = backend.run(noise(), masks, 1.0)
        results.append(b''.join(getattr(maps, name).tobytes() for name in maps.present))
        backend.close()
    assert len(set(results)) == 1


def test_a_run_leaves_nothing_behind_for_the_next(kind: Kind, bundle: ModelBundle) -> None:
    backend = kind(bundle, SETTINGS)
    many = make_masks(bundle.card.dropout_sites, 33, 0)
    few = make_masks(bundle.card.dropout_sites, 5, 0)
    first = backend.run(noise(), few, 1.0)
    kept = first.entropy.copy()
    backend.run(noise(), many, 1.0)
    again = backend.run(noise(), few, 1.0)
    assert (first.entropy == kept).all()
    assert (again.entropy == kept).all()


def test_the_choice_of_chunk_is_logged_with_its_reason_once(
    kind: Kind, bundle: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    backend = kind(bundle, SETTINGS)
    for _ in range(2):
        backend.run(noise(), make_masks(bundle.card.dropout_sites, 50, 0), 1.0)
    lines = [r.getMessage() for r in caplog.records if 'in chunks of' in r.getMessage()]
    assert len(lines) == 1
    assert 'T=50' in lines[0] and 'of 17' in lines[0]


def test_images_and_masks_that_do_not_fit_are_refused(kind: Kind, bundle: ModelBundle) -> None:
    backend = kind(bundle, SETTINGS)
    good = ones_masks(bundle.card.dropout_sites, 2)
    cases = (
        (noise(47), good, r'\(47, 64, 3\)'),
        (noise().astype(np.float32), good, 'float32'),
        (noise(), {}, r'masks for \[\]'),
        (noise(), {**good, 'other': good['drop']}, 'other'),
        (noise(), {'drop': good['drop'][:, :2]}, r"'drop'.*\(2, 2, 1, 1\)"),
        (noise(), {'drop': good['drop'][:0]}, "'drop': 0"),
    )
    for image, masks, sentence in cases:
        with pytest.raises(ShapeError, match=sentence):
            backend.run(image, masks, 1.0)


def test_a_closed_backend_closes_again_and_refuses_to_run(kind: Kind, bundle: ModelBundle) -> None:
    with kind(bundle, Settings(threads=2)) as backend:
        pass
    backend.close()
    with pytest.raises(BackendError, match='closed'):
        backend.run(noise(), ones_masks(bundle.card.dropout_sites, 1), 1.0)


def write(folder: Path, trunk: onnx.ModelProto, head: onnx.ModelProto) -> ModelBundle:
    write_bundle(folder, tiny_card(), {'trunk.onnx': trunk.SerializeToString(),
                                       'passes.onnx': head.SerializeToString()})
    return load_bundle(str(folder))


def test_a_failure_inside_the_runtime_is_one_sentence_and_the_next_run_works(
    kind: Kind, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, masks = kind(bundle, SETTINGS), ones_masks(tiny_card().dropout_sites, 3)

    def fail(*_: object) -> None:
        raise RuntimeError('out of tensors')

    with monkeypatch.context() as broken:
        broken.setattr(backend, '_run_head', fail)
        with pytest.raises(BackendError, match=f"{kind.name}.*3 passes.*'tiny'.*out of tensors"):
            backend.run(noise(), masks, 1.0)
    assert backend.run(noise(), masks, 1.0).mutual_information.max() <= 1e-6


def _renamed_image(trunk: onnx.ModelProto, head: onnx.ModelProto) -> None:
    trunk.graph.input[0].name = trunk.graph.node[0].input[0] = 'picture'


def _larger_image(trunk: onnx.ModelProto, head: onnx.ModelProto) -> None:
    trunk.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 68
    trunk.graph.output[0].type.tensor_type.shape.dim[3].dim_value = 17
    head.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 17
    head.graph.output[0].type.tensor_type.shape.dim[3].dim_value = 17


def _renamed_site(trunk: onnx.ModelProto, head: onnx.ModelProto) -> None:
    head.graph.input[1].name = head.graph.node[0].input[1] = 'mask'


def _renamed_logits(trunk: onnx.ModelProto, head: onnx.ModelProto) -> None:
    head.graph.output[0].name = head.graph.node[1].output[0] = 'scores'


def _fixed_passes(trunk: onnx.ModelProto, head: onnx.ModelProto) -> None:
    head.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 8


@pytest.mark.parametrize(('change', 'sentence'), [
    (_renamed_image, r'trunk.onnx.*picture.*image'),
    (_larger_image, r"'image'.*\[1, 48, 68, 3\]"),
    (_renamed_site, r"'mask'.*'drop'"),
    (_renamed_logits, r"'scores'.*'logits'"),
    (_fixed_passes, r"'drop'.*\[8, 3, 1, 1\]"),
])
def test_graphs_that_do_not_fit_the_card_are_refused_at_open(
    kind: Kind, tmp_path: Path, change: Callable[[onnx.ModelProto, onnx.ModelProto], None],
    sentence: str,
) -> None:
    trunk, head = tiny_trunk(), tiny_head()
    change(trunk, head)
    bundle = write(tmp_path / 'b', trunk, head)
    with pytest.raises(ModelBundleError, match=sentence):
        kind(bundle, SETTINGS)


def test_a_graph_that_the_runtime_cannot_open_is_named(kind: Kind, bundle: ModelBundle) -> None:
    bundle.passes_path.write_bytes(b'no graph')
    with pytest.raises(ModelBundleError, match=rf'{kind.name}.*head\.onnx'):
        kind(bundle, SETTINGS)


def test_a_head_that_also_looks_at_the_image_works(kind: Kind, tmp_path: Path) -> None:
    head = tiny_head()
    head.graph.input.append(helper.make_tensor_value_info('image', TensorProto.UINT8,
                                                          [1, 48, 64, 3]))
    head.graph.node[1].output[0] = 'gained'
    head.graph.node.extend([
        helper.make_node('Cast', ['image'], ['float'], to=TensorProto.FLOAT),
        helper.make_node('ReduceMax', ['float'], ['peak'], keepdims=0),
        helper.make_node('Mul', ['peak', 'tiny'], ['share']),
        helper.make_node('Mul', ['gained', 'share'], ['logits']),
    ])
    head.graph.initializer.append(numpy_helper.from_array(np.array(1 / 255, np.float32), 'tiny'))
    bundle = write(tmp_path / 'b', tiny_trunk(), head)
    masks = make_masks(bundle.card.dropout_sites, 4, 0)
    image = plain(255, 128, 0)
    maps = kind(bundle, SETTINGS).run(image, masks, 1.0)
    assert_close(maps, FakeBackend(bundle.card).run(image, masks, 1.0), 2e-6)


def test_masks_per_element_are_cut_in_chunks_like_the_others(kind: Kind, tmp_path: Path) -> None:
    head = tiny_head()
    for axis, size in ((2, 12), (3, 16)):
        head.graph.input[1].type.tensor_type.shape.dim[axis].dim_value = size
    card = tiny_card(dropout_sites=(DropoutSite('drop', (3, 12, 16), 0.5),))
    write_bundle(tmp_path / 'b', card, {'trunk.onnx': tiny_trunk().SerializeToString(),
                                        'passes.onnx': head.SerializeToString()})
    bundle = load_bundle(str(tmp_path / 'b'))
    masks = make_masks(card.dropout_sites, 30, 0)
    maps = kind(bundle, SETTINGS).run(plain(251, 199, 101), masks, 1.0)
    colors = np.array([251, 199, 101]).reshape(3, 1, 1)  # no two share a factor: no ties
    logits = masks['drop'] * colors * (8 / 255)
    assert_close(maps, maps_from_logits(logits, 48, 64), 2e-6)


def quantised_trunk() -> onnx.ModelProto:
    """Return the tiny trunk with its features rounded to bytes and back."""
    trunk = tiny_trunk()
    trunk.graph.node[-1].output[0] = 'pooled'
    trunk.graph.node.extend([
        helper.make_node('QuantizeLinear', ['pooled', 'step', 'zero'], ['bytes']),
        helper.make_node('DequantizeLinear', ['bytes', 'step', 'zero'], ['features']),
    ])
    trunk.graph.initializer.extend([
        numpy_helper.from_array(np.array(1 / 16, np.float32), 'step'),
        numpy_helper.from_array(np.array(0, np.uint8), 'zero'),
    ])
    return trunk


def test_a_quantised_trunk_runs_as_it_is(kind: Kind, tmp_path: Path) -> None:
    write_bundle(tmp_path / 'b', tiny_card(precision='int8'), {
        'trunk.onnx': quantised_trunk().SerializeToString(),
        'passes.onnx': tiny_head().SerializeToString()})
    backend = kind(load_bundle(str(tmp_path / 'b')), SETTINGS)
    assert backend.precision == 'int8'
    masks = make_masks(tiny_card().dropout_sites, 5, 0)
    maps = backend.run(plain(84, 140, 230), masks, 1.0)
    colors = np.round(np.array([84, 140, 230]) / 255 * 16).reshape(1, 3, 1, 1) / 16
    logits = np.broadcast_to(masks['drop'] * colors * 8, (5, 3, 12, 16))
    assert_close(maps, maps_from_logits(logits, 48, 64), 2e-5)


@pytest.mark.parametrize('precision', ['fp16', 'int8'])
def test_a_precision_that_the_card_does_not_have_is_refused(
    kind: Kind, bundle: ModelBundle, precision: str
) -> None:
    with pytest.raises(ConfigError, match=f'{precision}.*fp32'):
        kind(bundle, Settings(precision=precision))
