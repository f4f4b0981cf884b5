# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The steps of ``calibrate``, in order, and on which frames each is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
import hashlib
import logging
import operator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.registry import require_rounding
from uncertainty_seg.calibration.feature_fit import FeatureFrame, fit_feature_density, NEIGHBOURS
from uncertainty_seg.calibration.gate_choice import choose_gate, named_choice
from uncertainty_seg.calibration.labelled_pairs import (
    data_digest,
    drawn_frames,
    images_in,
    known_frames,
    KnownFrames,
    likelihood,
    measure,
    opened,
    Pair,
    pixel_limits,
    refuse_familiar,
    without_twins,
)
from uncertainty_seg.calibration.statistics.bad_rule import BadRule
from uncertainty_seg.calibration.statistics.conformal import (
    bad_share,
    blocks_buy,
    blocks_needed,
    BlocksBuy,
    fit_promise,
    ks_distance,
    quantile_limits,
    Rehearsal,
    rehearse,
    what_more_buys,
)
from uncertainty_seg.calibration.statistics.evaluation import (
    Evaluation,
    frame_table,
    score_frames,
    try_temperatures,
)
from uncertainty_seg.calibration.statistics.frame_table import FrameTable, split_blocks
from uncertainty_seg.calibration.statistics.nested import NestedFigures
from uncertainty_seg.calibration.statistics.selective import choose_scores
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle, reduction_of
from uncertainty_seg.core.calibration import (
    Calibration,
    has_ranks,
    HIGHEST_SCORE,
    image_digest,
    mask_digest,
    Promise,
    RankFamily,
)
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.preprocess import fit_ignore
from uncertainty_seg.core.scores.density import (
    DENSITY_INPUTS,
    DENSITY_SCORE,
    FEATURE_SCORES,
    FeatureDensity,
    ScoreDensity,
)
from uncertainty_seg.core.scores.image import damage_limits, image_statistics, KeptPoints
from uncertainty_seg.core.scores.vector import ScoreVector, USUAL_SCORED
from uncertainty_seg.core.settings import passes_of, precision_of, Settings
from uncertainty_seg.errors import (
    BackendUnavailableError,
    CalibrationError,
    ConfigError,
    DatasetError,
    install_command,
)
from uncertainty_seg.storage.foreign_files import load_ignore_mask
from uncertainty_seg.storage.labelled_folder import LabelledFolder, load_folder, read_blocks
from uncertainty_seg.storage.model_bundle import features_file, model_digest
from uncertainty_seg.storage.progress import progress

TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0)
# A pixel above this share of the training pixels counts as uncertain.
PIXEL_QUANTILE = 0.9
# Scores that are in every gate that is not named, whatever bad training frames say of them, since
# those have nothing foreign: the density, for water. It says nothing of most frames, so that its
# ranks count in the tail (see RankFamily). With folds a guard has to prove its worth instead.
GUARDS = {DENSITY_SCORE: 8.0}
MOST_SCORES = 5
LIMITED_MAPS = ('entropy',)
# Scores are made of float32 maps in 0..1.
_ROUNDING = 1e-6
_BETWEEN_PASSES = ('mutual_information', 'variation_ratio', 'total_variance')
_SEED = 0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationRequest:
    """What to fit, and on what; `tools.calibrate_gate.calibrate` describes the fields."""

    bundle: ModelBundle
    settings: Settings
    train: Path
    val: Path
    ood: Path | None
    blocks: Path | None
    bad: str
    alphas: tuple[float, ...]
    scores: tuple[str, ...]
    tune_share: float
    quantile: float
    max_train: int
    neighbours: int = NEIGHBOURS


