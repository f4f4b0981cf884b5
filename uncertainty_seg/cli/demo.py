# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Show everything at once: a dive goes through the real node over DDS, and pictures come out.

Renders a dive with a silt cloud and an object the network has never seen, plays it to the node in
another process, records what the node says, and makes a contact sheet, a video and a summary.
Fails if the flag did not fall where it must, or did not rise again. ``--offline`` runs the same
pipeline without ROS.

"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from uncertainty_seg.cli.arguments import (
    add_settings,
    positive_number,
    print_json,
    settings_from_args,
    whole_number,
)
from uncertainty_seg.cli.make_dive import add_dive_arguments, dive_options
from uncertainty_seg.errors import UncertaintySegError

if TYPE_CHECKING:
    from uncertainty_seg.core.settings import Settings
    from uncertainty_seg.sim.demo.report import Accuracy
    from uncertainty_seg.sim.demo.timeline import Timeline


SHEET_FILE, VIDEO_FILE = 'contact_sheet.png', 'dive.mp4'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('--out', type=Path, default=Path('demo_output'),
                        help='folder for everything [demo_output]')
    parser.add_argument('--offline', action='store_true', help='replay the dive without ROS')
    parser.add_argument('--pace', type=positive_number(100),
                        help="how fast the node is fed, 1 for the dive's own time "
                             '[what this computer can process without loss, at most 1]')
    parser.add_argument('--no-check', action='store_true',
                        help='do not fail when the flag did not do its job')
    add_dive_arguments(parser)
    parser.add_argument('--workers', type=whole_number(1, 64), default=2,
                        help='processes that render the dive [2]')
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """
    Run the demo; see the module. Returns 0.

    Raises UncertaintySegError if a part fails, or the flag did not do its job.
    """
    from uncertainty_seg.cli.make_dive import ensure_dive
    from uncertainty_seg.sim.demo.report import problems_of, summary_lines

    settings = _with_loosest_promise(settings_from_args(args, model='pipeline'))
    dive, out_bag = args.out / 'dive', args.out / 'output_bag'
    _say('1/4 dive')
    if not ensure_dive(dive, dive_options(args), args.workers):
        _say(f'    {dive} is there')
    _say('2/4 node' if not args.offline else '2/4 replay')
    _make_outputs(args, settings, dive, out_bag)
    _say('3/4 pictures')
    timeline, accuracy = _make_pictures(args.out, settings, dive, out_bag)
    _say('4/4 summary\n')
    print(*summary_lines(timeline, accuracy), sep='\n')
    print(f'look at    {args.out / SHEET_FILE}\n           {args.out / VIDEO_FILE}')
    problems = problems_of(timeline)
    print_json({**_facts(timeline, accuracy), 'verb': 'demo', 'out': args.out,
                'is_offline': args.offline, 'problems': problems})
    if problems and not args.no_check:
        raise UncertaintySegError(' '.join(problems), fix='use --no-check to accept that')
    return 0


def _with_loosest_promise(settings: Settings) -> Settings:
    """Take the largest promised alpha unless one was asked for: a dive is harder than scenes."""
    from uncertainty_seg.storage.model_bundle import load_bundle

    calibration = load_bundle(settings.model).calibration
    if settings.gate.alpha or calibration is None or not calibration.promises:
        return settings
    alpha = max(promise.alpha for promise in calibration.promises)
    return replace(settings, gate=replace(settings.gate, alpha=alpha))


def _make_outputs(args: argparse.Namespace, settings: Settings, dive: Path, out_bag: Path) -> None:
    from uncertainty_seg.data.replay import OutputChoice, replay_bag
    from uncertainty_seg.sim.demo.live import find_pace, run_live
    from uncertainty_seg.sim.demo.timeline import IMAGE_TOPIC

    if args.offline:
        replay_bag(dive, out_bag, settings, IMAGE_TOPIC, choice=OutputChoice(has_views=True),
                   overwrite=True)
        return
    pace = args.pace or find_pace(settings, dive, args.rate)
    _say(f'    playing at {pace:.2f} times the speed of the dive')
    run_live(dive, out_bag, args.out / 'logs', settings, pace, args.duration)


def _make_pictures(
    out: Path, settings: Settings, dive: Path, out_bag: Path
) -> tuple[Timeline, Accuracy]:
    from uncertainty_seg.sim.demo.pictures import make_pictures
    from uncertainty_seg.storage.model_bundle import load_bundle

    card = load_bundle(settings.model).card
    subtitle = f'model {card.name}, {settings.map.replace("_", " ")} of {card.passes} passes'
    return make_pictures(dive, out_bag, card, subtitle, out / SHEET_FILE, out / VIDEO_FILE)


def _facts(timeline: Timeline, accuracy: Accuracy) -> dict[str, Any]:
    from uncertainty_seg.sim.demo.report import median_latency_ms

    return {
        'frames': len(timeline.moments), 'processed': len(timeline.taken),
        'median_latency_ms': median_latency_ms(timeline), 'mean_iou': accuracy.mean_iou,
        'mean_iou_confident': accuracy.mean_iou_confident,
        'confident_in_plain': timeline.plain_share,
        'events': [{'name': e.name, 'start_s': e.start_s, 'stop_s': e.stop_s,
                    'fell_after_s': e.fell_after_s, 'recovered_after_s': e.recovered_after_s}
                   for e in timeline.events],
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
