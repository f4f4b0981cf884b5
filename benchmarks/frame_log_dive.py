# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the frame log keeps of a dive with known events, and how many bytes that takes.

A verb of `uncertainty_seg simulate` makes the dive. Pipeline and log run over it as in the node,
offline, so that no frame is lost; beside the log another one keeps every frame in the same form.

    python benchmarks/frame_log_dive.py DIVE

"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
import functools
from pathlib import Path
import tempfile
import time

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import LogSettings, Settings, settings_to_dict
from uncertainty_seg.sim.demo.timeline import (
    EVENT_TOPIC,
    find_events,
    FlagEvent,
    IMAGE_TOPIC,
    Moment,
)
from uncertainty_seg.storage.bags.reader import BadMessage, BagReader, header_stamp_ns
from uncertainty_seg.storage.frame_log.format import about_run, iter_frames, LogFrame
from uncertainty_seg.storage.frame_log.log import FrameLog
from uncertainty_seg.storage.model_bundle import load_bundle

BUDGET, MAP = 0.10, 'mutual_information'


def moments_of(dive: Path) -> list[Moment]:
    """Return the frames of a dive and what goes on in them; the flag is not known here."""
    found: list[Moment] = []
    event = ''
    with BagReader(dive) as bag:
        for item in bag.messages(EVENT_TOPIC, IMAGE_TOPIC):
            if isinstance(item, BadMessage):
                continue
            if item.topic == EVENT_TOPIC:
                event = item.message.data
                continue
            stamp_ns = header_stamp_ns(item.message)
            start_ns = found[0].stamp_ns if found else stamp_ns
            found.append(Moment(stamp_ns, (stamp_ns - start_ns) / 1e9, event))
    return found


def frames_of(dive: Path, pipeline: Pipeline) -> Iterator[LogFrame]:
    """Run the pipeline over a dive."""
    with BagReader(dive) as bag:
        for item in bag.images(IMAGE_TOPIC):
            if isinstance(item, BadMessage):
                continue
            image = decode(item.raw)
            result = pipeline.process(image, item.stamp_ns)
            yield LogFrame(
                item.stamp_ns, '', item.frame_id, image, 'bgr8', result.verdict, result.scores,
                pipeline.thresholds, result.label_at_source,
                functools.partial(result.map_at_source, MAP))


def table(events: list[FlagEvent], start_ns: int, log: Path) -> list[bool]:
    """Print each event and its frames; return for each whether there are any."""
    kept = [(frame.sidecar['stamp_ns'], frame.sidecar['reason']) for frame in iter_frames(log)]
    found = []
    for event in events:
        times_s = [((stamp_ns - start_ns) / 1e9, reason) for stamp_ns, reason in kept]
        inside = [reason for time_s, reason in times_s if event.start_s <= time_s <= event.stop_s]
        words = ', '.join(f'{inside.count(r)} {r}' for r in sorted(set(inside))) or 'none'
        print(f'  {event.title:24s} {event.start_s:5.1f} to {event.stop_s:5.1f} s: {words}')
        found.append(bool(inside))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    parser.add_argument('dive', type=Path)
    args = parser.parse_args()
    moments = moments_of(args.dive)
    run = Settings(model='pipeline')
    pipeline = open_pipeline(load_bundle(run.model), run, None)
    about = about_run(args.dive.name, pipeline.card, pipeline.passes, settings_to_dict(run))
    num_flagged = 0
    with tempfile.TemporaryDirectory() as name, closing(pipeline):
        folder = Path(name)
        log = FrameLog(folder / 'log', LogSettings(), about)
        everything = FrameLog(folder / 'all', LogSettings(
            min_interval_s=0.0, before_s=0.0, duplicate_bits=0, control_share=1.0), about)
        for frame in frames_of(args.dive, pipeline):
            num_flagged += frame.is_flagged
            for one in (log, everything):
                while one.state().num_waiting:  # so that there is room for it and its window
                    time.sleep(0.001)
                one.offer(frame)
        log.close(60.0)
        everything.close(60.0)
        state, all_state = log.state(), everything.state()
        print(f'{len(moments)} frames, {num_flagged} flagged')
        found = table(list(find_events(moments)), moments[0].stamp_ns, folder / 'log')
    print(f'kept {state.num_frames} of {all_state.num_frames} frames: '
          f'{dict(state.kept)}, skipped {dict(state.skipped)}')
    share = state.num_bytes / all_state.num_bytes
    print(f'{state.num_bytes / 1e6:.1f} of {all_state.num_bytes / 1e6:.1f} MB, {share:.1%} of '
          f'keep-all (at most {BUDGET:.0%}); {sum(found)} of {len(found)} events')


if __name__ == '__main__':
    main()