@dataclass(frozen=True)
class CalibrationOutcome:
    """
    A calibration, and what it was made from.

    Attributes
    ----------
    calibration : Calibration
        To be written.
    before, after : Evaluation
        Of the validation frames that limits were fitted on, at temperature 1 and at the fitted;
        `before` is None with folds.
    seen : Evaluation
        Of the training frames.
    train, val : FrameTable
        Training frames, and the validation frames that limits were fitted on.
    pairs : list of (image, mask)
        Of `val`.
    rehearsals : tuple of Rehearsal
        One an alpha that half of the blocks can carry; none with folds.
    features : FeatureDensity or None
        What features are compared with, where the trunk gives some.
    nested : NestedFigures or None
        With folds: what such a gate does to frames that chose nothing of it.
    networks : list of ModelBundle
        With folds: which network measured each frame of `val`.
    blocks_buy : tuple of BlocksBuy
        What fewer blocks would have accepted; none with folds.

    """

    calibration: Calibration
    before: Evaluation | None
    after: Evaluation
    seen: Evaluation
    train: FrameTable
    val: FrameTable
    pairs: list[Pair]
    rehearsals: tuple[Rehearsal, ...]
    features: FeatureDensity | None = None
    nested: NestedFigures | None = None
    networks: list[ModelBundle] = field(default_factory=list)
    blocks_buy: tuple[BlocksBuy, ...] = ()

    def metrics(self) -> dict[str, float]:
        """Return the figures of the card; the validation frames are those not tuned on."""
        values = {
            'val_mean_iou': self.after.mean_iou, 'val_pixel_accuracy': self.after.accuracy,
            'val_ece': self.after.ece,
            **({'val_ece_before_scaling': self.before.ece} if self.before else {}),
            # Of one pass mutual information is not there.
            **{f'val_error_auroc_{name}': self.after.error_auroc[name] for name in USUAL_SCORED
               if name in self.after.error_auroc},
            'val_mi_over_entropy': self.after.mi_share, 'train_mean_iou': self.seen.mean_iou,
            **(_nested_metrics(self.nested) if self.nested else {}),
        }
        return {name: round(value, 4) for name, value in values.items()}

    def summary(self) -> dict[str, Any]:
        """Return the line for scripts."""
        made = self.calibration
        return {
            'temperature': made.temperature, **self.metrics(), 'gate_scores': made.gate_scores,
            'promises': [dict(vars(promise)) for promise in made.promises],
            'rehearsals': [vars(rehearsal) for rehearsal in self.rehearsals],
            'blocks_buy': [vars(step) for step in self.blocks_buy],
            'bad_share': float(self.val.is_bad.mean()), 'num_train': made.num_train,
            'num_val': made.num_val, 'thresholds': made.thresholds,
            'train_thresholds': made.train_thresholds, 'distances': made.distances,
            'nested': self.nested.summary() if self.nested else None,
        }


def _nested_metrics(nested: NestedFigures) -> dict[str, float]:
    found = {'num_folds': float(nested.num_folds), 'num_frames': float(nested.num_frames),
             'nested_excess_aurc': nested.excess_aurc.value,
             'nested_bad_auroc': nested.bad_auroc.value}
    if nested.ood_auroc is not None:
        found['nested_ood_auroc'] = nested.ood_auroc.value
    for promise in nested.promises:
        end = f'at_{promise.alpha:g}'
        found[f'nested_accepted_{end}'] = promise.accepted.value
        found[f'nested_accepted_and_bad_{end}'] = promise.accepted_and_bad.value
        if promise.foreign_accepted is not None:
            found[f'nested_foreign_accepted_{end}'] = promise.foreign_accepted.value
    return found


