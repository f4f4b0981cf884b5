# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Thresholds and temperature of a bundle, and for what they hold.

A threshold carries its T, seed policy, precision and graphs, because the estimate of mutual
information grows with T by about (1 - 1/T) and every change of the network moves the scores.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from dataclasses import dataclass
import hashlib
import json
import math

import numpy as np

from uncertainty_seg.errors import CalibrationError

# Every score lies in 0..1, so that a limit of 1 or more would judge nothing.
HIGHEST_SCORE = 1.0
_FIX = 'calibrate the bundle again'
_DIGEST = 'sha256'


@dataclass(frozen=True)
class Calibration:
    """
    Limits of the scores, fitted on frames where the network may be trusted.

    Attributes
    ----------
    passes, seed, mask_policy, precision : int, int, str, str
        What the scores were computed with; other settings are refused.
    temperature : float
        The logits are divided by it.
    thresholds : mapping of str to float
        Limit of each score, from the validation set.
    train_thresholds : mapping of str to float
        The same from the training set; far below means the network knows it by heart.
    gate_scores : tuple of str
        Scores the gate looks at unless it is told otherwise.
    quantile : float
        Share of validation frames at or below each limit.
    num_train, num_val : int
        Frames the limits come from.
    model_sha256, data_sha256 : str
        Digest over the graphs and what the card says of them, and over the validation images.

    """

    passes: int
    seed: int
    mask_policy: str
    precision: str
    temperature: float
    thresholds: Mapping[str, float]
    train_thresholds: Mapping[str, float]
    gate_scores: tuple[str, ...]
    quantile: float
    num_train: int
    num_val: int
    model_sha256: str
    data_sha256: str

    def __post_init__(self) -> None:
        """Refuse limits that could never be judged."""
        if not self.gate_scores:
            raise CalibrationError('calibration names no gate score', 'at least one', _FIX)
        missing = [name for name in self.gate_scores if name not in self.thresholds]
        if missing:
            raise CalibrationError(f'gate scores {missing} have no threshold', 'limits', _FIX)
        bad = [k for k, v in self.thresholds.items() if not 0 < v < HIGHEST_SCORE]
        if bad or not 0 < self.temperature < 100:
            raise CalibrationError(
                f'thresholds of {bad} or temperature {self.temperature} are out of range',
                'thresholds between 0 and 1, which no score exceeds', _FIX,
            )


def calibration_to_json(calibration: Calibration) -> str:
    """Write a calibration as indented JSON, with a digest over the rest of it."""
    facts = dataclasses.asdict(calibration)
    return json.dumps({**facts, _DIGEST: _digest(facts)}, indent=2) + '\n'


def calibration_from_json(text: str | bytes) -> Calibration:
    """
    Read a calibration.

    Parameters
    ----------
    text : str or bytes
        JSON as `calibration_to_json` writes it.

    Returns
    -------
    Calibration
        Checked against itself.

    Raises
    ------
    CalibrationError
        If the text is no JSON, lacks a key, or was changed after it was written.

    """
    try:
        raw = json.loads(text)
        if raw.pop(_DIGEST) != _digest(raw):
            raise CalibrationError(
                'calibration.json was changed after it was written', 'what calibrate wrote',
                'restore the file, or calibrate the bundle again',
            )
        return Calibration(**{**raw, 'gate_scores': tuple(raw['gate_scores'])})
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise CalibrationError(
            f'calibration.json cannot be read ({err})', 'what calibrate wrote', _FIX
        ) from err


def _digest(facts: Mapping[str, object]) -> str:
    canonical = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def fit_thresholds(
    scores: Sequence[Mapping[str, float]], quantile: float
) -> dict[str, float]:
    """
    Put the limit of each score where a share `quantile` of the frames passes.

    Parameters
    ----------
    scores : sequence of mapping
        One mapping of score name to value a frame, all with the same names.
    quantile : float
        Share in (0, 1] of the frames at or below the limit.

    Returns
    -------
    dict of str to float
        An observed value each, the smallest that lets the share pass; NaN counts as infinite.

    Raises
    ------
    CalibrationError
        If there is no frame, or more frames than the share allows have no finite score.

    """
    if not scores:
        raise CalibrationError('no frame to fit thresholds on', 'at least one')
    rank = max(math.ceil(quantile * len(scores)) - 1, 0)
    limits = {}
    for name in scores[0]:
        values = np.sort(np.nan_to_num([s[name] for s in scores], nan=np.inf))
        limits[name] = float(values[rank])
        if not math.isfinite(limits[name]):
            raise CalibrationError(f'score {name!r} is not finite on too many frames')
    return limits

