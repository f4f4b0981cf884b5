# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The steps of ``calibrate --folds``: every photograph is scored by a network that never saw it.

The bundle that ships was trained on all photographs, so that none is left for its limits. K other
networks were each trained without one fold, in the same way, and stand for it: fold k is scored by
network k. Whatever is fitted to training frames (pixel limits, density) is fitted for each network
to its own. docs/calibration.md states what this assumes.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
import logging
import math
from pathlib import Path
import re

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration import calibration_run as run
from uncertainty_seg.calibration.feature_fit import NEIGHBOURS
from uncertainty_seg.calibration.labelled_pairs import (
    drawn_frames,
    images_in,
    known_frames,
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
    blocks_buy,
    blocks_needed,
    promised_limit,
)
from uncertainty_seg.calibration.statistics.evaluation import (
    Evaluation,
    frame_table,
    join_evaluations,
    mean_nll,
    score_frames,
    try_temperatures,
)
from uncertainty_seg.calibration.statistics.frame_table import FrameTable, join_tables
from uncertainty_seg.calibration.statistics.nested import (
    fit_gate,
    FittedGate,
    FoldFrames,
    nested_figures,
    NestedFigures,
)
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import image_digest, Promise
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.scores.density import ScoreDensity
from uncertainty_seg.core.scores.vector import ScoreVector
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import CalibrationError, DatasetError
from uncertainty_seg.storage.folds import fold_of, FOLDS_FILE, read_folds
from uncertainty_seg.storage.labelled_folder import (
    LabelledFolder,
    load_folder,
    load_splits,
    read_blocks,
    require_classes,
    subset,
)
from uncertainty_seg.storage.model_bundle import load_bundle, model_digest
from uncertainty_seg.storage.progress import progress

# Photographs that choose the temperature, evenly spread: each has many thousand pixels.
TEMPERATURE_FRAMES = 240
# Photographs of a fold that tell whether its network saw them, and of how many blocks at least.
SEEN_FRAMES, SEEN_BLOCKS = 40, 15
_SURE = 3.0  # standard errors
_FOLD_NAME = re.compile(r'fold-(\d+)(?:-seed-(\d+))?')
# What every network must share with the bundle, by its card.
_ALIKE = ('method', 'class_names', 'ignore_index', 'input', 'dropout_sites', 'passes', 'members',
          'mask_seed', 'mask_draw', 'is_balanced', 'logits_shape', 'upsampling', 'precision',
          'feature_shape')
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldsRequest:
    """What to fit, and on what; `tools.calibrate_gate.calibrate_on_folds` describes the fields."""

    bundle: ModelBundle
    settings: Settings
    data: Path
    folds: Path
    ood: Path | None
    blocks: Path | None
    bad: str
    alphas: tuple[float, ...]
    scores: tuple[str, ...]
    quantile: float
    max_train: int
    neighbours: int = NEIGHBOURS


@dataclass(frozen=True)
class FoldNetwork:
    """A network that did not see one fold."""

    fold: int
    bundle: ModelBundle


@dataclass(frozen=True)
class Photographs:
    """
    All frames of a cross-fitted calibration.

    Attributes
    ----------
    data : LabelledFolder
        As read.
    pairs : list of (image, mask)
        BGR image and mask of each known frame.
    stems : list of str
        Their names.
    folds : ndarray of int64, shape (n,)
        Their folds.
    blocks : ndarray of str, shape (n,)
        Their blocks, each within one fold.
    foreign : mapping of str to ndarray
        Images of another kind, by name; may be empty.
    foreign_folds : mapping of str to int
        Their folds.

    """

    data: LabelledFolder
    pairs: list[Pair]
    stems: list[str]
    folds: NDArray[np.int64]
    blocks: NDArray[np.str_]
    foreign: Mapping[str, ImageU8]
    foreign_folds: Mapping[str, int]


