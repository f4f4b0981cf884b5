# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
ONNX Runtime's GPU providers: the steps over memory of the host, refusals, and a GPU where one is.

`OnHost` is the backend itself with the processor as its device, so that binding, residence of
masks, sums across chunks and the graph of maps are proven here; what CUDA makes of them is not.

"""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
import shutil

from conftest import tiny_card, tiny_head, tiny_trunk
from fake_backend import FakeBackend
import numpy as np
import onnx
import onnxruntime
import pytest

from uncertainty_seg.backends import graph_files
from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.backends.gpu import onnxrt_gpu
from uncertainty_seg.backends.gpu.device import find_device
from uncertainty_seg.backends.gpu.onnxrt_gpu import (
    CPU,
    CUDA,
    OnnxRuntimeCudaBackend,
    OnnxRuntimeTensorRtBackend,
    require_placed,
    TENSORRT,
)
from uncertainty_seg.compiler import head_graphs as head_stats
from uncertainty_seg.core.bundle import HEAD_STATS_FILE, ModelBundle
from uncertainty_seg.core.dropout_masks import make_masks, ones_masks
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import (
    MapRequest,
    maps_from_logits,
    MORE_MAPS,
    UncertaintyMaps,
    upsample_bilinear,
    USUAL_MAPS,
)
from uncertainty_seg.errors import BackendUnavailableError, ModelBundleError
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle

SETTINGS = Settings(threads=1, reduction='exact')
COARSE = Settings(threads=1, reduction='coarse')
FLOATS = ['confidence', *USUAL_MAPS]


class OnHost(OnnxRuntimeCudaBackend):
    """The same steps with the processor in the place of the GPU."""

    name = 'on_host'
    providers = (CPU,)
    device = 'cpu'

    def _find_device(self) -> str:
        return 'host'


def statistics_bundle(folder: Path, **changes: object) -> ModelBundle:
    card, head = tiny_card(**changes), tiny_head()
    if card.dropout_sites[0].shape != (3, 1, 1):
        for axis, size in ((2, 12), (3, 16)):
            head.graph.input[1].type.tensor_type.shape.dim[axis].dim_value = size
    write_bundle(folder, card, {
        'trunk.onnx': tiny_trunk().SerializeToString(), 'head.onnx': head.SerializeToString(),
        'head_stats.onnx': head_stats.add_statistics(head, card.input).SerializeToString()})
    return load_bundle(str(folder))


@pytest.fixture
def bundle(tmp_path: Path) -> ModelBundle:
    return statistics_bundle(tmp_path / 'tiny')


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def assert_close(one: UncertaintyMaps, other: UncertaintyMaps, tolerance: float) -> None:
    assert (one.label == other.label).all()
    for name in FLOATS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0,
                                   atol=tolerance, err_msg=name)


@pytest.mark.parametrize('passes', [1, 8, 50])
def test_maps_made_on_the_device_are_those_of_the_definition(
    bundle: ModelBundle, passes: int
) -> None:
    masks = make_masks(bundle.card.dropout_sites, passes, 3)
    backend = OnHost(bundle, SETTINGS)
    maps = backend.run(noise(), masks, 1.3)
    assert_close(maps, FakeBackend(bundle.card).run(noise(), masks, 1.3), 2e-6)
    assert maps.label.dtype == np.uint8
    assert {getattr(maps, name).dtype for name in FLOATS} == {np.dtype(np.float32)}


def test_chunks_add_up_to_what_all_passes_at_once_give(
    bundle: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    masks = make_masks(bundle.card.dropout_sites, 20, 0)
    whole = OnHost(bundle, SETTINGS).run(noise(), masks, 1.0)
    small = dataclasses.replace(SETTINGS, memory_budget_mb=1)
    parts = OnHost(bundle, small).run(noise(), masks, 1.0)
    assert 'T=20 in chunks of 20' in caplog.text
    assert 'T=20 in chunks of 7' in caplog.text
    assert_close(parts, whole, 1e-6)


def test_a_pixel_that_is_no_number_in_one_pass_is_none_in_any_map(tmp_path: Path) -> None:
    site = DropoutSite('drop', (3, 12, 16), 0.5)
    bundle = statistics_bundle(tmp_path / 'b', dropout_sites=(site,))
    masks = make_masks((site,), 30, 0)
    masks['drop'][17, 1, 5, 7] = math.nan
    image = np.full((48, 64, 3), (251, 199, 101), np.uint8)
    maps = OnHost(bundle, SETTINGS).run(image, masks, 1.0)
    logits = masks['drop'] * np.array([251, 199, 101]).reshape(3, 1, 1) * (8 / 255)
    truth = maps_from_logits(logits, 48, 64)
    assert 0 < np.isnan(truth.entropy).sum() < truth.entropy.size / 2
    assert_close(maps, truth, 2e-6)


def test_no_map_is_below_zero_where_all_passes_agree(bundle: ModelBundle) -> None:
    masks = ones_masks(bundle.card.dropout_sites, 20)
    maps = OnHost(bundle, SETTINGS).run(noise(), masks, 1.0)
    for name in ('mutual_information', 'total_variance'):
        assert 0 <= getattr(maps, name).min() <= getattr(maps, name).max() < 1e-6
    assert not maps.variation_ratio.any()


def test_shares_of_votes_are_exact(bundle: ModelBundle) -> None:
    masks = make_masks(bundle.card.dropout_sites, 20, 0)
    votes = OnHost(bundle, SETTINGS).run(noise(), masks, 1.0).variation_ratio
    assert len(np.unique(votes)) >= 3
    assert set(np.unique(votes)) <= {np.float32(1) - np.float32(k) / np.float32(20)
                                     for k in range(21)}


@pytest.mark.parametrize(('policy', 'is_seen'), [('fixed', False), ('per_frame', True)])
def test_masks_that_never_change_are_copied_to_the_device_once(
    bundle: ModelBundle, policy: str, is_seen: bool
) -> None:
    backend = OnHost(bundle, Settings(threads=1, reduction='exact', mask_policy=policy))
    masks = make_masks(bundle.card.dropout_sites, 8, 0)
    first = backend.run(noise(), masks, 1.0)
    masks['drop'][:] = 1
    second = backend.run(noise(), masks, 1.0)
    assert bool(second.mutual_information.max() < 1e-6) == is_seen
    assert (second.entropy == first.entropy).all() != is_seen


def test_other_masks_are_seen_at_once_and_the_callers_are_left_alone(bundle: ModelBundle) -> None:
    backend = OnHost(bundle, SETTINGS)
    one, other = (make_masks(bundle.card.dropout_sites, passes, seed)
                  for passes, seed in ((8, 0), (5, 1)))
    before = one['drop'].copy()
    first = backend.run(noise(), one, 1.0)
    kept = first.entropy.copy()
    assert_close(backend.run(noise(), other, 1.0),
                 FakeBackend(bundle.card).run(noise(), other, 1.0), 2e-6)
    assert (backend.run(noise(), one, 1.0).entropy == kept).all()
    assert (first.entropy == kept).all()
    assert (one['drop'] == before).all()


@pytest.mark.parametrize('change', ['no statistics', 'chunk'])
def test_what_cannot_be_summed_on_the_device_is_reduced_on_the_processor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    caplog.set_level(logging.INFO)
    bundle = statistics_bundle(tmp_path / 'b')
    if change == 'no statistics':
        (bundle.folder / 'head_stats.onnx').unlink()
    else:
        head = tiny_head()
        for info in (head.graph.input[1], head.graph.output[0]):
            info.type.tensor_type.shape.dim[0].dim_value = 8
        write_bundle(tmp_path / 'c', tiny_card(chunk=8), {
            'trunk.onnx': tiny_trunk().SerializeToString(),
            'head.onnx': head.SerializeToString()})
        bundle = load_bundle(str(tmp_path / 'c'))
    masks = make_masks(bundle.card.dropout_sites, 20, 0)
    maps = OnHost(bundle, SETTINGS).run(noise(), masks, 1.3)
    assert 'reduction on the processor' in caplog.text
    assert_close(maps, FakeBackend(bundle.card).run(noise(), masks, 1.3), 2e-6)


@pytest.mark.parametrize('passes', [1, 8, 50])
@pytest.mark.parametrize('upsampling', ['half_pixel', 'align_corners'])
def test_coarse_maps_made_on_the_device_are_those_of_the_definition(
    tmp_path: Path, passes: int, upsampling: str
) -> None:
    bundle = statistics_bundle(tmp_path / 'b', upsampling=upsampling)
    masks = make_masks(bundle.card.dropout_sites, passes, 3)
    backend, request = OnHost(bundle, COARSE), MapRequest.of(MORE_MAPS, 3.0)
    right = FakeBackend(bundle.card, reduction='coarse')
    maps = backend.run(noise(), masks, 1.3)
    assert_close(maps, right.run(noise(), masks, 1.3), 4e-6)
    more = backend.run(noise(), masks, 1.3, request)
    oracle = right.run(noise(), masks, 1.3, request)
    for name in MORE_MAPS:
        np.testing.assert_allclose(getattr(more, name), getattr(oracle, name), rtol=0, atol=4e-6)
    assert (more.entropy == maps.entropy).all()


def test_coarse_sums_on_the_device_are_of_the_size_of_the_logits(
    bundle: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    masks = make_masks(bundle.card.dropout_sites, 20, 0)
    small = dataclasses.replace(COARSE, memory_budget_mb=1)
    chunked = OnHost(bundle, small).run(noise(), masks, 1.0)
    assert 'reduction on the device' in caplog.text
    assert 'T=20 in chunks of 20' in caplog.text  # exact ones of this budget are of 7
    assert_close(chunked, FakeBackend(bundle.card, reduction='coarse').run(
        noise(), masks, 1.0), 4e-6)


def test_a_pixel_that_is_no_number_in_one_pass_is_none_in_any_coarse_map(tmp_path: Path) -> None:
    site = DropoutSite('drop', (3, 12, 16), 0.5)
    bundle = statistics_bundle(tmp_path / 'b', dropout_sites=(site,))
    masks = make_masks((site,), 30, 0)
    masks['drop'][17, 1, 5, 7] = math.nan
    maps = OnHost(bundle, COARSE).run(noise(), masks, 1.0)
    weight = np.zeros((12, 16))
    weight[5, 7] = 1
    touched = upsample_bilinear(weight, 48, 64) > 0
    for name in FLOATS:
        broken = np.isnan(getattr(maps, name))
        assert broken[touched].all(), name
        assert broken.sum() < broken.size / 2, name
    assert maps.label.max() < 3


@pytest.mark.parametrize('settings', [SETTINGS, COARSE], ids=['exact', 'coarse'])
def test_a_shipped_network_gives_the_maps_of_the_processors_backend(settings: Settings) -> None:
    bundle = load_bundle('pipeline')
    spec = bundle.card.input
    image = np.random.default_rng(1).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
    masks = make_masks(bundle.card.dropout_sites, 4, 0)
    maps = OnHost(bundle, settings).run(image, masks, 1.1)
    truth = OnnxRuntimeBackend(bundle, settings).run(image, masks, 1.1)
    assert (maps.label != truth.label).mean() < 1e-4
    assert (np.abs(maps.variation_ratio - truth.variation_ratio) > 1e-6).mean() < 1e-4
    for name in set(FLOATS) - {'variation_ratio'}:
        np.testing.assert_allclose(getattr(maps, name), getattr(truth, name), rtol=0, atol=5e-6)


@pytest.mark.parametrize('name', MORE_MAPS)
def test_each_map_on_request_is_the_oracles(bundle: ModelBundle, name: str) -> None:
    masks = make_masks(bundle.card.dropout_sites, 20, 0)
    request = MapRequest.of([name], 3.0)
    maps = OnHost(bundle, SETTINGS).run(noise(), masks, 1.3, request)
    truth = FakeBackend(bundle.card).run(noise(), masks, 1.3, request)
    assert set(MORE_MAPS) & set(maps.present) == {name}
    assert_close(maps, truth, 2e-6)


@pytest.mark.parametrize('name', ['energy', 'max_logit'])
def test_a_graph_without_the_sum_of_logits_is_refused_only_where_it_is_needed(
    name: str, tmp_path: Path
) -> None:
    bundle = load_bundle('pipeline')
    # As a bundle that was compiled before there was such a sum.
    folder = shutil.copytree(bundle.folder, tmp_path / 'old')
    graph = onnx.load(str(folder / HEAD_STATS_FILE))
    graph.graph.output.remove(
        next(o for o in graph.graph.output if o.name == head_stats.SUM_LOGITS))
    onnx.save(graph, str(folder / HEAD_STATS_FILE))
    bundle = dataclasses.replace(bundle, folder=folder)
    spec = bundle.card.input
    image = np.zeros((spec.height, spec.width, 3), np.uint8)
    masks = make_masks(bundle.card.dropout_sites, 2, 0)
    backend = OnHost(bundle, SETTINGS)
    assert backend.run(image, masks, 1.1, MapRequest.of(['margin'])).margin is not None
    with pytest.raises(ModelBundleError, match=f'gives no sum of the logits for {name}'):
        backend.run(image, masks, 1.1, MapRequest.of([name]))


def test_the_names_of_the_sums_are_those_of_the_graph() -> None:
    assert head_stats.SUM_LOGITS == graph_files.SUM_LOGITS
    names = (head_stats.SUM_P, head_stats.SUM_ENTROPY, head_stats.SUM_P2, head_stats.VOTES)
    assert names == graph_files.STATISTICS
    assert head_stats.INV_TEMPERATURE == graph_files.INV_TEMPERATURE


def test_stages_are_timed_and_closing_twice_is_allowed(bundle: ModelBundle) -> None:
    backend = OnHost(bundle, SETTINGS)
    backend.run(noise(), make_masks(bundle.card.dropout_sites, 2, 0), 1.0)
    assert set(backend.timings_ms) == {'trunk', 'head', 'reduction'}
    backend.close()
    backend.close()


def test_the_self_check_is_told_what_ran(bundle: ModelBundle) -> None:
    backend = OnHost(bundle, SETTINGS)
    assert (backend.version, backend.device_name) == (onnxruntime.__version__, 'host')


@pytest.fixture
def claimed_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Claim a GPU by word only, and an ONNX Runtime that says it has providers for it."""
    monkeypatch.setattr(OnnxRuntimeCudaBackend, '_find_device', lambda self: 'claimed')
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path / 'engines'))


