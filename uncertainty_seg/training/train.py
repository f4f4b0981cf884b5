# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Train weights from a recipe and folders of labelled images, and compile weights to a bundle.

Dropout in training regularises. At run time only the site before the classifier stays random, as
measurements showed (docs/explanation/decisions.md): the others cost T decoder runs and rank errors
no better. The networks of an ensemble (Lakshminarayanan et al., 2017, arXiv:1612.01474) differ by
their seed, and by encoder rate and loss if the recipe says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import copy
import csv
from dataclasses import dataclass, replace
from functools import cached_property
import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from uncertainty_seg.compiler.capture.export import export_marked, load_weights
from uncertainty_seg.compiler.compile import (
    compile_ensemble,
    compile_graph,
    compile_moments,
    CompiledGraphs,
)
from uncertainty_seg.compiler.onnx_tools import OPSET
from uncertainty_seg.compiler.plan import CompileOptions
from uncertainty_seg.core.dropout_masks import fitting_draw
from uncertainty_seg.core.model_card import InputSpec, ModelCard, SCHEMA_VERSION
from uncertainty_seg.errors import ConfigError, some_of
from uncertainty_seg.storage.foreign_files import as_paths
from uncertainty_seg.storage.labelled_folder import (
    counted_once,
    has_split,
    LabelledFolder,
    load_folders,
    require_apart,
    require_same_classes,
)
from uncertainty_seg.storage.model_bundle import require_place, write_bundle
from uncertainty_seg.storage.whole_files import whole_file
from uncertainty_seg.training.batches import Augmentation, IMAGENET_MEAN, IMAGENET_STD, Mix
from uncertainty_seg.training.encoders import encoder_kind, EncoderKind
from uncertainty_seg.training.fit import (
    best_epoch,
    class_weights,
    fit,
    FitSettings,
    restore_priors,
    Row,
    tame_malloc,
    Watch,
)
from uncertainty_seg.training.init_weights import (
    load_what_fits,
    measure_norms,
    read_start,
    Taken,
)
from uncertainty_seg.training.networks import find_classifier, PyramidNet, require_classes_of
from uncertainty_seg.training.recipes import (
    DEFAULT_ENCODER,
    DropoutPlan,
    NO_DROPOUT,
    RECIPE_FILE,
    recipe_of,
    SPLITS,
    TrainRecipe,
    write_recipe,
)
from uncertainty_seg.training.run_facts import (
    digest_of,
    digest_of_images,
    Held,
    read_facts,
    RunFacts,
    seen_images,
    write_facts,
)

_log = logging.getLogger(__name__)
# Dropout rates before the classifier, and in the decoder during training.
_RATE, _DECODER_RATE = 0.5, 0.1
_FIRST_SEED = 7
# Difference of the seeds of an ensemble's members.
_MEMBER_STEP = 1000
# Default size of crops, as a share of the input size.
_CROP_SHARE = 0.9
# With fewer images than two batches, images are repeated until an epoch has this many batches.
SHORT_EPOCH = 8


@dataclass(frozen=True)
class TrainingImages:
    """
    The images of a training.

    `train` has the training images; its last `mixed` ones are those mixed in. Each epoch is
    measured on `val`. The folders are names for the card.
    """

    train: LabelledFolder
    mixed: int = 0
    val: LabelledFolder | None = None
    folders: tuple[str, ...] = ()
    mixed_folders: tuple[str, ...] = ()


