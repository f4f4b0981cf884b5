# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The output of features: which tensor it is, and the same numbers from every runtime."""

from collections.abc import Callable
import dataclasses
from pathlib import Path

from graph_samples import drop, graph
from masked_bundles import card_of, SPEC
import numpy as np
import onnx
from onnx import helper
import pytest
from tensorrt_rig import IMAGE, Rig, rigs  # noqa: F401

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.backends.cpu.openvino import OpenVinoBackend
from uncertainty_seg.compiler.compile import compile_ensemble, compile_graph, CompiledGraphs
from uncertainty_seg.compiler.plan import CompileOptions
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import GraphError, ModelBundleError
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle

STRIDED = {'kernel_shape': [3, 3], 'pads': [1, 1, 1, 1]}


def pyramid(seed: int = 0, wide: int = 12, stem: int = 0, rate: float = 0.5) -> onnx.ModelProto:
    """Strides 4, 16 and 32; stride 16 is a skip connection; dropout before the classifier."""
    rng, first = np.random.default_rng(100 + seed), np.random.default_rng(stem)

    def weights(drawn: np.random.Generator, *shape: int) -> np.ndarray:
        return (drawn.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    nodes = [
        helper.make_node('Conv', ['x', 'w0'], ['s4'], strides=[4, 4], **STRIDED),
        helper.make_node('Conv', ['s4', 'w1'], ['s16'], strides=[4, 4], **STRIDED),
        helper.make_node('Conv', ['s16', 'w2'], ['wide16'], **STRIDED),
        helper.make_node('Relu', ['wide16'], ['active16']),
        helper.make_node('Conv', ['active16', 'w3'], ['s32'], strides=[2, 2], **STRIDED),
        helper.make_node('Resize', ['s32', '', '', 'size'], ['up'], mode='nearest'),
        helper.make_node('Add', ['up', 's16'], ['merged']), drop('merged', 'd', 'channel', rate),
        helper.make_node('Conv', ['d', 'w4'], ['y'], **STRIDED)]
    return graph(nodes, (1, 3, 48, 64), (1, 3, 3, 4), w0=weights(first, 8, 3, 3, 3),
                 w1=weights(first, wide, 8, 3, 3), w2=weights(rng, 24, wide, 3, 3),
                 w3=weights(rng, wide, 24, 3, 3), w4=weights(rng, 3, wide, 3, 3) * 4,
                 size=np.array([1, wide, 3, 4], np.int64))


def compiled(features: str, **facts: int) -> CompiledGraphs:
    return compile_graph(pyramid(**facts), SPEC, CompileOptions(features=features,
                                                                full_weights=True))


def trunk_run(made: CompiledGraphs, names: list[str]) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(made.files['trunk.onnx'],
                                           providers=['CPUExecutionProvider'])
    return session.run(names, {'image': IMAGE[None]})


def test_auto_takes_the_end_of_the_stage_of_stride_16_and_not_what_is_inside_of_the_next() -> None:
    made = compiled('auto')
    assert made.feature_shape == (12, 3, 4)
    assert [d.where for d in made.plan.decisions if d.step == 'features'] == ['s16']
    np.testing.assert_array_equal(*(trunk_run(m, ['feature_map'])[0]
                                    for m in (made, compiled('s16'))))
    plain = compiled('none')
    assert plain.feature_shape is None and b'feature_map' not in plain.files['trunk.onnx']
    assert plain.files['head.onnx'] == made.files['head.onnx']


def test_more_channels_are_mixed_and_distances_stay() -> None:
    made = compiled('auto', wide=512)
    assert made.feature_shape == (128, 3, 4)
    mixed = trunk_run(made, ['feature_map'])[0][0].reshape(128, -1).T
    named = compile_graph(pyramid(wide=512), SPEC, CompileOptions(full_weights=True))
    named.trunk.graph.output.append(helper.make_tensor_value_info(
        's16', onnx.TensorProto.FLOAT, [1, 512, 3, 4]))
    whole = trunk_run(dataclasses.replace(
        named, files={'trunk.onnx': named.trunk.SerializeToString()}), ['s16'])[0][0]
    whole = whole.reshape(512, -1).T
    far, near = (np.linalg.norm(v[:, None] - v[None], axis=2) for v in (whole, mixed))
    above = np.triu_indices(12, 1)
    assert 0.9 < np.median(near[above] / far[above]) < 1.1


def test_an_ensemble_gives_the_shared_stem_and_else_the_first_member() -> None:
    options = CompileOptions(features='auto', full_weights=True)
    for stems in ((0, 0), (1, 2)):
        made = compile_ensemble([pyramid(seed, stem=stem) for seed, stem in
                                 enumerate(stems)], SPEC, options)
        first = compiled('auto', stem=stems[0])
        np.testing.assert_allclose(*(trunk_run(m, ['feature_map'])[0] for m in (made, first)),
                                   rtol=1e-5, atol=1e-6)


def test_no_such_tensor_is_one_sentence_that_names_some() -> None:
    for name in ('nothing', 'd'):
        with pytest.raises(GraphError, match=f"'{name}' is no tensor .* one such as .*s16"):
            compiled(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = compiled('auto')
    card = dataclasses.replace(card_of(made, 'mc_dropout', passes=5),
                               feature_shape=made.feature_shape)
    write_bundle(tmp_path / 'b', card, made.files)
    return tmp_path / 'b'


@pytest.mark.parametrize('kind', [OnnxRuntimeBackend, OpenVinoBackend, None])
def test_every_runtime_gives_the_features_of_its_frame(
    kind: type[OnnxRuntimeBackend] | None, folder: Path, rigs: Callable[..., Rig],  # noqa: F811
) -> None:
    bundle, wanted = load_bundle(str(folder)), trunk_run(compiled('auto'), ['feature_map'])[0]
    masks = pass_inputs(bundle.card, 5, 0)
    if kind is None:
        rig = rigs(folder)
        rig.build()
        backend = rig.open()
    else:
        backend = kind(bundle, Settings(threads=1, reduction='exact'))
    with backend:
        found = [backend.run(image, masks, 1.0).features for image in (IMAGE, IMAGE[::-1], IMAGE)]
    assert all(features is not None and features.dtype == np.float32 for features in found)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found[0], found[2])
    assert abs(found[0] - found[1]).max() > 0.01


def test_a_card_that_asks_for_other_features_than_the_trunk_gives_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(str(folder))
    files = {name: (folder / name).read_bytes() for name in bundle.card.sha256}
    for index, shape in enumerate(((13, 3, 4), None)):
        card = dataclasses.replace(bundle.card, feature_shape=shape)
        write_bundle(tmp_path / f'o{index}', card, files)
        with pytest.raises(ModelBundleError, match='feature_map'):
            OnnxRuntimeBackend(load_bundle(str(tmp_path / f'o{index}')), Settings(threads=1))


@pytest.mark.parametrize('kind', [OnnxRuntimeBackend, OpenVinoBackend])
@pytest.mark.parametrize('features', ['auto', 'none'])
def test_the_last_features_are_the_map_or_else_what_the_head_takes(
    kind: type[OnnxRuntimeBackend], features: str, tmp_path: Path
) -> None:
    made = compiled(features)
    card = dataclasses.replace(card_of(made, 'mc_dropout', passes=5),
                               feature_shape=made.feature_shape)
    write_bundle(tmp_path / 'b', card, made.files)
    bundle = load_bundle(str(tmp_path / 'b'))
    import onnxruntime

    session = onnxruntime.InferenceSession(made.files['trunk.onnx'])
    names = [output.name for output in session.get_outputs()]
    assert len(names) == (2 if features == 'auto' else 1)
    name = 'feature_map' if features == 'auto' else names[0]
    with kind(bundle, Settings(threads=1, reduction='exact')) as backend:
        assert backend.last_features() is None
        for image in (IMAGE[::-1], IMAGE):
            backend.run(np.ascontiguousarray(image), pass_inputs(bundle.card, 5, 0), 1.0)
        found = backend.last_features()
    assert found is not None and found.dtype == np.float32
    wanted = session.run([name], {'image': IMAGE[None]})[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert backend.last_features() is None  # closed
