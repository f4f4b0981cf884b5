# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Fit temperature and thresholds of a bundle, with a promise on accepted bad frames.

The gate is the same for every bundle: `ORDER` ranks the frames, and guards refuse those unlike the
training frames. Training frames give the bank of features and the unit of each score,
validation frames the temperature. Thresholds are fitted on the split `limits`, which neither
training nor any choice has used. Thresholds fitted with a network that was trained on fewer images
made the more confident final network accept twice as many bad frames as promised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
import hashlib
import logging
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.registry import require_rounding
from uncertainty_seg.calibration.basis import (
    basis_sentences,
    guard_facts,
    iou_facts,
    iou_sentence,
    promise_facts,
    split_facts,
)
from uncertainty_seg.calibration.labelled_pairs import (
    data_digest,
    drawn_frames,
    known_frames,
    KnownFrames,
    opened,
    refuse_familiar,
    require_classes,
    warn_of_lone_frames,
    without_twins,
)
from uncertainty_seg.calibration.stats.bad_rule import BadRule
from uncertainty_seg.calibration.stats.conformal import (
    blocks_needed,
    fit_promise,
    held_out_shares,
    quantile_limits,
)
from uncertainty_seg.calibration.stats.evaluation import (
    best_temperature,
    evaluate,
    Evaluation,
    FrameTable,
    is_rounding,
    mean_nll,
    Pair,
)
from uncertainty_seg.calibration.stats.gate_scale import GateScale
from uncertainty_seg.calibration.stats.promise_verdict import spread
from uncertainty_seg.core.arrays import Columns, FloatMap
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import (
    Calibration,
    HIGHEST_SCORE,
    image_digest,
    mask_digest,
    Promise,
)
from uncertainty_seg.core.gate import GUARDS
from uncertainty_seg.core.image_damage import (
    FIXED_LIMITS,
    image_statistics,
    ImageStatistics,
    KeptPoints,
)
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.preprocess import fit_ignore
from uncertainty_seg.core.scores.density import (
    FeatureDensity,
    KNN_SCORE,
    patches_of,
    pooled,
)
from uncertainty_seg.core.scores.vector import ScoreVector, USUAL_SCORED
from uncertainty_seg.core.settings import passes_of, precision_of, Settings
from uncertainty_seg.errors import (
    CalibrationError,
    ConfigError,
    DatasetError,
)
from uncertainty_seg.storage.foreign_files import load_ignore_mask
from uncertainty_seg.storage.labelled_folder import (
    blocks_in,
    LabelledFolder,
    load_folder,
    read_blocks,
)
from uncertainty_seg.storage.model_bundle import (
    features_file,
    model_digest,
)
from uncertainty_seg.storage.progress import progress

# Default alphas: shares of frames that may be accepted and bad.
ALPHAS = (0.05, 0.10)
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0)
# Share of frames below the threshold of a score that is not in the gate.
QUANTILE = 0.98
# The gate, beside `GUARDS`, if no scores are named. On photographs of reefs and of streets that
# chose nothing, no score and no combination ranked bad frames better.
ORDER = 'margin.class_mean'
# Most training frames to measure, evenly spread.
MAX_TRAIN = 2000
_SEED = 0
_log = logging.getLogger(__name__)


# -------------------------------------------------------------------------------------------------
# The steps in order, and the frames used for each.


@dataclass(frozen=True)
class CalibrationRequest:
    """Arguments of a calibration; `api.calibrate` describes the fields."""

    bundle: ModelBundle
    settings: Settings
    train: Path
    val: Path
    limits: Path
    blocks: Path | None
    bad: str
    alphas: tuple[float, ...]
    scores: tuple[str, ...]


