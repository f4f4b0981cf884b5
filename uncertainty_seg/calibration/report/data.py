# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a report shows, as plain values: made by `fill`, drawn by `plots` and `page`.

Nothing here measures or draws. Shares and IoU are 0..1, every score grows with uncertainty, and
NaN is shown as a dash.

"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.statistics.evaluation import FrameRanking
from uncertainty_seg.calibration.statistics.metrics import ExpectedCalibrationError
from uncertainty_seg.calibration.statistics.selective import RiskCoverage
from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.core.calibration import Promise
from uncertainty_seg.errors import ShapeError

if TYPE_CHECKING:
    from uncertainty_seg.calibration.evaluation_run import Ladder

MAX_FRAMES = 12


@dataclass(frozen=True)
class ScoreEntry:
    """
    One score: its limits, and how well it ranks frames.

    Attributes
    ----------
    name : str
        As the gate knows it.
    threshold, train_threshold : float or None
        From the validation and from the training frames.
    distance_ks : float or None
        Kolmogorov-Smirnov distance between its values there, 0..1.
    ranking : FrameRanking or None
        How well it ranks frames.
    is_gated : bool
        The gate uses it.

    """

    name: str
    threshold: float | None = None
    train_threshold: float | None = None
    distance_ks: float | None = None
    ranking: FrameRanking | None = None
    is_gated: bool = False


@dataclass(frozen=True)
class RiskCurve:
    """
    Share of bad frames among the accepted ones, for every share that could be accepted.

    Attributes
    ----------
    name : str
        The score, or what the gate is to be called.
    points : RiskCoverage
        Coverage and risk.
    aurc : float or None
        Written beside the name.
    is_gate : bool
        Drawn in front of the others.

    """

    name: str
    points: RiskCoverage
    aurc: float | None = None
    is_gate: bool = False

    def __post_init__(self) -> None:
        """Refuse a curve whose halves differ in length."""
        coverage, risk = self.points.coverage.shape, self.points.risk.shape
        if coverage != risk or len(coverage) != 1:
            raise ShapeError(f'risk curve {self.name!r} has arrays of shape {coverage} and {risk}',
                             'one axis of equal length')


@dataclass(frozen=True)
class RiskCoverageCurves:
    """Curves, the point the gate works at as (coverage, risk), and the promised alpha."""

    curves: tuple[RiskCurve, ...]
    point: tuple[float, float] | None = None
    alpha: float | None = None


@dataclass(frozen=True)
class ScoreSpread:
    """Values of one score on training, validation and foreign frames, each of shape (N,)."""

    name: str
    train: NDArray[np.float64] | None
    val: NDArray[np.float64]
    ood: NDArray[np.float64] | None = None
    threshold: float | None = None
    distance_ks: float | None = None
    is_gated: bool = False


@dataclass(frozen=True)
class ClassRow:
    """A class: IoU, its true pixels, mean entropy where it is (over ln C), threshold, RGB."""

    name: str
    iou: float
    num_pixels: int
    mean_entropy: float
    threshold: float | None = None
    color_rgb: tuple[int, int, int] | None = None


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
        True class ids, if they are known.
    predicted : ndarray of uint8, shape (H, W)
        Class ids.
    heat : ndarray of float32, shape (H, W)
        An uncertainty map.
    score_ratio : float
        Largest score over threshold; a frame above 1 is rejected.
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
    warnings : tuple of str
        What a reader has to know before all else, below the heading.
    facts, hashes : mapping of str to str
        What was measured and with what; what was hashed -> digest.
    promise : Promise
        Its shares and its bound of P(bad | accepted) are those of the frames that `measured_on`
        names; a bound of NaN is not known.
    measured_on : str
        Which frames these are, and whether the limits were fitted on them.
    scores, spreads, classes, ladders
        Tables and small plots, a row or plot each.
    risk_coverage, legend, worst_accepted, wrongly_refused
        As their classes say; frames need the legend.
    reliability : mapping of str to ExpectedCalibrationError
        By when: such as 'before' and 'after' temperature scaling, at most three.
    notes : tuple of str
        A sentence or two each: what the report does not show, what was odd.

    """

    title: str
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, str] | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    promise: Promise | None = None
    measured_on: str = ''
    scores: tuple[ScoreEntry, ...] | None = None
    risk_coverage: RiskCoverageCurves | None = None
    reliability: Mapping[str, ExpectedCalibrationError] | None = None
    spreads: tuple[ScoreSpread, ...] | None = None
    classes: tuple[ClassRow, ...] | None = None
    ladders: tuple[Ladder, ...] | None = None
    legend: Legend | None = None
    worst_accepted: FrameGroup | None = None
    wrongly_refused: FrameGroup | None = None
    notes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse frames that could not be read without a legend."""
        has_frames = self.worst_accepted is not None or self.wrongly_refused is not None
        if has_frames and self.legend is None:
            raise ShapeError('a report has frames and no legend', 'class names and colours')
