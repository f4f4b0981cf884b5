# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The real runtimes on a small network with known output, and bundles that do not fit.

Every test here runs on each installed runtime; test_onnxrt.py and test_openvino.py test features
of one runtime.
"""

from collections.abc import Callable
from pathlib import Path
import subprocess
import sys

from conftest import tiny_card, tiny_files, tiny_head, tiny_trunk
from fake_backend import FakeBackend
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import pytest

from uncertainty_seg.backends import runner
from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.backends.cpu.openvino import OpenVinoBackend
from uncertainty_seg.backends.cpu.streaming import StreamingBackend
from uncertainty_seg.compiler.head_graphs import add_sums
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import make_masks, ones_masks
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import PassSums, sums_of_logits
from uncertainty_seg.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigError,
    ModelBundleError,
    ShapeError,
)
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle

SETTINGS = Settings(threads=1)
Kind = type[StreamingBackend]


@pytest.fixture(params=[OnnxRuntimeBackend, OpenVinoBackend], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    pytest.importorskip(request.param.name)
    return request.param


@pytest.fixture
def bundle(tiny_bundle: Path) -> ModelBundle:
    return load_bundle(str(tiny_bundle))


def noise(height: int = 48, width: int = 64) -> np.ndarray:
    """Return noise in which no 4x4 block has two equal colours, so that votes are defined."""
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)


def plain(*color: int) -> np.ndarray:
    return np.full((48, 64, 3), color, np.uint8)


FIELDS = ('p', 'entropy_nats', 'p_squared', 'votes', 'logits')


def assert_close(one: PassSums, other: PassSums, tolerance: float = 4e-6) -> None:
    """Compare sums as means over the passes, in float32; votes must be equal."""
    assert one.passes == other.passes
    for name in FIELDS:
        found, wanted = getattr(one, name), getattr(other, name)
        assert found.dtype == np.float32
        if name == 'votes':
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_allclose(found / one.passes, wanted / one.passes, rtol=2e-6,
                                   atol=tolerance, err_msg=name)


@pytest.mark.parametrize('passes', [1, 8, 50])
def test_it_agrees_with_the_fake_which_does_the_same_arithmetic(
    kind: Kind, bundle: ModelBundle, passes: int
) -> None:
    masks = make_masks(bundle.card.dropout_sites, passes, 3)
    with kind(bundle, SETTINGS) as backend:
        assert not backend.timings_ms
        real = backend.run(noise()[:, ::-1][:, ::-1], masks, 1.3)
        assert list(backend.timings_ms) == ['trunk', 'passes']
        assert min(backend.timings_ms.values()) > 0
    assert_close(real, FakeBackend(bundle.card).run(noise(), masks, 1.3))


def elements_bundle(folder: Path, offset: tuple[float, float] = (0.0, 0.0)) -> ModelBundle:
    """Write the tiny network with element masks, summed at a grid offset."""
    head = tiny_head()
    for axis, size in ((2, 12), (3, 16)):
        head.graph.input[1].type.tensor_type.shape.dim[axis].dim_value = size
    card = tiny_card(dropout_sites=(DropoutSite('drop', (3, 12, 16), 0.5),), grid_offset=offset)
    write_bundle(folder, card, {'trunk.onnx': tiny_trunk().SerializeToString(),
                                'passes.onnx': add_sums(head, offset).SerializeToString()})
    return load_bundle(str(folder))


def logits_of(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the tiny network's logits (T, 3, 12, 16) in float64."""
    blocks = image.reshape(12, 4, 16, 4, 3).mean((1, 3), dtype=np.float64)
    return masks * blocks.transpose(2, 0, 1) * (8 / 255)


@pytest.mark.parametrize('offset', [(0.0, 0.0), (0.21, 0.34)])
# One chunk; chunks of 17, 17 and 16; chunks of one pass.
@pytest.mark.parametrize(('passes', 'megabyte'), [(1, 2**20), (20, 2**20), (50, 2**20), (3, 1)])
def test_sums_are_those_of_the_definition_in_float64(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int, megabyte: int,
    offset: tuple[float, float],
) -> None:
    monkeypatch.setattr(runner, 'MEGABYTE', megabyte)
    bundle = elements_bundle(tmp_path / 'b', offset)
    masks = make_masks(bundle.card.dropout_sites, passes, 0)
    with kind(bundle, SETTINGS) as backend:
        sums = backend.run(noise(), masks, 1.3)
    assert_close(sums, sums_of_logits(logits_of(noise(), masks['drop']), 1.3, offset))


