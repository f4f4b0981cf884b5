# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From scores to the flag: a state machine that can only be talked into `true` by good frames.

It has no clock and no thread. Time reaches it as calls: `update` for a frame, `fault` for
everything that is not one. Unknown is not confident, and neither is a score that is not a
number.

"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
import math

from uncertainty_seg.core.settings import GateSettings
from uncertainty_seg.errors import ConfigError

KINDS = ('confident', 'uncertain', 'recovering', 'fault', 'unknown')


@dataclass(frozen=True)
class Verdict:
    """
    The flag and why.

    Attributes
    ----------
    is_confident : bool
        Every gated score is within its limit, long enough, and nothing is wrong.
    reasons : tuple of str
        One sentence each; one that says "within limits" when confident.
    score_ratio : float
        Largest score over threshold; above 1 is not confident; infinite after a fault.
    kind : str
        'confident', 'uncertain', 'recovering' (scores good, not yet long enough), 'fault',
        or 'unknown' (no frame yet).

    """

    is_confident: bool
    reasons: tuple[str, ...]
    score_ratio: float
    kind: str


class Gate:
    """
    Judge frame after frame.

    Parameters
    ----------
    settings : GateSettings
        Scores, hysteresis, counts.
    thresholds : mapping of str to float
        Limit of each gated score, all above 0.

    Raises
    ------
    ConfigError
        If there is no threshold or one that is not a finite number above 0.

    """

    def __init__(self, settings: GateSettings, thresholds: Mapping[str, float]) -> None:
        bad = {k: v for k, v in thresholds.items() if not (0 < v < math.inf)}
        if bad or not thresholds:
            raise ConfigError(f'thresholds {bad or "missing"}', 'finite numbers above 0')
        self._settings = settings
        self._thresholds = dict(thresholds)
        self._bad_frames: deque[bool] = deque(maxlen=settings.fall_window)
        self._good_in_a_row = 0
        self._last = Verdict(False, ('no frame yet',), math.inf, 'unknown')

    @property
    def last(self) -> Verdict:
        """The verdict in force."""
        return self._last

    @property
    def thresholds(self) -> dict[str, float]:
        """Limit of each gated score."""
        return dict(self._thresholds)

    def update(self, scores: Mapping[str, float]) -> Verdict:
        """
        Judge one frame.

        Parameters
        ----------
        scores : mapping of str to float
            At least the gated ones.

        Returns
        -------
        Verdict
            Never confident if a gated score is missing or not finite.

        """
        values = {name: scores.get(name, math.nan) for name in self._thresholds}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            return self.fault(f'score {broken[0]} is not a finite number')
        ratios = {name: values[name] / limit for name, limit in self._thresholds.items()}
        worst = max(ratios.values())
        over = [
            f'{name} {values[name]:.4g} over {self._thresholds[name]:.4g}'
            for name, ratio in ratios.items() if ratio > 1.0
        ]
        self._bad_frames.append(bool(over))
        self._good_in_a_row = self._good_in_a_row + 1 if worst <= self._rise_limit() else 0
        self._last = self._judge(over, worst)
        return self._last

    def fault(self, reason: str) -> Verdict:
        """Fall at once, and begin the way back from nothing."""
        self._good_in_a_row = 0
        self._bad_frames.clear()
        self._last = Verdict(False, (reason,), math.inf, 'fault')
        return self._last

    def _rise_limit(self) -> float:
        # Once up, a frame between the two limits neither falls nor counts as a step back.
        return 1.0 if self._last.is_confident else self._settings.rise_ratio

    def _judge(self, over: list[str], worst: float) -> Verdict:
        if self._last.is_confident and sum(self._bad_frames) < self._settings.fall_frames:
            return Verdict(True, tuple(over) or ('all scores within limits',), worst, 'confident')
        if over:
            return Verdict(False, tuple(over), worst, 'uncertain')
        missing = self._settings.rise_frames - self._good_in_a_row
        if missing > 0:
            reason = f'{self._good_in_a_row} of {self._settings.rise_frames} good frames'
            return Verdict(False, (reason,), worst, 'recovering')
        self._bad_frames.clear()
        return Verdict(True, ('all scores within limits',), worst, 'confident')
