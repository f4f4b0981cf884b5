# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The pipeline of node and tools: order, masks, faults, and settings a calibration refuses."""

from collections.abc import Callable
import contextlib
import dataclasses
from pathlib import Path

from cases import for_each
from conftest import make_tiny_bundle
from fake_backend import FakeBackend
import numpy as np
import pytest

from uncertainty_seg.core.bundle import fitting_calibration, ModelBundle
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.core.pipeline import FrameResult, Pipeline
from uncertainty_seg.core.settings import Settings, settings_from_dict
from uncertainty_seg.core.uncertainty import MAP_NAMES
from uncertainty_seg.errors import (
    BackendError,
    CalibrationError,
    ConfigError,
    ImageError,
    ModelBundleError,
    ShapeError,
)
from uncertainty_seg.storage.model_bundle import load_bundle

BLUE = np.zeros((96, 128, 3), np.uint8)
BLUE[..., 0] = 255
EASY = Settings()
GREY = np.full((96, 128, 3), 120, np.uint8)


def open_tiny(folder: Path, settings: Settings | None = None, **backend: float) -> Pipeline:
    bundle = load_bundle(str(folder))
    return Pipeline(bundle, FakeBackend(bundle.card, **backend), settings or EASY)


def last(pipeline: Pipeline, image: np.ndarray, frames: int = 3) -> FrameResult:
    return [pipeline.process(image, i) for i in range(frames)][-1]


def test_a_pure_colour_is_its_class_and_confident_and_grey_is_not(tiny_bundle: Path) -> None:
    result = last(open_tiny(tiny_bundle), BLUE)
    assert (result.label == 0).all()
    assert result.label.shape == (96, 128)
    assert result.verdict.is_confident
    assert not last(open_tiny(tiny_bundle), GREY).verdict.is_confident


def test_the_padding_of_the_letterbox_counts_in_no_score(tiny_bundle: Path) -> None:
    wide = np.zeros((40, 400, 3), np.uint8)
    wide[..., 0] = 255
    narrow, full = last(open_tiny(tiny_bundle), wide), last(open_tiny(tiny_bundle), BLUE)
    inside = narrow.at_grid.cut(*narrow.grid.part(
        narrow.geometry.rows, narrow.geometry.columns)).entropy
    assert narrow.at_grid.entropy.mean() > inside.mean() + 0.05  # grey padding is less certain
    assert narrow.scores['entropy.mean'] == pytest.approx(inside.mean(), rel=1e-5)
    assert narrow.scores['entropy.top'] <= inside.max()
    assert full.scores['entropy.mean'] == pytest.approx(full.at_grid.entropy.mean(), rel=1e-5)


def test_the_same_frame_twice_gives_the_same_bytes(tiny_bundle: Path) -> None:
    pipeline = open_tiny(tiny_bundle)
    one, two = pipeline.process(GREY, 1), pipeline.process(GREY, 2)
    for name in ('confidence', *MAP_NAMES):
        assert one.maps.of(name).tobytes() == two.maps.of(name).tobytes()
    assert one.label.tobytes() == two.label.tobytes()


def test_per_frame_masks_depend_on_the_stamp_alone(tiny_bundle: Path) -> None:
    bundle = load_bundle(str(tiny_bundle))
    assert bundle.calibration is not None
    bundle = dataclasses.replace(bundle, calibration=dataclasses.replace(
        bundle.calibration, mask_policy='per_frame'))
    settings = settings_from_dict({'mask_policy': 'per_frame'})
    one = Pipeline(bundle, FakeBackend(bundle.card), settings)
    other = Pipeline(bundle, FakeBackend(bundle.card), settings)
    first, second = one.process(GREY, 100), one.process(GREY, 200)
    assert (first.maps.mutual_information != second.maps.mutual_information).any()
    np.testing.assert_array_equal(other.process(GREY, 200).maps.mutual_information,
                                  second.maps.mutual_information)


def test_nan_in_one_logit_of_one_pass_makes_the_frame_not_confident(tiny_bundle: Path) -> None:
    pipeline = open_tiny(tiny_bundle, nan_on_run=4)
    assert last(pipeline, BLUE, 3).verdict.is_confident
    with pytest.raises(BackendError, match='nan'):
        pipeline.process(BLUE, 3)
    verdict = pipeline.fault('as the frame loop does')
    assert (verdict.is_confident, verdict.kind) == (False, 'fault')
    assert not pipeline.process(BLUE, 4).verdict.is_confident  # three good frames are needed


