# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The order of the steps, defined only here: image, network, maps, scores, verdict.

The ROS node and every offline tool call this pipeline, so that a bag replayed offline and the
live node give the same numbers. A `Backend` runs the network; it does not depend on the gate,
and the pipeline does not depend on a runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
import logging
import math
import time

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap, require_shape
from uncertainty_seg.core.bundle import (
    fitting_calibration,
    ModelBundle,
    require_seed,
    smallest_class_of,
)
from uncertainty_seg.core.calibration import mask_digest
from uncertainty_seg.core.dropout_masks import (
    frame_seed,
    lazy_inputs,
    Masks,
    PassSource,
    still_inputs,
)
from uncertainty_seg.core.gate import (
    cannot_rise,
    Gate,
    gate_limits,
    NO_CALIBRATION,
    promise_text,
    Verdict,
    VOID,
    weakened_by,
)
from uncertainty_seg.core.grid import Grid
from uncertainty_seg.core.image_damage import (
    damage,
    FIXED_LIMITS,
    image_statistics,
    KeptPoints,
)
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.plausibility import Backend, CheckedBackend
from uncertainty_seg.core.preprocess import (
    fit_ignore,
    fit_image,
    Geometry,
    unfit_bytes,
    unfit_label,
    unfit_map,
)
from uncertainty_seg.core.scores.vector import score_names, ScoreVector
from uncertainty_seg.core.settings import (
    passes_of,
    precision_of,
    RUN_UNCALIBRATED,
    Settings,
)
from uncertainty_seg.core.uncertainty import (
    grid_maps,
    image_maps,
    UncertaintyMaps,
)
from uncertainty_seg.errors import ConfigError, ModelBundleError

_log = logging.getLogger(__name__)
# Bound of the total variance of equal passes, by the rounding of their sums; 2.4e-7 was measured.
ROUNDING = 1e-6
# For a bundle without a calibration, if the settings allow it to run.
PLAIN_TEMPERATURE = 1.0
NOT_JUDGED = Verdict(False, ('not judged',), float('inf'), 'unknown')


@dataclass(frozen=True)
class FrameResult:
    """
    All results of one frame.

    `at_grid` are the maps at the `grid`, from which the scores were computed; `maps`, at network
    resolution, and the maps at the size of the image are derived from them on first use.
    `geometry` is the place of the image in the network's input; the scores leave out the padding
    around it. `passes` is T. `age_s` is the age of the image when it was judged; NaN if there was
    no clock to compare with.
    """

    stamp_ns: int
    geometry: Geometry
    grid: Grid
    at_grid: UncertaintyMaps
    scores: Mapping[str, float]
    verdict: Verdict
    timings_ms: Mapping[str, float]
    passes: int
    age_s: float = math.nan

    @cached_property
    def maps(self) -> UncertaintyMaps:
        """Return the maps at network resolution (h, w), each computed on first use."""
        return image_maps(self.at_grid, self.grid)

    @property
    def label(self) -> LabelMap:
        """Return class ids (H, W) at the size of the image, letterbox undone."""
        return unfit_label(self.maps.label, self.geometry)

    @property
    def confidence(self) -> FloatMap:
        """Return the largest mean probability (H, W), 1/C..1, at the size of the image."""
        return self.map_at_source('confidence')

    def confidence_at_source(self) -> NDArray[np.uint8]:
        """Return confidence (H, W) as 0..255; 0 where it is not a number."""
        return unfit_bytes(self.maps.confidence, self.geometry)

    def map_at_source(self, name: str) -> FloatMap:
        """
        Return a map of `maps` by its name, at the size (H, W) of the image; NaN is kept.

        Raises ConfigError if there is no such map.
        """
        return unfit_map(self.maps.of(name), self.geometry)


@dataclass(frozen=True)
class Epoch:
    """
    Everything that a frame is measured and judged by.

    It is replaced as a whole, so that no frame is processed with half of a change.
    """

    # Counts the events that invalidate a frame in progress: a fault that is not a score, a
    # restart, a change of the gate or of T.
    number: int
    settings: Settings
    masks: Masks  # of the mask policy 'fixed'
    passes: int  # T
    scorer: ScoreVector
    thresholds: Mapping[str, float]  # of each gated score; empty without a gate