def has_gpu() -> bool:
    try:
        find_device()
    except BackendUnavailableError:
        return False
    return True


# What each kind computes float32 graphs in.
OF_KIND = {OnnxRuntimeCudaBackend: SETTINGS,
           OnnxRuntimeTensorRtBackend: Settings(threads=1, precision='tf32')}
KINDS = pytest.mark.parametrize(
    'kind', [OnnxRuntimeCudaBackend, OnnxRuntimeTensorRtBackend], ids=lambda kind: kind.name)


@KINDS
@pytest.mark.filterwarnings('ignore:Specified provider')
def test_falling_back_to_the_processor_is_an_error(
    bundle: ModelBundle, kind: type[OnnxRuntimeCudaBackend], claimed_gpu: None
) -> None:
    if has_gpu():
        pytest.skip('there is a GPU here')
    # The package for the processor warns and takes that; the one for a GPU, where CUDA is not
    # installed, does so too, or says that it lacks libraries.
    words = (f'would run trunk.onnx with {CPU}, expected {kind.providers[0]}: its log says'
             f'|{kind.name} cannot open .*trunk.onnx .*: install CUDA, cuDNN and TensorRT')
    with pytest.raises(BackendUnavailableError, match=words):
        kind(bundle, OF_KIND[kind])


@KINDS
def test_an_onnxruntime_without_the_provider_is_named_with_its_remedy(
    bundle: ModelBundle, kind: type[OnnxRuntimeCudaBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntimeCudaBackend, '_find_device', lambda self: 'claimed')
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: [CPU])
    words = f'has no {kind.providers[0]}: put onnxruntime-gpu in the place of onnxruntime'
    with pytest.raises(BackendUnavailableError, match=words):
        kind(bundle, OF_KIND[kind])


