# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The shipped models: what they are trained on, how long and with what dropout, and the steps.

From a recipe and a folder of labelled images come weights, and from weights a bundle, whose
quality is measured afterwards on the files that ship. Dropout at training regularises; which sites
stay random at run time is chosen by measurement (docs/dropout_study.md): only the one before the
classifier, since the others cost T decoder runs and rank errors no better.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import copy
from dataclasses import dataclass, replace
import logging
import math
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from uncertainty_seg.compiler.capture.export import export_marked, load_weights, read_state
from uncertainty_seg.compiler.capture.mask_bank import train_with_bank
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
from uncertainty_seg.errors import TrainingError
from uncertainty_seg.storage.labelled_folder import LabelledFolder
from uncertainty_seg.storage.model_bundle import write_bundle
from uncertainty_seg.storage.whole_files import whole_file
from uncertainty_seg.training.encoders import encoder_kind, load_imagenet
from uncertainty_seg.training.fit.augmentation import Augmentation, IMAGENET_MEAN, IMAGENET_STD
from uncertainty_seg.training.fit.loop import (
    affordable_epochs,
    class_weights,
    fit,
    restore_priors,
    tame_malloc,
)
from uncertainty_seg.training.fit.run import finished_epochs, FitSettings, Row, Watch
from uncertainty_seg.training.init_weights import load_what_fits, measure_norms
from uncertainty_seg.training.members import (
    bootstrap,
    EnsemblePlan,
    member_file,
    SEED_STEP,
    SHARED_PART,
)
from uncertainty_seg.training.networks import DropoutPlan, NO_DROPOUT, PLACES, PyramidNet
from uncertainty_seg.training.run_facts import (
    digest_of,
    digest_of_images,
    enough_images,
    Extras,
    facts_of,
    find_classifier,
    Held,
    NOTHING_MORE,
    read_facts,
    require_classes_of,
    write_facts,
)
from uncertainty_seg.training.sim_to_real import (
    adapt_norms,
    NORMS_MEASURED,
    require_norms,
    SimToReal,
)

_log = logging.getLogger(__name__)


_LICENSE = ('Apache-2.0; encoder {licence}; the licence of the training images is not known to '
            'this card')
_NOT_GOOD_FOR = 'Whatever is unlike the images that it was trained on.'


@dataclass(frozen=True)
class Recipe:
    """
    All that is needed to make a bundle from a folder of labelled images.

    Attributes
    ----------
    name : str
        Of the bundle.
    input : InputSpec
        Network size and fit.
    fit : FitSettings
        Length, rates, augmentation.
    encoder, frozen_layers : str, int
        One of `encoders.ENCODERS`, and how many of its layers stay as ImageNet left them.
    train_dropout, run_dropout : DropoutPlan
        Rates while training, and in the shipped graph.
    passes : int
        T of the shipped bundle.
    license, not_good_for : str
        For the card; {licence}, that of the encoder's weights, is filled into the first.
    method : str
        Of the bundle.
    ensemble : EnsemblePlan, optional
        The networks of a deep ensemble; else there is one.
    mask_bank, mask_seed : int
        How many masks are trained with as they run, and their seed; 0 for fresh masks.
    member_epochs : int
        Of decoders and heads on what a first network learned; 0 for as many as that one.
    build, net_name, net_start : callable, str, str
        Builds a network of one's own in the place of the shipped architecture, its name for
        people, and what it is built with; a torch module of normalised images with dropout in it.

    """

    name: str
    input: InputSpec  # noqa: A003
    fit: FitSettings
    encoder: str
    frozen_layers: int
    train_dropout: DropoutPlan
    run_dropout: DropoutPlan
    passes: int
    license: str = _LICENSE  # noqa: A003
    not_good_for: str = _NOT_GOOD_FOR
    method: str = 'mc_dropout'
    ensemble: EnsemblePlan | None = None
    mask_bank: int = 0
    mask_seed: int = 0
    member_epochs: int = 0
    build: Callable[[], nn.Module] | None = None
    net_name: str = ''
    net_start: str = ''

    @property
    def has_variance(self) -> bool:
        """Whether the network predicts the variance of its logits."""
        return self.method == 'direct'


