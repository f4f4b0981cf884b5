# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Fit the temperature and the limits of a bundle's flag, with a promise on accepted bad frames.

Training frames give the density of ordinary scores, and the scores that tell bad frames from good
ones; with --ood also guards, which refuse frames of another kind. A part of the validation blocks
gives the temperature. The rest, which nothing else has seen, gives the limits, so that P(a frame
is accepted and bad) is at most alpha (conformal risk control over blocks). calibration.json is
written into the bundle.

With --folds the bundle was trained on all frames, and networks that were each trained without one
fold stand for it: every frame is scored by a network that never saw it, and scores, guards,
temperature and limits come from all of them (see crossfit).

With --like the bundle is another precision of one that is calibrated. It takes over that one's
limits, lowered until hardly an image of --data is accepted that was not before; no masks needed.

Blocks are independent of each other: dives, sites, tracks. Neighbouring frames of a video are
not; name the blocks with --blocks unless every image is independent of the others.

"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from uncertainty_seg.cli.arguments import (
    add_settings,
    call_with,
    positive_number,
    print_json,
    rate,
    settings_from_args,
    whole_number,
)
from uncertainty_seg.errors import CalibrationError, ConfigError, DatasetError, require_libraries

if TYPE_CHECKING:
    from uncertainty_seg.calibration.calibration_run import CalibrationOutcome, CalibrationRequest
    from uncertainty_seg.calibration.carried_over import CarriedOver
    from uncertainty_seg.calibration.cross_fitted import FoldsRequest
    from uncertainty_seg.core.bundle import ModelBundle
    from uncertainty_seg.core.settings import Settings
    from uncertainty_seg.storage.signatures import SigningKey

MISUSE = (CalibrationError, ConfigError, DatasetError)
# By the names of the parameters; limits that are taken over have nothing of them.
_OPTIONS_OF_A_FIT = {
    **{name: name for name in ('train', 'val', 'folds', 'blocks', 'scores', 'ood', 'report',
                               'bad', 'quantile')},
    'alpha': 'alphas', 'frames': 'max_train', 'neighbours': 'neighbours',
    'tune-share': 'tune_share',
}


def calibrate(
    bundle: ModelBundle | Path | str,
    train: Path | str,
    val: Path | str,
    *,
    settings: Settings | None = None,
    ood: Path | str | None = None,
    blocks: Path | str | None = None,
    bad: str = 'iou<0.5',
    alphas: Sequence[float] = (0.05, 0.10),
    scores: Sequence[str] = (),
    tune_share: float = 1 / 3,
    quantile: float = 0.98,
    max_train: int = 2000,
    neighbours: int = 5,
    report: Path | str | None = None,
    sign: Path | str | None = None,
) -> CalibrationOutcome:
    """
    Fit temperature and limits of a bundle, and write calibration.json and figures into it.

    Parameters
    ----------
    bundle : ModelBundle, Path or str
        Shipped name or folder; its old calibration is not looked at.
    train, val : Path or str
        Folders of labelled images (images/, masks/, classes.json); the splits 'train' and 'val'
        where they have a splits.json. The network must not have seen the images of `val`.
    settings : Settings, optional
        Backend, T, seed, mask policy, precision, reduction and ignore mask, as the node will run.
    ood : Path or str, optional
        Folder of images of another kind: guards prove on them that they refuse more of those than
        of the training frames. Without it the density is the guard.
    blocks : Path or str, optional
        File with the block of each validation image; without it each image is a block.
    bad : str
        When a mask is bad: 'iou<0.5', 'iou[diver]<0.5', 'accuracy<0.7', joined by 'or'.
    alphas : sequence of float
        P(accepted and bad) to promise.
    scores : sequence of str
        Scores of the gate; chosen on the training frames if empty.
    tune_share : float
        Part of the validation blocks that the temperature is fitted on.
    quantile : float
        Share of frames that the limit of a score outside of the gate lets pass.
    max_train : int
        Training frames to look at, at most, evenly spread.
    neighbours : int
        k of 'features.knn', the distance of a frame to the k-th nearest of these.
    report : Path or str, optional
        HTML file to write.
    sign : Path or str, optional
        Private key to sign the bundle with. Without it a signature of before is removed.

    Returns
    -------
    CalibrationOutcome
        The calibration, and what it was made from.

    Raises
    ------
    CalibrationError
        If there are too few blocks, or nothing to choose or promise on.
    ConfigError
        If the rule cannot be read, a score does not exist, or a file cannot be written.
    DatasetError
        If the folders or the file of blocks are wrong, or an image is in both folders.
    BackendUnavailableError
        If a library is not installed.

    """
    from uncertainty_seg.backends.opening import as_bundle, checked_settings
    from uncertainty_seg.calibration.calibration_run import CalibrationRequest, fit_calibration
    from uncertainty_seg.storage.labelled_folder import blocks_path

    request = CalibrationRequest(
        bundle=as_bundle(bundle, has_calibration=False), settings=checked_settings(settings),
        train=Path(train), val=Path(val), ood=None if ood is None else Path(ood),
        blocks=blocks_path(val, blocks), bad=bad,
        alphas=tuple(sorted(set(alphas))), scores=tuple(scores), tune_share=tune_share,
        quantile=quantile, max_train=max_train, neighbours=neighbours)
    key = _checked_key(request.bundle, report, sign)
    found = fit_calibration(request)
    _write(request, found, key, report)
    return found