def train(
    recipe: TrainRecipe | str, data: Path | str | Sequence[Path | str], out: Path | str, *,
    changes: Mapping[str, object] | None = None, init: str = '', mix: Sequence[Path | str] = (),
    threads: int = 0, compile_only: bool = False,
) -> dict[str, Any]:
    """
    Train a network and write its bundle, without a calibration.

    Besides the bundle OUT it writes the weights OUT.pt, the recipe, a row per epoch, the facts for
    the card, and the progress, from which a stopped run continues.

    Parameters
    ----------
    recipe : TrainRecipe or str
        A recipe, the name of an included one, or a YAML file.
    data, mix : Path, str or sequence of them
        Labelled folders of the same classes; those of `mix` fill a share of each batch.
    out : Path or str
        Folder of the bundle.
    changes : mapping of str to object, optional
        Other values for keys of the recipe.
    init : str
        Initial weights, as `read_start` reads them.
    threads : int
        CPU threads; 0 for `free_threads`, or those of the run that is continued.
    compile_only : bool
        Make the bundle from the existing weights.

    Returns
    -------
    dict
        Images, epochs, mean IoU on the split val, and the bundle, in plain values.

    Raises
    ------
    UncertaintySegError
        If recipe, images and start do not fit together, or the loss is NaN.

    """
    out = Path(out)
    recipe = recipe_of(TrainRecipe, recipe, changes)
    require_place(out)
    weights = out.with_name(f'{out.name}.pt')
    members = range(max(len(recipe.each), 1))
    taken = () if compile_only else tuple(read_start(init, recipe.of_member(i)) for i in members)
    recipe = replace(recipe, name=recipe.name or out.name)
    if not recipe.net and not recipe.encoder:
        plain = [one.encoder for i, one in zip(members, taken, strict=False)
                 if one and one.encoder and not recipe.of_member(i).encoder]
        recipe = replace(recipe, encoder=(*plain, DEFAULT_ENCODER)[0])
    images = read_images(recipe, as_paths(data), as_paths(mix))
    if not compile_only:
        weights.parent.mkdir(parents=True, exist_ok=True)
        write_recipe(out.with_name(f'{out.name}.{RECIPE_FILE}'), recipe)
        train_weights(recipe, images, weights, taken, threads,
                      lambda file, rows: write_table(file.with_suffix('.curves.csv'), rows))
    card = make_bundle(recipe, images.train, weights, out)
    done: dict[str, Any] = {
        'images': len(images.train.stems), 'weights': str(weights), 'bundle': str(out),
        'method': card.method, 'passes': card.passes,
        'sites': [site.name for site in card.dropout_sites]}
    facts = read_facts(weights_files(recipe, weights)[0])
    if facts is not None:
        done |= {'epochs': facts.epochs, 'kept_epoch': facts.kept_epoch,
                 'val_mean_iou': facts.val_mean_iou}
    return done


def read_images(
    recipe: TrainRecipe, data: Sequence[Path], mix: Sequence[Path] = ()
) -> TrainingImages:
    """
    Read the images for training, and those for measuring each epoch.

    Raises DatasetError if folders, classes or splits do not fit together; ConfigError if the
    recipe has a patience and there are no images to measure.
    """
    splits, once = SPLITS[recipe.split], list({path.resolve(): path for path in data}.values())
    images = counted_once(load_folders(once, splits))
    mixed = counted_once(load_folders(mix, splits)) if mix else None
    images = together(images, mixed)
    held = [folder for folder in once if has_split(folder, 'val')] \
        if recipe.split == 'train' else []
    val = counted_once(load_folders(held, ('val',))) if held else None
    if recipe.patience and val is None:
        raise ConfigError(f'patience {recipe.patience} without images to measure on',
                          'a split val in splits.json, and the split train')
    if val is not None:
        require_apart(images, val)
    warn_of_absent_classes(images)
    return TrainingImages(images, 0 if mixed is None else len(mixed.stems), val,
                          *(tuple(path.resolve().name for path in part) for part in (once, mix)))


def together(first: LabelledFolder, more: LabelledFolder | None) -> LabelledFolder:
    """Return the images of both folders, `more` last; DatasetError if their classes differ."""
    if more is None:
        return first
    require_same_classes(more.classes, first.classes, 'mixed in', 'the others')
    return replace(first, images=first.images + more.images, masks=first.masks + more.masks,
                   stems=first.stems + more.stems)