@dataclass(frozen=True)
class CalibrationOutcome:
    """
    A calibration, and the measurements from which it was fitted.

    `after`, `held` (a table) and `pairs` (images and masks) belong to the frames on which the
    thresholds were fitted; `seen` and `train` to the training frames. `halves` has by alpha the
    shares accepted, and accepted and bad, in one half of the blocks by thresholds of the other.
    `features` is None if the trunk outputs none.
    """

    calibration: Calibration
    after: Evaluation
    seen: Evaluation
    train: FrameTable
    held: FrameTable
    pairs: list[Pair]
    halves: Mapping[float, tuple[float, float]]
    features: FeatureDensity | None

    def metrics(self) -> dict[str, float]:
        """Return the figures for the card, on the frames used for the thresholds."""
        values = {
            'mean_iou': self.after.mean_iou, 'pixel_accuracy': self.after.accuracy,
            'ece': self.after.ece,
            # A single pass has no mutual information.
            **{f'error_auroc_{name}': self.after.error_auroc[name]
               for name in ('least_confidence', *USUAL_SCORED) if name in self.after.error_auroc},
            'train_mean_iou': self.seen.mean_iou,
            **{f'halves_{word}_{alpha:g}': share for alpha, shares in self.halves.items()
               for word, share in zip(('accepted', 'accepted_and_bad'), shares, strict=True)},
        }
        return {name: round(value, 4) for name, value in values.items()}

    def sentences(self) -> list[str]:
        """Return for a person what the calibration rests on, and whether to rely on it."""
        made = self.calibration
        return basis_sentences(made.basis, made.promises, made.gate_scores)

    def summary(self) -> dict[str, Any]:
        """Return the figures of the machine-readable line."""
        made = self.calibration
        return {
            'temperature': made.temperature, **self.metrics(), 'gate_scores': made.gate_scores,
            'promises': [{**vars(promise), 'spread': spread(promise)}
                         for promise in made.promises],
            'bad_share': float(self.held.is_bad.mean()), 'num_train': made.num_train,
            'num_limits': made.num_limits, 'basis': made.basis, 'thresholds': made.thresholds,
        }


@dataclass(frozen=True)
class _ReadFrames:
    """
    Frames of the splits, and blocks (n,) of the split `limits`.

    `looked_at` are the frames of `train` to measure. `data` is the split `limits` including frames
    without a labelled pixel.
    """

    data: LabelledFolder
    train: KnownFrames
    looked_at: KnownFrames
    val: KnownFrames
    held: KnownFrames
    blocks: NDArray[np.str_]


def fit_calibration(request: CalibrationRequest) -> CalibrationOutcome:
    """
    Fit temperature, bank of features and thresholds, without writing them.

    Raises as `api.calibrate` does.
    """
    bundle, settings = request.bundle, request.settings
    rule = BadRule.parse(request.bad, bundle.card.class_names)
    require_rounding(settings.backend, bundle, settings)
    require_scores(bundle.card, request.scores)
    read = _read(request)
    require_classes(rule, read.held, bundle.card.class_names)
    temperature = _temperature(request, read.val.pairs)
    with opened(bundle, settings, temperature) as pipeline:
        features = _features_of(pipeline, read.looked_at.pairs, settings)
    with opened(replace(bundle, features=features), settings, temperature,
                ScoreVector(bundle.card, features=features)) as pipeline:
        seen = evaluate(pipeline, read.looked_at.pairs, rule, 'training')
        after = evaluate(pipeline, read.held.pairs, rule, 'limits')
        val = evaluate(pipeline, read.val.pairs, rule, 'validation')
    require_good(after, rule)
    train, checked = (found.table(known.stems, known_blocks(request.blocks, known.stems))
                      for found, known in ((seen, read.looked_at), (val, read.val)))
    # Training frames are scored against those of other dives, since each is nearest to itself.
    if features:
        train = train.with_scores({
            KNN_SCORE: held_out_scores(features, train.sources, train.blocks)})
    held = after.table(read.held.stems, read.blocks)
    # Without scores that are only rounding.
    train, held = (table.only(name for name in table.scores if not is_rounding(bundle.card, name))
                   for table in (train, held))
    scale = GateScale.fit(train.scores, gate_scores(request.scores, train.scores))
    promises = tuple(fit_promise(scale, held, alpha, rule.text) for alpha in request.alphas)
    ranks = scale.ranks(held.scores)
    halves = {alpha: held_out_shares(ranks, held.is_bad, held.blocks, alpha)
              for alpha in request.alphas}
    has_blocks = request.blocks is not None
    basis = {
        'splits': {name: split_facts(table, has_blocks) for name, table in (
            ('train', train), ('val', checked), ('limits', held))},
        **iou_facts(held.mean_iou), 'guards': guard_facts(promises[0].limits, held),
        'promises': promise_facts(promises, halves)}
    made = _calibration(request, read, temperature, features, train, held, promises, basis)
    return CalibrationOutcome(made, after, seen, train, held, read.held.pairs, halves, features)


