# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure a selection strategy: repeatedly choose frames of a labelled pool, train and measure.

The masks of the pool replace the human labeller of the other verbs' loop. A round consists of an
ordinary training and bundle: the bundle of one round scores the pool for the next, by the
strategies of `data.strategies`. Finished steps are stored; the same call continues a stopped run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.opening import open_pipeline
from uncertainty_seg.core.arrays import ConfusionMatrix, ImageU8
from uncertainty_seg.core.pipeline import FrameResult
from uncertainty_seg.core.scores.vector import ScoreVector
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.data.likeness import class_means, frame_features
from uncertainty_seg.data.strategies import Candidates, select, SelectionRequest
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.storage.foreign_files import as_paths
from uncertainty_seg.storage.labelled_folder import (
    LabelledFolder,
    load_folders,
    require_apart,
    require_same_classes,
    subset,
)
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.storage.progress import progress
from uncertainty_seg.storage.review_record import read_json
from uncertainty_seg.storage.whole_files import json_text, one_at_a_time, replace_file
from uncertainty_seg.training.init_weights import read_start, Taken
from uncertainty_seg.training.recipes import (
    ActiveRecipe,
    changed,
    DEFAULT_ENCODER,
    read_recipe,
    RECIPE_FILE,
    recipe_of,
    TrainRecipe,
    write_recipe,
)
from uncertainty_seg.training.run_facts import digest_of, digest_of_images
from uncertainty_seg.training.train import (
    free_threads,
    make_bundle,
    SHORT_EPOCH,
    together,
    train_weights,
    TrainingImages,
    warn_of_absent_classes,
    write_table,
)

TABLE_FILE, IMAGES_FILE, LOCK = 'rounds.csv', 'images.json', '.lock'


@dataclass(frozen=True)
class Picks:
    """The frames that a round selects for labelling."""

    frames: tuple[str, ...]  # Names of the frames.
    scores: tuple[float, ...]  # Their scores; NaN in the first round.
    reasons: tuple[str, ...]
    threshold: float = math.nan  # Selection threshold of the scores; NaN if there is none.


def active_learn(
    recipe: ActiveRecipe | str, pool: str, test: str, out: Path | str, *,
    changes: Mapping[str, object] | None = None, init: str = '', mix: Sequence[Path | str] = (),
    threads: int = 0,
) -> list[dict[str, Any]]:
    """
    Measure a selection strategy on a labelled pool, in rounds.

    Parameters
    ----------
    recipe : ActiveRecipe or str
        Strategy, rounds and training: a recipe, the name of an included one, or a YAML file.
    pool, test : str
        DIR or DIR:SPLIT of a labelled folder to choose from (by default its split train), and of
        one to measure on (by default its split test).
    out : Path or str
        Folder of the rounds.
    changes : mapping of str to object, optional
        Other values for keys of the recipe; nested keys contain a dot.
    init : str
        Initial weights of every training, as `read_start` reads them.
    mix : Path, str or sequence of them
        Labelled folders that are mixed into every training and do not count as labels.
    threads : int
        CPU threads; 0 for `free_threads`.

    Returns
    -------
    list of dict
        One row per round, as in OUT/rounds.csv.

    Raises
    ------
    UncertaintySegError
        If the folder holds rounds of another recipe or images, labels misfit, or a training fails.

    """
    out, recipe = Path(out), recipe_of(ActiveRecipe, recipe, changes)
    with one_at_a_time(out, ConfigError, LOCK):
        run = _Rounds.begin(recipe, pool, test, out, init, as_paths(mix), threads)
        for number in range(len(run.counts)):
            if not run.result(number).is_file():
                run.advance(number)
        rows = [read_json(run.result(number)) for number in range(len(run.counts))]
        write_table(out / TABLE_FILE, rows)
        return rows