def fit_on_folds(request: FoldsRequest) -> run.CalibrationOutcome:
    """
    Fit temperature, density, choice and limits by cross-fitting; nothing is written yet.

    Raises CalibrationError if a network of a fold is missing or unlike the bundle, or there are
    too few blocks; ConfigError if the rule cannot be read, or a score does not exist; DatasetError
    if the folder, its folds or its blocks are wrong.
    """
    card = request.bundle.card
    rule = BadRule.parse(request.bad, card.class_names)
    run.require_scores(card, request.scores)
    fold_by_stem = read_folds(request.folds / FOLDS_FILE)
    networks = fold_networks(request.folds, request.bundle, fold_by_stem)
    known = photographs(request, fold_by_stem)
    _require_blocks(known, request.alphas)
    fewest = min(int((known.folds != network.fold).sum()) for network in networks)
    run.require_neighbours(request.neighbours, min(fewest, request.max_train))
    chance = _chances(request, networks, known)
    temperatures = {fold: _best(chance, fold) for fold in np.unique(known.folds).tolist()}
    temperature = _best(chance)
    _warn_of_seen_folds(request, networks, known, temperature)
    passes = {value: [_scored(request, network, known, value, rule) for network in networks]
              for value in sorted({temperature, *temperatures.values()})}
    tables = {value: _joined(found) for value, found in passes.items()}
    nested = nested_figures({fold: tables[value] for fold, value in temperatures.items()},
                            request.alphas, request.scores)
    every = tables[temperature]
    gate = fit_gate(every, request.alphas, request.scores, nested.order)
    after = join_evaluations([
        next(one for one in passes[temperatures[n.fold]] if one.network is n).evaluation
        for n in networks])
    fitted, density, train, seen = _deployed(request, known, temperature, rule)
    promises = _promises(request, gate, nested, every.frames)
    _warn_of_broken(nested)
    images = [image for image, _ in known.pairs]
    # The bundle was trained on all of them, those too that nothing is promised on.
    given = [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in known.data.images]
    calibration = run.make_calibration(
        request, temperature, fitted.limits, density, gate.family, train, every.frames, promises,
        known.data, images, given, fitted.bundle.features)
    rows = [(network.bundle, known.pairs[i]) for network in networks
            for i in np.flatnonzero(known.folds == network.fold)]
    return run.CalibrationOutcome(
        calibration, None, after, seen, train, every.frames, [pair for _, pair in rows], (),
        fitted.bundle.features, nested, [bundle for bundle, _ in rows])


# -------------------------------------------------------------------------------------------------
# What is read, and what is refused before minutes of work.


def fold_networks(
    folder: Path, bundle: ModelBundle, fold_by_stem: Mapping[str, int]
) -> list[FoldNetwork]:
    """
    Load ``fold-0`` to ``fold-(K-1)``, and ``fold-K-seed-S`` where more networks were trained.

    Parameters
    ----------
    folder : Path
        Holds the bundles.
    bundle : ModelBundle
        The one that they stand for.
    fold_by_stem : mapping of str to int
        The folds.

    Returns
    -------
    list of FoldNetwork
        By fold.

    Raises
    ------
    CalibrationError
        If there is one fold only, one has no network, or a network is unlike the bundle.
    ModelBundleError
        If one cannot be read.

    """
    networks = read_networks(folder, fold_by_stem)
    for network in networks:
        _require_alike(network.bundle.card, bundle.card, network.bundle.folder.name)
    _refuse_copies([FoldNetwork(-1, bundle), *networks])
    return networks


def read_networks(folder: Path, fold_by_stem: Mapping[str, int]) -> list[FoldNetwork]:
    """
    Load what `fold_networks` describes, without a bundle that they stand for.

    Raises CalibrationError if there is one fold only, one has no network, one is of two folds or
    unlike the first; ModelBundleError if one cannot be read.
    """
    wanted = sorted(set(fold_by_stem.values()))
    if len(wanted) < 2:
        raise CalibrationError(f'{folder / FOLDS_FILE} has {len(wanted)} fold', 'at least 2',
                               'train with --folds 2 or more')
    places = [(match, path) for path in folder.iterdir()
              if path.is_dir() and (match := _FOLD_NAME.fullmatch(path.name))]
    places.sort(key=lambda place: (int(place[0][1]), int(place[0][2] or -1)))
    missing = [fold for fold in wanted if fold not in {int(match[1]) for match, _ in places}]
    if missing:
        raise CalibrationError(f'{folder} holds no network fold-{missing[0]}',
                               f'one for each of the folds {wanted}', 'train it without its fold')
    networks = [FoldNetwork(int(match[1]), load_bundle(path, has_calibration=False))
                for match, path in places if int(match[1]) in wanted]
    for network in networks:
        _require_alike(network.bundle.card, networks[0].bundle.card, network.bundle.folder.name)
    _refuse_copies(networks)
    return networks