def test_an_image_that_is_none_is_refused(tiny_bundle: Path) -> None:
    pipeline = open_tiny(tiny_bundle)
    with pytest.raises(ShapeError, match='96, 128'):
        pipeline.process(BLUE[..., 0], 0)
    with pytest.raises(ImageError, match='5x0'):
        pipeline.process(np.zeros((0, 5, 3), np.uint8), 0)


class DeafBackend(FakeBackend):
    """A backend that ignores its masks."""

    def run(self, image, masks, temperature):
        return super().run(image, {n: np.ones_like(m) for n, m in masks.items()}, temperature)


class RoundingBackend(DeafBackend):
    """A backend with equal passes whose variance is not quite 0, due to float32."""

    def run(self, image, masks, temperature):
        sums = super().run(image, masks, temperature)
        return dataclasses.replace(
            sums, p_squared=sums.p_squared + np.float32(2.4e-7) * sums.passes)


class RandomBackend(FakeBackend):
    """A backend whose results are random."""

    def run(self, image, masks, temperature):
        sums = super().run(image, masks, temperature)
        noise = np.random.default_rng().random(sums.entropy_nats.shape, np.float32) * 0.01
        return dataclasses.replace(sums, entropy_nats=sums.entropy_nats - noise)


def test_masks_that_are_not_what_makes_passes_differ_are_refused(tiny_bundle: Path) -> None:
    bundle = load_bundle(str(tiny_bundle))
    Pipeline(bundle, FakeBackend(bundle.card), Settings()).check_masks()
    for kind in (DeafBackend, RoundingBackend, RandomBackend):
        with pytest.raises(ModelBundleError):
            Pipeline(bundle, kind(bundle.card), Settings()).check_masks()


@for_each('values, other, named', [
    ({'passes': 9}, {}, 'passes is 9.* 8'), ({'precision': 'bf16'}, {}, 'bf16.* fp32'),
    ({'mask_policy': 'per_frame'}, {}, 'per_frame.* fixed'), ({'seed': 5}, {}, 'seed is 5.* 0'),
    ({}, {'mask_draw': 'stratified'}, 'independent.* stratified'),
    ({}, {'precision': 'bf16'}, 'fp32.* bf16'),
    ({'precision': 'fp32'}, {'precision': 'bf16'}, 'fp32.* bf16'),
])
def test_what_the_calibration_was_not_made_for_is_refused(
    tiny_bundle: Path, values: dict[str, object], other: dict[str, object], named: str
) -> None:
    bundle = with_calibration(load_bundle(str(tiny_bundle)), **other)
    with pytest.raises(CalibrationError, match=named):
        Pipeline(bundle, FakeBackend(bundle.card), settings_from_dict(values))


@for_each('values', [{'precision': 'bf16'}, {'mask_policy': 'per_frame'},
                     {'mask_policy': 'per_frame', 'seed': 5}])
def test_what_the_calibration_was_made_for_is_taken_and_per_frame_with_any_seed(
    tiny_bundle: Path, values: dict[str, object]
) -> None:
    bundle = with_calibration(load_bundle(str(tiny_bundle)), **{**values, 'seed': 0})
    assert Pipeline(bundle, FakeBackend(bundle.card), settings_from_dict(values)).thresholds


def test_another_seed_is_refused_while_it_runs_where_there_is_a_gate(tiny_bundle: Path) -> None:
    bundle = load_bundle(str(tiny_bundle))
    pipeline = Pipeline(bundle, FakeBackend(bundle.card), Settings())
    with pytest.raises(CalibrationError, match='seed is 5'):
        pipeline.reconfigure(Settings(seed=5))
    assert pipeline.settings.seed == 0
    # Without a gate, as in a calibration, any seed is accepted.
    fitting = Pipeline(bundle, FakeBackend(bundle.card), Settings(seed=5), temperature=1.0)
    assert not fitting.reconfigure(Settings(seed=6))


@pytest.mark.parametrize(('name', 'other'), [
    ('mask_policy', 'per_frame'), ('precision', 'bf16'), ('smallest_class', 0.1)])