def calibrate_on_folds(
    bundle: ModelBundle | Path | str,
    data: Path | str,
    folds: Path | str,
    *,
    settings: Settings | None = None,
    ood: Path | str | None = None,
    blocks: Path | str | None = None,
    bad: str = 'iou<0.5',
    alphas: Sequence[float] = (0.05, 0.10),
    scores: Sequence[str] = (),
    quantile: float = 0.98,
    max_train: int = 2000,
    neighbours: int = 5,
    report: Path | str | None = None,
    sign: Path | str | None = None,
) -> CalibrationOutcome:
    """
    Calibrate a bundle that was trained on all frames, by networks that each did without a fold.

    Parameters
    ----------
    bundle : ModelBundle, Path or str
        Shipped name or folder; its old calibration is not looked at.
    data : Path or str
        Folder of labelled images; the splits 'train' and 'val' where it has a splits.json.
    folds : Path or str
        Folder with folds.json (image to fold) and the bundles fold-0 to fold-(K-1), each trained
        as `bundle` but without its fold; further ones of a fold are fold-k-seed-s.
    ood : Path or str, optional
        Images of another kind. Without them no guard can prove its worth, and one is taken.
    blocks : Path or str, optional
        File with the block of each image; without it each image is a block.
    settings, bad, alphas, scores, quantile, max_train, neighbours, report, sign
        See `calibrate`.

    Returns
    -------
    CalibrationOutcome
        The calibration, what it was made from, and in `nested` what it is worth.

    Raises
    ------
    UncertaintySegError
        As `calibrate`; or if a network of a fold is missing or unlike the bundle, or the folds do
        not fit the images.

    """
    from uncertainty_seg.backends.opening import as_bundle, checked_settings
    from uncertainty_seg.calibration.cross_fitted import fit_on_folds, FoldsRequest
    from uncertainty_seg.storage.labelled_folder import blocks_path

    request = FoldsRequest(
        bundle=as_bundle(bundle, has_calibration=False), settings=checked_settings(settings),
        data=Path(data), folds=Path(folds), ood=None if ood is None else Path(ood),
        blocks=blocks_path(data, blocks), bad=bad,
        alphas=tuple(sorted(set(alphas))), scores=tuple(scores), quantile=quantile,
        max_train=max_train, neighbours=neighbours)
    key = _checked_key(request.bundle, report, sign)
    found = fit_on_folds(request)
    _write(request, found, key, report)
    return found