@dataclass(frozen=True)
class _Rounds:
    """A run: its images, and the steps of a round."""

    recipe: ActiveRecipe
    out: Path
    pool: LabelledFolder
    pool_folder: str
    test: LabelledFolder
    mix: LabelledFolder | None
    mix_folders: tuple[str, ...]
    taken: Taken | None
    threads: int
    counts: tuple[int, ...]

    @classmethod
    def begin(
        cls, recipe: ActiveRecipe, pool: str, test: str, out: Path, init: str,
        mix: Sequence[Path], threads: int,
    ) -> _Rounds:
        """Read the images; raise ConfigError if `out` has rounds of another recipe or images."""
        (known, name), (measured, _) = _load(pool, 'train'), _load(test, 'test')
        mixed = load_folders(list(mix), ('train',)) if mix else None
        for part in filter(None, (known, mixed)):
            require_same_classes(part.classes, measured.classes, 'images to train on',
                                 'those to measure on')
            require_apart(part, measured, ('the images to train on', 'those to measure on'))
        taken = read_start(init, recipe.train)
        if not recipe.train.net and not recipe.train.encoder:
            encoder = taken.encoder if taken and taken.encoder else DEFAULT_ENCODER
            recipe = replace(recipe, train=replace(recipe.train, encoder=encoder))
        made_of = {
            'pool': digest_of_images(known), 'test': digest_of_images(measured),
            'mixed': digest_of_images(mixed),
            'start': digest_of({} if taken is None else taken.state)}
        _require_same(out, recipe, made_of)
        return cls(recipe, out, known, name, measured, mixed,
                   tuple(path.resolve().name for path in mix), taken, threads,
                   _counts(recipe.labels, len(known.stems)))

    # Paths.

    def place(self, number: int) -> Path:
        """Return the folder of a round."""
        return self.out / f'round-{number}'

    def result(self, number: int) -> Path:
        """Return the file that marks a round as finished."""
        return self.place(number) / 'result.json'

    def bundle(self, number: int) -> Path:
        """Return the bundle of a round."""
        return self.place(number) / 'network'

    # A round.

    def advance(self, number: int) -> None:
        """Choose frames, train and measure, which finishes the round."""
        picks, labelled = self.picks(number), self.labelled(number)
        self.train(number, self.recipe_of(number, labelled), labelled)
        self.write(number, picks, labelled)

    def picks(self, number: int) -> Picks:
        """Return the frames that a round selects; they are chosen once and stored."""
        path = self.place(number) / 'picks.json'
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, json_text(vars(self.choose(number))) + '\n')
        raw = read_json(path)
        scores = tuple(math.nan if value is None else float(value) for value in raw['scores'])
        limit = raw['threshold']
        return Picks(tuple(raw['frames']), scores, tuple(raw['reasons']),
                     math.nan if limit is None else float(limit))

    def choose(self, number: int) -> Picks:
        """Choose the frames of a round with the network of the previous round."""
        asked = {frame for before in range(number) for frame in self.picks(before).frames}
        stems = np.array(self.pool.stems, dtype=object)
        is_open = np.array([stem not in asked for stem in stems])
        wanted, seed = self.counts[number] - len(asked), _seed_of(self.recipe, number)
        if not number:
            pool, limit = _candidates(stems, np.full(len(stems), math.nan)), None
            request = SelectionRequest('random', wanted, self.recipe.score, seed)
        else:
            pool = self.scored(number - 1, stems)
            limit = self.threshold(pool.scores[~is_open])
            request = SelectionRequest(self.recipe.strategy, wanted, self.recipe.score, seed,
                                       limit)
        rest = pool.cut(is_open)
        found = select(rest, request, pool.cut(~is_open) if number else None)
        rows = list(found.rows)
        return Picks(tuple(rest.keys[rows]), tuple(map(float, rest.scores[rows])), found.reasons,
                     math.nan if limit is None else limit)

    def threshold(self, labelled: NDArray[np.float64]) -> float | None:
        """Return the threshold from the labelled frames' scores; None for other strategies."""
        if self.recipe.strategy != 'threshold':
            return None
        known = labelled[np.isfinite(labelled)]
        return float(known.mean() + self.recipe.threshold_sigma * known.std())

    def scored(self, number: int, stems: NDArray[np.object_]) -> Candidates:
        """Return scores and features of the pool, computed with the network of a round."""
        num, scores, features = self.pool.num_classes, [], []
        for image, result, score in self.judged(number, self.pool, self.recipe.score):
            maps = result.maps.cut(result.geometry.rows, result.geometry.columns)
            share = np.bincount(maps.label.ravel(), minlength=num) / maps.label.size
            scores.append(score)
            features.append(frame_features(
                image, share.tolist(), *(class_means(values, maps.label, num)
                                         for values in (maps.entropy, maps.mutual_information))))
        return _candidates(stems, np.array(scores), features=np.stack(features))

    def judged(
        self, number: int, data: LabelledFolder, score: str = ''
    ) -> Iterator[tuple[ImageU8, FrameResult, float]]:
        """Yield BGR image, result and score of each image with the network of a round."""
        bundle = load_bundle(self.bundle(number), has_calibration=False)
        vector = ScoreVector(bundle.card, names=[score] if score else [])
        settings = Settings(threads=self.threads or free_threads())
        with open_pipeline(bundle, settings, temperature=1.0) as pipeline:
            for rgb in progress(data.images, desc=f'judge by round {number}', unit='image'):
                image = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)
                result = pipeline.measure(image)
                found = vector.compute(result.at_grid.inside(
                    result.geometry.rows, result.geometry.columns, result.grid)) if score else {}
                yield image, result, found.get(score, math.nan)

    def labelled(self, number: int) -> LabelledFolder:
        """Return all frames labelled in this round or an earlier one."""
        rows = {stem: row for row, stem in enumerate(self.pool.stems)}
        return subset(self.pool, [rows[frame] for before in range(number + 1)
                                  for frame in self.picks(before).frames])

    def recipe_of(self, number: int, labelled: LabelledFolder) -> TrainRecipe:
        """Return the recipe of a round, with as many epochs as the steps allow."""
        count = len(labelled.stems) + (0 if self.mix is None else len(self.mix.stems))
        batch = self.recipe.train.batch
        steps = count // batch if count >= 2 * batch else SHORT_EPOCH
        return replace(self.recipe.train, epochs=max(1, round(self.recipe.steps / steps)),
                       seed=_seed_of(self.recipe, number), name=f'round-{number}')

    def train(self, number: int, recipe: TrainRecipe, labelled: LabelledFolder) -> None:
        """Train the network of a round and write its bundle."""
        whole = together(labelled, self.mix)
        warn_of_absent_classes(whole)
        images = TrainingImages(whole, 0 if self.mix is None else len(self.mix.stems),
                                folders=(self.pool_folder,), mixed_folders=self.mix_folders)
        weights = self.place(number) / 'network.pt'
        train_weights(recipe, images, weights, (self.taken,), self.threads)
        make_bundle(recipe, whole, weights, self.bundle(number))

    def write(self, number: int, picks: Picks, labelled: LabelledFolder) -> None:
        """Measure the network of a round, and write its row, which finishes the round."""
        table = ConfusionMatrix(self.test.num_classes)
        for truth, (_, result, _) in zip(self.test.masks, self.judged(number, self.test),
                                         strict=True):
            table.add(truth, result.label, self.test.ignore_index)
        known = [(mask != labelled.ignore_index).sum() for mask in labelled.masks]
        replace_file(self.result(number), json_text({
            'round': number, 'labelled': len(labelled.stems),
            'share': len(labelled.stems) / len(self.pool.stems), 'label_pixels': int(sum(known)),
            'asked': len(picks.frames), 'threshold': picks.threshold,
            'mean_iou': table.mean_iou(),
            **{f'iou.{name}': float(value) for name, value in zip(
                self.test.class_names, table.iou(), strict=True)}}) + '\n')