def test_what_the_limits_are_for_cannot_be_changed_while_it_runs(
    tiny_bundle: Path, name: str, other: object
) -> None:
    pipeline = open_tiny(tiny_bundle, Settings())
    with pytest.raises(ConfigError, match=f'{name} is {other}'):
        pipeline.reconfigure(dataclasses.replace(pipeline.settings, **{name: other}))
    assert pipeline.settings == Settings()


def test_without_dropout_the_mask_policy_is_no_reason_to_refuse_the_limits(
    tiny_bundle: Path,
) -> None:
    bundle = load_bundle(str(tiny_bundle))
    settings = Settings(mask_policy='per_frame')
    with pytest.raises(CalibrationError, match='per_frame'):
        fitting_calibration(bundle, settings, 8, 'fp32', None)
    card = dataclasses.replace(bundle.card, dropout_sites=(), method='single', passes=1)
    of_one = with_calibration(dataclasses.replace(bundle, card=card), passes=1)
    assert fitting_calibration(of_one, settings, 1, 'fp32', None) is of_one.calibration


def with_calibration(bundle: ModelBundle, **changes: object) -> ModelBundle:
    assert bundle.calibration is not None
    return dataclasses.replace(
        bundle, calibration=dataclasses.replace(bundle.calibration, **changes))


class TellingBackend(FakeBackend):
    """A backend that records its masks by their number of passes."""

    def run(self, image, masks, temperature):
        self.given = {**getattr(self, 'given', {}), len(next(iter(masks.values()))): masks}
        return super().run(image, masks, temperature)


def test_the_passes_of_an_ensemble_are_its_members_and_equal_ones_prove_it(
    tiny_bundle: Path
) -> None:
    bundle = load_bundle(str(tiny_bundle))
    card = dataclasses.replace(bundle.card, method='deep_ensemble', members=3, passes=3,
                               dropout_sites=(DropoutSite('member', (3,), 0.5),))
    bundle = with_calibration(dataclasses.replace(bundle, card=card), passes=3)
    backend = TellingBackend(card)
    pipeline = Pipeline(bundle, backend, Settings())
    pipeline.check_masks()
    np.testing.assert_array_equal(backend.given[3]['member'], np.eye(3))
    np.testing.assert_array_equal(backend.given[2]['member'], [[1, 0, 0], [1, 0, 0]])
    with pytest.raises(ConfigError):  # an impossible T changes nothing
        pipeline.reconfigure(Settings(passes=5))
    assert pipeline.passes == 3 and pipeline.settings == Settings()
    assert pipeline.measure(GREY, 0).maps.mutual_information.max() > 0


class NoisyBackend(FakeBackend):
    """A backend that changes the logits by `share` times the squared noise."""

    share = 0.1

    def _factors(self, masks, passes):
        drawn = {name: rows for name, rows in masks.items() if name != 'noise'}
        factors = super()._factors(drawn, passes)
        noise = masks.get('noise', np.zeros((passes, 3)))
        return factors + self.share * (noise.reshape(passes, -1, 3)**2).mean(1)


NOISES = {'single': (), 'direct': ((20, 3, 1, 1),), 'error_propagation': ((3, 1, 1),)}


def noisy_pipeline(bundle, method, masks, passes):
    sites = (*(DropoutSite('noise', shape, 0.0, 'noise') for shape in NOISES[method]),
             *(DropoutSite('drop', (3, 1, 1), p) for p in masks))
    card = dataclasses.replace(bundle.card, method=method, dropout_sites=sites, passes=passes)
    bundle = with_calibration(dataclasses.replace(bundle, card=card), passes=passes)
    return Pipeline(bundle, NoisyBackend(card), Settings())


