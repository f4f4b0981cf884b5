# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Which scores the gate looks at and where their limits are, by calibration and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import logging

from uncertainty_seg.core.calibration import Calibration, HIGHEST_SCORE
from uncertainty_seg.core.settings import GateSettings
from uncertainty_seg.errors import ConfigError

_log = logging.getLogger(__name__)


def gate_limits(calibration: Calibration, settings: GateSettings) -> dict[str, float]:
    """
    Return the limit of each gated score, scale included.

    Parameters
    ----------
    calibration : Calibration
        Of the bundle.
    settings : GateSettings
        May name other scores, a promise, a scale.

    Returns
    -------
    dict of str to float
        The promise's where the gate is the calibrated one and there is a promise; else the
        calibration's thresholds, which promise nothing.

    Raises
    ------
    ConfigError
        If a score has no threshold, there is no promise of `settings.alpha`, or the scale puts a
        limit where no score can be.

    """
    promise = calibration.promise_of(settings.alpha)
    limits: Mapping[str, float] = promise.limits if promise else calibration.thresholds
    names: Sequence[str] = settings.scores or calibration.gate_scores
    if promise and settings.scores and set(names) != set(promise.limits):
        _log.warning('gate.scores are not those of the calibration (%s): their limits promise '
                     'nothing', ', '.join(promise.limits))
        limits = calibration.thresholds
    elif promise:
        _warn_of_void(settings)
    missing = [name for name in names if name not in limits]
    if missing:
        raise ConfigError(
            f'gate.scores names {missing[0]!r}', f'one of {", ".join(calibration.thresholds)}',
            'calibrate the bundle again to have a threshold for it',
        )
    return {name: _scaled(name, limits[name], settings.threshold_scale) for name in names}


def promise_text(calibration: Calibration, settings: GateSettings) -> str:
    """Say what the limits of `gate_limits` promise; empty if nothing."""
    promise = calibration.promise_of(settings.alpha)
    is_void = settings.threshold_scale > 1 or settings.fall_frames > 1
    if promise is None or is_void or set(settings.scores or promise.limits) != set(promise.limits):
        return ''
    return f'accepted and bad ({promise.bad}) in at most {promise.alpha:g} of the frames'


def _warn_of_void(settings: GateSettings) -> None:
    if settings.threshold_scale > 1:
        _log.warning('gate.threshold_scale is %g: with limits beyond those of the promise nothing '
                     'is promised', settings.threshold_scale)
    if settings.fall_frames > 1:
        _log.warning('gate.fall_frames is %d: the flag stays up over frames beyond the limits, of '
                     'which nothing is promised', settings.fall_frames)


def _scaled(name: str, limit: float, scale: float) -> float:
    if limit * scale >= HIGHEST_SCORE:
        raise ConfigError(
            f'gate.threshold_scale {scale:g} makes the limit of {name} {limit * scale:.3g}',
            f'below {HIGHEST_SCORE:g}, which no score exceeds',
            'the flag would never fall: take a smaller scale',
        )
    return limit * scale