def _refuse_copies(networks: Sequence[FoldNetwork]) -> None:
    """Refuse a network of two folds: it saw the one or the other; the bundle saw all of them."""
    first: dict[str, FoldNetwork] = {}
    for network in networks:
        other = first.setdefault(model_digest(network.bundle.card), network)
        if other.fold != network.fold:
            names = [one.bundle.folder.name for one in (network, other)]
            raise CalibrationError(
                f'{" and ".join(names)} are the same network',
                'another one for each fold, which never saw it',
                'train each without its fold: does the command use {fold}?')


def _require_alike(card: ModelCard, wanted: ModelCard, name: str) -> None:
    for field in _ALIKE:
        given, expected = getattr(card, field), getattr(wanted, field)
        if given != expected:
            raise CalibrationError(
                f'the {field} of {name} is {given!s:.200}', f'{expected!s:.200}, as the others',
                'train and compile the networks of the folds as the bundle itself')


def photographs(request: FoldsRequest, fold_by_stem: Mapping[str, int]) -> Photographs:
    """
    Read the labelled and the foreign frames and their folds.

    Raises DatasetError if a photograph is in no fold, twice in different ones, or its block is; or
    the network of a fold saw no pixel of a class.
    """
    data = all_images(request.data)
    require_folds(data.stems, fold_by_stem)
    _require_every_class(data, fold_by_stem)
    # Of all of them: a network saw the selected frames of the other folds too.
    refuse_divided(data.stems, data.images, read_blocks(request.blocks, data.stems),
                   np.array([fold_by_stem[stem] for stem in data.stems]))
    # The networks were trained on all of them, and are judged by those that stand for a dive.
    drawn = drawn_frames(data, request.data)
    _require_every_fold(drawn, data, fold_by_stem)
    known = known_frames(request.bundle, drawn, request.settings.ignore_mask)
    known, blocks = without_twins(known, read_blocks(request.blocks, known.stems))
    folds = np.array([fold_by_stem[stem] for stem in known.stems])
    if request.blocks is None:
        _log.warning('no --blocks: every photograph counts as independent of the others, which '
                     'frames of one video are not')
    foreign = images_in(request.ood) if request.ood else {}
    refuse_familiar(foreign, known)
    num_folds = max(fold_by_stem.values()) + 1
    return Photographs(data, known.pairs, known.stems, folds, blocks, foreign,
                       fold_of(list(foreign), num_folds) if foreign else {})


def all_images(folder: Path) -> LabelledFolder:
    """Read the splits train and val of a folder, or all of it without a splits.json."""
    if (folder / 'splits.json').is_file():
        return load_splits(folder, ('train', 'val'))
    return load_folder(folder, 'all')


def _require_every_fold(
    drawn: LabelledFolder, data: LabelledFolder, fold_by_stem: Mapping[str, int]
) -> None:
    """Refuse a fold of selected frames only: nothing can judge its network."""
    has, had = ({fold_by_stem[stem] for stem in part.stems} for part in (drawn, data))
    lost = sorted(had - has)
    if lost:
        raise DatasetError(f'fold {lost[0]} has no photograph that was drawn by chance',
                           'some in every fold', 'label more of these, or take fewer folds')


def _require_every_class(data: LabelledFolder, fold_by_stem: Mapping[str, int]) -> None:
    for fold in sorted({fold_by_stem[stem] for stem in data.stems}):
        seen = [i for i, stem in enumerate(data.stems) if fold_by_stem[stem] != fold]
        if not seen:
            raise DatasetError(f'all photographs are in fold {fold}', 'some in every fold')
        require_classes(subset(data, seen), data,
                        f'the photographs that fold-{fold} was trained on')


