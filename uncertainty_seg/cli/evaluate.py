# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure the masks, the uncertainty and the flag of a bundle on labelled images.

Masks are measured by IoU, the confidence by its calibration error, every map by how it ranks wrong
pixels, every score and the gate by how they rank bad frames and, with --ood, frames of another
kind. With --corrupt the images become turbid, dark, blurred, tinted and full of snow, step by
step. Figures of frames have 95 % intervals over the blocks. A bundle without a calibration has no
flag to measure; all else is measured at temperature 1.

"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from uncertainty_seg.cli.arguments import (
    add_settings,
    call_with,
    print_json,
    settings_from_args,
    whole_number,
)
from uncertainty_seg.errors import CalibrationError, ConfigError, DatasetError, require_libraries

if TYPE_CHECKING:
    from uncertainty_seg.calibration.evaluation_run import Evaluated
    from uncertainty_seg.core.bundle import ModelBundle
    from uncertainty_seg.core.settings import Settings

MISUSE = (CalibrationError, ConfigError, DatasetError)


def evaluate(
    bundle: ModelBundle | Path | str,
    data: Path | str,
    *,
    settings: Settings | None = None,
    split: str = 'val',
    ood: Path | str | None = None,
    corrupt_frames: int = 0,
    blocks: Path | str | None = None,
    bad: str | None = None,
    report: Path | str | None = None,
) -> Evaluated:
    """
    Measure a bundle on labelled images.

    Parameters
    ----------
    bundle : ModelBundle, Path or str
        Shipped name or folder.
    data : Path or str
        Folder of labelled images (images/, masks/, classes.json).
    settings : Settings, optional
        Backend, T, seed, mask policy, precision, reduction, ignore mask and ``gate.alpha``.
    split : str
        Split of `data`, if it has a splits.json.
    ood : Path or str, optional
        Folder of images of another kind, which should be refused.
    corrupt_frames : int
        Images on each step of the ladder of corruptions; 0 for no ladder.
    blocks : Path or str, optional
        File with the block of each image; without it each image is a block.
    bad : str, optional
        When a mask is bad; as it was calibrated, or 'iou<0.5'.
    report : Path or str, optional
        HTML file to write.

    Returns
    -------
    Evaluated
        What was measured; ``summary()`` gives all figures as a dictionary. Its ``flag`` is None
        if the bundle has no calibration.

    Raises
    ------
    CalibrationError
        If the bundle has a calibration for other settings.
    ConfigError
        If the rule cannot be read, there is no such promise, or the report cannot be written.
    DatasetError
        If the folders or the file of blocks are wrong.
    BackendUnavailableError
        If a library is not installed.

    """
    from uncertainty_seg.backends.opening import as_bundle, checked_settings
    from uncertainty_seg.calibration.evaluation_run import evaluate_bundle, EvaluationRequest
    from uncertainty_seg.calibration.report.fill import write_evaluation_report
    from uncertainty_seg.calibration.report.page import require_report_place
    from uncertainty_seg.storage.labelled_folder import blocks_path

    request = EvaluationRequest(
        bundle=as_bundle(bundle), settings=checked_settings(settings), data=Path(data),
        split=split, ood=None if ood is None else Path(ood), corrupt_frames=corrupt_frames,
        blocks=blocks_path(data, blocks), bad=bad)
    require_libraries('scipy')
    if report:
        require_report_place(Path(report))
    found = evaluate_bundle(request)
    if report:
        write_evaluation_report(Path(report), request, found)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundle', help='shipped name or folder')
    parser.add_argument('data', type=Path, metavar='DIR', help='folder of labelled images')
    parser.add_argument('--split', default='val', help='of DIR, if it has a splits.json [val]')
    parser.add_argument('--ood', type=Path, metavar='DIR',
                        help='images of another kind, which should be refused')
    parser.add_argument('--corrupt', action='store_true',
                        help='measure the gate on a ladder of corruptions')
    parser.add_argument('--corrupt-frames', type=whole_number(1), default=60,
                        help='images on each step of the ladder, at most [60]')
    parser.add_argument('--blocks', type=Path, metavar='FILE',
                        help='blocks of the images, JSON or CSV [the dives of a dataset, else '
                        'each its own]')
    parser.add_argument('--bad', metavar='RULE',
                        help='when a mask is bad [as it was calibrated, or iou<0.5]')
    parser.add_argument('--report', type=Path, metavar='FILE',
                        help='write an HTML report there')
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from uncertainty_seg.storage.model_bundle import find_bundle

    found = call_with(evaluate, args, settings=settings_from_args(args),
                      corrupt_frames=args.corrupt_frames if args.corrupt else 0)
    print_json({'bundle': str(find_bundle(args.bundle)), **found.summary()})
    return 0