def test_a_logit_that_is_no_number_shows_at_its_cell_and_leaves_all_others_alone(
    kind: Kind, tmp_path: Path
) -> None:
    bundle = elements_bundle(tmp_path / 'b')
    masks = make_masks(bundle.card.dropout_sites, 30, 0)
    good = sums_of_logits(logits_of(noise(), masks['drop']))
    bad = np.zeros((12, 16), bool)
    for row, value in enumerate((np.nan, np.inf, -np.inf)):
        masks['drop'][10 * row, row, row, 3], bad[row, 3] = value, True
    with kind(bundle, SETTINGS) as backend:
        sums = backend.run(noise(), masks, 1.0)
    assert (np.isnan(sums.entropy_nats) == bad).all()
    assert (np.isfinite(sums.logits).all(0) == ~bad).all()
    for name in FIELDS:
        np.testing.assert_allclose(getattr(sums, name)[..., ~bad], getattr(good, name)[..., ~bad],
                                   rtol=2e-6, atol=5e-5)


def bits(sums: PassSums) -> bytes:
    return b''.join(getattr(sums, name).tobytes() for name in FIELDS)


def test_same_bits_for_any_number_of_threads(kind: Kind, tmp_path: Path) -> None:
    bundle = elements_bundle(tmp_path / 'b', (0.2, 0.2))
    masks, found = make_masks(bundle.card.dropout_sites, 50, 0), set()
    for threads in (1, 2, 3):
        with kind(bundle, Settings(threads=threads)) as backend:
            found.add(bits(backend.run(noise(), masks, 1.0)))
    assert len(found) == 1