def _load(text: str, split: str) -> tuple[LabelledFolder, str]:
    """Read DIR or DIR:SPLIT with `split` as the default; also return the folder's name."""
    folder, colon, name = text.rpartition(':')
    if Path(text).exists() or not colon or not name:
        folder, name = text, split
    return load_folders([Path(folder)], (name,)), Path(folder).resolve().name


def _require_same(out: Path, recipe: ActiveRecipe, made_of: dict[str, str]) -> None:
    """Store recipe and image digests, or raise ConfigError if they differ from stored ones."""
    path, images = out / RECIPE_FILE, out / IMAGES_FILE
    if path.is_file():
        before = read_recipe(ActiveRecipe, str(path))
        if changed(before, {'labels': list(recipe.labels)}) != recipe:
            raise ConfigError(f'{out} holds rounds of another recipe', f'that of {path}',
                              'take another folder')
        for name, digest in read_json(images).items():
            if made_of.get(name) != digest:
                raise ConfigError(f'{out} holds rounds of another {name}', 'the same images and '
                                  'start', 'put them back, or take another folder')
    replace_file(images, json.dumps(made_of, indent=1) + '\n')
    write_recipe(path, recipe)


def _counts(labels: Sequence[float], total: int) -> tuple[int, ...]:
    """Return the number of labelled frames after each round."""
    counts = [math.ceil(value * total - 1e-9) if value <= 1 else int(value) for value in labels]
    if counts[-1] > total or any(b <= a for a, b in zip(counts, counts[1:], strict=False)):
        raise ConfigError(f'labels {", ".join(map(str, counts))} of {total} frames',
                          'increasing numbers up to the size of the pool')
    return tuple(counts)


def _seed_of(recipe: ActiveRecipe, number: int) -> int:
    return 1000 * recipe.seed + number


def _candidates(
    stems: NDArray[np.object_], scores: NDArray[np.float64], **more: Any
) -> Candidates:
    return Candidates(stems, np.array(['pool'] * len(stems), dtype=object), scores, **more)