def fit_calibration(request: CalibrationRequest) -> CalibrationOutcome:
    """
    Fit temperature, density, choice and limits; nothing is written yet.

    Raises CalibrationError if there are too few blocks, or nothing to choose or promise on;
    ConfigError if the rule cannot be read, or a score does not exist; DatasetError if the folders
    or the file of blocks are wrong, both sets have an image, or every validation frame was
    selected by its scores.
    """
    bundle, settings = request.bundle, request.settings
    rule = BadRule.parse(request.bad, bundle.card.class_names)
    require_rounding(settings.backend, bundle, settings)
    require_scores(bundle.card, request.scores)
    if request.ood and request.scores:
        raise ConfigError('--ood with --scores', 'one of them: foreign frames choose the guards',
                          'measure foreign frames with evaluate --ood')
    strange = images_in(request.ood) if request.ood else {}
    data = drawn_frames(load_folder(request.val, 'val'), request.val)
    known = known_frames(bundle, data, settings.ignore_mask)
    if bundle.card.has_chosen_epoch:
        _log.warning('by its card the epoch of %s was chosen on held-out images: if the '
                     'validation images are these, the promise is worth less than it says; take '
                     'images that chose nothing', bundle.card.name)
    known, blocks = without_twins(known, _blocks(request, known.stems))
    tuned, kept = split_blocks(blocks, request.tune_share, _SEED)
    require_blocks(blocks, kept, request.alphas, request.tune_share)
    train_known = known_frames(bundle, load_folder(request.train, 'train'), settings.ignore_mask)
    refuse_shared(train_known, known)
    for familiar in (train_known, known):
        refuse_familiar(strange, familiar)
    train_pairs, train_stems = _spread(train_known, request.max_train)
    require_neighbours(request.neighbours, len(train_pairs))
    temperature = _temperature(request, _where(known.pairs, tuned))
    held = _where(known.pairs, kept)
    with opened(bundle, settings, 1.0) as pipeline:
        before = measure(pipeline, held, 'validation, temperature 1', rule)
    with opened(bundle, settings, temperature) as pipeline:
        limits = pixel_limits(pipeline, train_pairs[::10], LIMITED_MAPS, PIXEL_QUANTILE)
        features = features_of(pipeline, train_pairs, settings, request.neighbours)
    described = replace(bundle, features=features)
    with opened(described, settings, temperature,
                ScoreVector(bundle.card, limits, features=features)) as pipeline:
        seen = measure(pipeline, train_pairs, 'training', rule)
        after = measure(pipeline, held, 'validation', rule)
        foreign = _foreign_table(pipeline, strange) if strange else None
    train = frame_table(seen.frames, train_stems, np.array(train_stems, np.str_))
    val = frame_table(after.frames, _where(known.stems, kept), blocks[kept])
    train = with_held_out_features(train, features)
    density = density_of(train)
    if density is not None:
        train, val = (with_density(table, density) for table in (train, val))
        foreign = with_density(foreign, density) if foreign else None
    train, val = (without_rounding(table, bundle.card) for table in (train, val))
    family, chosen = _choice(request, train, foreign)
    made = [fit_promise(family, val, chosen, alpha, rule.text, _bad_if_accepted)
            for alpha in request.alphas]
    images = [image for image, _ in (*train_pairs, *known.pairs)]
    given = [image for image, _ in (*train_known.pairs, *known.pairs)]
    calibration = make_calibration(request, temperature, limits, density, family.only(chosen),
                                   train, val, tuple(made), data, images, given, features)
    again = (rehearse(family, val, chosen, alpha) for alpha in request.alphas)
    return CalibrationOutcome(calibration, before, after, seen, train, val, held,
                              tuple(found for found in again if found is not None), features,
                              blocks_buy=what_more_buys(family, val, chosen, request.alphas))


def _blocks(request: CalibrationRequest, stems: list[str]) -> NDArray[np.str_]:
    if request.blocks is None:
        _log.warning('no --blocks: every validation image counts as independent of the others, '
                     'which frames of one video are not')
    return read_blocks(request.blocks, stems)


def _spread(known: KnownFrames, most: int) -> tuple[list[Pair], list[str]]:
    picked = spread(np.arange(len(known.pairs)), most)
    return [known.pairs[i] for i in picked], [known.stems[i] for i in picked]


def spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most so many of some rows, (n,), evenly spread."""
    count = len(rows)
    return rows[np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))]


def _where(items: list[Any], rows: NDArray[np.bool_]) -> list[Any]:
    return [item for item, keep in zip(items, rows, strict=True) if keep]


def _temperature(request: CalibrationRequest, pairs: list[Pair]) -> float:
    def measured(temperature: float) -> float:
        with opened(request.bundle, request.settings, temperature) as pipeline:
            return likelihood(pipeline, pairs, f'temperature {temperature:g}')

    found = try_temperatures(TEMPERATURES, measured, operator.gt)
    best = min(found, key=lambda temperature: found[temperature])
    if best in (TEMPERATURES[0], TEMPERATURES[-1]):
        _log.warning('the temperature %g is the end of what is tried: the confidence may be '
                     'farther off than it can mend', best)
    return best


def require_neighbours(neighbours: int, frames: int) -> None:
    """Raise ConfigError if a k of one's own is none of so many training frames."""
    if neighbours < 1 or (neighbours >= frames and neighbours != NEIGHBOURS):
        raise ConfigError(f'{neighbours} neighbours of {frames} training frames',
                          'at least 1, and fewer than there are frames', 'change --neighbours')


