# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write one page to look through the frames of a score table, and to find labels that are wrong.

The page is a single HTML file that needs no network: filters by any score, predicted class, dive
and flag, a plot of the frames by what the network sees in them, and of each frame image, mask,
heatmap and label side by side. With --labelled the regions whose label the model contradicts are
listed, the strongest evidence first; --errors writes the same list for scripts.

"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from uncertainty_seg.cli.arguments import call_with, print_json, whole_number
from uncertainty_seg.errors import ConfigError, DatasetError, require_libraries, TableError

if TYPE_CHECKING:
    from uncertainty_seg.data.browse.page import BrowsePage

MISUSE = (ConfigError, DatasetError, TableError)
ERROR_ENDINGS = ('.csv', '.json')
_MOST_SENTENCES = 20


def browse(
    tables: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    most: int = 300,
    score: str | None = None,
    selection: Path | str | Sequence[Path | str] = (),
    labelled: Path | str | None = None,
    errors: Path | str | None = None,
    bundle: str = '',
    root: Path | str | None = None,
    masks: bool = True,
    force: bool = False,
) -> BrowsePage:
    """
    Write one page to look through the frames of score tables.

    Parameters
    ----------
    tables : Path, str or sequence of them
        Score tables or selections, of one model and its settings.
    out : Path or str
        HTML file to write.
    most : int
        Frames in the page; their pictures are in it, 40 kB each.
    score : str, optional
        Score that the page is sorted and coloured by at first; without it 'score_ratio', or
        'entropy.mean' of a bundle without a calibration.
    selection : Path, str or sequence of them
        Selections, whose frames are marked.
    labelled : Path or str, optional
        Labelled folder of frames of the table.
    errors : Path or str, optional
        CSV or JSON file to write the suspected labels to.
    bundle : str
        Where the model of the table is now, if it was moved.
    root : Path or str, optional
        Folder that holds the sources now, if they were moved.
    masks : bool
        With masks and heatmaps, where the model of the table can be opened.
    force : bool
        Replace files that are there.

    Returns
    -------
    BrowsePage
        Counts, and sentences worth reading.

    Raises
    ------
    TableError
        If a table cannot be read, or they are of different models.
    ConfigError
        If an option does not fit, or a file is there or cannot be written.
    DatasetError
        If the labelled folder is none, or of other classes.

    """
    from uncertainty_seg.data.browse.page import BrowseRequest, write_browse_page

    as_list = [Path(path) for path in ([tables] if isinstance(tables, (str, Path)) else tables)]
    chosen = [Path(path) for path in ([selection] if isinstance(selection, (str, Path))
                                      else selection)]
    require_libraries('pyarrow', 'jinja2')
    if errors is not None and labelled is None:
        raise ConfigError(f'--errors {errors} without labels', '--labelled and its folder')
    if errors is not None and Path(errors).suffix not in ERROR_ENDINGS:
        raise ConfigError(f'--errors {errors}', 'a file that ends with .csv or .json')
    if errors is not None and Path(errors).resolve() == Path(out).resolve():
        raise ConfigError(f'--errors {errors} is the page too', 'a file of its own')
    request = BrowseRequest(
        as_list, Path(out), most, score, chosen, None if labelled is None else Path(labelled),
        None if errors is None else Path(errors), bundle, None if root is None else Path(root),
        masks, force)
    return write_browse_page(request)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('tables', nargs='+', type=Path, metavar='TABLE',
                        help='score table or selection (folder or part), of one model')
    parser.add_argument('-o', '--out', type=Path, default=Path('browse.html'),
                        help='page to write [browse.html]')
    parser.add_argument('--most', type=whole_number(1, 5000), default=300, metavar='N',
                        help='frames in the page, whose pictures are 40 kB each [300]')
    parser.add_argument('--score', metavar='NAME',
                        help='score to sort and colour by at first [score_ratio; entropy.mean of '
                        'a bundle without a calibration]')
    parser.add_argument('--selection', nargs='+', type=Path, default=[], metavar='TABLE',
                        help='selections, whose frames are marked')
    parser.add_argument('--labelled', type=Path, metavar='DIR',
                        help='labelled folder of frames of the table: their labels are shown, and '
                             'those that the model contradicts are listed')
    parser.add_argument('--errors', type=Path, metavar='FILE',
                        help='write the suspected labels there too, as .csv or .json')
    parser.add_argument('--bundle', default='', metavar='NAME',
                        help='where the model of the table is now, if it was moved')
    parser.add_argument('--root', type=Path, metavar='DIR',
                        help='folder that holds the bags, folders and logs now, if they were '
                             'moved since they were scored')
    parser.add_argument('--no-masks', dest='masks', action='store_false',
                        help='leave masks and heatmaps out, for which the model is run')
    parser.add_argument('--force', action='store_true', help='replace files that are there')


def run(args: argparse.Namespace) -> int:
    """Write the page and say what is in it."""
    found = call_with(browse, args)
    for sentence in found.remarks[:_MOST_SENTENCES]:
        print(sentence, file=sys.stderr)
    if len(found.remarks) > _MOST_SENTENCES:
        print(f'{len(found.remarks) - _MOST_SENTENCES} more such sentences are left out.',
              file=sys.stderr)
    print(f'{found.num_shown} of {found.num_frames} frames -> {found.out}')
    print_json({'verb': 'browse', **found.summary()})
    return 0