PEAKS = """
import resource, sys
import numpy as np
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.dropout_masks import lazy_inputs
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.storage.model_bundle import load_bundle

bundle = load_bundle('pipeline')
image = np.zeros((bundle.card.input.height, bundle.card.input.width, 3), np.uint8)
with open_backend(sys.argv[1], bundle, Settings(threads=1)) as backend:
    for passes in (20, 20, 400):
        backend.run(image, lazy_inputs(bundle.card, passes, 0), 1.0)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_the_peak_of_a_process_does_not_grow_with_the_passes(kind: Kind) -> None:
    done = subprocess.run([sys.executable, '-c', PEAKS, kind.name], capture_output=True,
                          text=True, check=True, timeout=300)
    _, few_kb, many_kb = map(int, done.stdout.split())
    # The logits of 380 more passes alone would take 112 MB.
    assert many_kb - few_kb < 5000


def test_a_run_leaves_nothing_behind_for_the_next(kind: Kind, bundle: ModelBundle) -> None:
    backend = kind(bundle, SETTINGS)
    many = make_masks(bundle.card.dropout_sites, 33, 0)
    few = make_masks(bundle.card.dropout_sites, 5, 0)
    first = backend.run(noise(), few, 1.0)
    kept = bits(first)
    backend.run(noise(), many, 1.0)
    again = backend.run(noise(), few, 1.0)
    assert bits(first) == bits(again) == kept


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
    write_bundle(folder, tiny_card(), tiny_files(trunk, head))
    return load_bundle(str(folder))


def test_a_missing_runtime_is_named_with_its_remedy(
    kind: Kind, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {'onnxruntime': 'runtime'}.get(kind.name, kind.name)
    monkeypatch.setitem(sys.modules, kind.name, None)
    with pytest.raises(BackendUnavailableError, match=rf"pip install '\.\[{extra}\]'"):
        kind(bundle, SETTINGS)


def test_a_failure_inside_the_runtime_is_one_sentence_and_the_next_run_works(
    kind: Kind, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, masks = kind(bundle, SETTINGS), ones_masks(tiny_card().dropout_sites, 3)

    def fail(*_: object) -> None:
        raise RuntimeError('out of tensors')

    with monkeypatch.context() as broken:
        broken.setattr(backend, '_run_passes', fail)
        with pytest.raises(BackendError, match=f"{kind.name}.*3 passes.*'tiny'.*out of tensors"):
            backend.run(noise(), masks, 1.0)
    assert_close(backend.run(noise(), masks, 1.0),
                 FakeBackend(bundle.card).run(noise(), masks, 1.0))


def _renamed_image(trunk: onnx.ModelProto, passes: onnx.ModelProto) -> None:
    trunk.graph.input[0].name = trunk.graph.node[0].input[0] = 'picture'


def _larger_image(trunk: onnx.ModelProto, passes: onnx.ModelProto) -> None:
    trunk.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 68
    for info in (trunk.graph.output[0], passes.graph.input[0], *passes.graph.output):
        info.type.tensor_type.shape.dim[-1].dim_value = 17


def _renamed_site(trunk: onnx.ModelProto, passes: onnx.ModelProto) -> None:
    passes.graph.input[1].name = passes.graph.node[0].input[1] = 'mask'


def _fixed_passes(trunk: onnx.ModelProto, passes: onnx.ModelProto) -> None:
    passes.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 8


def _no_votes(trunk: onnx.ModelProto, passes: onnx.ModelProto) -> None:
    del passes.graph.output[3]


def _no_temperature(trunk: onnx.ModelProto, passes: onnx.ModelProto) -> None:
    del passes.graph.input[2]
    passes.graph.initializer.append(
        numpy_helper.from_array(np.ones(1, np.float32), 'inv_temperature'))


@pytest.mark.parametrize(('change', 'sentence'), [
    (_renamed_image, r'trunk.onnx.*picture.*image'),
    (_larger_image, r"'image'.*\[1, 48, 68, 3\]"),
    (_renamed_site, r"'mask'.*'drop'"),
    (_fixed_passes, r"'drop'.*\[8, 3, 1, 1\]"),
    (_no_votes, 'votes'),
    (_no_temperature, 'inv_temperature'),
])
def test_graphs_that_do_not_fit_the_card_are_refused_at_open(
    kind: Kind, tmp_path: Path, change: Callable[[onnx.ModelProto, onnx.ModelProto], None],
    sentence: str,
) -> None:
    trunk, passes = tiny_trunk(), add_sums(tiny_head())
    change(trunk, passes)
    write_bundle(tmp_path / 'b', tiny_card(), {'trunk.onnx': trunk.SerializeToString(),
                                               'passes.onnx': passes.SerializeToString()})
    with pytest.raises(ModelBundleError, match=sentence):
        kind(load_bundle(str(tmp_path / 'b')), SETTINGS)


def test_sums_at_another_grid_than_the_cards_are_refused(kind: Kind, tmp_path: Path) -> None:
    write_bundle(tmp_path / 'b', tiny_card(logits_shape=(3, 24, 32)),
                 tiny_files(tiny_trunk(), tiny_head()))
    with pytest.raises(ModelBundleError, match=r'\[12, 16\].*\[24, 32\]'):
        kind(load_bundle(str(tmp_path / 'b')), SETTINGS)


def test_a_graph_that_the_runtime_cannot_open_is_named(kind: Kind, bundle: ModelBundle) -> None:
    model = onnx.load(bundle.passes_path)
    model.graph.node[0].op_type = 'NoSuchOperator'
    onnx.save(model, bundle.passes_path)
    with pytest.raises(ModelBundleError, match=rf'{kind.name}.*passes\.onnx'):
        kind(bundle, SETTINGS)
    bundle.passes_path.write_bytes(b'no graph')
    with pytest.raises(ModelBundleError, match=r'passes\.onnx'):
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
    sums = kind(bundle, SETTINGS).run(image, masks, 1.0)
    assert_close(sums, FakeBackend(bundle.card).run(image, masks, 1.0), 2e-6)


def quantised_trunk() -> onnx.ModelProto:
    """Return the tiny trunk with its features quantised to bytes and back."""
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
    write_bundle(tmp_path / 'b', tiny_card(), tiny_files(quantised_trunk(), tiny_head()))
    backend = kind(load_bundle(str(tmp_path / 'b')), SETTINGS)
    masks = make_masks(tiny_card().dropout_sites, 5, 0)
    sums = backend.run(plain(84, 140, 230), masks, 1.0)
    colors = np.round(np.array([84, 140, 230]) / 255 * 16).reshape(1, 3, 1, 1) / 16
    logits = np.broadcast_to(masks['drop'] * colors * 8, (5, 3, 12, 16))
    assert_close(sums, sums_of_logits(logits), 2e-5)


def test_a_precision_that_the_card_does_not_have_is_refused(
    kind: Kind, bundle: ModelBundle
) -> None:
    with pytest.raises(ConfigError, match='fp16.*fp32'):
        kind(bundle, Settings(precision='fp16'))
