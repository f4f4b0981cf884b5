# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The rounds of one strategy and seed: choose, label by the masks of the pool, train, measure.

What a round labels is written before it is trained, and its result last. A chain that was killed
goes on from there.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
import logging
import math
import os
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.statistics.metrics import ExpectedCalibrationError
from uncertainty_seg.core.confusion import ConfusionMatrix
from uncertainty_seg.core.model_card import InputSpec, ModelCard, SCHEMA_VERSION
from uncertainty_seg.core.scores.vector import ScoreVector
from uncertainty_seg.core.uncertainty import MapRequest
from uncertainty_seg.data.selection.pool import Candidates, SelectionRequest
from uncertainty_seg.data.selection.strategies import select
from uncertainty_seg.errors import ConfigError, TrainingError
from uncertainty_seg.storage.foreign_files import MAX_JSON_BYTES, parse_json, read_bytes
from uncertainty_seg.storage.whole_files import json_text, replace_file
from uncertainty_seg.training.active.study import (
    Acquisition,
    builder,
    FULL,
    read_part,
    START,
    STRATEGIES,
    StudyPlace,
    StudySettings,
)

if TYPE_CHECKING:
    from uncertainty_seg.training.active.judging import Jury
    from uncertainty_seg.training.active.prepared import PreparedImages
    from uncertainty_seg.training.active.rounds import RoundRun

_SPREAD, _WITHOUT_SCORE = ('k-centre', 'uncertainty-diversity'), ('random', 'k-centre')