def require_folds(stems: Sequence[str], fold_by_stem: Mapping[str, int]) -> None:
    """Raise DatasetError if a photograph is in no fold: every network may have seen it."""
    lost = [stem for stem in stems if stem not in fold_by_stem]
    if lost:
        raise DatasetError(f'the photograph {lost[0]!r} is in no fold, and so are '
                           f'{len(lost) - 1} more', f'each in {FOLDS_FILE}',
                           'train the folds with these photographs, or take those that have one')


def refuse_divided(
    stems: Sequence[str], images: Sequence[ImageU8], blocks: NDArray[np.str_],
    folds: NDArray[np.int64],
) -> None:
    """
    Refuse what a network would be judged by after it saw its twin.

    Raises DatasetError if frames of one block, or one image under two names, are in different
    folds; all of length n.
    """
    digests = np.array([image_digest(image) for image in images])
    for what, groups in (('block', blocks), ('image', digests)):
        first: dict[str, int] = {}
        for row, group in enumerate(groups.tolist()):
            other = first.setdefault(group, row)
            if folds[other] != folds[row]:
                raise DatasetError(
                    f'the {what} of {stems[row]!r} (fold {folds[row]}) is that of '
                    f'{stems[other]!r} (fold {folds[other]})',
                    'both in one fold, since a network saw the other',
                    'make folds of whole blocks: crossfit --blocks, or your own folds.json')


def _require_blocks(known: Photographs, alphas: Sequence[float]) -> None:
    count = min(len(np.unique(known.blocks[known.folds != fold]))
                for fold in np.unique(known.folds))
    if count < blocks_needed(min(alphas)):
        raise CalibrationError(
            f'{count} blocks outside of a fold to promise alpha {min(alphas):g} on',
            f'at least {blocks_needed(min(alphas))}',
            f'have more blocks, or promise a larger --alpha ({blocks_buy(count)})')


# -------------------------------------------------------------------------------------------------
# Temperature: the one with the least negative log-likelihood of held-out pixels.


