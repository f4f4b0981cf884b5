# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a report shows, as plain values: filled by `calibrate` and `evaluate`, drawn by `report_html`.

Nothing here draws or measures. Every part but the title may be left out, and then its section is.
Numbers and curves are in `report_parts`; frames are here.

"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.errors import ShapeError

# -------------------------------------------------------------------------------------------------
# The parts of a report that are numbers and curves; `report_data` puts them together.
# Nothing here draws or measures. Shares and IoU are 0..1, every score grows with uncertainty, and
# NaN is shown as a dash.


@dataclass(frozen=True)
class IntervalEntry:
    """A figure and the two ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class BundleFacts:
    """
    What was measured, and with what.

    Attributes
    ----------
    name, method, precision, date : str
        The date is the caller's: the report reads no clock.
    passes, seed : int
        T, and the seed of the masks.
    temperature : float
        The logits were divided by it.
    hashes : mapping of str to str
        What was hashed -> digest.
    facts : mapping of str to str
        Anything else worth a line.

    """

    name: str
    method: str
    passes: int
    seed: int
    precision: str
    temperature: float = 1.0
    date: str = ''
    hashes: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PromiseEntry:
    """
    What the flag promises, and what was measured of it.

    Attributes
    ----------
    bad_rule : str
        When a frame counts as bad, such as ``iou<0.5``.
    alpha : float
        Promised upper limit of P(accepted and bad).
    bound : float
        What conformal risk control arrived at, at most alpha.
    num_blocks, num_frames : int
        What the limits come from.
    accepted_share, accepted_bad_share : float
        Of all frames that were measured.
    bad_upper : float or None
        Clopper-Pearson upper bound of P(bad | accepted).
    level : float
        Confidence of that bound.
    measured_on : str
        Which frames the two shares were measured on, and whether the limits were fitted on them.

    """

    bad_rule: str
    alpha: float
    bound: float
    num_blocks: int
    num_frames: int
    accepted_share: float
    accepted_bad_share: float
    bad_upper: float | None = None
    level: float = 0.95
    measured_on: str = ''


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
    aurc : float or None
        Area under the risk-coverage curve; small is good.
    excess_aurc : Interval or None
        The same over that of the best possible order.
    ood_auroc : Interval or None
        How well it ranks foreign frames above familiar ones.
    is_gated : bool
        The gate looks at it.

    """

    name: str
    threshold: float | None = None
    train_threshold: float | None = None
    distance_ks: float | None = None
    aurc: float | None = None
    excess_aurc: IntervalEntry | None = None
    ood_auroc: IntervalEntry | None = None
    is_gated: bool = False


@dataclass(frozen=True)
class RiskCurve:
    """
    Share of bad frames among the accepted ones, for every share that could be accepted.

    Attributes
    ----------
    name : str
        The score, or what the gate is to be called.
    coverage, risk : ndarray of float, shape (K,)
        Both 0..1, by growing coverage.
    aurc : float or None
        Written beside the name.
    is_gate : bool
        Drawn in front of the others.

    """

    name: str
    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    aurc: float | None = None
    is_gate: bool = False

    def __post_init__(self) -> None:
        """Refuse curves whose halves differ in length."""
        _require_pair(f'risk curve {self.name!r}', self.coverage, self.risk)


@dataclass(frozen=True)
class RiskCoverageCurves:
    """Curves, the point the gate works at as (coverage, risk), and the promised alpha."""

    curves: tuple[RiskCurve, ...]
    point: tuple[float, float] | None = None
    alpha: float | None = None


@dataclass(frozen=True)
class Reliability:
    """
    Confidence against accuracy in bins.

    Attributes
    ----------
    confidence, accuracy : ndarray of float, shape (B,)
        Means of each bin, 0..1; NaN for an empty one.
    share : ndarray of float, shape (B,)
        Of all pixels that lie in the bin.
    ece : float
        Expected calibration error.

    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    share: NDArray[np.float64]
    ece: float

    def __post_init__(self) -> None:
        """Refuse bins that do not belong together."""
        _require_pair('reliability', self.confidence, self.accuracy)
        _require_pair('reliability', self.confidence, self.share)


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
class SeverityStep:
    """What the network and the gate do at one severity; the ratio is score over threshold."""

    severity: int
    mean_iou: float
    accepted_share: float
    accepted_bad_share: float
    mean_ratio: float


@dataclass(frozen=True)
class SeverityLadder:
    """One kind of corruption, by growing severity."""

    kind: str
    steps: tuple[SeverityStep, ...]


def _require_pair(name: str, one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
    if one.ndim != 1 or one.shape != other.shape:
        raise ShapeError(f'{name} has arrays of shape {one.shape} and {other.shape}',
                         'one axis of equal length')


# -------------------------------------------------------------------------------------------------

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
