# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Fit the temperature and the limits of a bundle's flag, with a promise on accepted bad frames.

Training frames give the density of ordinary scores, and the scores that tell bad frames from good
ones. A part of the validation blocks gives the temperature. The rest, which nothing else has
seen, gives the limits, so that P(a frame is accepted and bad) is at most alpha (conformal risk
control over blocks). calibration.json is written into the bundle.

Blocks are independent of each other: dives, sites, tracks. Neighbouring frames of a video are
not; name the blocks with --blocks unless every image is independent of the others.

"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
from pathlib import Path
from typing import TYPE_CHECKING

from uncertainty_seg.errors import CalibrationError, ConfigError, DatasetError
from uncertainty_seg.tools.arguments import (
    add_settings,
    call_with,
    positive_number,
    print_json,
    rate,
    require_libraries,
    settings_from_args,
    whole_number,
)

if TYPE_CHECKING:
    from uncertainty_seg.core.bundle import ModelBundle
    from uncertainty_seg.core.settings import Settings
    from uncertainty_seg.tools.calibrate.calibration_run import CalibrationOutcome

MISUSE = (CalibrationError, ConfigError, DatasetError)
_NAMES = ('backend', 'threads', 'passes', 'seed', 'mask_policy', 'precision', 'ignore_mask')


def calibrate(
    bundle: ModelBundle | Path | str,
    train: Path | str,
    val: Path | str,
    *,
    settings: Settings | None = None,
    blocks: Path | str | None = None,
    bad: str = 'iou<0.5',
    alphas: Sequence[float] = (0.05, 0.10),
    scores: Sequence[str] = (),
    tune_share: float = 1 / 3,
    quantile: float = 0.98,
    max_train: int = 2000,
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
        Backend, T, seed, mask policy, precision and ignore mask, as the node will run.
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
    from uncertainty_seg.opening import as_bundle, checked_settings
    from uncertainty_seg.storage.model_bundle import sign_bundle, update_metrics, write_calibration
    from uncertainty_seg.storage.signatures import read_private_key
    from uncertainty_seg.tools.calibrate.calibration_run import CalibrationRequest, fit_calibration
    from uncertainty_seg.tools.report.fill import write_calibration_report
    from uncertainty_seg.tools.report.page import require_report_place

    request = CalibrationRequest(
        bundle=as_bundle(bundle, has_calibration=False), settings=checked_settings(settings),
        train=Path(train), val=Path(val), blocks=None if blocks is None else Path(blocks),
        bad=bad, alphas=tuple(sorted(set(alphas))), scores=tuple(scores), tune_share=tune_share,
        quantile=quantile, max_train=max_train)
    require_libraries('scipy', 'sklearn')
    if report:
        require_report_place(Path(report))
    key = None if sign is None else read_private_key(sign)  # before minutes of work
    folder = request.bundle.folder
    if not os.access(folder, os.W_OK):
        raise ConfigError(f'bundle {folder} may not be written to', 'a folder that may',
                          'calibrate a copy of it')
    found = fit_calibration(request)
    write_calibration(request.bundle, found.calibration, found.features)
    update_metrics(request.bundle, found.metrics())
    if key is not None:
        sign_bundle(folder, key)
    if report:
        write_calibration_report(Path(report), request, found)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundle', help='shipped name or folder')
    parser.add_argument('--data', type=Path, metavar='DIR',
                        help='one folder with a splits.json: short for --train DIR --val DIR')
    parser.add_argument('--train', type=Path, metavar='DIR',
                        help='labelled images; the split "train" if DIR has a splits.json')
    parser.add_argument('--val', type=Path, metavar='DIR',
                        help='labelled images the network has not seen; the split "val"')
    parser.add_argument('--blocks', type=Path, metavar='FILE',
                        help='blocks of the validation images, JSON or CSV [each its own]')
    parser.add_argument('--bad', default='iou<0.5', metavar='RULE',
                        help="when a mask is bad: 'iou<0.5', 'iou[diver]<0.5', 'accuracy<0.7', "
                        'joined by or [iou<0.5]')
    parser.add_argument('--alpha', dest='alphas', nargs='+', type=rate, default=[0.05, 0.10],
                        metavar='ALPHA',
                        help='P(accepted and bad) to promise, one or more [0.05 0.10]')
    parser.add_argument('--scores', nargs='+', metavar='SCORE', default=(),
                        help='scores of the gate [chosen on the training frames]')
    parser.add_argument('--tune-share', type=positive_number(0.9), default=1 / 3,
                        help='part of the validation blocks that the temperature is fitted on '
                        '[0.33]')
    parser.add_argument('--quantile', type=positive_number(1.0), default=0.98,
                        help='share of frames that the threshold of a score outside of the gate '
                        'lets pass [0.98]')
    parser.add_argument('--frames', dest='max_train', metavar='FRAMES', type=whole_number(1),
                        default=2000,
                        help='training frames to look at, at most, evenly spread [2000]')
    parser.add_argument('--report', type=Path, metavar='FILE',
                        help='write an HTML report there')
    parser.add_argument('--sign', type=Path, metavar='KEY',
                        help='sign the bundle with this private key, a PEM file')
    add_settings(parser, _NAMES)


def run(args: argparse.Namespace) -> int:
    """Calibrate and print what was found."""
    from uncertainty_seg.storage.model_bundle import find_bundle

    train, val = args.train or args.data, args.val or args.data
    if train is None or val is None:
        raise ConfigError('no training or validation images', '--train DIR and --val DIR')
    found = call_with(calibrate, args, train=train, val=val,
                      settings=settings_from_args(args, _NAMES))
    print_json({'bundle': str(find_bundle(args.bundle)), **found.summary()})
    return 0
