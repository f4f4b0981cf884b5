# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a report shows, as plain values: filled by `calibrate` and `evaluate`, drawn by `report_html`.

Nothing here draws or measures. Every part but the title may be left out, and then its section is.
Numbers and curves are in `report_parts`; frames are here.

"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.errors import ShapeError
from uncertainty_seg.tools.report_parts import (
    BundleFacts,
    ClassRow,
    PromiseEntry,
    Reliability,
    RiskCoverageCurves,
    ScoreEntry,
    ScoreSpread,
    SeverityLadder,
)

MAX_FRAMES = 12


@dataclass(frozen=True)
class ReportFrame:
    """
    A frame worth looking at.

    Attributes
    ----------
    source : str
        Where it came from.
    image_bgr : ndarray of uint8, shape (H, W, 3)
        As the camera gave it.
    truth : ndarray of uint8, shape (H, W), or None
        True class ids, if anybody knows them.
    predicted : ndarray of uint8, shape (H, W)
        Class ids.
    heat : ndarray of float32, shape (H, W)
        An uncertainty map.
    score_ratio : float
        Largest score over threshold; above 1 is refused.
    iou : float
        Of the frame.
    reason : str
        The gate's.

    """

    source: str
    image_bgr: ImageU8
    truth: LabelMap | None
    predicted: LabelMap
    heat: FloatMap
    score_ratio: float
    iou: float
    reason: str = ''


@dataclass(frozen=True)
class FrameGroup:
    """Frames in the order of showing, the first `MAX_FRAMES` of them, out of `total` found."""

    frames: tuple[ReportFrame, ...]
    total: int


@dataclass(frozen=True)
class Legend:
    """How masks are painted (RGB per class), and over what range the heatmap is."""

    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    heat_name: str = 'uncertainty'
    heat_upper: float = 0.5


@dataclass(frozen=True)
class ReportData:
    """
    A whole report; None leaves a section out, an empty group of frames says that none was found.

    Attributes
    ----------
    title : str
        The heading.
    bundle, promise, risk_coverage, legend, worst_accepted, wrongly_refused
        As their classes say; frames need the legend.
    scores, spreads, classes, ladders
        Tables and small plots, a row or plot each.
    reliability : mapping of str to Reliability
        By when: such as 'before' and 'after' temperature scaling, at most three.
    notes : tuple of str
        A sentence or two each: what the report does not show, what was odd.

    """

    title: str
    bundle: BundleFacts | None = None
    promise: PromiseEntry | None = None
    scores: tuple[ScoreEntry, ...] | None = None
    risk_coverage: RiskCoverageCurves | None = None
    reliability: Mapping[str, Reliability] | None = None
    spreads: tuple[ScoreSpread, ...] | None = None
    classes: tuple[ClassRow, ...] | None = None
    ladders: tuple[SeverityLadder, ...] | None = None
    legend: Legend | None = None
    worst_accepted: FrameGroup | None = None
    wrongly_refused: FrameGroup | None = None
    notes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse frames that nobody could read."""
        has_frames = self.worst_accepted is not None or self.wrongly_refused is not None
        if has_frames and self.legend is None:
            raise ShapeError('a report has frames and no legend', 'class names and colours')