@pytest.mark.parametrize('method, masks, passes, dead', [
    ('single', (), 1, ''), ('direct', (), 1, 'noise'), ('direct', (0.5,), 8, 'noise'),
    ('direct', (0.5,), 8, 'masks'), ('error_propagation', (), 8, 'noise'),
])
def test_what_makes_passes_differ_is_proven_for_every_method(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, method: str, masks: tuple[float, ...],
    passes: int, dead: str,
) -> None:
    pipeline = noisy_pipeline(load_bundle(str(tiny_bundle)), method, masks, passes)
    pipeline.check_masks()
    if dead == 'masks':
        monkeypatch.setattr(FakeBackend, '_factors',
                            lambda self, masks, passes: np.ones((passes, 3)))
    else:
        monkeypatch.setattr(NoisyBackend, 'share', 0.0)
    with pytest.raises(ModelBundleError, match=dead) if dead else contextlib.nullcontext():
        pipeline.check_masks()
    assert pipeline.measure(GREY, 0).passes == passes


def test_a_bundle_without_calibration_is_refused_unless_one_is_being_made(
    tiny_bundle: Path
) -> None:
    make_tiny_bundle(tiny_bundle, calibrated=False)
    with pytest.raises(CalibrationError):
        open_tiny(tiny_bundle)
    bundle = load_bundle(str(tiny_bundle))
    pipeline = Pipeline(bundle, FakeBackend(bundle.card), Settings(), temperature=1.0)
    assert not last(pipeline, BLUE, 9).verdict.is_confident


@pytest.mark.parametrize('temperature', [0.1, 1.0])
def test_under_a_given_temperature_the_gate_stays_shut_whatever_is_set(
    tiny_bundle: Path, temperature: float
) -> None:
    # The limits hold for scores at the calibration's temperature; and even if that temperature is
    # given, seed, masks and precision are not compared with the calibration's.
    bundle = load_bundle(str(tiny_bundle))
    assert bundle.calibration is not None and bundle.calibration.temperature == 1.0
    pipeline = Pipeline(bundle, FakeBackend(bundle.card), EASY, temperature=temperature)
    assert pipeline.thresholds == {}
    for change in (lambda: None, pipeline.restart, lambda: pipeline.reconfigure(
            dataclasses.replace(EASY, gate=dataclasses.replace(EASY.gate, rise_frames=1)))):
        change()
        assert pipeline.for_camera().thresholds == {}
        result = last(pipeline, BLUE, 9)
        assert (result.verdict.is_confident, result.verdict.kind) == (False, 'fault')
        assert 'temperature' in result.verdict.reasons[0]
        # The limits must not apply, although every score is below them.
        limits = bundle.calibration.thresholds
        assert all(result.scores[name] <= limit for name, limit in limits.items())


def test_a_stricter_scale_takes_effect_at_once_and_a_wrong_one_changes_nothing(
    tiny_bundle: Path
) -> None:
    pipeline = open_tiny(tiny_bundle)
    assert last(pipeline, BLUE).verdict.is_confident
    with pytest.raises(ConfigError):  # the flag would never fall
        pipeline.reconfigure(settings_from_dict({'gate.threshold_scale': 2.0}))
    assert pipeline.thresholds == {'entropy.mean': pytest.approx(0.72)}
    pipeline.reconfigure(settings_from_dict({'gate.threshold_scale': 0.01}))
    assert not last(pipeline, BLUE).verdict.is_confident
    assert pipeline.thresholds == {'entropy.mean': pytest.approx(0.0072)}
    pipeline.reconfigure(settings_from_dict({'gate.scores': ['entropy.top']}))
    assert list(pipeline.thresholds) == ['entropy.top']


@pytest.mark.parametrize(('change', 'reason'), [
    (lambda pipeline: pipeline.reconfigure(dataclasses.replace(
        EASY, gate=dataclasses.replace(EASY.gate, threshold_scale=0.9))),
     'the gate was changed while the frame was processed'),
    (lambda pipeline: pipeline.reconfigure(dataclasses.replace(EASY, passes=3)),
     'passes was changed while the frame was processed'),
    (lambda pipeline: pipeline.restart(), 'the gate was reset while the frame was processed'),
    (lambda pipeline: pipeline.fault('engine error'),
     'engine error while the frame was processed'),
])
def test_a_frame_that_was_begun_before_the_gate_changed_is_not_judged(
    tiny_bundle: Path, change: Callable[[Pipeline], object], reason: str
) -> None:
    pipeline = open_tiny(tiny_bundle)
    assert last(pipeline, BLUE).verdict.is_confident
    force = pipeline.begin()
    result = pipeline.measure(BLUE, 9, force)
    change(pipeline)
    verdict = pipeline.judge(force, result)
    assert (verdict.is_confident, verdict.reasons) == (False, (reason,))
    # The frame is neither a fault nor worth a label.
    assert verdict.kind == 'recovering' and not verdict.is_worth_a_label
    assert not pipeline.verdict.is_confident