def calibrate_like(
    bundle: ModelBundle | Path | str,
    like: ModelBundle | Path | str,
    data: Path | str,
    *,
    settings: Settings | None = None,
    error: float = 0.005,
    sign: Path | str | None = None,
) -> CarriedOver:
    """
    Carry the limits of a bundle over to the same network in another precision, and write them.

    Parameters
    ----------
    bundle : ModelBundle, Path or str
        What `convert` made; shipped name or folder. Its old calibration is not looked at.
    like : ModelBundle, Path or str
        The calibrated bundle that it was made of.
    data : Path or str
        Folder of images like those that `like` was calibrated on; no masks are needed.
    error : float
        Largest share of frames that `bundle` may accept and `like` not, added to each alpha; 0.005
        needs 398 images.
    settings, sign
        See `calibrate`.

    Returns
    -------
    CarriedOver
        The calibration as written, and how far the limits were lowered.

    Raises
    ------
    UncertaintySegError
        If the two are not the same network, `like` promises nothing, there are too few images, or
        the scores lie too far apart.

    """
    from uncertainty_seg.backends.opening import as_bundle, checked_settings
    from uncertainty_seg.calibration.carried_over import carry_over
    from uncertainty_seg.storage.model_bundle import sign_bundle, write_calibration

    variant, source = as_bundle(bundle, has_calibration=False), as_bundle(like)
    key = _checked_key(variant, None, sign)
    found = carry_over(variant, source, Path(data), checked_settings(settings), error)
    write_calibration(variant, found.calibration, source.features)
    if key is not None:
        sign_bundle(variant.folder, key)
    return found


def require_request(
    bundle: ModelBundle | Path | str, *, bad: str = 'iou<0.5', scores: Sequence[str] = (),
    max_train: int = 2000, neighbours: int = 5, report: Path | str | None = None,
    sign: Path | str | None = None,
) -> None:
    """
    Refuse, before networks are trained for it, a calibration that could not be made or written.

    Parameters are those of `calibrate`. Raises ConfigError if the rule cannot be read, a score
    does not exist, there are no more frames than neighbours, the report cannot be written, or the
    bundle or its key cannot be used; BackendUnavailableError if a library is not installed.
    """
    from uncertainty_seg.backends.opening import as_bundle
    from uncertainty_seg.calibration.calibration_run import require_neighbours, require_scores
    from uncertainty_seg.calibration.statistics.bad_rule import BadRule

    opened = as_bundle(bundle, has_calibration=False)
    BadRule.parse(bad, opened.card.class_names)
    require_scores(opened.card, scores)
    require_neighbours(neighbours, max_train)
    _checked_key(opened, report, sign)


def _checked_key(
    bundle: ModelBundle, report: Path | str | None, sign: Path | str | None
) -> SigningKey | None:
    """Refuse before minutes of work what could not be written at their end."""
    from uncertainty_seg.calibration.report.page import require_report_place
    from uncertainty_seg.storage.signatures import read_private_key

    require_libraries('scipy', 'sklearn')
    if report:
        require_report_place(Path(report))
    key = None if sign is None else read_private_key(sign)
    if not os.access(bundle.folder, os.W_OK):
        raise ConfigError(f'bundle {bundle.folder} may not be written to', 'a folder that may',
                          'calibrate a copy of it')
    return key


def _write(
    request: CalibrationRequest | FoldsRequest, found: CalibrationOutcome, key: SigningKey | None,
    report: Path | str | None,
) -> None:
    from uncertainty_seg.calibration.report.fill import write_calibration_report
    from uncertainty_seg.storage.model_bundle import sign_bundle, update_metrics, write_calibration

    write_calibration(request.bundle, found.calibration, found.features)
    # Of frames without a bad one there is no AUROC of bad frames, for one.
    update_metrics(request.bundle, {name: value for name, value in found.metrics().items()
                                    if math.isfinite(value)})
    if key is not None:
        sign_bundle(request.bundle.folder, key)
    if report:
        write_calibration_report(Path(report), request, found)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundle', help='shipped name or folder')
    parser.add_argument('--data', type=Path, metavar='DIR',
                        help='one folder with a splits.json: short for --train DIR --val DIR')
    parser.add_argument('--train', type=Path, metavar='DIR',
                        help='labelled images; the split "train" if DIR has a splits.json')
    parser.add_argument('--val', type=Path, metavar='DIR',
                        help='labelled images the network has not seen; the split "val"')
    parser.add_argument('--folds', type=Path, metavar='FOLDER',
                        help='folds.json and the bundles fold-0 ..., each trained without its '
                        'fold: calibrate on all images of --data by cross-fitting')
    parser.add_argument('--like', metavar='BUNDLE',
                        help='take over the limits of this bundle, of which this one is another '
                        'precision; --data then needs no masks')
    parser.add_argument('--error', type=rate, default=argparse.SUPPRESS,
                        help='with --like: share of frames that this bundle may accept and that '
                        'one not; added to each alpha [0.005]')
    add_gate_arguments(parser)
    parser.add_argument('--tune-share', type=positive_number(0.9), default=argparse.SUPPRESS,
                        help='part of the validation blocks that the temperature is fitted on '
                        '[0.33]')


