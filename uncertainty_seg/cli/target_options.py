# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What `train` is asked to do for images of another place: the options, and what they come to.

The words that are made here stand in the card.

"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TYPE_CHECKING

from uncertainty_seg.cli.arguments import rate
from uncertainty_seg.errors import ConfigError, DatasetError
from uncertainty_seg.storage.progress import progress

if TYPE_CHECKING:
    from uncertainty_seg.core.model_card import InputSpec
    from uncertainty_seg.storage.labelled_folder import LabelledFolder
    from uncertainty_seg.training.recipes import Recipe
    from uncertainty_seg.training.sim_to_real import SimToReal

MAPS = ('entropy', 'mutual_information')
DEFAULT_SHARE, DEFAULT_QUANTILE = 0.5, 0.5


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; each DIR of images without labels may be DIR:SPLIT."""
    group = parser.add_argument_group('for images of another place, as from synthetic to real')
    group.add_argument('--mix', type=Path, nargs='+', default=[], metavar='DIR',
                       help='labelled folders whose images are in each batch beside those of '
                       '--data')
    group.add_argument('--mix-share', type=rate, metavar='S',
                       help=f'share of each batch of --mix and --pseudo-labels [{DEFAULT_SHARE}]')
    group.add_argument('--colour-like', nargs='+', default=[], metavar='DIR',
                       help='each image of --data takes the colours of one of these, drawn anew '
                       'each time; no labels needed')
    group.add_argument('--adapt-batchnorm', nargs='+', default=[], metavar='DIR',
                       help='measure the batch norms on these after the training; no labels '
                       'needed')
    group.add_argument('--pseudo-labels', nargs='+', default=[], metavar='DIR',
                       help='train on these too, with the labels of a network where it is sure; '
                       'no labels needed')
    group.add_argument('--pseudo-bundle', metavar='BUNDLE',
                       help='whose labels they are [the bundle of --init]')
    group.add_argument('--pseudo-quantile', type=rate, metavar='Q',
                       help='share of the pixels that is sure enough, the least uncertain ones '
                       f'[{DEFAULT_QUANTILE}]')
    group.add_argument('--pseudo-map', choices=MAPS, help=f'what is uncertain [{MAPS[0]}]')
    group.add_argument('--pseudo-by-class', action='store_true',
                       help='that share of each predicted class, not of all pixels')


def require_target_options(args: argparse.Namespace) -> None:
    """Raise ConfigError if options contradict each other or do nothing."""
    has_mix, is_pseudo = bool(args.mix or args.pseudo_labels), bool(args.pseudo_labels)
    for option, is_given, is_used, what in (
            ('--mix-share', args.mix_share, has_mix, '--mix or --pseudo-labels'),
            ('--pseudo-bundle', args.pseudo_bundle, is_pseudo, '--pseudo-labels'),
            ('--pseudo-quantile', args.pseudo_quantile, is_pseudo, '--pseudo-labels'),
            ('--pseudo-map', args.pseudo_map, is_pseudo, '--pseudo-labels'),
            ('--pseudo-by-class', args.pseudo_by_class, is_pseudo, '--pseudo-labels')):
        if is_given and not is_used:
            raise ConfigError(f'{option} without {what}', 'both, or none')
    if has_mix and args.bootstrap:
        raise ConfigError('--bootstrap with images that are mixed in', 'one of them')
    if args.adapt_batchnorm and args.kind in ('decoders', 'heads'):
        raise ConfigError(f'--adapt-batchnorm for {args.kind} that share a trunk',
                          '--kind nets or snapshots')
    both = {path.resolve() for path in args.mix} & {path.resolve() for path in args.data}
    if both:
        raise ConfigError(f'{both.pop()} in --data and in --mix', 'each folder in one of them')
    if is_pseudo and not args.pseudo_bundle and \
            (args.init in (None, 'none') or Path(args.init).is_file()):
        raise ConfigError('--pseudo-labels without a bundle that gives the labels',
                          '--pseudo-bundle BUNDLE, or --init BUNDLE')


def prepare(
    args: argparse.Namespace, plan: Recipe, data: LabelledFolder
) -> tuple[LabelledFolder, SimToReal]:
    """
    Read what the options name, and let the network label what has no labels.

    Returns the images to train on, those that are mixed in last, and what is done for the target.
    Raises UncertaintySegError if folders, classes or bundles do not fit.
    """
    from uncertainty_seg.training.sim_to_real import mixed_count, SimToReal

    parts, words = [], []
    if args.mix:
        part = _mixed(args)
        parts.append(part)
        words.append(f'{len(part.stems)} labelled images of {_names(args.mix)}')
    pseudo = 0
    if args.pseudo_labels:
        part, said = _pseudo(args, data)
        parts.append(part)
        words.append(said)
        pseudo = len(part.stems)
    target = SimToReal(mixed=sum(len(part.stems) for part in parts), pseudo=pseudo,
                       share=args.mix_share or DEFAULT_SHARE)
    if parts:
        count = mixed_count(plan.fit.batch, target.share)
        target = replace(target, words=(f'In each batch {count} of {plan.fit.batch} images are '
                                        f'of {" and ".join(words)}.',))
    for part in parts:
        data = together(data, part)
    return data, _with_norms(args, plan.input, _with_colours(args, target))


def together(first: LabelledFolder, more: LabelledFolder) -> LabelledFolder:
    """Return the images of both, in this order; DatasetError if the classes differ."""
    if (first.class_names, first.ignore_index) != (more.class_names, more.ignore_index):
        raise DatasetError(
            f'the images that are mixed in have the classes {", ".join(more.class_names)}',
            f'those of --data: {", ".join(first.class_names)}')
    return replace(first, images=first.images + more.images, masks=first.masks + more.masks,
                   stems=first.stems + more.stems)


def _mixed(args: argparse.Namespace) -> LabelledFolder:
    from uncertainty_seg.storage.labelled_folder import counted_once, load_folders

    return counted_once(load_folders(args.mix, ('train', 'val') if args.split == 'all'
                                     else (args.split,)))


def _names(folders: list[Path]) -> str:
    from uncertainty_seg.data.dataset.upkeep import name_of

    return ', '.join(map(name_of, folders))


def _with_colours(args: argparse.Namespace, target: SimToReal) -> SimToReal:
    import numpy as np

    from uncertainty_seg.storage.labelled_folder import find_unlabelled
    from uncertainty_seg.training.sim_to_real import colour_statistics

    if not args.colour_like:
        return target
    places = [find_unlabelled(text) for text in args.colour_like]
    colours = np.stack([colour_statistics(image) for place in places for _, image in place])
    said = (f'Each {"other " * bool(target.mixed)}image has the colours (mean and spread in Lab) '
            f'of one of {len(colours)} images of {", ".join(place.name for place in places)}.')
    return replace(target, colours=colours, words=(*target.words, said))


def _with_norms(args: argparse.Namespace, spec: InputSpec, target: SimToReal) -> SimToReal:
    import cv2

    from uncertainty_seg.core.preprocess import fit_image, Geometry
    from uncertainty_seg.storage.labelled_folder import find_unlabelled
    from uncertainty_seg.training.sim_to_real import NORMS_MEASURED

    if not args.adapt_batchnorm:
        return target
    places = [find_unlabelled(text) for text in args.adapt_batchnorm]
    images = []
    for place in places:
        for _, image in place:
            geometry = Geometry.of(image.shape[0], image.shape[1], spec)
            images.append(fit_image(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), geometry, spec))
    said = (f'{NORMS_MEASURED} {len(images)} images of '
            f'{", ".join(place.name for place in places)}.')
    return replace(target, norm_images=images, norm_words=said)


def _pseudo(args: argparse.Namespace, data: LabelledFolder) -> tuple[LabelledFolder, str]:
    from uncertainty_seg.backends.opening import open_pipeline
    from uncertainty_seg.storage.labelled_folder import find_unlabelled
    from uncertainty_seg.storage.model_bundle import load_bundle
    from uncertainty_seg.training.sim_to_real import pseudo_labelled

    bundle = load_bundle(args.pseudo_bundle or args.init, has_calibration=False)
    card, wanted = bundle.card, args.pseudo_map or MAPS[0]
    if card.class_names != data.class_names:
        raise DatasetError(f'the bundle {card.name} labels {", ".join(card.class_names)}',
                           f'the classes of --data: {", ".join(data.class_names)}')
    if wanted == 'mutual_information' and card.passes < 2:
        raise ConfigError(f'--pseudo-map {wanted} of {card.name}, which has one pass',
                          'a bundle with several', f'take --pseudo-map {MAPS[0]}')
    places = [find_unlabelled(text) for text in args.pseudo_labels]
    images = [pair for place in places for pair in place]
    quantile = args.pseudo_quantile or DEFAULT_QUANTILE
    with open_pipeline(bundle, threads=args.threads, temperature=1.0) as pipeline:
        part = pseudo_labelled(progress(images, desc='label'), predictor(pipeline, wanted), data,
                               quantile, args.pseudo_by_class)
    each = ' of its class' * args.pseudo_by_class
    return part, (
        f'{len(images)} images of {", ".join(place.name for place in places)} with the labels of '
        f'the bundle {card.name}, where the {wanted.replace("_", " ")}{each} is among the lowest '
        f'{quantile:.0%}')


def predictor(pipeline: Any, wanted: str) -> Callable[[Any], tuple[Any, Any]]:
    """Return what gives classes and a map of uncertainty for an RGB image, without padding."""
    import cv2

    from uncertainty_seg.core.preprocess import Geometry

    def predict(image: Any) -> tuple[Any, Any]:
        maps = pipeline.measure(cv2.cvtColor(image, cv2.COLOR_RGB2BGR)).maps
        where = Geometry.of(image.shape[0], image.shape[1], pipeline.card.input)
        return tuple(values[where.rows, where.columns]
                     for values in (maps.label, getattr(maps, wanted)))

    return predict
