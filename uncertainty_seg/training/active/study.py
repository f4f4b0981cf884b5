# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a study is made of: settings, images, and the places of its files.

`study.json` keeps what decides the results, so that a study goes on with nothing else; strategies
and seeds may be added, and how many processes work on it decides nothing.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
import hashlib
from itertools import product
import json
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

import numpy as np

from uncertainty_seg.errors import ConfigError, DatasetError, some_of
from uncertainty_seg.storage.foreign_files import MAX_JSON_BYTES, parse_json, read_bytes
from uncertainty_seg.storage.labelled_folder import load_folders, require_apart, UnlabelledImages
from uncertainty_seg.storage.whole_files import replace_file

if TYPE_CHECKING:
    from uncertainty_seg.storage.labelled_folder import LabelledFolder
    from uncertainty_seg.training.active.prepared import PreparedImages
    from uncertainty_seg.training.active.rounds import Build, NetPlan

STUDY_FILE, LOCK = 'study.json', '.lock'
# Trained once a seed for all strategies: the random start, and all labels at once.
START, FULL = 'start', 'full'
PYRAMID, DENSENET = 'pyramid', 'fc-densenet56'
_MI, _ENTROPY, _MARGIN = 'mutual_information.mean', 'entropy.mean', 'margin.class_mean'


@dataclass(frozen=True)
class Acquisition:
    """
    How a strategy chooses.

    Attributes
    ----------
    selection : str
        Strategy of `analysis.selection`.
    score : str
        What it looks at; empty for that of --score.
    has_members : bool
        Whether several networks judge instead of dropout.
    needs_dropout : bool
        Whether its own score is one of passes that disagree.

    """

    selection: str
    score: str = ''
    has_members: bool = False
    needs_dropout: bool = False


STRATEGIES: dict[str, Acquisition] = {
    'random': Acquisition('random', _ENTROPY),
    'threshold': Acquisition('threshold', needs_dropout=True),
    'top-k': Acquisition('top-k', needs_dropout=True),
    'entropy': Acquisition('top-k', _ENTROPY),
    'margin': Acquisition('top-k', _MARGIN),
    'mi': Acquisition('top-k', _MI, needs_dropout=True),
    'power-bald': Acquisition('power-bald', needs_dropout=True),
    'uncertainty-diversity': Acquisition('uncertainty-diversity', needs_dropout=True),
    'k-centre': Acquisition('k-centre', _ENTROPY),
    'ensemble-mi': Acquisition('top-k', _MI, has_members=True),
    FULL: Acquisition('random'),
}
DEFAULT_SCORE = _MI
# Settings that studies of before did not have, and what they did.
_ADDED: dict[str, Any] = {'frozen': 0}
# Digests of what the network is made of.
WEIGHTS, IMAGENET, CODE = 'weights of --init', 'weights of --imagenet', 'code of --net'


@dataclass(frozen=True)
class StudySettings:
    """
    Everything that decides the results of a study, besides images, strategies and seeds.

    Attributes
    ----------
    plan : NetPlan
        Network and training.
    labels : tuple of int
        Labelled frames after each round; the first is the start.
    score : str
        Of the strategies that have none of their own.
    start : tuple of str
        Frames that are labelled at first; empty for a draw.
    threshold_rule, threshold_on : str
        How the limit of the strategy threshold follows from the scores of labelled images, and of
        which.
    is_capped : bool
        Whether threshold takes no more than the round's share.
    beta : float
        Power of the score in power-bald and uncertainty-diversity.
    is_warm : bool
        Go on from the weights of the round before.
    members : int
        Networks of ensemble-mi.
    extra_share : float
        Of what is trained on besides the pool.

    """

    plan: NetPlan
    labels: tuple[int, ...]
    score: str = DEFAULT_SCORE
    start: tuple[str, ...] = ()
    threshold_rule: str = 'mean'
    threshold_on: str = 'train'
    is_capped: bool = True
    beta: float = 1.0
    is_warm: bool = False
    members: int = 4
    extra_share: float = 0.5