def features_of(
    pipeline: Pipeline, pairs: Sequence[Pair], settings: Settings, neighbours: int
) -> FeatureDensity | None:
    """Fit what features are compared with on training frames; None if the trunk gives none."""
    card = pipeline.card
    if card.feature_shape is None:
        return None
    ignore = load_ignore_mask(settings.ignore_mask)

    def described() -> Iterator[FeatureFrame]:
        for image, _ in progress(pairs, desc='features'):
            result = pipeline.measure(image)
            geometry = result.geometry
            maps = result.maps.cut(geometry.rows, geometry.columns)
            assert maps.features is not None  # by the card
            yield (maps.features, maps.label,
                   None if ignore is None else fit_ignore(ignore, geometry))

    try:
        return fit_feature_density(described(), neighbours)
    except CalibrationError as err:
        _log.warning('no distances of the features: %s', err)
        return None


def with_held_out_features(train: FrameTable, features: FeatureDensity | None) -> FrameTable:
    """Return the training frames with distances from each other: one is nearest to itself."""
    for name, values in (features.held_out_scores() if features else {}).items():
        train = train.with_score(name, values)
    return train


def density_of(train: FrameTable) -> ScoreDensity | None:
    """Fit the density to training frames; None, with a warning, if they are too few."""
    try:
        return fit_density(train.rows(), seed=_SEED)
    except CalibrationError as err:
        _log.warning('no density of the scores: %s', err)
        return None


def with_density(table: FrameTable, density: ScoreDensity) -> FrameTable:
    """Return a table with the score of a density."""
    return table.with_score(DENSITY_SCORE,
                            np.array([density.score(row) for row in table.rows()]))