@KINDS
def test_a_machine_without_a_gpu_is_told_so_before_onnxruntime_is_asked(
    bundle: ModelBundle, kind: type[OnnxRuntimeCudaBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu() -> None:
        raise BackendUnavailableError('no GPU here')

    monkeypatch.setattr(onnxrt_gpu, 'find_device', no_gpu)
    monkeypatch.setattr(onnxruntime, 'get_available_providers', None)
    with pytest.raises(BackendUnavailableError, match='no GPU here'):
        kind(bundle, OF_KIND[kind])


@pytest.mark.parametrize(('kind', 'precision'), [
    (OnnxRuntimeCudaBackend, 'bf16'), (OnnxRuntimeTensorRtBackend, 'bf16'),
    (OnnxRuntimeTensorRtBackend, 'fp16'), (OnnxRuntimeTensorRtBackend, 'int8'),
])
def test_a_precision_that_would_reach_the_reduction_is_refused(
    bundle: ModelBundle, kind: type[OnnxRuntimeCudaBackend], precision: str, claimed_gpu: None
) -> None:
    card = dataclasses.replace(bundle.card, precision=precision)
    words = f"{kind.name} does not compute 'tiny' in {precision}: use backend tensorrt"
    with pytest.raises(BackendUnavailableError, match=words):
        kind(dataclasses.replace(bundle, card=card), SETTINGS)


@pytest.mark.parametrize(('kind', 'precision', 'words'), [
    (OnnxRuntimeTensorRtBackend, 'fp32', 'in fp32: set precision to tf32, which needs its own'),
    (OnnxRuntimeBackend, 'tf32', 'in tf32: tf32 is of GPUs: set precision to fp32, or backend to'),
])
def test_factors_are_rounded_by_choice_only(
    bundle: ModelBundle, kind: type[OnnxRuntimeBackend], precision: str, words: str,
    claimed_gpu: None,
) -> None:
    with pytest.raises(BackendUnavailableError, match=words):
        kind(bundle, Settings(threads=1, precision=precision))


@pytest.mark.parametrize(('precision', 'flag'), [('fp32', '0'), ('tf32', '1')])
def test_cuda_is_told_whether_to_round_factors(
    bundle: ModelBundle, precision: str, flag: str
) -> None:
    backend = OnHost(bundle, Settings(threads=1, precision=precision))
    assert backend._options(CUDA, b'', False)['use_tf32'] == flag


def test_a_damaged_graph_is_the_bundles_fault(bundle: ModelBundle) -> None:
    bundle.trunk_path.write_bytes(b'no graph')
    with pytest.raises(ModelBundleError, match='onnxruntime cannot open .*trunk.onnx'):
        OnHost(bundle, SETTINGS)


class Session:
    """What `require_placed` asks of a session."""

    def __init__(self, providers: list[str], places: list[str]) -> None:
        self._providers, self._places = providers, places

    def get_providers(self) -> list[str]:
        return self._providers

    def get_provider_graph_assignment_info(self) -> list[object]:
        return [type('Part', (), {'ep_name': name})() for name in self._places]


def test_a_provider_that_was_given_nothing_is_refused() -> None:
    session = Session([TENSORRT, CUDA, CPU], [CUDA, CUDA])
    with pytest.raises(BackendUnavailableError, match=f'gave {TENSORRT} no node of head.onnx'):
        require_placed(session, TENSORRT, Path('head.onnx'))


def test_nodes_left_on_the_processor_are_counted_in_a_warning(
    caplog: pytest.LogCaptureFixture
) -> None:
    require_placed(Session([CUDA, CPU], [CUDA, CPU, CPU]), CUDA, Path('head.onnx'))
    assert f'2 parts of head.onnx run on the processor: {CUDA}' in caplog.text
    caplog.clear()
    require_placed(Session([CUDA, CPU], [CUDA]), CUDA, Path('head.onnx'))
    assert not caplog.text


def test_a_session_of_this_onnxruntime_tells_where_its_nodes_are(bundle: ModelBundle) -> None:
    session = OnHost(bundle, SETTINGS)._trunk
    if not hasattr(session, 'get_provider_graph_assignment_info'):
        pytest.skip('onnxruntime is too old to tell')
    assert {part.ep_name for part in session.get_provider_graph_assignment_info()} == {CPU}


class Options(OnnxRuntimeTensorRtBackend):
    """Opens on the host, and keeps the options it would have given to a GPU."""

    device = 'cpu'

    def _import(self) -> None:
        super()._import()
        self.given: dict[str, dict[str, str]] = {}

    def _open_session(
        self, path: Path, content: bytes | None = None, has_masks: bool = False
    ) -> object:
        graph = content or path.read_bytes()
        key = f'{path.name}{"" if content is None else len(self.given)}'
        self.given[key] = self._options(TENSORRT, graph, has_masks)
        return onnxruntime.InferenceSession(graph, providers=[CPU])


def folders_of(bundle: ModelBundle, **changes: int) -> dict[str, str]:
    given = Options(bundle, Settings(
        threads=1, precision='tf32', reduction='exact', **changes)).given
    return {name: options['trt_engine_cache_path'] for name, options in given.items()}


def test_engines_take_the_passes_of_the_budget_and_no_half_precision(
    bundle: ModelBundle, tmp_path: Path, claimed_gpu: None
) -> None:
    given = Options(bundle, Settings(threads=1, precision='tf32', reduction='exact',
                                     memory_budget_mb=1, passes=20)).given
    adder = given['head_stats.onnx1']
    assert adder['trt_profile_min_shapes'] == 'drop:1x3x1x1'
    assert adder['trt_profile_opt_shapes'] == 'drop:7x3x1x1'
    assert adder['trt_profile_max_shapes'] == 'drop:9x3x1x1'
    assert (adder['trt_fp16_enable'], adder['trt_int8_enable']) == ('0', '0')
    assert not [key for key in given['trunk.onnx'] if 'profile' in key]
    folders = {Path(options['trt_engine_cache_path']) for options in given.values()}
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {tmp_path / 'engines' / 'onnxruntime'}
    assert all(folder.is_dir() for folder in folders)


def test_other_weights_never_meet_an_engine_of_these(
    bundle: ModelBundle, claimed_gpu: None
) -> None:
    first, again = folders_of(bundle), folders_of(bundle)
    trunk = tiny_trunk()
    trunk.graph.initializer[0].raw_data = np.float32(0.5).tobytes()
    bundle.trunk_path.write_bytes(trunk.SerializeToString())
    other = folders_of(bundle)
    assert first == again
    assert first['trunk.onnx'] != other['trunk.onnx']
    assert first['head_stats.onnx1'] == other['head_stats.onnx1']


def test_another_gpu_or_range_of_passes_has_engines_of_its_own(
    bundle: ModelBundle, claimed_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = folders_of(bundle)
    small = folders_of(bundle, memory_budget_mb=1)
    assert first['head_stats.onnx1'] != small['head_stats.onnx1']
    assert first['trunk.onnx'] == small['trunk.onnx']
    monkeypatch.setattr(OnnxRuntimeCudaBackend, '_find_device', lambda self: 'another')
    assert not set(first.values()) & set(folders_of(bundle).values())


def test_float32_stays_float32_on_a_gpu() -> None:
    assert onnxrt_gpu.CUDA_OPTIONS['use_tf32'] == '0'
    assert onnxrt_gpu.CUDA_OPTIONS['cudnn_conv_algo_search'] == 'HEURISTIC'


@KINDS
def test_a_gpu_gives_the_maps_of_the_processor(
    bundle: ModelBundle, kind: type[OnnxRuntimeCudaBackend], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path / 'engines'))
    try:
        backend = kind(bundle, OF_KIND[kind])
    except BackendUnavailableError as err:
        pytest.skip(f'no GPU for {kind.name}: {err}')
    masks = make_masks(bundle.card.dropout_sites, 20, 0)
    maps = backend.run(noise(), masks, 1.3)
    again = backend.run(noise(), masks, 1.3)
    backend.close()
    assert_close(maps, again, 0)
    assert_close(maps, FakeBackend(bundle.card).run(noise(), masks, 1.3), 1e-5)