@dataclass(frozen=True)
class ChainTask:
    """
    All rounds of a strategy and seed.

    Attributes
    ----------
    strategy, seed : str, int
        Also `START` and `FULL`, which have one round.
    folder : Path
        Of the study.
    settings : StudySettings
        What decides the results.
    threads : int
        CPU threads.
    cwd : str
        Where the process that asked is.

    """

    strategy: str
    seed: int
    folder: Path
    settings: StudySettings
    threads: int = 1
    cwd: str = ''

    @property
    def name(self) -> str:
        """Return what to call it."""
        return f'{self.strategy}-{self.seed}'

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the names of the tasks that have to be finished before."""
        return () if self.strategy in (START, FULL) else \
            (f'{START}-{self.seed}', f'{FULL}-{self.seed}')

    @property
    def num_rounds(self) -> int:
        """Return how many rounds the chain has, the start not among them."""
        return 1 if self.strategy in (START, FULL) else len(self.settings.labels) - 1


@dataclass(frozen=True)
class Picks:
    """
    What a round labels.

    Attributes
    ----------
    frames, scores, reasons
        What is new: names, scores (NaN where there is none), and why.
    labelled : tuple of str
        All frames that are labelled then, in the order in which they came.
    limit : float
        Above which scores are chosen; NaN where there is none.
    score_s : float
        How long the choice took.

    """

    frames: tuple[str, ...]
    scores: tuple[float, ...]
    reasons: tuple[str, ...]
    labelled: tuple[str, ...]
    limit: float = math.nan
    score_s: float = 0.0


def enter_folder(task: ChainTask) -> None:
    """Go to the folder of the process that asked, where this machine has it."""
    if task.cwd and Path(task.cwd).is_dir():
        os.chdir(task.cwd)


def run_chain(task: ChainTask) -> str:
    """Do what is left of a task; return its name. Errors as of training and selection."""
    from uncertainty_seg.training.active.rounds import use_threads

    enter_folder(task)
    logging.getLogger('uncertainty_seg').setLevel(logging.ERROR)
    use_threads(task.threads)
    place = StudyPlace(task.folder)
    place.chain(task.strategy, task.seed).mkdir(parents=True, exist_ok=True)
    chain = StrategyChain(task, place)
    if task.strategy in (START, FULL):
        if not place.result(task.strategy, task.seed, 0).is_file():
            chain.train(0, first_picks(task, chain.pool))
        return task.name
    for number in range(1, len(task.settings.labels)):
        if not chain.advance(number):
            break
    return task.name


def first_picks(task: ChainTask, pool: PreparedImages) -> Picks:
    """Return the start of a seed, or everything."""
    if task.strategy == FULL:
        return Picks((), (), (), pool.stems)
    if task.settings.start:
        names = task.settings.start
        return Picks(names, (math.nan,) * len(names), ('given as the start',) * len(names), names)
    count = task.settings.labels[0]
    request = SelectionRequest('random', max(1, count), 'score', seed=lot_seed(task.seed, 0))
    found = select(_candidates(pool.stems, np.zeros(len(pool))), request)
    names = tuple(pool.stems[row] for row in found.rows)[:count]
    why = f'the start, drawn by lot, seed {task.seed}'
    return Picks(names, (math.nan,) * count, (why,) * count, names)


def lot_seed(seed: int, number: int) -> int:
    """Return the seed of the lots of a round, different for all of a study."""
    return 1000 * seed + number


def _candidates(names: Sequence[str], scores: NDArray[np.float64], **more: Any) -> Candidates:
    keys = np.array(list(names), dtype=object)
    return Candidates(keys, np.array(['pool'] * len(keys), dtype=object), scores, **more)


class StrategyChain:
    """A chain at work: its images, and what it does in a round."""

    def __init__(self, task: ChainTask, place: StudyPlace) -> None:
        self.task, self.place, self.settings = task, place, task.settings
        self.pool = read_part(place.images('pool'))
        self.index = {stem: row for row, stem in enumerate(self.pool.stems)}
        self.build = builder(self.settings.plan, self.pool.num_classes)

    def advance(self, number: int) -> bool:
        """Do a round, unless it is finished; return whether there may be another."""
        task, place = self.task, self.place
        result = place.result(task.strategy, task.seed, number)
        if result.is_file():
            return True
        kept = place.picks(task.strategy, task.seed, number)
        if not kept.is_file():
            replace_file(kept, text_of(self.pick(number)))
        picks = self.kept(kept)
        if not picks.frames:
            return False
        if len(picks.labelled) == len(self.pool) and not self.settings.is_warm:
            self.copy_full(number, picks)
        else:
            self.train(number, picks)
        self.forget(number - 1)
        return True

    def before(self, number: int) -> tuple[str, int]:
        """Return strategy and number of the round before one."""
        return (START, 0) if number == 1 else (self.task.strategy, number - 1)

    def labelled(self, number: int) -> tuple[str, ...]:
        """Return what is labelled after a round."""
        strategy, before = self.before(number + 1)
        return self.kept(self.place.picks(strategy, self.task.seed, before)).labelled

    def kept(self, path: Path) -> Picks:
        """Read what a round labels; raises ConfigError if it is damaged, or of other frames."""
        picks = picks_of(path)
        strange = [stem for stem in (*picks.frames, *picks.labelled) if stem not in self.index]
        if strange:
            raise ConfigError(f'{path} names {strange[0]!r}', 'frames of the pool',
                              'delete it and run the same command again')
        return picks

    def network(self, number: int) -> Path:
        """Return the weights that a round of this chain begins from; TrainingError without."""
        strategy, before = self.before(number + 1)
        file = self.place.weights(strategy, self.task.seed, before)
        if not file.is_file():
            result = self.place.result(strategy, self.task.seed, before)
            raise TrainingError(f'{file} is missing, though its round is finished',
                                'the network that the next round needs',
                                f'delete {result} and run the same command again, which trains '
                                'that round once more')
        return file

    def pick(self, number: int) -> Picks:
        """Choose what a round labels, by the network of the round before."""
        started_s = time.monotonic()
        labelled, how = self.labelled(number - 1), STRATEGIES[self.task.strategy]
        if len(labelled) == len(self.pool):
            return Picks((), (), (), labelled)
        jury = self.jury(number - 1, labelled if how.has_members else ())
        has_limit = how.selection == 'threshold'
        limit = self.limit(jury, how, labelled) if has_limit else math.nan
        wanted = self.settings.labels[number] - len(labelled)
        if has_limit and not self.settings.is_capped:
            wanted = len(self.pool) - len(labelled)
        if wanted < 1:
            return Picks((), (), (), labelled, limit)
        request = SelectionRequest(
            how.selection, wanted, how.score or self.settings.score,
            seed=lot_seed(self.task.seed, number), beta=self.settings.beta,
            limit=None if math.isnan(limit) else limit)
        found = self.select(jury, request, labelled)
        return replace(found, limit=limit, score_s=time.monotonic() - started_s)

    def select(self, jury: Jury, request: SelectionRequest, labelled: tuple[str, ...]) -> Picks:
        """Return what a request takes of the frames that have no label."""
        known = set(labelled)
        rows = [row for row, stem in enumerate(self.pool.stems) if stem not in known]
        has_score = request.strategy not in _WITHOUT_SCORE
        scores = self.scores(jury, self.pool.cut(rows), request.score_name) if has_score else \
            np.zeros(len(rows))
        found = select(*self.pools(jury, rows, scores, labelled, request))
        new = tuple(self.pool.stems[rows[row]] for row in found.rows)
        if not has_score:  # it has a reason, and no number to it
            return Picks(new, (math.nan,) * len(new),
                         tuple(f'{reason.partition(";")[0]}.' for reason in found.reasons),
                         labelled + new)
        return Picks(new, tuple(float(scores[row]) for row in found.rows), found.reasons,
                     labelled + new)

    def pools(
        self, jury: Jury, rows: list[int], scores: NDArray[np.float64],
        labelled: tuple[str, ...], request: SelectionRequest,
    ) -> tuple[Candidates, SelectionRequest, Candidates | None]:
        """Return what `select` takes, with features where they are needed."""
        names = [self.pool.stems[row] for row in rows]
        if request.strategy not in _SPREAD:
            return _candidates(names, scores), request, None
        ours = [self.index[stem] for stem in labelled]
        features = jury.features(self.pool.cut([*rows, *ours]))
        return (_candidates(names, scores, features=features[:len(rows)]), request,
                _candidates(labelled, np.zeros(len(ours)), features=features[len(rows):]))

    def limit(self, jury: Jury, how: Acquisition, labelled: tuple[str, ...]) -> float:
        """Return the limit that the scores of labelled images give."""
        on, parts = self.settings.threshold_on, []
        if on in ('train', 'both') and labelled:
            parts.append(self.pool.cut([self.index[stem] for stem in labelled]))
        elif on in ('train', 'both'):  # nothing of the pool has labels yet
            parts.append(read_part(self.place.images('extra')))
        if on in ('val', 'both'):
            parts.append(read_part(self.place.images('val')))
        name = how.score or self.settings.score
        scores = np.concatenate([self.scores(jury, part, name) for part in parts])
        return limit_of(scores[np.isfinite(scores)], self.settings.threshold_rule)

    def jury(self, number: int, labelled: tuple[str, ...] = ()) -> Jury:
        """Return the network of a round as a judge; with the round's labels, an ensemble."""
        from uncertainty_seg.training.active.judging import Jury
        from uncertainty_seg.training.active.rounds import round_net, seed_of

        files = [self.network(number)]
        if labelled:
            files += [self.member(number, index, labelled)
                      for index in range(1, self.settings.members)]
        nets = tuple(round_net(self.settings.plan, self.build, file, self.pool.num_classes)
                     for file in files)
        # One pass each, without dropout: the members alone disagree.
        return Jury(nets, self.spec, 0 if labelled else self.settings.plan.passes,
                    seed_of(self.task.seed, number))

    def member(self, number: int, index: int, labelled: tuple[str, ...]) -> Path:
        """Train another network on the labels of a round, and return its weights."""
        from uncertainty_seg.training.active.rounds import train_round

        file = self.place.member(self.task.strategy, self.task.seed, number, index)
        train_round(self.settings.plan, self.build, self.round_run(number, labelled, file, index))
        return file

    def round_run(
        self, number: int, labelled: tuple[str, ...], weights: Path, index: int = 0
    ) -> RoundRun:
        """Return the training of a round, or of a further member of it."""
        from uncertainty_seg.training.active.rounds import RoundRun, seed_of

        extra = self.place.images('extra')
        others = read_part(extra) if extra.is_file() else None
        start = None
        if self.settings.is_warm and number and not index:
            start = self.network(number - 1)
        return RoundRun(
            self.pool.folder([self.index[stem] for stem in labelled]),
            seed_of(self.task.seed, number, index), weights,
            None if others is None else others.folder(range(len(others))),
            self.settings.extra_share, start, self.task.threads)

    @property
    def spec(self) -> InputSpec:
        """Return the network's input."""
        from uncertainty_seg.training.active.rounds import recipe_of

        return recipe_of(self.settings.plan, self.build).input

    def scores(self, jury: Jury, images: PreparedImages, name: str) -> NDArray[np.float64]:
        """Return a score of each image; NaN where it has none."""
        card = _card(images, self.spec)
        vector = ScoreVector(card, names=[name])
        request = MapRequest.of(vector.maps)
        return np.array([
            vector.compute(maps, np.ascontiguousarray(images.images[row][images.box(row)]))[name]
            for row, maps in enumerate(jury.maps(images, request))])

    def train(self, number: int, picks: Picks) -> None:
        """Train and measure a round, and write what came of it."""
        from uncertainty_seg.training.active.rounds import tidy, train_round

        task = self.task
        if number == 0:
            replace_file(self.place.picks(task.strategy, task.seed, 0), text_of(picks))
        started_s = time.monotonic()
        weights = self.place.weights(task.strategy, task.seed, number)
        run = self.round_run(number, picks.labelled, weights)
        if run.data.stems or run.extra is not None:
            loss = train_round(self.settings.plan, self.build, run)
        else:
            loss = self.start_without_labels(weights)
        train_s = time.monotonic() - started_s
        self.write(number, picks, {**self.measure(number), 'loss': loss, 'train_s': train_s,
                                   'absent': self.absent(picks.labelled)})
        tidy(weights)

    def start_without_labels(self, weights: Path) -> float:
        """Write the network that the study starts from; there is no loss."""
        from uncertainty_seg.training.active.rounds import seed_of, write_untrained

        write_untrained(self.settings.plan, self.build, seed_of(self.task.seed, 0), self.pool,
                        weights)
        return math.nan

    def absent(self, labelled: tuple[str, ...]) -> list[str]:
        """Return the classes of the pool that nothing holds which a network was trained on."""
        if self.settings.plan.init:  # it may know them from there
            return []
        whole = np.bincount(self.pool.masks.ravel(), minlength=256)
        rows = [self.index[stem] for stem in labelled]
        part = np.bincount(self.pool.masks[rows].ravel(), minlength=256)
        if (extra := self.place.images('extra')).is_file():
            part += np.bincount(read_part(extra).masks.ravel(), minlength=256)
        return [name for index, name in enumerate(self.pool.class_names)
                if whole[index] and not part[index]]

    def measure(self, number: int) -> dict[str, Any]:
        """Return how good the network of a round is."""
        from uncertainty_seg.training.active.judging import Jury
        from uncertainty_seg.training.active.rounds import round_net, seed_of

        plan, task = self.settings.plan, self.task
        net = round_net(plan, self.build, self.place.weights(task.strategy, task.seed, number),
                        self.pool.num_classes)
        jury = Jury((net,), self.spec, plan.passes, seed_of(task.seed, number))
        found = {'test': _measured(jury, read_part(self.place.images('test')))}
        if self.place.images('val').is_file():
            found['val'] = _measured(jury, read_part(self.place.images('val')))
        none = {'mean_iou': math.nan, 'ece': math.nan}
        return {'test_mean_iou': found['test']['mean_iou'], 'test_iou': found['test']['iou'],
                'test_ece': found['test']['ece'],
                'val_mean_iou': found.get('val', none)['mean_iou']}

    def copy_full(self, number: int, picks: Picks) -> None:
        """Take what all labels give: that was trained already."""
        full = read_result(self.place.result(FULL, self.task.seed, 0))
        taken = ('test_mean_iou', 'test_iou', 'test_ece', 'val_mean_iou', 'loss', 'absent')
        self.write(number, picks, {**{name: full[name] for name in taken}, 'train_s': 0.0})

    def write(self, number: int, picks: Picks, measured: dict[str, Any]) -> None:
        """Write the result of a round: it is finished."""
        task = self.task
        rows = [self.index[stem] for stem in picks.labelled]
        replace_file(self.place.result(task.strategy, task.seed, number), json_text({
            'strategy': task.strategy, 'seed': task.seed, 'round': number,
            'num_labelled': len(rows), 'share': len(rows) / len(self.pool),
            'label_pixels': int(self.pool.pixels[rows].sum()),
            'regions': int(self.pool.regions[rows].sum()), 'limit': picks.limit,
            'score_s': picks.score_s, **measured,
            'picks': [{'frame': frame, 'score': score, 'reason': reason} for frame, score, reason
                      in zip(picks.frames, picks.scores, picks.reasons, strict=True)]}) + '\n')

    def forget(self, number: int) -> None:
        """Remove the weights of a round that nothing needs any more; those of starts stay."""
        name, seed = self.task.strategy, self.task.seed
        if number:
            self.place.weights(name, seed, number).unlink(missing_ok=True)
        for file in self.place.chain(name, seed).glob(f'round-{number}.member-*'):
            file.unlink()