def _chances(
    request: FoldsRequest, networks: Sequence[FoldNetwork], known: Photographs
) -> dict[float, dict[int, float]]:
    """Return the mean negative log-likelihood of each fold's frames, by temperature."""
    step = max(1, len(known.pairs) // TEMPERATURE_FRAMES)
    # Each fold takes it from the others: all their minima must be passed on the way.
    return try_temperatures(
        run.TEMPERATURES, lambda value: _chance(request, networks, known, value, step),
        lambda new, old: all(_mean(new, fold) > _mean(old, fold) for fold in (None, *new)))


def _chance(
    request: FoldsRequest, networks: Sequence[FoldNetwork], known: Photographs,
    temperature: float, step: int,
) -> dict[int, float]:
    of_fold: dict[int, list[float]] = {}
    for network in networks:
        pairs = [known.pairs[i] for i in np.flatnonzero(known.folds == network.fold)[::step]]
        with opened(network.bundle, request.settings, temperature) as pipeline:
            found = likelihood(pipeline, pairs,
                               f'fold {network.fold}, temperature {temperature:g}')
        of_fold.setdefault(network.fold, []).append(found)
    return {fold: float(np.mean(values)) for fold, values in of_fold.items()}


def _mean(chance: Mapping[int, float], without: int | None) -> float:
    return float(np.mean([value for fold, value in chance.items() if fold != without]))


def _best(chance: Mapping[float, Mapping[int, float]], without: int | None = None) -> float:
    return min(chance, key=lambda temperature: _mean(chance[temperature], without))


# -------------------------------------------------------------------------------------------------
# Whether a network saw the fold that it is to judge. Training frames are fitted better than new
# ones by all that memorises, and nothing else tells: which frames a command used, only it knows.


@dataclass(frozen=True)
class _Recall:
    """How much better frames are fitted that a network saw, in nats, with its standard error."""

    name: str
    gain: float
    error: float


def _warn_of_seen_folds(
    request: FoldsRequest, networks: Sequence[FoldNetwork], known: Photographs, temperature: float
) -> None:
    """
    Warn of networks that fit the labels of their own fold as if they had been trained on them.

    It needs three folds, and of each as many blocks as `SEEN_BLOCKS`.
    """
    blocks = [len(np.unique(known.blocks[known.folds == fold])) for fold in np.unique(known.folds)]
    if len(blocks) < 3 or min(blocks) < SEEN_BLOCKS:
        return
    found = [_memory(request, row, networks, known, temperature) for row in range(len(networks))]
    mean = np.mean([one.gain for one in found])
    error = math.sqrt(sum(one.error ** 2 for one in found)) / len(found)
    if not math.isfinite(error):  # all frames that were drawn from a fold are of one block
        return
    if not mean > _SURE * error:
        _log.warning(
            'the networks of the folds fit the labels of their own folds as well as those that '
            'they were trained on: they memorise nothing, or saw all of them, and then nothing is '
            'promised. Does their training leave its fold out?')
        return
    for one in found:
        rest = np.mean([other.gain for other in found if other is not one])
        if one.gain < rest / 2 and rest - one.gain > _SURE * one.error:
            _log.warning(
                '%s fits the labels of its own fold nearly as well as those that it was trained '
                'on, unlike the others: if it saw its fold, nothing is promised. Does its '
                'training leave the fold out?', one.name)


def _memory(
    request: FoldsRequest, row: int, networks: Sequence[FoldNetwork], known: Photographs,
    temperature: float,
) -> _Recall:
    """
    Compare a network with one of another fold, on its own fold and on a third one, as they are.

    The other one was trained on the first of these and both on the second, so that the difference
    of the differences is what is memorised, and not which network is the better one.
    """
    network = networks[row]
    other = next(n for n in (*networks[row:], *networks) if n.fold != network.fold)
    third = next(n.fold for n in networks if n.fold not in (network.fold, other.fold))
    gaps = []
    for fold in (network.fold, third):
        inside = run.spread(np.flatnonzero(known.folds == fold), SEEN_FRAMES)
        pairs = [known.pairs[i] for i in inside]
        gap = _each(request, network, pairs, temperature) - _each(request, other, pairs,
                                                                  temperature)
        groups = np.unique(known.blocks[inside], return_inverse=True)[1]
        gaps.append(np.bincount(groups, gap) / np.bincount(groups))
    own, both = gaps
    error = math.sqrt(sum(
        gap.var(ddof=1) / len(gap) if len(gap) > 1 else math.inf for gap in gaps))
    return _Recall(network.bundle.folder.name, float(own.mean() - both.mean()), error)


def _each(
    request: FoldsRequest, network: FoldNetwork, pairs: Sequence[Pair], temperature: float
) -> NDArray[np.float64]:
    """Return the mean negative log-likelihood of each frame, in nats."""
    with opened(network.bundle, request.settings, temperature) as pipeline:
        return np.array([mean_nll(pipeline, [pair], network.bundle.card.ignore_index)
                         for pair in progress(pairs, desc=f'memory of fold {network.fold}')])


# -------------------------------------------------------------------------------------------------
# Scores: each network measures its own fold, with what was fitted to the frames it was trained on.


@dataclass(frozen=True)
class _Scored:
    network: FoldNetwork
    evaluation: Evaluation
    frames: FrameTable
    foreign: FrameTable | None


def _scored(
    request: FoldsRequest, network: FoldNetwork, known: Photographs, temperature: float,
    rule: BadRule,
) -> _Scored:
    inside = np.flatnonzero(known.folds == network.fold)
    outside = np.flatnonzero(known.folds != network.fold)
    pairs = [known.pairs[i] for i in inside]
    names = [name for name, fold in known.foreign_folds.items() if fold == network.fold]
    trained = [known.pairs[i] for i in run.spread(outside, request.max_train)]
    fitted = _fitted(request, network.bundle, temperature, trained)
    with opened(fitted.bundle, request.settings, temperature, fitted.scorer) as pipeline:
        of_train = frame_table(score_frames(pipeline, (image for image, _ in trained)),
                               *_unnamed(len(trained)))
        found = measure(pipeline, pairs, f'fold {network.fold}', rule)
        of_foreign = score_frames(pipeline, (known.foreign[name] for name in names))
    tables = [frame_table(found.frames, [known.stems[i] for i in inside], known.blocks[inside])]
    if names:
        tables.append(frame_table(of_foreign, names, np.array(names, np.str_)))
    density = run.density_of(run.with_held_out_features(of_train, fitted.bundle.features))
    if density is not None:
        tables = [run.with_density(table, density) for table in tables]
    tables = [run.without_rounding(table, network.bundle.card) for table in tables]
    return _Scored(network, found, tables[0], tables[1] if names else None)


def _unnamed(count: int) -> tuple[list[str], NDArray[np.str_]]:
    names = [str(i) for i in range(count)]
    return names, np.array(names, np.str_)


@dataclass(frozen=True)
class _Fitted:
    """A bundle with what its features are compared with, and its pixel limits."""

    bundle: ModelBundle
    limits: dict[str, float]

    @property
    def scorer(self) -> ScoreVector:
        return ScoreVector(self.bundle.card, self.limits, features=self.bundle.features)


def _fitted(
    request: FoldsRequest, bundle: ModelBundle, temperature: float, trained: Sequence[Pair]
) -> _Fitted:
    with opened(bundle, request.settings, temperature) as pipeline:
        limits = pixel_limits(pipeline, trained[::10], run.LIMITED_MAPS, run.PIXEL_QUANTILE)
        features = run.features_of(pipeline, trained, request.settings, request.neighbours)
        return _Fitted(replace(bundle, features=features), limits)


def _joined(found: Sequence[_Scored]) -> FoldFrames:
    # A density that one network has and another lacks is no score of all frames.
    frames = join_tables([one.frames for one in found])
    folds = np.concatenate([np.full(len(one.frames), one.network.fold) for one in found])
    strangers = [one for one in found if one.foreign is not None]
    if not strangers:
        return FoldFrames(frames, folds)
    foreign = join_tables([one.foreign for one in strangers if one.foreign is not None])
    return FoldFrames(frames, folds, foreign, np.concatenate(
        [np.full(len(one.foreign or ()), one.network.fold) for one in strangers]))


def _deployed(
    request: FoldsRequest, known: Photographs, temperature: float, rule: BadRule
) -> tuple[_Fitted, ScoreDensity | None, FrameTable, Evaluation]:
    """Fit to the frames that the bundle was trained on: all; no limit comes from these scores."""
    rows = run.spread(np.arange(len(known.pairs)), request.max_train)
    pairs, stems = [known.pairs[i] for i in rows], [known.stems[i] for i in rows]
    fitted = _fitted(request, request.bundle, temperature, pairs)
    with opened(fitted.bundle, request.settings, temperature, fitted.scorer) as pipeline:
        seen = measure(pipeline, pairs, 'training', rule)
    train = run.with_held_out_features(frame_table(seen.frames, stems, known.blocks[rows]),
                                       fitted.bundle.features)
    density = run.density_of(train)
    return fitted, density, train if density is None else run.with_density(train, density), seen


def _warn_of_broken(nested: NestedFigures) -> None:
    for held in nested.promises:
        if held.accepted_and_bad.lower > held.alpha:
            _log.warning(
                'the promise of %g did not hold on frames that chose nothing: %.3f were accepted '
                'and bad; the networks of the folds differ, or there are too few frames or folds',
                held.alpha, held.accepted_and_bad.value)


def _promises(
    request: FoldsRequest, gate: FittedGate, nested: NestedFigures, frames: FrameTable
) -> tuple[Promise, ...]:
    """Return what ships, with the shares of frames that chose nothing of what judged them."""
    made = []
    for held in nested.promises:
        # Raises where nothing can be promised, with the reason.
        found = gate.limits.get(held.alpha) or promised_limit(
            nested.order, frames.is_bad, frames.blocks, held.alpha)
        made.append(Promise(
            held.alpha, gate.thresholds(held.alpha), request.bad, found.num_blocks, len(frames),
            found.bound, held.accepted.value, held.accepted_and_bad.value,
            held.bad_if_accepted.upper))
    return tuple(made)
