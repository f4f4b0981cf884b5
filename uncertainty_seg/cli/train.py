# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Train a network on folders of labelled images and write its bundle, not yet calibrated.

Needs torch and torchvision. Beside the weights NAME.pt stand NAME.progress, from which a run that
was stopped goes on, NAME.curves.csv and NAME.curves.html, and NAME.facts.json, from which the card
says what they were trained on. scripts/train does all of it for the included models: data,
weights, bundle, calibration.

"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
import logging
import math
from pathlib import Path
import re
import time
from typing import Any, TYPE_CHECKING, TypeVar

from uncertainty_seg.calibration.report.curves import write_curves
from uncertainty_seg.cli.arguments import (
    image_size,
    positive_number,
    print_json,
    rate,
    whole_number,
)
from uncertainty_seg.cli.target_options import (
    add_target_arguments,
    prepare,
    require_target_options,
)
from uncertainty_seg.errors import (
    ConfigError,
    DatasetError,
    GraphError,
    ModelBundleError,
    some_of,
    TrainingError,
)

if TYPE_CHECKING:
    from uncertainty_seg.storage.labelled_folder import LabelledFolder
    from uncertainty_seg.training.init_weights import Taken
    from uncertainty_seg.training.recipes import Recipe
    from uncertainty_seg.training.run_facts import Extras

SPLITS = {'train': ('train',), 'val': ('val',), 'all': ('train', 'val')}
METHODS = ('mc_dropout', 'deep_ensemble', 'single', 'direct', 'error_propagation')
KINDS = ('nets', 'decoders', 'heads', 'snapshots')
ENCODER_NAMES = ('mobilenet_v2', 'lite0', 'lite1', 'lite2')
NETS = ('pyramid', 'fc-densenet56')
DEFAULT_MEMBERS = 4
DEFAULT_PLACE, DEFAULT_RATE = 'head', 0.5
MISUSE = (DatasetError, GraphError, ModelBundleError, TrainingError)
_T = TypeVar('_T')
_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('recipe', help="own, for images of one's own; suim or pipeline, the "
                        'settings of the included model')
    parser.add_argument('--data', type=Path, nargs='+', required=True, metavar='DIR',
                        help='folders of labelled images with the same classes.json')
    parser.add_argument('--imagenet', type=Path, metavar='PATH',
                        help='start from ImageNet weights of the encoder: the file, or the folder '
                        'that holds those of every encoder under their own names')
    parser.add_argument('--init', metavar='BUNDLE|FILE',
                        help='start from a bundle of the included architecture, from a file of '
                        'weights, or from none (random)')
    parser.add_argument('--net', metavar='NAME|MODULE:FUNCTION', default=NETS[0],
                        help=f"{', '.join(NETS)}, or a torch network of one's own, which this "
                        f'function builds [{NETS[0]}, the included architecture]')
    parser.add_argument('--size', type=image_size, metavar='WxH',
                        help="input of the network [the recipe's]")
    parser.add_argument('--weights', type=Path,
                        help='trained weights, written; member m of NAME.pt is NAME.m.pt '
                        '[OUT.pt]')
    parser.add_argument('--out', type=Path, required=True, help='folder of the bundle')
    parser.add_argument('--threads', type=whole_number(1, 256), default=2, help='CPU threads [2]')
    parser.add_argument('--compile-only', action='store_true', help='take --weights as they are')
    parser.add_argument('--split', choices=tuple(SPLITS), default='train',
                        help='images to train on; all: train and val, for cross-fitting [train]')
    parser.add_argument('--encoder', nargs='+', choices=ENCODER_NAMES, metavar='NAME',
                        help=f'{", ".join(ENCODER_NAMES)}; several for --kind nets, by turns '
                        "[the recipe's]")
    parser.add_argument('--epochs', type=whole_number(1, 10000), help="[the recipe's]")
    parser.add_argument('--budget', type=positive_number(), metavar='MINUTES',
                        help='as many epochs as fit into this time, but not more than --epochs; '
                        'each member of an ensemble has all of it')
    parser.add_argument('--patience', type=whole_number(0, 10000), default=0, metavar='N',
                        help='stop after N epochs without a better mean IoU on the split val, and '
                        'keep the best; 0: never [0]')
    parser.add_argument('--learning-rate', type=positive_number(), metavar='RATE',
                        help="largest rate of what is not the encoder [the recipe's]")
    parser.add_argument('--encoder-rate', nargs='+', type=positive_number(), metavar='SHARE',
                        help='rate of the encoder, as a share of --learning-rate; several for '
                        "--kind nets, by turns [the recipe's]")
    parser.add_argument('--iou-loss', nargs='+', type=positive_number(or_zero=True),
                        metavar='WEIGHT',
                        help='add the Lovasz-Softmax loss of each image, so many times; several '
                        'for --kind nets, by turns [0]')
    parser.add_argument('--note', default='', help='what the images are, for the card')
    parser.add_argument('--license', help='of weights and images, for the card')
    parser.add_argument('--not-good-for', metavar='TEXT', help='for the card')
    parser.add_argument('--seed', type=whole_number(0, 999), default=0,
                        help='another one gives another network [0]')
    _add_method(parser)
    add_target_arguments(parser)
    folds = parser.add_argument_group('cross-fitting: one network for each fold of the images')
    folds.add_argument('--folds', type=whole_number(2, 1000), metavar='K', default=0,
                       help='divide the images into K folds')
    folds.add_argument('--fold', type=whole_number(0, 999), metavar='k',
                       help='train on the images outside of this fold; folds.json (image -> fold) '
                       'is written beside the bundle')
    folds.add_argument('--fold-seed', type=whole_number(0), default=0, help='of the division [0]')


