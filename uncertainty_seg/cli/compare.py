# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compare bundles with one deterministic pass: what each costs, and what it is better in.

One table says for each bundle its time and memory, mean IoU, calibration error, how well its maps
rank wrong pixels and its scores rank bad and foreign frames, and how many frames it accepts at the
same kept promise, each with the 95 % interval of its difference from the baseline: the bundle of
method 'single', or else the first bundle without what makes its passes differ. Maps and scores are
picked on folds and reported on the others. A run that was stopped goes on where it was.

"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from uncertainty_seg.cli.arguments import (
    add_settings,
    call_with,
    print_json,
    rate,
    settings_from_args,
    whole_number,
)
from uncertainty_seg.errors import ConfigError, DatasetError, ModelBundleError, require_libraries

if TYPE_CHECKING:
    from uncertainty_seg.calibration.compare.run import Comparison
    from uncertainty_seg.core.bundle import ModelBundle
    from uncertainty_seg.core.settings import Settings

MISUSE = (ConfigError, DatasetError, ModelBundleError)
_MOST = 10**9


def compare(
    bundles: Sequence[ModelBundle | Path | str],
    data: Path | str,
    *,
    settings: Settings | None = None,
    split: str | None = None,
    ood: Sequence[Path | str] = (),
    baseline: ModelBundle | Path | str | None = None,
    unknown: Path | str | None = None,
    unknown_classes: Sequence[str] = (),
    blocks: Path | str | None = None,
    bad: str | None = None,
    alphas: Sequence[float] = (0.05, 0.10),
    folds: int = 5,
    draws: int = 500,
    max_frames: int = _MOST,
    cache: Path | str | None = None,
    html: Path | str | None = None,
    json_file: Path | str | None = None,
    csv_file: Path | str | None = None,
) -> Comparison:
    """
    Compare bundles on labelled images.

    Parameters
    ----------
    bundles : sequence of ModelBundle, Path or str
        Shipped names or folders, all with the classes of the first; or folders that `crossfit`
        filled, all with the same folds, whose networks each measure what they never saw.
    data : Path or str
        Folder of labelled images (images/, masks/, classes.json).
    settings : Settings, optional
        Backend, threads, seed, precision, reduction and ignore mask; T is each bundle's own.
    split : str, optional
        Split of `data`, if it has a splits.json; without it 'val', or all that have a fold.
    ood : sequence of Path or str
        Folders of images of another kind, which should be refused.
    baseline : ModelBundle, Path or str, optional
        What all are compared with; by default the first bundle of method 'single', or else the
        deterministic pass of the first bundle.
    unknown : Path or str, optional
        Folder of masks STEM.png, not zero where an object is that no network was shown.
    unknown_classes : sequence of str
        Classes of `data` that the bundles do not have: their pixels are unseen objects.
    blocks : Path or str, optional
        File with the block of each image; without it each image is a block.
    bad : str, optional
        When a mask is bad; as the first bundle was calibrated, or 'iou<0.5'.
    alphas : sequence of float
        Shares that may be accepted and bad.
    folds : int
        Parts of the blocks for the choice of maps and scores.
    draws : int
        Of the bootstrap.
    max_frames : int
        Labelled images to look at, at most, evenly spread.
    cache : Path or str, optional
        Where measured frames are kept; uncertainty_seg/compare in the user's cache without.
    html, json_file, csv_file : Path or str, optional
        Files to write: the page, and every row.

    Returns
    -------
    Comparison
        Its rows; ``summary()`` gives them as a dictionary.

    Raises
    ------
    ModelBundleError
        If the bundles do not belong together.
    DatasetError
        If the folders or the file of blocks are wrong, or there are too few frames.
    ConfigError
        If the rule cannot be read, or a file cannot be written.
    BackendUnavailableError
        If a library is not installed.

    """
    from uncertainty_seg.backends.gpu.engine_cache import user_cache
    from uncertainty_seg.backends.opening import checked_settings
    from uncertainty_seg.calibration.compare import show
    from uncertainty_seg.calibration.compare.contenders import as_given
    from uncertainty_seg.calibration.compare.run import CompareRequest, run_comparison
    from uncertainty_seg.calibration.report.page import require_place
    from uncertainty_seg.storage.labelled_folder import blocks_path

    if not bundles:
        raise ConfigError('no bundle to compare', 'at least one')
    request = CompareRequest(
        bundles=tuple(as_given(bundle) for bundle in bundles),
        baseline=None if baseline is None else as_given(baseline),
        settings=checked_settings(settings), data=Path(data), split=split,
        ood=tuple(map(Path, ood)), unknown=None if unknown is None else Path(unknown),
        unknown_classes=tuple(unknown_classes), blocks=blocks_path(data, blocks),
        bad=bad, alphas=tuple(alphas), folds=folds, draws=draws, max_frames=max_frames,
        cache=user_cache() / 'compare' if cache is None else Path(cache))
    if html:
        require_libraries('jinja2')
    files = [(Path(place), what, write) for place, what, write in (
        (html, 'page', show.write_page), (json_file, 'file', show.write_json),
        (csv_file, 'file', show.write_csv)) if place]
    for path, what, _ in files:
        require_place(path, what)
    found = run_comparison(request)
    for path, _, write in files:
        write(path, found)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundles', nargs='+', metavar='BUNDLE',
                        help='shipped name or folder, or the folder of a cross-fitting')
    parser.add_argument('data', type=Path, metavar='DATA', help='folder of labelled images')
    parser.add_argument('--split', help='of DATA, if it has a splits.json [val; of folds, all]')
    parser.add_argument('--ood', type=Path, metavar='DIR', action='append', default=[],
                        help='images of another kind, which should be refused; may be repeated')
    parser.add_argument('--baseline', metavar='BUNDLE',
                        help="what all are compared with [the first of method 'single', or the "
                        'deterministic pass of the first]')
    parser.add_argument('--unknown', type=Path, metavar='DIR',
                        help='masks STEM.png, not zero on objects that no network was shown')
    parser.add_argument('--unknown-classes', nargs='+', metavar='NAME', default=(),
                        help='classes of DATA that the bundles do not have: unseen objects')
    parser.add_argument('--blocks', type=Path, metavar='FILE',
                        help='blocks of the images, JSON or CSV [the dives of a dataset, else '
                        'each its own]')
    parser.add_argument('--bad', metavar='RULE', help='when a mask is bad [as the first bundle '
                        'was calibrated, or iou<0.5]')
    parser.add_argument('--alpha', dest='alphas', nargs='+', type=rate, default=[0.05, 0.10],
                        metavar='ALPHA', help='P(accepted and bad) to promise [0.05 0.10]')
    parser.add_argument('--folds', type=whole_number(2), default=5,
                        help='parts for the choice of maps and scores [5]')
    parser.add_argument('--draws', type=whole_number(1), default=500,
                        help='of the bootstrap [500]')
    parser.add_argument('--frames', dest='max_frames', metavar='FRAMES', type=whole_number(1),
                        default=_MOST, help='labelled images, at most, evenly spread [all]')
    parser.add_argument('--cache', type=Path, metavar='DIR',
                        help="where measured frames are kept [in the user's cache]")
    parser.add_argument('--html', type=Path, metavar='FILE', help='write the page there')
    parser.add_argument('--json', dest='json_file', type=Path, metavar='FILE',
                        help='write every row there, as one JSON object')
    parser.add_argument('--csv', dest='csv_file', type=Path, metavar='FILE',
                        help='write every row there, one a line')
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Compare and print the table."""
    from uncertainty_seg.calibration.compare.show import terminal_text

    found = call_with(compare, args, settings=settings_from_args(args))
    print(terminal_text(found), file=sys.stdout)
    print_json(found.summary())
    return 0