@dataclass(frozen=True)
class StudyPlace:
    """The folder of a study, and where its files are."""

    folder: Path

    @property
    def study_file(self) -> Path:
        """File with what decides the results."""
        return self.folder / STUDY_FILE

    def images(self, part: str) -> Path:
        """File with the images of a part."""
        return self.folder / 'images' / f'{part}.npz'

    def chain(self, strategy: str, seed: int) -> Path:
        """Folder of the rounds of a strategy and seed."""
        return self.folder / 'rounds' / strategy / f'seed-{seed}'

    def chains(self) -> list[tuple[str, int]]:
        """Return strategy and seed of all rounds that are begun, those of `START` among them."""
        return [(path.parent.name, int(path.name.removeprefix('seed-')))
                for path in sorted(self.folder.glob('rounds/*/seed-*'))
                if path.name.removeprefix('seed-').isdecimal() and any(path.iterdir())]

    def result(self, strategy: str, seed: int, number: int) -> Path:
        """File that says that a round is finished."""
        return self.chain(strategy, seed) / f'round-{number}.json'

    def picks(self, strategy: str, seed: int, number: int) -> Path:
        """File with what a round labels, written before it is trained."""
        return self.chain(strategy, seed) / f'round-{number}.picks.json'

    def weights(self, strategy: str, seed: int, number: int) -> Path:
        """File with the weights of a round."""
        return self.chain(strategy, seed) / f'round-{number}.pt'

    def member(self, strategy: str, seed: int, number: int, index: int) -> Path:
        """File with the weights of a further member of an ensemble."""
        return self.chain(strategy, seed) / f'round-{number}.member-{index}.pt'


@dataclass(frozen=True)
class StudyFolders:
    """Where the images come from: folders, each with its split, or a pool without masks."""

    pool: tuple[Path, str] | UnlabelledImages
    test: tuple[Path, str]
    val: tuple[Path, str] | None = None
    extra: tuple[tuple[Path, str], ...] = field(default=())


def split_of(text: str, split: str) -> tuple[Path, str]:
    """Read DIR or DIR:SPLIT; the split is that given if there is none."""
    folder, colon, name = text.rpartition(':')
    if Path(text).exists() or not colon or not name:
        return Path(text), split
    return Path(folder), name


def load_parts(folders: StudyFolders) -> dict[str, LabelledFolder]:
    """
    Read the images of a study.

    Raises DatasetError if one cannot be read, they have other classes, or an image is in two of
    them.
    """
    test = _load(folders.test)
    pool = _without_masks(folders.pool, test) if isinstance(folders.pool, UnlabelledImages) else \
        _load(folders.pool)
    found = {'pool': pool, 'test': test}
    if folders.val is not None:
        found['val'] = _load(folders.val)
    if folders.extra:
        found['extra'] = _joined([_load(place) for place in folders.extra])
    for name, part in found.items():
        _require_classes(part, found['pool'], name)
    for trained, measured in product(('pool', 'extra'), ('test', 'val')):
        if {trained, measured} <= set(found):
            require_apart(found[trained], found[measured], (f'--{trained}', f'--{measured}'))
    if folders.extra:
        require_apart(pool, found['extra'], ('--pool', '--extra'), 'images that cost a label')
    if folders.val is not None:
        require_apart(test, found['val'], ('--test', '--val'),
                      'other images to make choices on than to measure on')
    return found


def _without_masks(images: UnlabelledImages, like: LabelledFolder) -> LabelledFolder:
    """Return images as a data set in which no pixel has a label."""
    pairs = dict(images)
    if len(pairs) < len(images.paths):
        count = Counter(path.stem for path in images.paths)
        twice = some_of(repr(stem) for stem, times in count.items() if times > 1)
        raise DatasetError(f'{images.name} has several images of one name ({twice})',
                           'a name of its own each, the ending aside')
    return replace(like, images=list(pairs.values()), stems=list(pairs),
                   masks=[np.full(image.shape[:2], like.ignore_index, np.uint8)
                          for image in pairs.values()])


def _joined(parts: Sequence[LabelledFolder]) -> LabelledFolder:
    for part in parts[1:]:
        _require_classes(part, parts[0], 'extra')
    return replace(parts[0], images=[image for part in parts for image in part.images],
                   masks=[mask for part in parts for mask in part.masks],
                   stems=[f'{index}/{stem}' for index, part in enumerate(parts)
                          for stem in part.stems])


def _load(place: tuple[Path, str]) -> LabelledFolder:
    folder, split = place
    return load_folders([folder], (split,))


def _require_classes(part: LabelledFolder, pool: LabelledFolder, name: str) -> None:
    if (part.class_names, part.ignore_index) != (pool.class_names, pool.ignore_index):
        raise DatasetError(
            f'--{name} has the classes {", ".join(part.class_names)} (ignored: '
            f'{part.ignore_index}), and --pool {", ".join(pool.class_names)} (ignored: '
            f'{pool.ignore_index})', 'the same classes.json in all of them')


