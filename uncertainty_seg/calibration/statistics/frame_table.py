# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A table of measured frames, which limits and reports are computed from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.calibration import Column
from uncertainty_seg.errors import ShapeError


@dataclass(frozen=True)
class FrameTable:
    """
    Frames that were measured, one row each.

    Attributes
    ----------
    sources : tuple of str, length n
        Where each frame came from.
    blocks : ndarray of str, shape (n,)
        Frames of one block (a dive, a site) are not independent of each other.
    scores : mapping of str to ndarray of float64, shape (n,)
        Grow with uncertainty; NaN where nothing is known.
    mean_iou : ndarray of float64, shape (n,)
        Of each frame over the classes that occur; NaN without a true mask.
    is_bad : ndarray of bool, shape (n,)
        Whether its mask is bad by the rule; false without a true mask.

    """

    sources: tuple[str, ...]
    blocks: NDArray[np.str_]
    scores: Mapping[str, Column]
    mean_iou: Column
    is_bad: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Refuse columns of different length."""
        lengths = {len(c) for c in (self.blocks, self.mean_iou, self.is_bad,
                                    *self.scores.values())}
        if lengths - {len(self.sources)}:
            raise ShapeError(f'{len(self.sources)} frames with columns of {sorted(lengths)}',
                             'one value a frame')

    def __len__(self) -> int:
        return len(self.sources)

    def select(self, rows: NDArray[np.bool_]) -> FrameTable:
        """Return the rows of a mask of shape (n,)."""
        return FrameTable(
            tuple(s for s, keep in zip(self.sources, rows, strict=True) if keep),
            self.blocks[rows], {k: v[rows] for k, v in self.scores.items()},
            self.mean_iou[rows], self.is_bad[rows])

    def with_score(self, name: str, values: Column) -> FrameTable:
        """Return a table with one more score, or another column for it."""
        return dataclasses.replace(self, scores={**self.scores, name: values})

    def only(self, names: Iterable[str]) -> FrameTable:
        """Return a table with these scores alone."""
        return dataclasses.replace(self, scores={name: self.scores[name] for name in names})

    def rows(self) -> list[dict[str, float]]:
        """Return the scores of each frame."""
        return [{name: float(column[i]) for name, column in self.scores.items()}
                for i in range(len(self))]

    def accepted(self, limits: Mapping[str, float]) -> NDArray[np.bool_]:
        """Return which frames are within all limits, (n,); NaN is within none."""
        return np.all([self.scores[name] <= limit for name, limit in limits.items()], axis=0)

    def ratios(self, limits: Mapping[str, float]) -> Column:
        """Return the largest score over limit of each frame, (n,); infinite for NaN."""
        ratios = np.max([self.scores[name] / limit for name, limit in limits.items()], axis=0)
        return np.where(np.isnan(ratios), np.inf, ratios)


def join_tables(tables: Sequence[FrameTable]) -> FrameTable:
    """Return the frames of at least one table after each other, with the scores that all have."""
    first = tables[0]
    names = [name for name in first.scores if all(name in table.scores for table in tables)]
    return FrameTable(
        tuple(source for table in tables for source in table.sources),
        np.concatenate([table.blocks for table in tables]),
        {name: np.concatenate([table.scores[name] for table in tables]) for name in names},
        np.concatenate([table.mean_iou for table in tables]),
        np.concatenate([table.is_bad for table in tables]))


def split_blocks(
    blocks: NDArray[np.str_], share: float, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """
    Draw a share of the blocks, in [0, 1], rounded to whole ones.

    Parameters
    ----------
    blocks : ndarray of str, shape (n,)
        The block of each frame.
    share : float
        Of the blocks.
    seed : int
        Of the draw.

    Returns
    -------
    drawn, rest : ndarray of bool, shape (n,)
        Frames of the drawn blocks, and of the others.

    """
    names = np.unique(blocks)
    count = round(share * len(names))
    drawn = np.isin(blocks, np.random.default_rng(seed).permutation(names)[:count])
    return drawn, ~drawn
