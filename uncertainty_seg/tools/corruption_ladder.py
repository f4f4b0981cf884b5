# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What masks and gate do as the water gets worse, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from uncertainty_seg.core.arrays import ImageU8, LabelMap
from uncertainty_seg.core.bad_rule import BadRule
from uncertainty_seg.core.evaluation import frame_table
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.synthetic.corruptions import corrupt, KINDS, MAX_SEVERITY
from uncertainty_seg.tools.labelled_pairs import measure, Pair


@dataclass(frozen=True)
class Step:
    """
    One severity.

    Attributes
    ----------
    severity : int
        0 for the image as it is.
    mean_iou : float
        Of the masks, over all pixels.
    accepted, accepted_and_bad : float
        Shares of the frames.
    ratio : float
        Mean of the largest score over its limit.

    """

    severity: int
    mean_iou: float
    accepted: float
    accepted_and_bad: float
    ratio: float


@dataclass(frozen=True)
class Ladder:
    """The steps of one kind of corruption, on the same images."""

    kind: str
    num_frames: int
    steps: tuple[Step, ...]


def climb(
    pipeline: Pipeline, pairs: Sequence[Pair], rule: BadRule, limits: Mapping[str, float],
    most: int,
) -> tuple[Ladder, ...]:
    """
    Measure every kind at every severity.

    Parameters
    ----------
    pipeline : Pipeline
        Its gate is not asked.
    pairs : sequence of (image, mask)
        Clear images.
    rule : BadRule
        When a mask is bad.
    limits : mapping of str to float
        Of the gate.
    most : int
        Images to take, evenly spread; 0 for no ladder.

    Returns
    -------
    tuple of Ladder
        In the order of `synthetic.corruptions.KINDS`.

    """
    if not most:
        return ()
    picked = np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int))
    taken = [pairs[i] for i in picked]
    clear = _step(pipeline, taken, rule, limits, KINDS[0], 0)
    return tuple(
        Ladder(kind, len(taken), (clear, *(_step(pipeline, taken, rule, limits, kind, severity)
                                           for severity in range(1, MAX_SEVERITY + 1))))
        for kind in KINDS)


def _step(
    pipeline: Pipeline, pairs: Sequence[Pair], rule: BadRule, limits: Mapping[str, float],
    kind: str, severity: int,
) -> Step:
    found = measure(pipeline, _Corrupted(pairs, kind, severity), f'{kind} {severity}', rule)
    names = [str(i) for i in range(len(pairs))]
    frames = frame_table(found.frames, names, np.array(names, np.str_))
    accepted = frames.accepted(limits)
    return Step(severity, found.mean_iou, float(accepted.mean()),
                float((accepted & frames.is_bad).mean()), float(frames.ratios(limits).mean()))


class _Corrupted(Sequence[Pair]):
    """The pairs with their images made worse, one at a time; each has its own seed."""

    def __init__(self, pairs: Sequence[Pair], kind: str, severity: int) -> None:
        self._pairs, self._kind, self._severity = pairs, kind, severity

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[ImageU8, LabelMap]:  # type: ignore[override]
        image, truth = self._pairs[index]
        return corrupt(image, self._kind, self._severity, seed=index), truth

    def __iter__(self) -> Iterator[Pair]:
        return (self[i] for i in range(len(self)))