_TRAIN_DROPOUT = DropoutPlan(context=0.1, level16=0.1, level8=0.1, level4=0.1, head=0.5)
_RUN_DROPOUT = DropoutPlan(head=0.5)
# Dropout in what the members of an ensemble share.
_SHARED_SITES = {
    'nets': (), 'snapshots': (), 'decoders': PLACES['deep_encoder'],
    'heads': (*PLACES['deep_encoder'], *PLACES['decoder']),
}


def _input(width: int, height: int) -> InputSpec:
    return InputSpec(width, height, 'letterbox', 'rgb', IMAGENET_MEAN, IMAGENET_STD)


_RECIPES = (
    Recipe(
        name='suim',
        input=_input(320, 256),
        fit=FitSettings(
            epochs=36, draw_power=0.5, small_epochs=26,
            augmentation=Augmentation(crop=(288, 224), scale=(0.65, 1.6), colour=0.2,
                                      paste_share=0.25),
        ),
        encoder='lite2',
        frozen_layers=8,
        train_dropout=_TRAIN_DROPOUT,
        run_dropout=_RUN_DROPOUT,
        passes=20,
    ),
    Recipe(
        name='pipeline',
        input=_input(512, 384),
        fit=FitSettings(
            epochs=16, small_epochs=11, small_scale=0.7,
            augmentation=Augmentation(crop=(416, 320), scale=(0.75, 1.3), colour=0.15),
        ),
        encoder='mobilenet_v2',
        frozen_layers=0,
        train_dropout=_TRAIN_DROPOUT,
        run_dropout=_RUN_DROPOUT,
        passes=20,
    ),
    Recipe(
        name='own',
        input=_input(320, 256),
        fit=FitSettings(
            epochs=30, draw_power=0.5,
            augmentation=Augmentation(crop=(288, 224), scale=(0.65, 1.6), colour=0.15,
                                      paste_share=0.25),
        ),
        encoder='mobilenet_v2',
        frozen_layers=0,
        train_dropout=_TRAIN_DROPOUT,
        run_dropout=_RUN_DROPOUT,
        passes=20,
    ),
)


def recipe(name: str) -> Recipe:
    """Return the shipped recipe of a name; raises TrainingError if there is none."""
    found = {r.name: r for r in _RECIPES}
    if name not in found:
        raise TrainingError(f'no recipe {name!r}', f'one of {", ".join(found)}')
    return found[name]


def reseeded(recipe: Recipe, more: int) -> Recipe:
    """Return a recipe whose seed is larger by a number, as that of a fold or member."""
    return replace(recipe, fit=replace(recipe.fit, seed=recipe.fit.seed + more))


def with_encoder(recipe: Recipe, name: str) -> Recipe:
    """
    Return a recipe with another encoder, frozen up to the same stride.

    Raises TrainingError if there is none of this name.
    """
    depth = sum(tap < recipe.frozen_layers for tap in encoder_kind(recipe.encoder).taps)
    taps = encoder_kind(name).taps  # of an unknown one, whether layers are frozen or not
    return replace(recipe, encoder=name, frozen_layers=taps[depth - 1] + 1 if depth else 0)


def with_size(recipe: Recipe, width: int, height: int) -> Recipe:
    """
    Return a recipe for images of another size, trained on crops of nine tenths of it.

    Raises TrainingError if a side is no multiple of 32, which the encoders need.
    """
    if width % 32 or height % 32 or min(width, height) < 64:
        raise TrainingError(f'--size {width}x{height}', 'multiples of 32 from 64 up')
    crop = tuple(max(64, round(side * 0.9 / 32) * 32) for side in (width, height))
    how = replace(recipe.fit.augmentation, crop=(crop[0], crop[1]))
    return replace(recipe, input=replace(recipe.input, width=width, height=height),
                   fit=replace(recipe.fit, augmentation=how))