def candidates(card: ModelCard, scores: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Return the scores that a gate may have: those that rank frames."""
    return [name for name, column in scores.items()
            if has_ranks(column) and not is_rounding(card, name)]


def is_rounding(card: ModelCard, name: str) -> bool:
    """
    Say whether a score is nothing but rounding: what differs between passes, where all are equal.

    Rounding ranks frames as entropy does, in one runtime; in another it may be none at all.
    """
    return card.has_one_pass and name.split('.')[0] in _BETWEEN_PASSES


def without_rounding(table: FrameTable, card: ModelCard) -> FrameTable:
    """Return a table without the scores that are nothing but rounding in a bundle."""
    return table.only(name for name in table.scores if not is_rounding(card, name))


def _foreign_table(pipeline: Pipeline, images: Mapping[str, ImageU8]) -> FrameTable:
    return frame_table(score_frames(pipeline, images.values()), list(images),
                       np.array(list(images), np.str_))


def _choice(
    request: CalibrationRequest, train: FrameTable, foreign: FrameTable | None
) -> tuple[RankFamily, tuple[str, ...]]:
    """Take the scores that were asked for, or choose some; guards by foreign frames, if any."""
    unknown = [name for name in request.scores if name not in train.scores]
    if unknown:
        raise ConfigError(f'no score {unknown[0]!r}', f'one of {", ".join(train.scores)}')
    if foreign is not None and not request.scores:
        names = candidates(request.bundle.card, train.scores)
        gate = choose_gate(train.only(names), request.alphas, foreign.only(names))
        return gate.family(train), gate.names
    if request.scores:
        return named_choice(request.scores).family(train), request.scores
    wanted = candidates(request.bundle.card, train.scores)
    family = RankFamily.fit({name: train.scores[name] for name in wanted}, GUARDS)
    required = [name for name in GUARDS if name in family.names]
    chosen = choose_scores(family, train.scores, train.is_bad.astype(np.float64), required,
                           MOST_SCORES)
    return family, chosen


def _bad_if_accepted(
    accepted: NDArray[np.bool_], is_bad: NDArray[np.bool_], blocks: NDArray[np.str_]
) -> float:
    # Every frame is a limit that could have been chosen.
    return bad_share(accepted, is_bad, blocks, num_tries=len(blocks)).upper


class _Asked(Protocol):
    """What a calibration repeats of a request, be it with folds or without."""

    @property
    def bundle(self) -> ModelBundle: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def quantile(self) -> float: ...


def make_calibration(
    request: _Asked,
    temperature: float,
    limits: dict[str, float],
    density: ScoreDensity | None,
    family: RankFamily,
    train: FrameTable,
    val: FrameTable,
    promises: tuple[Promise, ...],
    data: LabelledFolder,
    images: list[ImageU8],
    given: list[ImageU8],
    features: FeatureDensity | None,
) -> Calibration:
    """
    Put together what was fitted.

    Damage limits come from `images`; `given` are all that proves nothing afterwards.
    """
    bundle, settings = request.bundle, request.settings
    of_val, of_train = (quantile_limits(table, request.quantile, HIGHEST_SCORE)
                        for table in (val, train))
    # A gate score needs one whatever its quantile is.
    thresholds = {**promises[-1].limits, **of_val}
    ignore = load_ignore_mask(settings.ignore_mask)
    return Calibration(
        passes=passes_of(bundle.card, settings), seed=settings.seed,
        mask_policy=settings.mask_policy,
        mask_draw=bundle.card.mask_draw, precision=precision_of(bundle.card, settings.precision),
        reductions=(reduction_of(bundle, settings),), temperature=temperature,
        thresholds={name: thresholds[name] for name in val.scores if name in thresholds},
        train_thresholds=of_train, gate_scores=tuple(promises[0].limits),
        quantile=request.quantile, num_train=len(train), num_val=len(val),
        model_sha256=model_digest(bundle.card), data_sha256=data_digest(data),
        promises=promises, pixel_limits=limits, density=density, family=family,
        ignore_sha256=mask_digest(ignore), damage_limits=limits_of_images(images, ignore),
        features_sha256='' if features is None else
        hashlib.sha256(features_file(features)).hexdigest(),
        distances={name: distance for name in val.scores
                   if np.isfinite(distance := ks_distance(train.scores[name], val.scores[name]))},
        floors={name: least for name in val.scores if name in thresholds
                and 0 < (least := float(np.nanmin(val.scores[name]))) < HIGHEST_SCORE},
        seen_images=tuple(sorted(set(map(image_digest, given)))),
    )


def limits_of_images(
    images: Sequence[ImageU8], ignore: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """Return the damage limits that BGR images give, without what the mask leaves out."""
    return damage_limits([
        image_statistics(image, None if ignore is None else
                         KeptPoints.of(ignore, image.shape[0], image.shape[1]))
        for image in images])


# -------------------------------------------------------------------------------------------------
# What is refused before anything is measured, since measuring takes minutes.


def require_scores(card: ModelCard, names: Sequence[str]) -> None:
    """
    Refuse scores that cannot be there.

    Raises ConfigError if a name is no score of the bundle, or nothing but rounding in it.
    """
    # The value of the limits decides which pixels count, and not which scores there are.
    possible = (*ScoreVector(card, {'entropy': 0.5}).names,
                DENSITY_SCORE, *(FEATURE_SCORES if card.feature_shape else ()))
    unknown = [name for name in names if name not in possible]
    if unknown:
        raise ConfigError(f'no score {unknown[0]!r}', f'one of {", ".join(possible)}')
    rounding = [name for name in names if is_rounding(card, name)]
    if rounding:
        raise ConfigError(f'{rounding[0]!r} of a bundle whose passes are all equal',
                          'a score that says something of one pass, as of entropy or margin')


def require_blocks(
    blocks: NDArray[np.str_], kept: NDArray[np.bool_], alphas: Sequence[float], tune_share: float
) -> None:
    """
    Refuse blocks that cannot carry the promise, or leave none for the temperature.

    Parameters
    ----------
    blocks : ndarray of str, shape (n,)
        The block of each validation frame.
    kept : ndarray of bool, shape (n,)
        Which frames the limits are fitted on; the temperature is fitted on the others.
    alphas : sequence of float
        To promise.
    tune_share : float
        Requested share of the blocks for the temperature.

    Raises
    ------
    CalibrationError
        It says how many blocks are needed.

    """
    count, alpha = len(np.unique(blocks[kept])), min(alphas)
    needed = blocks_needed(alpha)
    if count < needed:
        total = max(int(np.ceil(needed / (1 - tune_share))), needed + 1)
        raise CalibrationError(
            f'{count} blocks to promise alpha {alpha:g} on', f'at least {needed}',
            f'have {total} validation blocks in all (a part is for the temperature), or promise '
            f'a larger --alpha ({blocks_buy(count)}), or run it without a calibration: score '
            'ranks frames all the same')
    if kept.all():
        raise CalibrationError(
            f'no block to fit the temperature on, with {count} in all and a share of '
            f'{tune_share:.2g}', 'at least 1', 'have more blocks, or a larger --tune-share')


def refuse_shared(train: KnownFrames, val: KnownFrames) -> None:
    """
    Refuse to promise on frames that density and choice have seen, whatever they are called.

    Raises DatasetError if an image is in both.
    """
    seen = {image_digest(image): stem
            for (image, _), stem in zip(train.pairs, train.stems, strict=True)}
    for (image, _), stem in zip(val.pairs, val.stems, strict=True):
        twin = seen.get(image_digest(image))
        if twin is not None:
            raise DatasetError(
                f'the validation image {stem!r} is the training image {twin!r}',
                'validation images that nothing was trained or chosen on',
                'give --train and --val different folders, or the folder a splits.json')


# -------------------------------------------------------------------------------------------------
# Fit the Gaussian mixture of `core.score_density` on frames of known kind, with scikit-learn.
# The number of components, and whether each has a full or a diagonal covariance, is what has the
# least Bayesian information criterion: on few frames that is one plain Gaussian.

COMPONENTS = range(1, 7)
FORMS = ('full', 'diag')
# Added to variances, which are 1 on the whole: frames of one video fall into thin sheets.
FLOOR = 1e-3
STARTS = 3
# A covariance of d scores needs more frames than d, by far.
FRAMES_A_SCORE = 5


def fit_density(
    frames: Sequence[Mapping[str, float]], names: Sequence[str] = DENSITY_INPUTS, seed: int = 0,
) -> ScoreDensity:
    """
    Fit a density over scores.

    Raises CalibrationError if a score is missing, or there are fewer than five frames a score;
    BackendUnavailableError if scikit-learn is not installed.

    Parameters
    ----------
    frames : sequence of mapping
        Scores of each frame; frames where one of `names` is not finite are left out.
    names : sequence of str
        Scores to look at.
    seed : int
        Of the starts.

    Returns
    -------
    ScoreDensity
        With the least Bayesian information criterion.

    """
    table = _table(frames, names)
    centre, scale = table.mean(0), table.std(0)
    # A score that moves by rounding alone, as disagreement does with one pass, must not be
    # divided by that: another processor rounds in another way.
    scale = np.where(scale > _ROUNDING, scale, 1.0)
    mixture, form = _best_mixture((table - centre) / scale, seed)
    factors = mixture.precisions_cholesky_
    if form == 'diag':
        factors = np.stack([np.diag(row) for row in factors])
    return ScoreDensity(tuple(names), centre, scale, np.asarray(mixture.weights_),
                        np.asarray(mixture.means_), np.asarray(factors))


def _table(
    frames: Sequence[Mapping[str, float]], names: Sequence[str]
) -> NDArray[np.float64]:
    for frame in frames:
        missing = [name for name in names if name not in frame]
        if missing:
            raise CalibrationError(f'a frame without a score {missing[0]!r}',
                                   f'those of {", ".join(frame)}', 'fit on other scores')
    table = np.array([[frame[name] for name in names] for frame in frames], np.float64)
    table = table.reshape(len(frames), len(names))
    table = table[np.isfinite(table).all(1)]
    if len(table) < FRAMES_A_SCORE * len(names):
        raise CalibrationError(
            f'{len(table)} frames for a density over {len(names)} scores',
            f'at least {FRAMES_A_SCORE * len(names)}', 'take more frames or fewer scores',
        )
    return table


def _best_mixture(table: NDArray[np.float64], seed: int) -> tuple[Any, str]:
    """Return the fitted mixture of least criterion, and its form."""
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as err:
        raise BackendUnavailableError('scikit-learn is not installed', 'it, to fit a density',
                                      install_command('sklearn')) from err
    fitted = [
        (GaussianMixture(count, covariance_type=form, reg_covar=FLOOR, n_init=STARTS,
                         random_state=seed).fit(table), form)
        for form in FORMS for count in COMPONENTS if count <= len(table) // 2
    ]
    return min(fitted, key=lambda pair: pair[0].bic(table))
