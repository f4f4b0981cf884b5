# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The demo: plays a dive through the real node, and makes pictures and a summary."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
import os
from pathlib import Path
import sys
from typing import Any

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.data.replay import replay
from uncertainty_seg.sim.demo.live import find_pace, require_ros, ros_environment, run_live
from uncertainty_seg.sim.demo.pictures import make_pictures
from uncertainty_seg.sim.demo.timeline import median_latency_ms, problems_of, Timeline
from uncertainty_seg.sim.dive import Dive, ensure_dive, IMAGE_TOPIC
from uncertainty_seg.storage.model_bundle import load_bundle

SHEET_FILE = 'contact_sheet.png'


@dataclass(frozen=True)
class DemoResult:
    """The result of a demo: events, verdicts, problems, and the contact sheet."""

    timeline: Timeline
    problems: list[str]
    sheet: Path

    @property
    def facts(self) -> dict[str, Any]:
        """Return the facts of the demo as plain values."""
        timeline = self.timeline
        return {
            'frames': len(timeline.moments), 'processed': len(timeline.taken),
            'median_latency_ms': median_latency_ms(timeline),
            'confident_in_plain': timeline.plain_share,
            'events': [vars(event) for event in timeline.events], 'problems': self.problems}


def demo(
    out: Path | str = 'demo_output', *, settings: Settings | None = None, offline: bool = False,
    domain: int | None = None, seed: int = 1, duration: float = 40.0, rate: float = 8.0,
    size: tuple[int, int] = (640, 480),
) -> DemoResult:
    """
    Play a rendered dive through the real node over DDS, and draw its outputs.

    Parameters
    ----------
    out : Path or str
        Folder of the dive, the node's outputs, its logs and the contact sheet.
    settings : Settings, optional
        The node's; default: the model 'pipeline'. The largest promised alpha is taken unless one
        is given, since a dive is harder than scenes.
    offline : bool
        Run the same pipeline without ROS.
    domain : int, optional
        ROS domain; by default one that is unused on this computer and limited to it, so that no
        other node sees the dive or its clock.
    seed, duration, rate, size
        The dive, as in `simulate_dive`; an equal one in `out` is used again.

    Returns
    -------
    DemoResult
        Events and verdicts, and where the flag did not fall or rise as expected.

    Raises
    ------
    UncertaintySegError
        If a part fails; before the dive is rendered, where that can be checked.

    """
    out, settings = Path(out), settings or Settings(model='pipeline')
    dive = Dive(seed, duration_s=duration, rate_hz=rate, size=size)
    bundle, bag, out_bag = load_bundle(settings.model), out / 'dive', out / 'output_bag'
    promises = bundle.calibration.promises if bundle.calibration else ()
    if promises and not settings.gate.alpha:
        alpha = max(promise.alpha for promise in promises)
        settings = replace(settings, gate=replace(settings.gate, alpha=alpha))
    environment = ros_environment(os.environ, domain)
    with closing(open_pipeline(bundle, settings)) as pipeline:
        if not offline:
            require_ros(environment)
        _say('1/3 dive')
        if not ensure_dive(bag, dive):
            _say(f'    {bag} is there')
        pace = 1.0 if offline else find_pace(pipeline, bag, dive.rate_hz)
    if offline:
        _say('2/3 replay')
        replay(bag, out_bag, settings=settings, topic=IMAGE_TOPIC, views=True, force=True)
    else:
        _say(f'2/3 node, at {pace:.2f} times the speed of the dive, in ROS domain '
             + environment['ROS_DOMAIN_ID'])
        run_live(bag, out_bag, out / 'logs', settings, pace, dive.duration_s, environment)
    _say('3/3 pictures')
    card, sheet = bundle.card, out / SHEET_FILE
    subtitle = f'model {card.name}, {settings.map.replace("_", " ")} of {card.passes} passes'
    timeline = make_pictures(bag, out_bag, card, subtitle, sheet)
    return DemoResult(timeline, problems_of(timeline), sheet)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
