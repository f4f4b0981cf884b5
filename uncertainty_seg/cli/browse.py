# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write an HTML page to browse the frames of a score table.

The page is one file that needs no network. It has filters by score, predicted class, dive and
flag, and shows image, mask and heatmap of each frame side by side. It contains pictures of some
frames and reads photographs from their files; to look at any frame of bags and logs, serve it.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
import sys

from uncertainty_seg.cli.arguments import call_with, print_json, whole_number

_MOST_SENTENCES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('tables', nargs='+', type=Path, metavar='TABLE',
                        help='score table or selection (folder or part), of one model')
    parser.add_argument('-o', '--out', type=Path, default=Path('browse.html'),
                        help='page to write [browse.html]')
    parser.add_argument('--most', type=whole_number(1, 5000), default=300, metavar='N',
                        help='number of frames with pictures in the page, about 40 kB each [300]')
    parser.add_argument('--score', metavar='NAME',
                        help='initial sort and colour [score_ratio; entropy.mean for a bundle '
                        'without a calibration]')
    parser.add_argument('--root', type=Path, metavar='DIR',
                        help='new folder of the bags, folders, logs and the model, if they were '
                             'moved after scoring')
    parser.add_argument('--force', action='store_true', help='replace an existing page')
    parser.add_argument('--serve', type=whole_number(0, 65535), metavar='PORT',
                        help='serve the page to browsers of this computer, with pictures of every '
                        'frame, until Ctrl-C; 0 takes a free port')


def run(args: argparse.Namespace) -> int:
    """Write the page, print its counts, and serve it with ``--serve``."""
    from uncertainty_seg.data.browse import browse

    found = call_with(browse, args)
    say(found.remarks)
    print(f'{found.num_shown} of {found.num_frames} frames -> {found.out}')
    counts = {name: value for name, value in vars(found).items()
              if name not in ('remarks', 'frames')}
    server = None if args.serve is None else found.server(args.serve)
    print_json({'verb': 'browse', **counts, 'address': server and server.address})
    if server is not None:
        with server:
            server.serve_forever()
    return 0


def say(sentences: Iterable[str]) -> None:
    """Print sentences for the user to stderr, at most twenty."""
    every = list(sentences)
    for sentence in every[:_MOST_SENTENCES]:
        print(sentence, file=sys.stderr)
    if len(every) > _MOST_SENTENCES:
        print(f'{len(every) - _MOST_SENTENCES} more such sentences are left out.',
              file=sys.stderr)
