# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Play a rendered dive through the real node over DDS, and make a contact sheet and a summary.

The dive has a silt cloud and an object that is not in the training data. A player sends it to the
node in another process, and a recorder keeps what the node publishes. Fails if the flag did not
fall or rise as expected. ``--offline`` runs the same pipeline without ROS.
"""

import argparse
from pathlib import Path

from uncertainty_seg.cli.arguments import (
    add_settings,
    call_with,
    print_json,
    settings_from_args,
    whole_number,
)
from uncertainty_seg.cli.simulate import add_dive_arguments
from uncertainty_seg.errors import UncertaintySegError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('--out', type=Path, default=Path('demo_output'),
                        help='output folder [demo_output]')
    parser.add_argument('--offline', action='store_true', help='replay the dive without ROS')
    parser.add_argument('--no-check', action='store_true',
                        help='do not fail if the flag did not fall and rise as expected')
    parser.add_argument('--domain', type=whole_number(0, 232), metavar='ID',
                        help='ROS domain, to watch it live [a free one, invisible to other '
                        'computers]')
    add_dive_arguments(parser)
    add_settings(parser, names_model=True)


def run(args: argparse.Namespace) -> int:
    """
    Run the demo; see the module. Returns 0.

    Raises UncertaintySegError if a part fails, or the flag did not fall or rise as expected.
    """
    from uncertainty_seg.data.demo import demo
    from uncertainty_seg.sim.demo.timeline import summary_lines

    result = call_with(demo, args, settings=settings_from_args(args, model='pipeline'))
    print(*summary_lines(result.timeline), sep='\n')
    print(f'look at    {result.sheet}')
    print_json({**result.facts, 'out': args.out, 'is_offline': args.offline})
    if result.problems and not args.no_check:
        raise UncertaintySegError(' '.join(result.problems), fix='use --no-check to ignore this')
    return 0