def with_net(
    recipe: Recipe, build: Callable[[], nn.Module], name: str, start: str = ''
) -> Recipe:
    """
    Return a recipe for a network of one's own, `name` for people; all of it is trained.

    `start` says what it is built with, where that is known.
    """
    return replace(recipe, build=build, net_name=name, frozen_layers=0,
                   net_start=start or f'what {name} builds')


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Return a shorter or longer recipe, with the same share of small epochs."""
    return replace(recipe, fit=_fit_of(recipe.fit, epochs))


def _fit_of(settings: FitSettings, epochs: int) -> FitSettings:
    small = round(settings.small_epochs * epochs / settings.epochs)
    return replace(settings, epochs=epochs, small_epochs=small)


def with_dropout(recipe: Recipe, plan: DropoutPlan) -> Recipe:
    """Return a recipe whose bundle drops out as planned; so does training, at those sites."""
    return replace(recipe, run_dropout=plan,
                   train_dropout=replace(recipe.train_dropout, **plan.sites))


def as_single(recipe: Recipe) -> Recipe:
    """Return a recipe for one pass without dropout; training is the same."""
    return replace(recipe, method='single', run_dropout=NO_DROPOUT, passes=1)


def as_direct(recipe: Recipe, keeps_dropout: bool = False) -> Recipe:
    """
    Return a recipe for a network that predicts the variance of its logits too.

    `keeps_dropout` says whether it has dropout at run time beside the noise; else it has one pass.
    """
    if keeps_dropout:
        return replace(recipe, method='direct')
    return replace(recipe, method='direct', run_dropout=NO_DROPOUT, passes=1)


def as_moments(recipe: Recipe) -> Recipe:
    """Return a recipe for one pass that propagates mean and variance; training is the same."""
    return replace(recipe, method='error_propagation')


def as_ensemble(recipe: Recipe, plan: EnsemblePlan, keeps_dropout: bool = False) -> Recipe:
    """
    Return a recipe for a deep ensemble.

    Parameters
    ----------
    recipe : Recipe
        Of one network.
    plan : EnsemblePlan
        Number and kind of the members.
    keeps_dropout : bool
        Whether each member has dropout at run time too; the passes are then the recipe's, rounded
        up to a multiple of the members.

    Raises
    ------
    TrainingError
        If dropout is in what the members share, which would no longer be computed once, or
        epochs cannot be divided by snapshots.

    """
    run = recipe.run_dropout if keeps_dropout else NO_DROPOUT
    shared = set(run.sites) & set(_SHARED_SITES[plan.kind])
    if shared:
        raise TrainingError(f'dropout at {", ".join(sorted(shared))}, which {plan.kind} share',
                            'dropout behind what is shared', 'take --kind nets, or --dropout head')
    cycles = plan.count if plan.kind == 'snapshots' else 1
    passes = plan.count * math.ceil(recipe.passes / plan.count) if keeps_dropout else plan.count
    return replace(recipe, method='deep_ensemble', ensemble=plan, run_dropout=run, passes=passes,
                   fit=replace(recipe.fit, cycles=cycles))


def imagenet_file(path: Path, encoder: str) -> Path:
    """Return the file of an encoder's weights: the path itself, or what is in this folder."""
    return path / encoder_kind(encoder).file if path.is_dir() else path


def train_weights(
    recipe: Recipe, data: LabelledFolder, encoder_file: Path | None, weights_file: Path,
    threads: int = 2, on_epoch: Callable[[int, float, nn.Module], None] | None = None,
    member: int | None = None, extras: Extras = NOTHING_MORE,
) -> None:
    """
    Train a recipe's networks and save the weights that are worth keeping after every epoch.

    A run that was stopped goes on after its last epoch, and what is finished is not trained again:
    progress is kept beside the weights, and so is what they were trained on.

    Parameters
    ----------
    recipe, data : Recipe, LabelledFolder
        What to do, with which images.
    encoder_file, weights_file : Path
        ImageNet weights of the encoder, or a folder that holds those of every encoder (None for
        none); and where torch.save writes the result, by `member_file` for an ensemble.
    threads : int
        CPU threads.
    on_epoch : callable, optional
        Called with (epoch, loss, net to keep).
    member : int, optional
        Train this one of an ensemble only, as in another process.
    extras : Extras
        Where to start from, what to measure on, and when to stop.

    Raises
    ------
    TrainingError
        If weights are missing or those of another network, the first member is not finished whose
        trunk others share, or the loss is no number again and again.

    """
    tame_malloc()
    torch.set_num_threads(threads)
    weights_file.parent.mkdir(parents=True, exist_ok=True)
    for job in _jobs(recipe, data, weights_file, member):
        _train(job, encoder_file, extras, on_epoch)