def add_gate_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Declare what every way to calibrate takes.

    What has a default is absent where it is not given: a way that does not use it can refuse it.
    """
    parser.add_argument('--blocks', type=Path, metavar='FILE',
                        help='blocks of the images, JSON or CSV [the dives of a dataset, else '
                        'each its own]')
    parser.add_argument('--bad', default=argparse.SUPPRESS, metavar='RULE',
                        help="when a mask is bad: 'iou<0.5', 'iou[diver]<0.5', 'accuracy<0.7', "
                        'joined by or [iou<0.5]')
    parser.add_argument('--alpha', dest='alphas', nargs='+', type=rate,
                        default=argparse.SUPPRESS, metavar='ALPHA',
                        help='P(accepted and bad) to promise, one or more [0.05 0.10]')
    parser.add_argument('--scores', nargs='+', metavar='SCORE', default=(),
                        help='scores of the gate [chosen on the training frames]')
    parser.add_argument('--ood', type=Path, metavar='DIR',
                        help='images of another kind, on which guards prove their worth')
    parser.add_argument('--quantile', type=positive_number(1.0), default=argparse.SUPPRESS,
                        help='share of frames that the threshold of a score outside of the gate '
                        'lets pass [0.98]')
    parser.add_argument('--frames', dest='max_train', metavar='FRAMES', type=whole_number(1),
                        default=argparse.SUPPRESS,
                        help='training frames to look at, at most, evenly spread [2000]')
    parser.add_argument('--neighbours', metavar='K', type=whole_number(1, 1000),
                        default=argparse.SUPPRESS, help='k of features.knn, the distance to the '
                        'k-th nearest of these [5]')
    parser.add_argument('--report', type=Path, metavar='FILE',
                        help='write an HTML report there')
    parser.add_argument('--sign', type=Path, metavar='KEY',
                        help='sign the bundle with this private key, a PEM file')
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Calibrate and print what was found."""
    from uncertainty_seg.storage.model_bundle import find_bundle

    settings = settings_from_args(args)
    if args.like is not None:
        return _run_like(args, settings)
    if hasattr(args, 'error'):
        raise ConfigError('--error without --like', '--like BUNDLE, whose limits are taken over',
                          'leave --error out: --alpha says what is promised')
    if args.folds is not None:
        if args.data is None or args.train or args.val:
            raise ConfigError('--folds without --data, or with --train or --val',
                              '--data DIR, all images that have a fold')
        if hasattr(args, 'tune_share'):
            raise ConfigError('--folds with --tune-share', 'no share: with folds each fold has '
                              'the temperature that the others choose', 'leave --tune-share out')
        found = call_with(calibrate_on_folds, args, settings=settings)
    else:
        train, val = args.train or args.data, args.val or args.data
        if train is None or val is None:
            raise ConfigError('no training or validation images', '--train DIR and --val DIR')
        found = call_with(calibrate, args, train=train, val=val, settings=settings)
    print_json({'bundle': str(find_bundle(args.bundle)), **found.summary()})
    return 0


def _run_like(args: argparse.Namespace, settings: Settings) -> int:
    from uncertainty_seg.storage.model_bundle import find_bundle

    given = [f'--{option}' for option, name in _OPTIONS_OF_A_FIT.items()
             if getattr(args, name, None)]
    if args.data is None or given:
        raise ConfigError('--like ' + (f'with {given[0]}' if given else 'without --data'),
                          '--data DIR, a folder of images', 'the limits are those of the bundle '
                          'it is like; leave the rest out')
    found = call_with(calibrate_like, args, settings=settings)
    print_json({'bundle': str(find_bundle(args.bundle)), **found.summary()})
    return 0