def _add_method(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('method')
    group.add_argument('--method', choices=METHODS, default=METHODS[0],
                       help='how uncertainty comes about [mc_dropout]')
    group.add_argument('--dropout', metavar='WHERE',
                       help='head, decoder, deep_encoder, everywhere or SITE=RATE,...: dropout at '
                       'run time; members of an ensemble keep it where it is given [head]')
    group.add_argument('--rate', type=rate, metavar='P',
                       help=f'rate of dropout where --dropout gives none [{DEFAULT_RATE}], or of '
                       f'{NETS[1]} [0.2]')
    group.add_argument('--passes', type=whole_number(1, 1000), metavar='T',
                       help='passes of dropout, of all members together [20]')
    group.add_argument('--mask-bank', type=whole_number(2, 1000), metavar='B', default=0,
                       help='train with the B masks of dropout that run; the bundle has T = B '
                       'passes and refuses other masks')
    group.add_argument('--members', type=whole_number(1, 100), metavar='M',
                       help=f'networks of an ensemble [{DEFAULT_MEMBERS}]')
    group.add_argument('--kind', choices=KINDS,
                       help='full nets; decoders on the encoder, or heads on the trunk, of the '
                       'first network; snapshots of one run [nets]')
    group.add_argument('--member-epochs', type=whole_number(1, 10000), metavar='N',
                       help='epochs of decoders and heads on what the first network learned [as '
                       'many as that one]')
    group.add_argument('--bootstrap', action='store_true',
                       help='train each member on as many images, drawn with replacement')
    group.add_argument('--member', type=whole_number(0, 99), metavar='m',
                       help='train this member only, and write no bundle')


def run(args: argparse.Namespace) -> int:
    """Train and compile."""
    from uncertainty_seg.storage.labelled_folder import require_apart
    from uncertainty_seg.storage.model_bundle import require_place
    from uncertainty_seg.training.recipes import make_bundle, train_weights
    from uncertainty_seg.training.run_facts import read_facts

    logging.getLogger('uncertainty_seg').setLevel(logging.INFO)
    args.data = each_once(args.data)
    require_target_options(args)
    if args.member is None or args.compile_only:
        require_place(args.out)
    args.weights = args.weights or args.out.with_name(f'{args.out.name}.pt')
    taken = start_of(args)
    plan = plan_of(args, '' if taken is None else taken.encoder)
    data, held = divided_images(args)
    start_s = time.monotonic()
    if not args.compile_only:
        data, target = prepare(args, plan, data)
        _warn_of_absent_classes(data)
        extras = replace(extras_of(args, taken), target=target)
        if extras.val is not None:
            require_apart(data, extras.val)
        if held is not None:
            require_apart(data, held, ('the images to train on', f'fold {args.fold}'),
                          'a network that never saw its fold', 'put both into one fold, as by '
                          'crossfit --blocks, or leave them out of --mix and --pseudo-labels')
        train_weights(plan, data, args.imagenet, args.weights, args.threads, member=args.member,
                      extras=extras)
    done: dict[str, Any] = {'images': len(data.stems), 'weights': str(args.weights)}
    facts = read_facts(args.weights)
    if facts is not None:
        done |= {'epochs': facts.epochs, 'kept_epoch': facts.kept_epoch,
                 'val_mean_iou': facts.val_mean_iou}
    if args.member is None or args.compile_only:
        card = make_bundle(plan, data, args.weights, args.out)
        done |= {'bundle': str(args.out), 'method': card.method, 'passes': card.passes,
                 'sites': [s.name for s in card.dropout_sites]}
    print_json({**done, 'seconds': round(time.monotonic() - start_s, 1)})
    return 0


def _warn_of_absent_classes(data: LabelledFolder) -> None:
    shown = data.pixel_counts().sum(0) > 0
    absent = [name for name, is_there in zip(data.class_names, shown, strict=True) if not is_there]
    if absent:
        _log.warning('no image to train on shows %s: the network will not know %s',
                     some_of(absent), 'it' if len(absent) == 1 else 'them')


def each_once(folders: list[Path]) -> list[Path]:
    """Return the folders without those that are named again, and say so."""
    found: dict[Path, Path] = {}
    for folder in folders:
        found.setdefault(folder.resolve(), folder)
    once = list(found.values())
    if len(once) < len(folders):
        _log.warning('--data names the same folder more than once: it counts once')
    return once


def start_of(args: argparse.Namespace) -> Taken | None:
    """
    Read what the training starts from; None for ImageNet, or what the network is built with.

    Raises ConfigError if nothing or two things are given; TrainingError if it cannot be used.
    """
    from uncertainty_seg.storage.model_bundle import load_bundle
    from uncertainty_seg.training import init_weights

    if args.init and args.imagenet:
        raise ConfigError('--init and --imagenet', 'one of them')
    if args.init is None or args.init == 'none':
        if not (args.imagenet or args.init or args.net != NETS[0] or args.compile_only):
            raise ConfigError(
                'nothing to start from', '--init BUNDLE|FILE or --imagenet PATH', 'give --init '
                'suim to go on from an included model, or --init none for random weights')
        return None
    path = Path(args.init)
    if path.is_file():
        return init_weights.read_weights(path)
    if args.net != NETS[0]:
        raise ConfigError(f'--init {args.init} for a network of --net', 'a file of its weights')
    return init_weights.read_bundle(load_bundle(args.init, has_calibration=False))


def extras_of(args: argparse.Namespace, taken: Taken | None) -> Extras:
    """Return what the arguments ask for beside recipe and images; see `Extras`."""
    from uncertainty_seg.data.dataset.upkeep import name_of
    from uncertainty_seg.storage.labelled_folder import counted_once, has_split, load_folders
    from uncertainty_seg.training.run_facts import Extras

    val = None
    if args.split == 'train' and not args.folds:
        held = [folder for folder in args.data if has_split(folder, 'val')]
        val = counted_once(load_folders(held, ('val',))) if held else None
    if args.patience and val is None:
        raise ConfigError('--patience without images to measure on',
                          'a split val in a splits.json of --data, and --split train')
    if (args.patience or args.budget) and args.kind == 'snapshots':
        raise ConfigError('--patience or --budget for snapshots, which are stages of a whole run',
                          'none of them')
    return Extras(val, args.patience, math.inf if args.budget is None else 60 * args.budget,
                  taken, tuple(map(name_of, [*args.data, *args.mix])), args.note,
                  write_curves)


def plan_of(args: argparse.Namespace, encoder: str = '') -> Recipe:
    """
    Return the recipe that the arguments ask for; ConfigError if they contradict each other.

    `encoder` is that of what is started from, which is taken if none is given.
    """
    from uncertainty_seg.training import recipes
    from uncertainty_seg.training.members import EnsemblePlan
    from uncertainty_seg.training.networks import dropout_plan

    _require_options_of_the_method(args)
    encoders = tuple(args.encoder or filter(None, [encoder]))
    plan = recipes.reseeded(recipes.recipe(args.recipe), args.seed + (args.fold or 0))
    if args.size:
        plan = recipes.with_size(plan, *args.size)
    if args.learning_rate:
        plan = replace(plan, fit=replace(plan.fit, learning_rate=args.learning_rate))
    shares, weights = tuple(args.encoder_rate or ()), tuple(args.iou_loss or ())
    one = {name: values[0] for name, values in (('encoder_rate', shares), ('iou_weight', weights))
           if len(values) == 1}
    plan = replace(plan, fit=replace(plan.fit, **one))
    texts = {'license': args.license, 'not_good_for': args.not_good_for,
             'name': args.out.name if args.recipe == 'own' else None}
    plan = replace(plan, **{name: text for name, text in texts.items() if text})
    if args.net != NETS[0]:
        _require_plain_method(args)
        plan = _with_net_of(args, plan)
    if len(encoders) == 1:
        plan = recipes.with_encoder(plan, encoders[0])
    if args.epochs:
        plan = recipes.with_epochs(plan, args.epochs)
    if args.dropout or (args.rate and args.net == NETS[0]):
        plan = recipes.with_dropout(plan, dropout_plan(args.dropout or DEFAULT_PLACE,
                                                       args.rate or DEFAULT_RATE))
    if args.passes or args.mask_bank:
        plan = replace(plan, passes=args.mask_bank or args.passes, mask_bank=args.mask_bank)
    if args.method == 'single':
        return recipes.as_single(plan)
    if args.method == 'direct':
        return recipes.as_direct(plan, bool(args.dropout))
    if args.method == 'error_propagation':
        return recipes.as_moments(plan)
    if args.method == 'deep_ensemble':
        members = DEFAULT_MEMBERS if args.members is None else args.members
        plan = replace(plan, member_epochs=args.member_epochs or 0)
        ensemble = EnsemblePlan(
            members, args.kind or KINDS[0], encoders=_by_turns(encoders),
            encoder_rates=_by_turns(shares), iou_weights=_by_turns(weights),
            has_bootstrap=args.bootstrap)
        return recipes.as_ensemble(plan, ensemble, bool(args.dropout))
    return plan


def _by_turns(values: tuple[_T, ...]) -> tuple[_T, ...]:
    return values if len(values) > 1 else ()


def _with_net_of(args: argparse.Namespace, plan: Recipe) -> Recipe:
    from uncertainty_seg.storage.labelled_folder import read_classes
    from uncertainty_seg.training import fc_densenet, recipes

    if args.net != NETS[1]:
        from uncertainty_seg.compiler.request import factory

        return recipes.with_net(plan, factory(args.net), args.net)
    classes = len(read_classes(args.data[0] / 'classes.json').names)
    rate = args.rate or fc_densenet.DROPOUT
    build = partial(fc_densenet.fc_densenet56, classes, rate)
    return recipes.with_net(plan, build, f'FC-DenseNet56 (dropout {rate:g})', 'random weights')


def _require_plain_method(args: argparse.Namespace) -> None:
    wrong = [option for option, value in (
        ('--method ' + args.method, args.method not in ('mc_dropout', 'single')),
        ('--encoder', args.encoder), ('--dropout', args.dropout),
        ('--mask-bank', args.mask_bank), ('--imagenet', args.imagenet),
        ('--encoder-rate', args.encoder_rate),
        ('--rate', args.rate and args.net != NETS[1])) if value]
    if wrong:
        raise ConfigError(f'{wrong[0]} with --net, a network of its own',
                          '--method mc_dropout or single; its dropout is where it has it',
                          'leave it out')


def _require_options_of_the_method(args: argparse.Namespace) -> None:
    is_ensemble = args.method == 'deep_ensemble'
    ours = {
        '--members': (args.members is not None, is_ensemble), '--kind': (args.kind, is_ensemble),
        '--bootstrap': (args.bootstrap, is_ensemble),
        '--member-epochs': (args.member_epochs, is_ensemble),
        '--member': (args.member is not None, is_ensemble),
        **{f'more than one {option}': (len(values or ()) > 1, is_ensemble) for option, values in (
            ('--encoder', args.encoder), ('--encoder-rate', args.encoder_rate),
            ('--iou-loss', args.iou_loss))},
        '--dropout': (args.dropout, args.method != 'single'),
        '--passes': (args.passes, args.method in ('mc_dropout', 'error_propagation')
                     or args.dropout),
        '--mask-bank': (args.mask_bank, args.method == 'mc_dropout'),
        # Where nothing drops out by itself it would say nothing.
        '--rate without --dropout': (args.rate and not args.dropout, args.method in (
            'mc_dropout', 'error_propagation') or args.net != NETS[0]),
    }
    for option, (is_given, is_known) in ours.items():
        if is_given and not is_known:
            raise ConfigError(f'{option} with --method {args.method}', 'a method that has it',
                              'leave it out, or take another --method')
    if args.member_epochs and args.kind not in ('decoders', 'heads'):
        raise ConfigError(f'--member-epochs for {args.kind or KINDS[0]}',
                          'decoders or heads, which stand on a finished network',
                          'give --epochs, or --kind decoders')
    if args.mask_bank and args.passes not in (None, args.mask_bank):
        raise ConfigError(f'--passes {args.passes} of {args.mask_bank} masks',
                          'one pass a mask', 'leave --passes out')
    members = args.members or DEFAULT_MEMBERS
    if is_ensemble and args.passes and args.passes % members:
        raise ConfigError(f'--passes {args.passes} of {members} members',
                          'as many of each member', f'take a multiple of {members}')


def training_images(args: argparse.Namespace) -> LabelledFolder:
    """Read the images that the arguments choose; see `divided_images`."""
    return divided_images(args)[0]


def divided_images(args: argparse.Namespace) -> tuple[LabelledFolder, LabelledFolder | None]:
    """
    Read the images that the arguments choose, and those of the fold that is left out, if any.

    Folds are those of the file beside the bundle, where it has as many of the same images, as
    `crossfit --blocks` writes it; else they follow from the names, and are written there. Raises
    ConfigError if one of two options is missing, or the bundle has the name of another fold;
    DatasetError if the folds are none, or others than those beside the bundle.
    """
    from uncertainty_seg.storage import folds, labelled_folder

    _require_name_of_fold(args)
    data = labelled_folder.load_folders(args.data, SPLITS[args.split])
    if not args.folds and args.fold is None:
        return labelled_folder.counted_once(data), None
    if not args.folds or args.fold is None:
        raise ConfigError('one of --folds and --fold', 'both, or none')
    fold_by_stem = folds.fold_of(data.stems, args.folds, args.fold_seed)
    beside = args.out.parent / folds.FOLDS_FILE
    found = folds.read_folds(beside) if beside.is_file() else fold_by_stem
    if found != fold_by_stem and (args.fold_seed or found.keys() != fold_by_stem.keys()
                                  or set(found.values()) != set(fold_by_stem.values())):
        raise DatasetError(f'{beside} divides the images in another way',
                           'bundles of one division in a folder',
                           'delete it with the bundles beside it, or take another --out')
    rest = folds.without_fold(data, args.fold, found)
    held = labelled_folder.subset(
        data, [i for i, s in enumerate(data.stems) if found[s] == args.fold])
    beside.parent.mkdir(parents=True, exist_ok=True)
    folds.write_folds(beside, found)
    return rest, held


def _require_name_of_fold(args: argparse.Namespace) -> None:
    """Refuse the name of another fold: calibrate and compare go by it."""
    name = re.fullmatch(r'fold-(\d+)(-seed-\d+)?', args.out.name)
    if name is None or args.fold == int(name[1]):
        return
    what = 'a network of all images' if args.fold is None else \
        f'the network without fold {args.fold}'
    raise ConfigError(f'--out {args.out} for {what}', 'another name, or the fold of that name',
                      f'fold-{name[1]} says which images the network never saw')