def _read(request: CalibrationRequest) -> _ReadFrames:
    """Read all images, and raise if no valid promise could be made on them."""
    bundle, ignore = request.bundle, request.settings.ignore_mask
    data = drawn_frames(load_folder(request.limits, 'limits'), request.limits)
    held = known_frames(bundle, data, ignore)
    refuse_trained(bundle.card, held)
    held, blocks = without_twins(held, read_blocks(request.blocks, held.stems))
    warn_of_lone_frames(blocks)
    require_blocks(blocks, request.alphas)
    train, val = (known_frames(bundle, load_folder(place, split), ignore)
                  for place, split in ((request.train, 'train'), (request.val, 'val')))
    # Temperature, bank of features and units of the scores use these images.
    refuse_familiar(held.named(), train, 'images for the limits', 'training images')
    refuse_familiar(held.named(), val, 'images for the limits', 'validation images')
    refuse_familiar(val.named(), train, 'validation images', 'training images')
    count = len(train.pairs)
    looked_at = train.take(np.linspace(0, count - 1, min(MAX_TRAIN, count)).round().astype(int))
    return _ReadFrames(data, train, looked_at, val, held, blocks)


def _temperature(request: CalibrationRequest, pairs: list[Pair]) -> float:
    def measured(temperature: float) -> float:
        with opened(request.bundle, request.settings, temperature) as pipeline:
            return mean_nll(pipeline, pairs, f'temperature {temperature:g}')

    best = best_temperature(TEMPERATURES, measured)
    if best in (TEMPERATURES[0], TEMPERATURES[-1]):
        _log.warning('the temperature %g is at the end of the tried range: the confidence may '
                     'still be miscalibrated', best)
    return best


def _features_of(
    pipeline: Pipeline, pairs: Sequence[Pair], settings: Settings
) -> FeatureDensity | None:
    """Fit the density of features on training frames; None if the trunk outputs no features."""
    card = pipeline.card
    if card.feature_shape is None:
        return None
    ignore = load_ignore_mask(settings.ignore_mask)

    def described() -> Iterator[FeatureFrame]:
        for image, _ in progress(pairs, desc='features'):
            result = pipeline.measure(image)
            geometry = result.geometry
            maps = result.maps.cut(geometry.rows, geometry.columns)
            assert maps.features is not None  # since the card has a feature shape
            yield maps.features, None if ignore is None else fit_ignore(ignore, geometry)

    try:
        return fit_feature_density(described())
    except CalibrationError as err:
        _log.warning('the scores features.* are not available: %s', err)
        return None


def gate_scores(named: Sequence[str], known: Columns) -> tuple[str, ...]:
    """
    Return the scores of the gate: those named, or the default ones; `known` have been measured.

    Raises CalibrationError if a named score could not be measured.
    """
    missing = [name for name in named if name not in known]
    if missing:
        raise CalibrationError(f'no score {missing[0]!r} of the training frames', 'named scores '
                               'that can be measured', 'leave it out, or take more frames')
    if not named and KNN_SCORE not in known:
        _log.warning('the gate has no guard against foreign water, since %s is not available: the '
                     'flag may be true there', KNN_SCORE)
    return tuple(named) or (ORDER, *(name for name in GUARDS if name in known))


def known_blocks(path: Path | None, stems: Sequence[str]) -> NDArray[np.str_]:
    """Return the block of each frame, its own for frames that the file does not have."""
    of_file = {} if path is None else blocks_in(path)
    return np.array([of_file.get(stem, stem) for stem in stems], np.str_)


def _calibration(
    request: CalibrationRequest, read: _ReadFrames, temperature: float,
    features: FeatureDensity | None, train: FrameTable, held: FrameTable,
    promises: tuple[Promise, ...], basis: Mapping[str, Any],
) -> Calibration:
    """Combine the fitted parts to a calibration."""
    bundle, settings = request.bundle, request.settings
    # The promise's limits come first, for gate scores whose quantile gives no threshold.
    thresholds = {**promises[-1].limits, **quantile_limits(held, QUANTILE, HIGHEST_SCORE)}
    ignore = load_ignore_mask(settings.ignore_mask)
    of_images = [image_statistics(image, None if ignore is None else
                                  KeptPoints.of(ignore, image.shape[0], image.shape[1]))
                 for image, _ in (*read.looked_at.pairs, *read.val.pairs)]
    given = [image for part in (read.train, read.val, read.held) for image, _ in part.pairs]
    return Calibration(
        passes=passes_of(bundle.card, settings), seed=settings.seed,
        mask_policy=settings.mask_policy,
        mask_draw=bundle.card.mask_draw, smallest_class=max(settings.smallest_class, 0.0),
        precision=precision_of(bundle.card, settings.precision),
        temperature=temperature,
        thresholds={name: thresholds[name] for name in held.scores if name in thresholds},
        gate_scores=tuple(promises[0].limits), quantile=QUANTILE,
        num_train=len(train), num_limits=len(held),
        model_sha256=model_digest(bundle.card), data_sha256=data_digest(read.data),
        promises=promises, basis=basis,
        ignore_sha256=mask_digest(ignore), damage_limits=damage_limits(of_images),
        features_sha256='' if features is None else
        hashlib.sha256(features_file(features)).hexdigest(),
        floors={name: least for name in held.scores if name in thresholds
                and 0 < (least := float(np.nanmin(held.scores[name]))) < HIGHEST_SCORE},
        seen_images=tuple(sorted(set(map(image_digest, given)))),
    )