def warn_of_absent_classes(data: LabelledFolder) -> None:
    """Warn about classes that no image shows."""
    shown = data.pixel_counts().sum(0) > 0
    absent = [name for name, is_there in zip(data.class_names, shown, strict=True) if not is_there]
    if absent:
        _log.warning('no image to train on shows %s: the network will not know %s',
                     some_of(absent), 'it' if len(absent) == 1 else 'them')


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, atomically; NaN becomes an empty field."""
    with whole_file(path) as draft, draft.open('w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows({name: '' if value != value else value for name, value in row.items()}
                         for row in rows)


# -------------------------------------------------------------------------------------------------
# Settings that follow from a recipe.


def input_of(recipe: TrainRecipe) -> InputSpec:
    """Return the input specification of the network."""
    return InputSpec(*recipe.size, 'letterbox', 'rgb', IMAGENET_MEAN, IMAGENET_STD)


def run_dropout_of(recipe: TrainRecipe) -> DropoutPlan:
    """Return the dropout rates of the included architecture at run time."""
    return DropoutPlan(recipe.dropout or _RATE) if recipe.has_dropout else NO_DROPOUT


def _train_dropout_of(recipe: TrainRecipe) -> DropoutPlan:
    return DropoutPlan(recipe.dropout or _RATE, _DECODER_RATE)


def fit_settings_of(recipe: TrainRecipe, member: int = 0) -> FitSettings:
    """Return the settings of a training, for an ensemble those of a member."""
    recipe = recipe.of_member(member)
    crop = recipe.crop if all(recipe.crop) else tuple(
        max(64, round(side * _CROP_SHARE / 32) * 32) for side in recipe.size)
    return FitSettings(
        epochs=recipe.epochs, batch=recipe.batch, learning_rate=recipe.learning_rate,
        encoder_rate=recipe.encoder_rate, iou_weight=recipe.iou_loss, draw_power=recipe.draw_rare,
        seed=_FIRST_SEED + recipe.seed + _MEMBER_STEP * member,
        augmentation=Augmentation(crop=(crop[0], crop[1]), scale=(recipe.zoom[0], recipe.zoom[1]),
                                  colour=recipe.colour, paste_share=recipe.paste_share),
        small_epochs=round(recipe.small_share * recipe.epochs), small_scale=recipe.small_scale)


def weights_files(recipe: TrainRecipe, weights: Path) -> list[Path]:
    """Return the weights file of each network: for an ensemble NAME.0.pt, NAME.1.pt, ..."""
    if not recipe.is_ensemble:
        return [weights]
    return [weights.with_name(f'{weights.stem}.{index}{weights.suffix}')
            for index in range(recipe.members)]


def _title(recipe: TrainRecipe) -> str:
    return recipe.net or ' and '.join(dict.fromkeys(kind.title for kind in _encoders(recipe)))


def _encoders(recipe: TrainRecipe) -> list[EncoderKind]:
    """Return the encoders of the members, or of the only network."""
    return [encoder_kind(recipe.of_member(member).encoder or DEFAULT_ENCODER)
            for member in range(max(len(recipe.each), 1))]


def builder_of(recipe: TrainRecipe) -> Callable[[], nn.Module] | None:
    """Return the function that builds the user's network; None for the included architecture."""
    if not recipe.net:
        return None
    from uncertainty_seg.compiler.request import factory

    return factory(recipe.net)


# -------------------------------------------------------------------------------------------------
# Weights.


def train_weights(
    recipe: TrainRecipe, images: TrainingImages, weights: Path,
    taken: Sequence[Taken | None] = (), threads: int = 0,
    on_rows: Callable[[Path, list[Row]], None] | None = None,
) -> None:
    """
    Train a recipe's networks and save their weights during the run.

    `weights_files` gives the files. A stopped run continues after its last stored epoch, and
    finished networks are not trained again: progress and facts are stored next to the weights.
    `taken` are the initial weights, which members take in turn, `threads` is as in `train`;
    `on_rows` is called after each epoch with the weights file and the rows of its run.

    Raises TrainingError if weights are missing or of another network, or the loss is not finite.
    """
    tame_malloc()
    torch.set_num_threads(threads or free_threads())
    for member, file in enumerate(weights_files(recipe, weights)):
        one = recipe.of_member(member)
        _Training(one, images, file, fit_settings_of(recipe, member), threads).run(
            taken[member % len(taken)] if taken else None, on_rows)


def free_threads() -> int:
    """Return a useful number of threads: two, or one if other programs keep the cores busy."""
    return max(1, min(2, round((os.cpu_count() or 1) - os.getloadavg()[0])))