class Pipeline:
    """
    One model and one gate that process one frame after another.

    Only `damage`, `begin` and `measure` may run in another thread. All other methods may change
    the gate: a single owner calls them, never two at once. A frame that began before such a change
    is not judged by the new state; `judge` refuses it. Raises CalibrationError if the bundle has
    no calibration and `settings.uncalibrated` is not 'run', or if its calibration does not fit the
    settings (see `fitting_calibration`); ConfigError if the graphs cannot be computed in the
    precision of the settings.

    Parameters
    ----------
    bundle : ModelBundle
        Card, graphs and calibration.
    backend : Backend
        Opened for this bundle; closed with the pipeline.
    settings : Settings
        Checked settings.
    temperature : float, optional
        Replaces the calibration's, to fit a new one; the flag then stays false.
    ignore : ndarray of bool, shape of any image, optional
        True where a pixel is left out of every score; stretched to the camera image.
    scorer : ScoreVector, optional
        Computes the scores; by default the usual six and the gated ones, or all (`all_scores`).
    clock : callable, optional
        Returns seconds, for the timings.
    source : PassSource, optional
        Shared by the pipelines of several cameras.
    all_scores : bool
        Compute every score that the bundle supports.

    """

    def __init__(
        self,
        bundle: ModelBundle,
        backend: Backend,
        settings: Settings,
        temperature: float | None = None,
        ignore: NDArray[np.bool_] | None = None,
        scorer: ScoreVector | None = None,
        clock: Callable[[], float] = time.perf_counter,
        source: PassSource | None = None,
        all_scores: bool = False,
    ) -> None:
        if temperature is not None and not 0 < temperature < math.inf:
            raise ConfigError(f'temperature {temperature}', 'a finite number above 0')
        self._bundle, self._clock = bundle, clock
        self._first_stale_s = settings.stale_timeout_s
        # One check for all cameras: a stale result may belong to another camera's image.
        self._backend = backend if isinstance(backend, CheckedBackend) else CheckedBackend(
            backend, bundle.card)
        self._source = source or PassSource(bundle.card)
        passes = passes_of(self.card, settings)
        self.precision = precision_of(bundle.card, settings.precision)
        self._temperature, self._is_judging = temperature, temperature is None
        if temperature is None and bundle.calibration is None \
                and settings.uncalibrated == RUN_UNCALIBRATED:
            self._temperature = PLAIN_TEMPERATURE
        elif temperature is None:
            self._temperature = fitting_calibration(
                bundle, settings, passes, self.precision, ignore).temperature
        self._ignore = ignore
        self._has_other_ignore = bundle.calibration is not None \
            and bundle.calibration.ignore_sha256 != mask_digest(ignore)
        self._told: tuple[str, ...] = ()
        self._gate = self._new_gate(settings)
        self._tell_weakness(settings)
        self._given_scorer = scorer
        self._has_all_scores = all_scores
        scorer = scorer or self._new_scorer(settings, self._gate)
        self._epoch = Epoch(
            0, settings, self._source.of(passes, settings.seed), passes, scorer, self.thresholds)
        self.cause = ''
        self._fitted_ignore: tuple[Geometry | None, NDArray[np.bool_] | None] = None, None
        # No image is refused while a calibration is fitted: its frames set the limits.
        self._damage_limits = {} if not bundle.calibration and not self._is_judging else {
            **FIXED_LIMITS, **(bundle.calibration.damage_limits if bundle.calibration else {})}
        self._kept_points: tuple[tuple[int, ...], KeptPoints | None] = (), None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def for_camera(self, ignore: NDArray[np.bool_] | None = None) -> Pipeline:
        """
        Return a pipeline for another camera: the same network, a separate gate.

        `ignore` is the mask of that camera. Use the two in turn, never at the same time; closing
        one closes both.
        """
        return Pipeline(self._bundle, self._backend, self.settings,
                        None if self._is_judging else self._temperature, ignore,
                        clock=self._clock, source=self._source, all_scores=self._has_all_scores)

    @property
    def settings(self) -> Settings:
        """Return the current settings."""
        return self._epoch.settings

    @property
    def passes(self) -> int:
        """Return T."""
        return self._epoch.passes

    @property
    def card(self) -> ModelCard:
        """Return the card of the bundle."""
        return self._bundle.card

    @property
    def backend_name(self) -> str:
        """Return the name of the runtime."""
        return self._backend.name

    @property
    def ignore(self) -> NDArray[np.bool_] | None:
        """Return the mask (h, w), of any size, of excluded pixels; None if there is none."""
        return self._ignore

    @property
    def thresholds(self) -> dict[str, float]:
        """Return the threshold of each gated score, scale included; empty without a gate."""
        return self._gate.thresholds if self._gate else {}

    @property
    def calibrated(self) -> Mapping[str, float]:
        """Return the calibrated threshold of every score that has one, gated or not."""
        return self._bundle.calibration.thresholds if self._bundle.calibration else {}

    @property
    def weakened_by(self) -> tuple[str, ...]:
        """List the settings that weaken what the calibration promises, each in words."""
        return self._weakened_by(self.settings)

    @property
    def promise(self) -> str:
        """Return what is promised, in words; `VOID` if settings void it, 'none' if nothing."""
        if self.weakened_by:
            return VOID
        if self._bundle.calibration is None:
            return NO_CALIBRATION
        return self._gate.last.promise or 'none' if self._gate else 'none'

    @property
    def verdict(self) -> Verdict:
        """Return the current verdict."""
        return self._gate.last if self._gate else self._ungated()

    def check_masks(self) -> None:
        """
        Check on an image of noise what makes the passes differ, and warm up the backend.

        Raises ModelBundleError if equal inputs give any mutual information, or drawn masks or
        noise change nothing. With one pass only the noise of `direct` can be checked.
        """
        spec = self.card.input
        noise = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
        equal = still_inputs(self.card, 1 if self.passes == 1 else 2)
        still = self._maps(noise, equal)
        drawn = self._maps(noise, self._epoch.masks)
        fix = 'compile the bundle again from the network with its dropout'
        mutual = float(still.mutual_information.max())
        if not mutual < 1e-4:
            raise ModelBundleError(f'mutual information {mutual:.2g} between equal passes',
                                   '0: something other than the masks is random', fix)
        if self.passes != 1 and not float(drawn.total_variance.max()) > ROUNDING:
            what = 'the dropout masks change' if self.card.mask_sites else 'the noise changes'
            raise ModelBundleError(f'{what} nothing', 'passes that differ', fix)
        if self.card.method == 'direct':
            zeros = still_inputs(self.card, self.passes)
            only_masks = {name: rows for name, rows in self._epoch.masks.items()
                          if name not in {site.name for site in self.card.noise_sites}}
            quiet = self._maps(noise, {**zeros, **only_masks})
            if not float(abs(drawn.confidence - quiet.confidence).max()) > ROUNDING:
                raise ModelBundleError(
                    'the noise changes nothing', 'a log-variance above rounding noise',
                    'compile the bundle again from the network with its variance head')

    def begin(self) -> Epoch:
        """Return the current epoch, to pass to `measure` and `judge` for the next frame."""
        return self._epoch

    def damage(self, image_bgr: ImageU8) -> str:
        """
        Return how a BGR image is damaged, in one sentence; empty if no sign of damage is found.

        Pixels of the ignore mask are excluded. Raises ShapeError unless it is uint8 (H, W, 3).
        """
        scale = self.settings.damage_scale
        if scale == 0 or not self._damage_limits:
            return ''
        require_shape('image', image_bgr, (None, None, 3), np.uint8)
        shape = image_bgr.shape[:2]
        if self._ignore is not None and self._kept_points[0] != shape:
            self._kept_points = shape, KeptPoints.of(self._ignore, *shape)
        return damage(image_statistics(image_bgr, self._kept_points[1]), self._damage_limits,
                      scale)

    def measure(
        self, image_bgr: ImageU8, stamp_ns: int = 0, epoch: Epoch | None = None
    ) -> FrameResult:
        """
        Run the network on a BGR image (H, W, 3) and compute scores, without the gate.

        Raises ImageError if the image has no pixels or cannot be fitted; ShapeError if it is not a
        BGR image of bytes; BackendError if the runtime failed, or its result is implausible.

        `epoch` comes from `begin`, and is the current one by default. `stamp_ns` seeds the masks
        under the policy 'per_frame'. The verdict of the result is `NOT_JUDGED`.
        """
        require_shape('image', image_bgr, (None, None, 3), np.uint8)
        epoch = epoch or self.begin()
        masks = self.masks_of(epoch, stamp_ns)
        start_s = self._clock()
        geometry = Geometry.of(image_bgr.shape[0], image_bgr.shape[1], self.card.input)
        fitted = fit_image(image_bgr, geometry, self.card.input)
        fitted_s = self._clock()
        maps = self._maps(fitted, masks, geometry)
        maps.leave_out_specks(smallest_class_of(self._bundle, epoch.settings), geometry.rows,
                              geometry.columns, self.card.grid)
        run_s = self._clock()
        scores = epoch.scorer.compute(
            maps.inside(geometry.rows, geometry.columns, self.card.grid),
            self._ignore_at(geometry))
        timings = {
            'preprocess': (fitted_s - start_s) * 1e3,
            **self._backend.timings_ms,
            'scores': (self._clock() - run_s) * 1e3,
        }
        return FrameResult(stamp_ns, geometry, self.card.grid, maps, scores, NOT_JUDGED, timings,
                           epoch.passes)

    def _maps(
        self, fitted: ImageU8, masks: Masks, geometry: Geometry | None = None
    ) -> UncertaintyMaps:
        """Return the maps of a fitted image at the grid."""
        assert self._temperature is not None
        sums = self._backend.run(fitted, masks, self._temperature)
        known = self._bundle.features
        if known is None or sums.features is None or geometry is None:
            return grid_maps(sums)
        return grid_maps(sums, partial(
            known.strangeness, sums.features, self.card.grid, geometry.rows, geometry.columns))

    def masks_of(self, epoch: Epoch, stamp_ns: int) -> Masks:
        """Return the masks of a frame: those of the epoch, or of the stamp under 'per_frame'."""
        if epoch.settings.mask_policy == 'fixed':
            return epoch.masks
        seed = frame_seed(epoch.settings.seed, stamp_ns)
        return lazy_inputs(self.card, epoch.passes, seed)

    def judge(self, epoch: Epoch, result: FrameResult) -> Verdict:
        """
        Judge a frame that was measured in `epoch`; the verdict takes effect at once.

        It is not confident if the gate was changed since `begin`: its thresholds, T or history are
        no longer those that the frame was measured for.
        """
        if epoch.number != self._epoch.number:
            # The frame itself is neither a fault nor worth a label.
            verdict = self.fault(f'{self.cause} while the frame was processed')
            return replace(verdict, kind='recovering')
        if self._gate is None:
            return self._ungated()
        return self._gate.update(result.scores, result.stamp_ns / 1e9)

    def process(self, image_bgr: ImageU8, stamp_ns: int = 0) -> FrameResult:
        """
        Run the network and judge the frame; an image that looks damaged is 'uncertain'.

        Parameters and errors are those of `measure`; single images need no stamp. After an error
        the caller must call `fault`, which makes the flag fall; `core.frame_loop` does that.
        """
        epoch = self.begin()
        result = self.measure(image_bgr, stamp_ns, epoch)
        problem = self.damage(image_bgr)
        verdict = self.fault(problem, 'uncertain') if problem else self.judge(epoch, result)
        return replace(result, verdict=verdict)

    def fault(self, reason: str, kind: str = 'fault') -> Verdict:
        """
        Make the flag fall for a reason that is not a score; a frame in progress becomes invalid.

        `kind` is that of the verdict: 'uncertain' if the pixels of an intact message look damaged.
        """
        self._next_epoch(reason)
        # Stamps are the gate's only clock, live and replayed alike. A fault may come without a
        # frame and its stamp, so the hold starts with the next frame.
        if self._gate:
            return self._gate.fault(reason, kind=kind)
        return replace(_no_limits(reason), kind=kind, promise=self._ungated().promise)

    def reconfigure(self, settings: Settings) -> bool:
        """
        Apply live settings; return whether the gate changed.

        If so, the flag starts again from unknown. Raises ConfigError if a gated score has no
        threshold, or mask policy, precision or smallest class are not those at the start;
        CalibrationError if the thresholds are for another seed. After an error nothing is changed.
        """
        if self._is_judging:
            require_seed(self._bundle, settings)
        gate, passes = self._gate, passes_of(self.card, settings)
        for name in ('mask_policy', 'precision', 'smallest_class'):
            old, new = getattr(self.settings, name), getattr(settings, name)
            if old != new:
                raise ConfigError(f'{name} is {new}', f'{old}, as at the start',
                                  'open the pipeline again for another one')
        has_other_passes = passes != self.passes
        is_other = has_other_passes or settings.gate != self.settings.gate
        if is_other:
            gate = self._new_gate(settings)
        self._tell_weakness(settings)
        masks = self._source.of(passes, settings.seed)
        scorer = self._given_scorer or self._new_scorer(settings, gate)
        self._epoch = replace(
            self._epoch, settings=settings, masks=masks, passes=passes, scorer=scorer,
            thresholds=gate.thresholds if gate else {})
        self._gate = gate
        if gate:
            gate.promises(self._promised(settings))
        if is_other:
            self._next_epoch(f'{"passes" if has_other_passes else "the gate"} was changed')
        return is_other

    def restart(self, cause: str = 'the gate was reset') -> None:
        """Reset the gate; a frame in progress becomes invalid."""
        self._gate = self._new_gate(self.settings)
        self._next_epoch(cause)

    def _next_epoch(self, cause: str) -> None:
        self.cause = cause.rstrip('.')
        self._epoch = replace(self._epoch, number=self._epoch.number + 1)

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()

    def _new_scorer(self, settings: Settings, gate: Gate | None) -> ScoreVector:
        gated = gate.thresholds if gate else ()
        names = None if self._has_all_scores else {*score_names(), *gated}
        return ScoreVector(self.card, names, self._bundle.features)

    def _ignore_at(self, geometry: Geometry) -> NDArray[np.bool_] | None:
        if self._ignore is None:
            return None
        known, fitted = self._fitted_ignore
        if known != geometry:
            fitted = fit_ignore(self._ignore, geometry)
            self._fitted_ignore = geometry, fitted
        return fitted

    def _ungated(self) -> Verdict:
        calibration = self._bundle.calibration
        if not self._is_judging:
            return _no_limits('the bundle is not calibrated' if calibration is None else
                              'a temperature was given, for which there are no thresholds')
        if calibration is None:
            # No fault: frame and scores are valid, but there are no thresholds to judge them by.
            return Verdict(False, (NO_CALIBRATION,), float('inf'), 'unknown', NO_CALIBRATION)
        return _no_limits(f'passes is {self.passes}: the thresholds are for {calibration.passes}')

    def _weakened_by(self, settings: Settings) -> tuple[str, ...]:
        calibration, stale_s = self._bundle.calibration, settings.stale_timeout_s
        if calibration is None:
            return ()  # the flag is never true
        found = weakened_by(calibration, settings.gate)
        if self._has_other_ignore:
            found += ("ignore_mask is not the calibration's: the thresholds are for scores of "
                      'other pixels',)
        loose = settings.checks_off
        if stale_s > self._first_stale_s and 'stale_timeout_s' not in loose:
            found += (f'stale_timeout_s is {stale_s:g}, above {self._first_stale_s:g} at the '
                      'start: the flag stays true for that long without a frame',)
        return (*found, *loose.values())

    def _tell_weakness(self, settings: Settings) -> None:
        """Log what weakens the promise if frames are judged and it has changed."""
        told, self._told = self._told, self._weakened_by(settings) if self._is_judging else ()
        if self._told and self._told != told:
            _log.warning('the settings weaken what the calibration promises: %s',
                         '; '.join(self._told))

    def _new_gate(self, settings: Settings) -> Gate | None:
        calibration = self._bundle.calibration
        # With a given temperature, even the calibration's own, `fitting_calibration` has not
        # checked that the thresholds fit the settings.
        if calibration is None or not self._is_judging:
            return None
        # Checked for any T: otherwise an error would only appear once T is changed back.
        limits = gate_limits(calibration, settings.gate)
        if unmet := cannot_rise(calibration, settings.gate, limits):
            _log.warning('the flag may never rise: %s', unmet)
        if passes_of(self.card, settings) != calibration.passes:
            _log.warning('passes is %s but the thresholds are for %s: the flag stays false',
                         passes_of(self.card, settings), calibration.passes)
            return None
        return Gate(settings.gate, limits, self._promised(settings), calibration.floors)

    def _promised(self, settings: Settings) -> str:
        calibration = self._bundle.calibration
        return VOID if calibration is None or self._weakened_by(settings) else promise_text(
            calibration, settings.gate)


def _no_limits(reason: str) -> Verdict:
    return Verdict(False, (reason,), float('inf'), 'fault')