def limit_of(scores: NDArray[np.float64], rule: str) -> float:
    """
    Return the limit that a rule makes of scores.

    'mean', 'mean+K' for K standard deviations more, 'quantile:Q' for the score that a share Q
    does not exceed. Raises ConfigError if the rule is none, or there is no score.
    """
    if not scores.size:
        raise ConfigError('no labelled image has a score', 'one to take a limit from')
    kind, number = parse_rule(rule)
    if kind == 'quantile':
        return float(np.quantile(scores, number))
    return float(scores.mean() + number * scores.std())


def parse_rule(rule: str) -> tuple[str, float]:
    """Read a rule for the limit; raises ConfigError if it is none."""
    wanted = 'mean, mean+K (K standard deviations) or quantile:Q'
    try:
        if rule.startswith('quantile:'):
            share = float(rule.removeprefix('quantile:'))
            if not 0 <= share <= 1:
                raise ValueError
            return 'quantile', share
        if not rule.startswith('mean'):
            raise ValueError
        number = float(rule.removeprefix('mean') or 0)
        if not math.isfinite(number):
            raise ValueError
        return 'mean', number
    except ValueError:
        raise ConfigError(f'--threshold-rule {rule}', wanted) from None


def require_score(images: PreparedImages, spec: InputSpec, name: str) -> None:
    """Raise ConfigError if there is no score of a name."""
    ScoreVector(_card(images, spec), names=[name])