@dataclass(frozen=True)
class _Training:
    """The training of one network."""

    recipe: TrainRecipe
    images: TrainingImages
    file: Path
    settings: FitSettings
    threads: int

    def run(
        self, taken: Taken | None, on_rows: Callable[[Path, list[Row]], None] | None
    ) -> None:
        """Train, and write weights, progress and facts."""
        recipe, val = self.recipe, self.images.val
        net, classifier = self._new_net(taken)
        settings = self.settings if classifier else replace(self.settings, class_power=0.0)
        data, progress = self._enough_images(), self.file.with_suffix('.progress')
        weights = class_weights(data, settings.class_power)

        def finished(average: nn.Module) -> nn.Module:
            """Return a copy whose probabilities are free of the loss's class weights."""
            done = copy.deepcopy(average)
            if classifier:
                restore_priors(done.get_submodule(classifier), weights)
            return done

        measure = Held(val, input_of(recipe), finished).mean_iou if val else None
        start = self._start(taken)
        seen: list[Row] = []

        def note(rows: list[Row]) -> None:
            seen[:] = rows
            write_facts(self.file, self._facts(start, rows, is_finished=False))
            if on_rows is not None:
                on_rows(self.file, rows)

        def save(_epoch: int, _loss: float, average: nn.Module) -> None:
            with whole_file(self.file) as draft:
                torch.save(finished(average).state_dict(), draft)

        watch = Watch(measure, recipe.patience, note)
        try:
            fit(net, data, settings, save, progress, watch, self._origin(start, taken),
                self._mix(), keeps_threads=not self.threads)
        except KeyboardInterrupt:
            _log.warning('the same command continues %s', f'from {progress}' if progress.is_file()
                         else 'from the beginning, since no epoch was finished')
            raise
        facts = self._facts(start, seen, is_finished=True) if seen else read_facts(self.file)
        if facts is not None:
            write_facts(self.file, replace(facts, is_finished=True))

    def _enough_images(self) -> LabelledFolder:
        """Return the images, repeated if they are fewer than two batches."""
        data = self.images.train
        count = len(data.images)
        if count >= 2 * self.recipe.batch:
            return data
        times = math.ceil(SHORT_EPOCH * self.recipe.batch / count)
        _log.warning('%d training images: each is used %d times per epoch; expect poor results '
                     'elsewhere', count, times)
        return replace(data, images=data.images * times, masks=data.masks * times,
                       stems=data.stems * times)

    def _mix(self) -> Mix | None:
        count, mixed = len(self.images.train.stems), self.images.mixed
        if not mixed:
            return None
        rows = np.arange(len(self._enough_images().stems)) % count
        return Mix(rows >= count - mixed, self.recipe.mix_share)

    def _new_net(self, taken: Taken | None) -> tuple[nn.Module, str]:
        """Return the initial network, and the name of its classifier (empty if unknown)."""
        recipe, data, spec = self.recipe, self.images.train, input_of(self.recipe)
        torch.manual_seed(self.settings.seed)
        build = builder_of(recipe)
        if build is None:
            net: nn.Module = PyramidNet(
                data.num_classes, _train_dropout_of(recipe), recipe.encoder or DEFAULT_ENCODER,
                frozen_layers=recipe.frozen_layers)
            classifier = 'decoder.classifier'
        else:
            net = build()
            require_classes_of(net, data.class_names, spec, recipe.net)
            classifier = find_classifier(net, data.num_classes, spec)
            if not classifier:
                _log.warning('%s has no last layer whose bias is added to the logits: its loss is '
                             'not weighted by class, since the weights could not be undone',
                             recipe.net)
        if taken is not None:
            if recipe.encoder and taken.encoder not in ('', recipe.encoder):
                _log.warning('%s has the encoder %s: what does not fit this one, %s, begins with '
                             'random weights', taken.source, taken.encoder, recipe.encoder)
            load_what_fits(net, taken, data.class_names)
            if taken.has_folded_norms:
                measure_norms(net, data.images, recipe.size)
            if classifier and f'{classifier}.bias' in taken.state:
                # Add the class weights again, which were removed from finished weights.
                restore_priors(net.get_submodule(classifier),
                               1 / class_weights(data, self.settings.class_power))
        return net, classifier

    def _start(self, taken: Taken | None) -> str:
        if taken is not None:
            return taken.source
        return f'what {self.recipe.net} builds' if self.recipe.net else 'random weights'

    def _origin(self, start: str, taken: Taken | None) -> dict[str, str]:
        """Return what a run depends on besides its settings, for `fit` to compare."""
        images = self.images
        return {
            'network': _title(self.recipe), 'size': str(self.recipe.size), 'start': start,
            'dropout': str(_train_dropout_of(self.recipe)),
            'weights to start from': digest_of({} if taken is None else taken.state),
            'set of training images': digest_of_images(images.train),
            'share of mixed images': f'{images.mixed}, {self.recipe.mix_share:g}',
            'split val': digest_of_images(images.val)}

    def _facts(self, start: str, rows: Sequence[Row], is_finished: bool) -> RunFacts:
        recipe, images = self.recipe, self.images
        kept = (best_epoch(list(rows)) if recipe.patience else None) or len(rows)
        iou = rows[kept - 1]['val_mean_iou'] if rows else math.nan
        mix, mixed = self._mix(), ''
        if mix is not None:
            mixed = (f'In each batch {mix.count(recipe.batch)} of {recipe.batch} images are of '
                     f'{images.mixed} labelled images of {", ".join(images.mixed_folders)}.')
        return RunFacts(
            len(images.train.stems), len(rows), kept, start,
            0 if images.val is None else len(images.val.stems), iou,
            (*images.folders, *images.mixed_folders), recipe.note, is_finished, mixed,
            recipe.patience > 0, self._seen)

    @cached_property
    def _seen(self) -> tuple[str, ...]:
        return seen_images(self.images.train, self.images.val if self.recipe.patience else None)