def _train(
    job: _TrainingRun, encoder_file: Path | None, extras: Extras,
    on_epoch: Callable[[int, float, nn.Module], None] | None,
) -> None:
    net, job = _new_net(job, encoder_file, extras)
    target = extras.target
    if target.norm_images:
        require_norms(net)
    count, asked, batch = len(job.data.stems), job.recipe.fit.epochs, job.recipe.fit.batch
    labelled = count - target.pseudo
    data, progress = enough_images(job.data, batch), progress_file(job.files[0])
    if len(data.stems) > count:
        _log.warning('%d training images: each is taken %d times an epoch, and a network of so '
                     'few knows little else', count, len(data.stems) // count)
    job = replace(job, data=data)
    measure = Held(extras.val, job.recipe.input, job.finished).mean_iou if extras.val else None
    if extras.budget_s < math.inf:
        epochs = affordable_epochs(net, data, job.recipe.fit, extras.budget_s, progress, measure)
        job = replace(job, recipe=replace(job.recipe, fit=_fit_of(job.recipe.fit, epochs)))
    start = _start_of(job, encoder_file, extras)
    seen: list[Row] = []

    def on_rows(rows: list[Row]) -> None:
        seen[:] = rows
        write_facts(job.files[0], facts_of(extras, labelled, start, rows, False, asked))
        if extras.on_rows is not None:
            extras.on_rows(job.files[0], rows)

    watch = Watch(measure, extras.patience, extras.budget_s, on_rows)
    fit(net, data, job.recipe.fit, job.saver(on_epoch), progress, watch,
        _origin(job, start, extras), target.feed(count, len(data.stems)))
    if seen:
        write_facts(job.files[0], facts_of(extras, labelled, start, seen, True, asked))
    elif (facts := read_facts(job.files[0])) is not None:
        write_facts(job.files[0], replace(facts, is_finished=True))
    if target.norm_images:
        _adapt(job, extras)


def _adapt(job: _TrainingRun, extras: Extras) -> None:
    """Measure the batch norms of finished weights on the target, and write both down."""
    recipe, target = job.recipe, extras.target
    for file in job.files:
        net = _finished_net(recipe, job.data.num_classes, file, recipe.encoder,
                            recipe.run_dropout)
        adapt_norms(net, target.norm_images, recipe.fit.seed)
        with whole_file(file) as draft:
            torch.save(net.state_dict(), draft)
    facts = read_facts(job.files[0])
    if facts is not None:
        iou = Held(extras.val, recipe.input).mean_iou(net) if extras.val else math.nan
        # Statistics of before are gone, whatever images they were of.
        words = (*(said for said in facts.target if not said.startswith(NORMS_MEASURED)),
                 target.norm_words)
        write_facts(job.files[0], replace(facts, val_mean_iou=iou, target=words))


def _start_of(job: _TrainingRun, encoder_file: Path | None, extras: Extras) -> str:
    if job.trunk is not None:
        return f'the {job.shared} of its first member'
    if extras.init is not None:
        return extras.init.source
    if job.recipe.build is not None:
        return job.recipe.net_start
    return 'random weights' if encoder_file is None else 'ImageNet weights of the encoder'


def _origin(job: _TrainingRun, start: str, extras: Extras) -> dict[str, str]:
    """Return what a run is made of beside its settings, for `fit` to compare."""
    recipe = job.recipe
    rates = ', '.join(f'{site}={p:g}' for site, p in recipe.train_dropout.sites.items())
    bank = f', {recipe.mask_bank} masks' if recipe.mask_bank else ''
    weights = None if job.trunk is not None or extras.init is None else extras.init.state
    return {
        'network': recipe.net_name or encoder_kind(recipe.encoder).title,
        'input': f'{recipe.input.width}x{recipe.input.height}',
        'dropout': (rates or 'none') + bank,
        'start': start,
        'weights to start from': digest_of({} if weights is None else weights),
        'training images': digest_of_images(job.data),
        'images of the split val': digest_of_images(extras.val),
        **_origin_of_trunk(job),
        **_origin_of_target(extras.target),
    }


def _origin_of_trunk(job: _TrainingRun) -> dict[str, str]:
    """Return a digest of what a member shares with the first one, which may be trained anew."""
    if job.trunk is None:
        return {}
    return {f'{job.shared} of the first member': digest_of(read_state(job.trunk))}


def _origin_of_target(target: SimToReal) -> dict[str, str]:
    """Return what of a target a run is made of, where it is; its images are training images."""
    made_of = {}
    if target.mixed:
        made_of['mixed images'] = f'{target.mixed} with a share of {target.share:g}'
    if target.colours is not None:
        made_of['colours'] = digest_of({'colours': torch.from_numpy(target.colours)})
    if target.norm_images:
        made_of['images for the batch norms'] = digest_of(
            {'images': torch.from_numpy(np.stack(target.norm_images))})
    return made_of


def progress_file(weights: Path) -> Path:
    """Return where the progress of a run is kept."""
    return weights.with_suffix('.progress')


@dataclass(frozen=True)
class _TrainingRun:
    """One run: what is trained, on what, where its stages go, and whose trunk it takes."""

    recipe: Recipe
    data: LabelledFolder
    files: tuple[Path, ...]
    trunk: Path | None = None
    shared: str = ''
    classifier: str = 'decoder.classifier'

    def finished(self, average: nn.Module) -> nn.Module:
        """Return a copy whose classifier gives the probabilities without the loss's weights."""
        done = copy.deepcopy(average)
        if self.classifier:
            restore_priors(done.get_submodule(self.classifier),
                           class_weights(self.data, self.recipe.fit.class_power))
        return done

    def saver(
        self, on_epoch: Callable[[int, float, nn.Module], None] | None
    ) -> Callable[[int, float, nn.Module], None]:
        def save(epoch: int, loss: float, average: nn.Module) -> None:
            finished = self.finished(average)
            with whole_file(self.files[epoch // self.recipe.fit.cycle_epochs]) as draft:
                torch.save(finished.state_dict(), draft)
            if on_epoch is not None:
                on_epoch(epoch, loss, average)
        return save


def _jobs(
    recipe: Recipe, data: LabelledFolder, weights: Path, member: int | None
) -> Iterator[_TrainingRun]:
    plan = recipe.ensemble
    if plan is None:
        if member is not None:
            raise TrainingError(f'member {member} of {recipe.method}', 'a deep ensemble',
                                'leave --member out')
        yield _TrainingRun(recipe, data, (weights,))
        return
    files = tuple(member_file(weights, index) for index in range(plan.count))
    if member is not None and (member >= plan.count or plan.kind == 'snapshots'):
        raise TrainingError(f'member {member} of {plan.count} {plan.kind}',
                            'the whole run of snapshots, or a member from 0')
    if plan.kind == 'snapshots':
        yield _TrainingRun(recipe, data, files)
        return
    shared = SHARED_PART[plan.kind]
    for index in range(plan.count) if member is None else [member]:
        own = with_encoder(recipe, plan.encoder(index, recipe.encoder))
        own = reseeded(replace(own, fit=plan.fit(index, own.fit)), SEED_STEP * index)
        drawn = bootstrap(data, own.fit.seed) if plan.has_bootstrap else data
        if not (shared and index):
            yield _TrainingRun(own, drawn, (files[index],))
            continue
        require_finished(files[0], recipe.fit.epochs)
        # What does not change is not dropped out from either.
        rates = replace(own.train_dropout, **dict.fromkeys(_SHARED_SITES[plan.kind], 0.0))
        length = _fit_of(own.fit, own.member_epochs or own.fit.epochs)
        yield _TrainingRun(replace(own, train_dropout=rates, fit=length), drawn,
                           (files[index],), files[0], shared)


def require_finished(weights: Path, epochs: int) -> None:
    """Raise TrainingError if weights are missing, or of a run that was stopped before its end."""
    progress, facts = progress_file(weights), read_facts(weights)
    done = finished_epochs(progress) if progress.is_file() else epochs
    is_finished = done >= epochs or (
        facts is not None and facts.is_finished and facts.asked >= epochs)
    if not weights.is_file() or not is_finished:
        state = f'{done} of {epochs} epochs' if weights.is_file() else 'nothing'
        raise TrainingError(f'{state} of {weights}', 'a finished run',
                            'run the same command again, for this member first')


def _new_net(
    job: _TrainingRun, encoder_file: Path | None, extras: Extras
) -> tuple[nn.Module, _TrainingRun]:
    torch.manual_seed(job.recipe.fit.seed)
    if job.recipe.build is not None:
        net, job = _own_net(job)
    else:
        net = _shipped_net(job, encoder_file, is_started=extras.init is not None)
    taken, size = extras.init, (job.recipe.input.width, job.recipe.input.height)
    if taken is not None and job.trunk is None:
        load_what_fits(net, taken, job.data.class_names)
        if taken.has_folded_norms:
            measure_norms(net, job.data.images, size)
        if job.classifier:  # what finished weights had taken off
            restore_priors(net.get_submodule(job.classifier),
                           1 / class_weights(job.data, job.recipe.fit.class_power))
    return net, job


def _own_net(job: _TrainingRun) -> tuple[nn.Module, _TrainingRun]:
    recipe = job.recipe
    assert recipe.build is not None
    net = recipe.build()
    require_classes_of(net, job.data, recipe.input, recipe.net_name)
    classifier = find_classifier(net, job.data.num_classes, recipe.input)
    if not classifier:
        _log.warning('%s has no last layer whose bias is added to the logits: its loss is not '
                     'weighted by class, since the weights could not be undone', recipe.net_name)
        recipe = replace(recipe, fit=replace(recipe.fit, class_power=0.0))
    return net, replace(job, recipe=recipe, classifier=classifier)


def _shipped_net(job: _TrainingRun, encoder_file: Path | None, is_started: bool) -> PyramidNet:
    recipe, num = job.recipe, job.data.num_classes
    net = PyramidNet(num, recipe.train_dropout, recipe.encoder,
                     frozen_layers=recipe.frozen_layers, has_variance=recipe.has_variance)
    if job.trunk is not None:
        net.freeze(job.shared)
        first = load_net(job.trunk, num, NO_DROPOUT, recipe.encoder).state_dict()
        net.load_state_dict({name: first[name] if name.startswith(net.frozen) else value
                             for name, value in net.state_dict().items()})
    elif encoder_file is not None and not is_started:
        load_imagenet(net.encoder, recipe.encoder, imagenet_file(encoder_file, recipe.encoder))
    if recipe.mask_bank:
        train_with_bank(net, PyramidNet(num, recipe.run_dropout, recipe.encoder), recipe.input,
                        recipe.mask_bank, recipe.mask_seed)
    return net


def load_net(
    weights_file: Path, num_classes: int, dropout: DropoutPlan, encoder: str = 'mobilenet_v2',
    has_variance: bool = False,
) -> PyramidNet:
    """
    Build the network with trained weights and other dropout rates, in eval mode.

    Raises TrainingError if the file is missing or holds another network.

    """
    net = PyramidNet(num_classes, dropout, encoder, has_variance=has_variance)
    load_weights(net, weights_file)
    return net.eval()


def make_bundle(
    recipe: Recipe, data: LabelledFolder, weights_file: Path, folder: Path,
    dropout: DropoutPlan | None = None,
) -> ModelCard:
    """
    Compile trained weights to a bundle without calibration.

    Parameters
    ----------
    recipe, data : Recipe, LabelledFolder
        Give method, input, passes and the texts of the card; class names and colours.
    weights_file, folder : Path
        From `train_weights`; of the bundle.
    dropout : DropoutPlan, optional
        Other rates than the recipe's, for the dropout study.

    Raises
    ------
    TrainingError
        If weights are missing or those of another network.

    """
    rates, plan = dropout or recipe.run_dropout, recipe.ensemble
    if plan is None:
        files = [(weights_file, recipe.encoder)]
    else:
        files = [(member_file(weights_file, index), plan.encoder(index, recipe.encoder))
                 for index in range(plan.count)]
    graphs = _compiled(recipe, data.num_classes, [
        export_marked(_finished_net(recipe, data.num_classes, file, encoder, rates), recipe.input)
        for file, encoder in files])
    card = ModelCard(
        schema=SCHEMA_VERSION, name=recipe.name, method=recipe.method,
        class_names=data.class_names, palette=data.palette, ignore_index=data.ignore_index,
        input=recipe.input, dropout_sites=graphs.sites, passes=recipe.passes, opset=OPSET,
        logits_shape=graphs.logits_shape, upsampling=graphs.upsampling,
        training=_training_text(recipe, files[0][0]),
        license=recipe.license.replace('{licence}', _of_encoders(recipe, 'licence')),
        not_good_for=recipe.not_good_for, metrics={}, sha256={},
        members=plan.count if plan else 0, feature_shape=graphs.feature_shape,
        mask_seed=recipe.mask_seed if recipe.mask_bank else None,
        mask_draw=fitting_draw('stratified', graphs.sites, recipe.mask_bank > 0),
    )
    return write_bundle(folder, card, graphs.files)


def _compiled(
    recipe: Recipe, num_classes: int, models: Sequence[onnx.ModelProto]
) -> CompiledGraphs:
    if recipe.ensemble:
        both = CompileOptions(passes=recipe.passes, features='auto')
        return compile_ensemble(models, recipe.input, both,
                                keeps_dropout=bool(recipe.run_dropout.sites))
    if recipe.method == 'error_propagation':
        plain = CompileOptions(passes=recipe.passes, features='auto')
        return compile_moments(models[0], recipe.input, plain)
    options = CompileOptions(passes=recipe.passes, method=recipe.method, features='auto',
                             num_classes=num_classes if recipe.has_variance else 0)
    return compile_graph(models[0], recipe.input, options)


def _finished_net(
    recipe: Recipe, num_classes: int, weights: Path, encoder: str, rates: DropoutPlan
) -> nn.Module:
    if recipe.build is None:
        return load_net(weights, num_classes, rates, encoder, recipe.has_variance)
    net = recipe.build()
    load_weights(net, weights)
    if recipe.method == 'single':
        for part in net.modules():
            if isinstance(part, nn.modules.dropout._DropoutNd):
                part.p = 0.0
    return net.eval()


def _training_text(recipe: Recipe, weights: Path) -> str:
    plan, facts = recipe.ensemble, read_facts(weights)
    network = recipe.net_name or _of_encoders(recipe, 'title')
    text = f'{network}; what its weights {weights.name} were trained on is not known.' \
        if facts is None else facts.sentence(network)
    if plan:
        drawn = ', each on as many images drawn with replacement' * plan.has_bootstrap
        length = f', {recipe.member_epochs} epochs each after the first' * \
            bool(recipe.member_epochs and SHARED_PART[plan.kind])
        text += f' {plan.count} {plan.kind}{drawn}{length}.'
    if recipe.mask_bank:
        text += f' Trained with the {recipe.mask_bank} masks that run.'
    return text


def _of_encoders(recipe: Recipe, fact: str) -> str:
    plan = recipe.ensemble
    names = plan.encoders if plan and plan.encoders else (recipe.encoder,)
    return ' and '.join(dict.fromkeys(getattr(encoder_kind(name), fact) for name in names))