def _card(images: PreparedImages, spec: InputSpec) -> ModelCard:
    """Return a card with what scores look at."""
    return ModelCard(
        schema=SCHEMA_VERSION, name='round', method='single', class_names=images.class_names,
        palette=images.palette, ignore_index=images.ignore_index, input=spec, dropout_sites=(),
        passes=1, opset=17, logits_shape=(images.num_classes, spec.height, spec.width),
        training='', license='', not_good_for='', metrics={}, sha256={})


def _measured(jury: Jury, images: PreparedImages) -> dict[str, Any]:
    """Return mean IoU, that of each class and the calibration error on some images."""
    table, gap = ConfusionMatrix(images.num_classes), ExpectedCalibrationError()
    for truth, (label, confidence) in zip(images.truths, jury.predictions(images), strict=True):
        table.add(truth, label, images.ignore_index)
        known = truth != images.ignore_index
        gap.add(confidence[known], label[known] == truth[known])
    iou = table.iou()
    return {'mean_iou': table.mean_iou(), 'ece': gap.value(),
            'iou': dict(zip(images.class_names, iou.tolist(), strict=True))}


def text_of(picks: Picks) -> str:
    """Return picks as they are kept."""
    return json_text(vars(picks)) + '\n'


_OF_PICKS = ('frames', 'scores', 'reasons', 'labelled', 'limit', 'score_s')
_OF_RESULT = ('strategy', 'seed', 'round', 'num_labelled', 'share', 'label_pixels', 'regions',
              'limit', 'test_mean_iou', 'test_iou', 'test_ece', 'val_mean_iou', 'loss', 'train_s',
              'score_s', 'picks')


def picks_of(path: Path) -> Picks:
    """Read picks; raises ConfigError if they are damaged."""
    raw = read_result(path, _OF_PICKS)
    try:
        numbers = tuple(math.nan if value is None else float(value) for value in raw['scores'])
        return Picks(tuple(map(str, raw['frames'])), numbers, tuple(map(str, raw['reasons'])),
                     tuple(map(str, raw['labelled'])),
                     math.nan if raw['limit'] is None else float(raw['limit']),
                     float(raw['score_s']))
    except (TypeError, ValueError) as err:
        raise _other_form(path) from err


def read_result(path: Path, fields: Sequence[str] = _OF_RESULT) -> dict[str, Any]:
    """Read what a round wrote; raises ConfigError if it is damaged."""
    try:
        raw = parse_json(read_bytes(path, MAX_JSON_BYTES))
    except (OSError, ValueError) as err:
        raise ConfigError(f'{path} is missing or damaged', 'what this verb wrote',
                          'delete it and run the same command again') from err
    if not isinstance(raw, dict) or not set(fields) <= set(raw):
        raise _other_form(path)
    return raw


def _other_form(path: Path) -> ConfigError:
    return ConfigError(f'{path} is of another form', 'what this verb wrote',
                       'delete it and run the same command again')