def prepare_study(
    place: StudyPlace, settings: StudySettings, parts: dict[str, PreparedImages],
    network: Mapping[str, str],
) -> None:
    """
    Write study.json and the images, or see that they are those of before.

    `network` has the digests of `WEIGHTS`, `IMAGENET` and `CODE`. Raises ConfigError if the folder
    holds a study of other images, settings, weights or code, or rounds of settings that are lost.
    """
    said = {**identity(settings, parts), **network}
    if not place.study_file.is_file() and place.chains():
        raise ConfigError(f'{place.study_file} is missing, and rounds are there',
                          'what this verb wrote', 'take another folder, or delete the study')
    if place.study_file.is_file():
        _require_same(place, said)
        missing = [name for name in parts if not place.images(name).is_file()]
    else:
        missing = list(parts)
    from uncertainty_seg.training.active.prepared import write_prepared

    place.images('pool').parent.mkdir(parents=True, exist_ok=True)
    for name in missing:
        write_prepared(place.images(name), parts[name])
    replace_file(place.study_file, json.dumps(said, indent=1) + '\n')


def identity(settings: StudySettings, parts: dict[str, PreparedImages]) -> dict[str, Any]:
    """Return what decides the results, as study.json keeps it."""
    flat = asdict(settings)
    flat |= flat.pop('plan')
    words = {name: list(value) if isinstance(value, tuple) else value
             for name, value in flat.items()}
    return {**{f'images of --{name}': part.digest for name, part in parts.items()}, **words}


def read_study(place: StudyPlace) -> dict[str, Any]:
    """Read study.json; raises ConfigError if it is damaged."""
    try:
        before = parse_json(read_bytes(place.study_file, MAX_JSON_BYTES))
    except (OSError, ValueError) as err:
        raise ConfigError(f'{place.study_file} is damaged', 'what this verb wrote',
                          'take another folder, or delete the study') from err
    if not isinstance(before, dict):
        raise ConfigError(f'{place.study_file} is of another form', 'what this verb wrote')
    return before


def _require_same(place: StudyPlace, said: dict[str, Any]) -> None:
    before = read_study(place)
    # Studies of before did not keep what their network is made of.
    before = {**_ADDED, **{name: said[name] for name in (WEIGHTS, IMAGENET, CODE)}, **before}
    for name in [*said, *before]:
        if before.get(name) != said.get(name):
            named = name.replace('images of', 'images, masks or classes of')
            what = f'other {named}' if name.startswith(('images', 'weights', 'code')) else \
                f'{name} {_shown(before.get(name))}, not {_shown(said.get(name))}'
            back = 'put them back as they were, or ' * name.startswith('images')
            raise ConfigError(f'{place.folder} holds a study of {what}', 'the study that is to go '
                              'on', f'{back}take another folder for another study')


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ','.join(map(str, value))[:60]
    return 'none' if value is None else str(value)


def read_part(path: Path) -> PreparedImages:
    """
    Read the images of a part, once a process as long as the file stays as it is.

    Raises TrainingError if it is missing or damaged.
    """
    try:
        status = path.stat()
    except OSError:
        return _part(path, ())  # which says what is wrong
    return _part(path, (status.st_mtime_ns, status.st_size, status.st_ino))


@lru_cache(maxsize=4)
def _part(path: Path, version: tuple[int, ...]) -> PreparedImages:
    from uncertainty_seg.training.active.prepared import read_prepared

    return read_prepared(path)


def builder(plan: NetPlan, num_classes: int) -> Build | None:
    """
    Return what builds the network of a plan; None for the shipped architecture.

    Raises ConfigError if there is none of its name.
    """
    net = plan.net
    if net == PYRAMID:
        return None
    if net == DENSENET:
        from uncertainty_seg.training.fc_densenet import fc_densenet56

        return partial(fc_densenet56, num_classes, plan.rate)
    if ':' not in net:
        raise ConfigError(f'--net {net}', f'{PYRAMID}, {DENSENET} or MODULE:FUNCTION')
    from uncertainty_seg.compiler.request import factory

    return factory(net)


def network_digests(plan: NetPlan) -> dict[str, str]:
    """
    Return what weights and code the network of a plan is made of, empty where there are none.

    Errors as of reading the weights and of `builder`.
    """
    from uncertainty_seg.training.active.rounds import taken_of
    from uncertainty_seg.training.encoders import imagenet_digest
    from uncertainty_seg.training.recipes import imagenet_file
    from uncertainty_seg.training.run_facts import digest_of

    taken = taken_of(plan)
    return {
        WEIGHTS: '' if taken is None else digest_of(taken.state),
        IMAGENET: imagenet_digest(plan.encoder, imagenet_file(Path(plan.imagenet), plan.encoder))
        if plan.imagenet else '',
        CODE: code_digest(plan.net)}