def load_net(
    weights: Path, num_classes: int, dropout: DropoutPlan, encoder: str = DEFAULT_ENCODER,
) -> PyramidNet:
    """
    Build the included network with trained weights and the given dropout rates, in eval mode.

    Raises TrainingError if the file is missing or holds another network.
    """
    net = PyramidNet(num_classes, dropout, encoder)
    load_weights(net, weights)
    return net.eval()


# -------------------------------------------------------------------------------------------------
# The bundle.


def make_bundle(
    recipe: TrainRecipe, data: LabelledFolder, weights: Path, folder: Path
) -> ModelCard:
    """
    Compile trained weights to a bundle without calibration.

    The recipe gives method, input, passes and the texts of the card; `data` gives class names and
    colours. Raises TrainingError if weights are missing or belong to another network.
    """
    from uncertainty_seg.compiler.checks.grid_checks import choose_grid

    files, spec = weights_files(recipe, weights), input_of(recipe)
    graphs = _compiled(recipe, [
        export_marked(_finished_net(recipe.of_member(member), data.num_classes, file), spec)
        for member, file in enumerate(files)])
    licence = '' if recipe.net else ', '.join(
        dict.fromkeys(kind.licence for kind in _encoders(recipe)))
    card = ModelCard(
        schema=SCHEMA_VERSION, name=recipe.name or folder.name, method=recipe.method,
        class_names=data.class_names, palette=data.palette, ignore_index=data.ignore_index,
        input=spec, dropout_sites=graphs.sites, passes=recipe.num_passes, opset=OPSET,
        logits_shape=graphs.logits_shape, upsampling=graphs.upsampling,
        training=_training_text(recipe, files),
        license=recipe.license.replace('{licence}', licence or 'of your own'),
        not_good_for=recipe.not_good_for, metrics={}, sha256={},
        members=recipe.members if recipe.is_ensemble else 0, feature_shape=graphs.feature_shape,
        mask_draw=fitting_draw(graphs.sites), seen_images=_seen_by(files),
    )
    graphs, grid_error = choose_grid(graphs, card)
    card = replace(card, grid_offset=graphs.grid_offset, grid_error=grid_error)
    return write_bundle(folder, card, graphs.files)


def _compiled(recipe: TrainRecipe, models: Sequence[onnx.ModelProto]) -> CompiledGraphs:
    spec, plain = input_of(recipe), CompileOptions(passes=recipe.num_passes, features='auto')
    if recipe.is_ensemble:
        return compile_ensemble(models, spec, plain)
    if recipe.method == 'error_propagation':
        return compile_moments(models[0], spec, plain)
    return compile_graph(models[0], spec, replace(plain, method=recipe.method))


def _finished_net(recipe: TrainRecipe, num_classes: int, weights: Path) -> nn.Module:
    build = builder_of(recipe)
    if build is None:
        return load_net(weights, num_classes, run_dropout_of(recipe),
                        recipe.encoder or DEFAULT_ENCODER)
    net = build()
    load_weights(net, weights)
    return net.eval()


def _seen_by(weights: Sequence[Path]) -> tuple[str, ...]:
    """Return the digests of all images that the networks' facts record as seen."""
    facts = [read_facts(file) for file in weights]
    return tuple(sorted({digest for one in facts if one is not None for digest in one.seen}))


def _training_text(recipe: TrainRecipe, files: Sequence[Path]) -> str:
    facts, network = read_facts(files[0]), _title(recipe)
    if facts is None:
        text = f'{network}; what its weights {files[0].name} were trained on is not known.'
    else:
        text = facts.sentence(network)
        for number, other in enumerate(map(read_facts, files), 1):
            if other and (other.epochs, other.start) != (facts.epochs, facts.start):
                text += f' Network {number}: {other.epochs} epochs, from {other.start}.'
    return f'{text} {recipe.members} nets.' if recipe.is_ensemble else text