# A damage limit is this quantile of the calibration frames times a margin. The frames above the
# quantile are ignored because some are not ordinary: black bars, a porthole, a wrong file.
CALIBRATION_SHARE = 0.995
MARGIN = 1.5
# The shares of a line are bounded by 1, so their margin is small; colours vary most between sites.
_MARGINS = {'row_seam': 1.25, 'column_seam': 1.25, 'colourless': 2.0, 'dead_bits': 1.0,
            'channel_mismatch': 2.0, 'red_over_blue': 2.0}
# Smallest damage limits, so that a few similar frames do not give limits that are too narrow.
_LEAST_LIMITS = {
    **FIXED_LIMITS, 'row_seam': 0.3, 'column_seam': 0.3, 'channel_mismatch': 0.2,
    'stuck_channel': 0.99, 'red_over_blue': 1.25, 'colourless': 0.5, 'byte_shift': 2.0,
    'dead_bits': 0.5,
}


def damage_limits(frames: Sequence[ImageStatistics]) -> dict[str, float]:
    """Return damage limits by name from at least one frame without damage."""
    limits = {}
    for name, least in _LEAST_LIMITS.items():
        values = [getattr(frame, name) for frame in frames]
        usual = float(np.quantile(values, CALIBRATION_SHARE, method='higher'))
        # Counted in bits: half a bit of room, so that one dead bit more exceeds the limit.
        room = 0.5 if name == 'dead_bits' else 0.0
        limits[name] = max(least, _MARGINS.get(name, MARGIN) * usual + room)
    return limits


# -------------------------------------------------------------------------------------------------
# Checks before anything is measured, since measuring takes minutes.


def require_scores(card: ModelCard, names: Sequence[str]) -> None:
    """Raise ConfigError if a name is no score of the bundle, or is only rounding in it."""
    added = (KNN_SCORE,) if card.feature_shape else ()
    possible = [name for name in (*ScoreVector(card).names, *added) if not is_rounding(card, name)]
    unknown = [name for name in names if name not in possible]
    if unknown:
        raise ConfigError(f'no score {unknown[0]!r} in {card.name!r}',
                          f'one of {", ".join(possible)}')


def require_good(found: Evaluation, rule: BadRule) -> None:
    """Raise CalibrationError, with a rule that would work, if all frames are bad."""
    if found.is_bad.all():
        raise CalibrationError(
            f'all {len(found.is_bad)} frames of the split limits are bad by {rule.text!r}',
            'some good frames',
            f'train a better network, or: {iou_sentence(iou_facts(found.frame_iou))}')


def require_blocks(blocks: NDArray[np.str_], alphas: Sequence[float]) -> None:
    """
    Raise CalibrationError, with the number needed, if there are too few blocks for the alphas.

    `blocks` (n,) are those of the frames on which the thresholds are fitted.
    """
    count, alpha = len(np.unique(blocks)), min(alphas)
    needed = blocks_needed(alpha)
    if count < needed:
        raise CalibrationError(
            f'{count} blocks to promise alpha {alpha:g} on', f'at least {needed}',
            'label more blocks for the split limits, or promise a larger alpha, or run it without '
            'a calibration: score still ranks frames')


def refuse_trained(card: ModelCard, held: KnownFrames) -> None:
    """Raise DatasetError if the card's network was trained on images for the limits."""
    trained = frozenset(card.seen_images)
    seen = [name for name, image in held.named().items() if image_digest(image) in trained]
    if seen:
        raise DatasetError(
            f'{len(seen)} of {len(held.stems)} images for the limits are those that '
            f'{card.name!r} was trained on, by its card (the first is {seen[0]!r})',
            'images that the network has never seen',
            'train only on the split train, and keep the split limits for the thresholds')