def code_digest(net: str) -> str:
    """
    Return a digest of the files that a network of one's own is written in; empty for the shipped.

    These are the module that --net names, and those of the function and of all layers, but for
    torch itself; what layers call in other files is not seen.
    """
    from uncertainty_seg.compiler.request import factory

    if ':' not in net:
        return ''
    build, (named, _, function) = factory(net), net.partition(':')
    owners = {named, getattr(sys.modules[named], function).__module__}
    owners |= {kind.__module__ for part in build().modules() for kind in type(part).__mro__}
    digest = hashlib.sha256()
    for owner in sorted(name for name in owners if name.partition('.')[0] != 'torch'):
        file = getattr(sys.modules.get(owner), '__file__', None)
        if file and Path(file).is_file():
            digest.update(f'{owner} '.encode() + read_bytes(Path(file)))
    return digest.hexdigest()


@dataclass(frozen=True)
class Schedule:
    """How many frames are labelled after each round, and the first ones where they are given."""

    counts: tuple[int, ...]
    start: tuple[str, ...] = ()


def schedule_of(
    labels: Sequence[str], start: str, rounds: int, budget: int, pool: Sequence[str]
) -> Schedule:
    """
    Work out the labels of a study from --labels, or from --start, --rounds and --budget.

    A start that is a file names the first frames, one a line or as JSON list; what --labels gives
    then follows it. Raises ConfigError if these contradict each other, there are fewer frames
    than asked for, or the file names others.
    """
    names = _start_names(Path(start), pool) if start and Path(start).is_file() else ()
    if bool(rounds) != bool(budget):
        raise ConfigError('one of --rounds and --budget', 'both, or --labels')
    if not rounds and start and not names:
        raise ConfigError(f'--start {start} without --rounds and --budget',
                          'both, or a file that names the first frames',
                          'give the start as the first number of --labels')
    first = [str(len(names))] if names else [start or '5%']
    if not rounds:
        return Schedule(label_counts([*(first if names else []), *labels], len(pool)), names)
    begin = label_counts(first, len(pool))[0]
    counts = [begin + budget * number for number in range(rounds + 1)]
    return Schedule(label_counts([str(count) for count in counts], len(pool)), names)


def _start_names(path: Path, pool: Sequence[str]) -> tuple[str, ...]:
    text = read_bytes(path, MAX_JSON_BYTES).decode('utf-8', 'replace')
    try:
        raw = parse_json(text) if text.lstrip().startswith('[') else \
            [line.strip() for line in text.splitlines() if line.strip()]
    except ValueError as err:
        raise ConfigError(f'--start {path} is no JSON', 'a list of names') from err
    names = tuple(dict.fromkeys(map(str, raw)))
    strange = sorted(set(names) - set(pool))
    if strange or not names:
        raise ConfigError(
            f'--start {path} names {some_of(map(repr, strange)) or "no frame"}',
            'frames of the pool, without ending, one a line or as a JSON list')
    return names


def label_counts(texts: Sequence[str], pool: int) -> tuple[int, ...]:
    """
    Read how many frames are labelled after each round: '5%' of the pool, or '60'.

    Raises ConfigError if one is no such number, there are not so many, or they do not grow.
    """
    counts = tuple(_count_of(text, pool) for text in texts)
    for text, count in zip(texts, counts, strict=True):
        if count > pool:
            raise ConfigError(f'{text} labelled frames of a pool of {pool}', f'at most {pool}',
                              'ask for fewer labels or rounds, or give a larger pool')
    if any(after <= before for before, after in zip(counts, counts[1:], strict=False)):
        raise ConfigError(f'labels {" ".join(texts)}, which are '
                          f'{", ".join(map(str, counts))} of {pool} frames',
                          'numbers that grow', 'leave some out')
    return counts


def _count_of(text: str, pool: int) -> int:
    number, share = text.removesuffix('%'), text.endswith('%')
    try:
        value = float(number) if share else int(number)
    except ValueError:
        raise ConfigError(f'{text!r} as a number of labels', "a share as '12.5%' or a count") \
            from None
    if not 0 <= value <= (100 if share else 10**9):
        raise ConfigError(f'{text!r} as a number of labels', "'0%' to '100%', or a count")
    return (max(1, round(value / 100 * pool)) if value else 0) if share else int(value)