def test_a_change_that_the_gate_does_not_depend_on_leaves_the_frame_in_work(
    tiny_bundle: Path
) -> None:
    pipeline = open_tiny(tiny_bundle)
    assert last(pipeline, BLUE).verdict.is_confident
    force = pipeline.begin()
    result = pipeline.measure(BLUE, 9, force)
    assert not pipeline.reconfigure(dataclasses.replace(EASY, map='entropy'))
    assert pipeline.judge(force, result).is_confident


def test_a_live_change_that_voids_the_promise_is_in_the_next_verdict_and_taken_back(
    tiny_bundle: Path
) -> None:
    pipeline = open_tiny(tiny_bundle)
    assert last(pipeline, BLUE).verdict.promise != 'void'
    for change, is_void in ((dataclasses.replace(EASY, max_age_s=0.0), True), (EASY, False)):
        assert not pipeline.reconfigure(change)
        assert (pipeline.verdict.promise == 'void') is is_void
        assert (last(pipeline, BLUE).verdict.promise == pipeline.promise == 'void') is is_void


def test_another_number_of_passes_takes_effect_live_and_shuts_the_gate(tiny_bundle: Path) -> None:
    pipeline = open_tiny(tiny_bundle)
    before = last(pipeline, BLUE)
    assert before.verdict.is_confident and before.passes == 8
    pipeline.reconfigure(dataclasses.replace(EASY, passes=3))
    result = last(pipeline, BLUE, 9)
    assert result.passes == 3
    assert not result.verdict.is_confident
    assert '3' in result.verdict.reasons[0] and '8' in result.verdict.reasons[0]
    pipeline.reconfigure(EASY)
    assert not pipeline.verdict.is_confident  # the gate starts again
    again = last(pipeline, BLUE)
    assert again.verdict.is_confident
    np.testing.assert_array_equal(again.maps.entropy, before.maps.entropy)


def test_a_frame_of_another_t_is_not_judged_by_the_limits_of_this_one(tiny_bundle: Path) -> None:
    easy = dataclasses.replace(EASY, gate=dataclasses.replace(EASY.gate, rise_frames=1))
    pipeline = open_tiny(tiny_bundle, easy)
    assert pipeline.process(BLUE, 0).verdict.is_confident
    pipeline.reconfigure(dataclasses.replace(easy, passes=3))
    force = pipeline.begin()
    result = pipeline.measure(BLUE, 1, force)
    pipeline.reconfigure(easy)  # back to 8 while a frame of 3 passes is processed
    verdict = pipeline.judge(force, result)
    assert not verdict.is_confident
    assert 'passes' in verdict.reasons[0]
    assert pipeline.process(BLUE, 2).verdict.is_confident


def test_cameras_share_the_network_and_its_masks_but_not_the_gate(tiny_bundle: Path) -> None:
    bundle = load_bundle(str(tiny_bundle))
    backend = TellingBackend(bundle.card)
    front = Pipeline(bundle, backend, EASY)
    down = front.for_camera()
    assert last(front, BLUE).verdict.is_confident
    assert down.verdict.kind == 'unknown'
    front_masks = backend.given[8]
    last(down, GREY, 1)
    # The identical object, by which a GPU backend recognizes masks that it has already copied.
    assert all(backend.given[8][name] is mask for name, mask in front_masks.items())
    assert front.verdict.is_confident and not down.verdict.is_confident


def test_every_map_may_be_asked_for_afterwards_and_none_is_made_before(tiny_bundle: Path) -> None:
    result = open_tiny(tiny_bundle).process(GREY)
    assert 'maps' not in vars(result) and not {'unknown', 'energy'} & set(vars(result.at_grid))
    for name in MAP_NAMES:
        assert result.map_at_source(name).shape == GREY.shape[:2]
    assert result.maps.entropy.shape == (48, 64) and result.at_grid.entropy.shape == (12, 16)
    with pytest.raises(ConfigError, match='entropie'):
        result.map_at_source('entropie')