# -------------------------------------------------------------------------------------------------
# The bank of features of the training frames.

# The nearest frame alone detects foreign frames best, see docs/explanation/decisions.md.
NEIGHBOURS = 1
# Frames of one dive are near each other, and those of a new dive are not near them. So a training
# frame is not compared with this many on either side of it by name, nor with its own block.
BESIDE, _MOST_BESIDE = 10, 0.05  # the second as a share of all frames
# Share of the features' directions that the map `unknown` uses, and the smallest variance along
# one as a share of the mean variance, since a dead channel has none.
AXES_SHARE, LEAST_VARIANCE = 0.5, 1e-3
# Features (1, D, hf, wf) of a frame, and its ignored pixels (h, w).
FeatureFrame: TypeAlias = tuple[FloatMap, 'NDArray[np.bool_] | None']
_Rows: TypeAlias = 'NDArray[np.float64]'


def fit_feature_density(
    frames: Iterable[FeatureFrame], neighbours: int = NEIGHBOURS
) -> FeatureDensity:
    """
    Store the pooled features of some frames, and centre and axes of their patches.

    The rows of its bank are in the order of the frames; `neighbours` is k of 'features.knn'.
    Raises CalibrationError if there is no frame or features are not finite.
    """
    bank, patches = [], _PatchSums()
    for features, ignore in frames:
        bank.append(pooled(features, ignore))
        patches.add(patches_of(features, ignore))
    if not bank:
        raise CalibrationError('no training frame with features', 'more frames than neighbours',
                               'take more training frames')
    stored = np.array(bank)
    if not np.isfinite(stored).all():
        raise CalibrationError('features of a training frame with NaN or infinity', 'numbers',
                               'compile the bundle with features of another layer')
    return FeatureDensity(_halved(stored), *patches.centre_and_axes(), neighbours)


class _PatchSums:
    """Sums over patches (D, n), image by image, for their mean and covariance."""

    def __init__(self) -> None:
        self._count, self._sum, self._products = 0, np.zeros(1), np.zeros((1, 1))

    def add(self, patches: _Rows) -> None:
        """Add the patches of an image."""
        self._count += patches.shape[1]
        self._sum = self._sum + patches.sum(1)
        self._products = self._products + patches @ patches.T

    def centre_and_axes(self) -> tuple[FloatMap, FloatMap]:
        """
        Return centre and axes of `FeatureDensity`: the half of the directions of least variance.

        A small variance means a relation between features that holds in all training images.
        """
        centre = self._sum / self._count
        variances, directions = np.linalg.eigh(
            self._products / self._count - np.outer(centre, centre))
        kept = max(1, round(AXES_SHARE * len(centre)))
        least = np.maximum(variances[:kept], LEAST_VARIANCE * variances.mean())
        with np.errstate(all='ignore'):  # `FeatureDensity` raises for features that do not vary
            axes = directions[:, :kept] / np.sqrt(least)
        return centre.astype(np.float32), axes.astype(np.float32)


def held_out_scores(
    density: FeatureDensity, stems: Sequence[str], blocks: NDArray[np.str_]
) -> _Rows:
    """
    Return the score (n,) of each training frame, against those of other blocks and names far off.

    A frame to which too few would be left, as in a single block, is compared with all others.
    """
    cosines, place = density.units @ density.units.T, np.argsort(np.argsort(stems))
    beside = min(BESIDE, int(_MOST_BESIDE * len(place)))
    own = (np.abs(place[:, None] - place) <= beside) | (blocks[:, None] == blocks)
    own[(~own).sum(1) < density.neighbours] = False
    np.fill_diagonal(own, True)
    cosines[own] = -np.inf
    return np.clip((1 - np.sort(cosines, 1)[:, -density.neighbours]) / 2, 0, 1)


def _halved(rows: _Rows) -> NDArray[np.float16]:
    """
    Round rows to float16 after scaling each by a power of two that puts its maximum below 2^15.

    Only the directions of rows are compared, and features may have any magnitude: float16 loses
    digits below 6e-5, is zero below 3e-8 and infinite above 65504. With the scaling, a value keeps
    all digits unless it is less than 2e-9 of its row's maximum.
    """
    _, exponents = np.frexp(np.abs(rows).max(1, keepdims=True))
    return np.ldexp(rows, 15 - exponents).astype(np.float16)
