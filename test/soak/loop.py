# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The camera and the oracle of the soak around the frame loop alone, for days by its clock.

    PYTHONPATH=.:test python test/soak/loop.py [FRAMES] [SEED]

From message to flag all is real but DDS and the clock. A line for each twentieth, and one JSON
object; the exit code is 0 if there was no lie, counters were exact and memory did not grow.

"""

from __future__ import annotations

from collections import Counter
import json
import logging
from pathlib import Path
from statistics import median
import sys
import tempfile
from types import SimpleNamespace

import conftest  # noqa: F401 - finds what tests share
from owner_rig import Rig
from ros_helpers import arrival, values_of
from soak import MOST_KB
import soak_backend
from soak_frames import FaultyCamera, MAX_REPEATS, message
from soak_oracle import Answer, Flag, Frame, Oracle

from uncertainty_seg.ros.frame_processor import FrameProcessor, Outputs, show_frame

PERIOD_S, START_S = 0.25, 1.8e9


class LoopSoak(Rig):
    """One frame after the other; `now_s` is the only clock."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, max_repeats=MAX_REPEATS, **{'gate.threshold_scale': 0.5})
        self.now_s, self.oracle = float(START_S), Oracle(0.0, 1.0)
        self.camera, self.kinds = FaultyCamera(seed), Counter[str]()
        self.backend._backend = soak_backend.MisbehavingBackend(self.backend._backend)
        soak_backend.time = SimpleNamespace(sleep=self.sleep)
        self.start()

    def sleep(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(self.now_s + PERIOD_S, until_s)
            self.tick()
            self.hear()

    def processor(self, outputs: Outputs) -> FrameProcessor:
        return FrameProcessor(self.owner.start(), outputs, lambda: self.settings,
                              lambda: round(self.now_s * 1e9),
                              lambda frame: show_frame(outputs, lambda: self.settings, frame))

    def frame(self, number: int) -> None:
        self.sleep(PERIOD_S)
        name, sent_s = str(number), self.now_s
        shot = self.camera.draw(round(sent_s * 1e9), is_storm=True)
        lead_s = shot.stamp_ns / 1e9 - sent_s
        self.oracle.feed([Frame(sent_s, name, shot.kind, shot.is_good, lead_s)])
        self.owner.note_arrival()
        self.process(arrival(message(shot, name)))
        self.hear()

    def hear(self) -> None:
        """Let the oracle judge what was published."""
        for status in self.statuses:
            said = values_of(status)
            is_true, kind = said['confident'] == 'true', said['kind']
            if status.header.frame_id:
                self.kinds[kind] += 1
            self.oracle.feed([Flag(self.now_s, is_true),
                              Answer(self.now_s, status.header.frame_id, is_true, kind)])
        for topic in self.node.topics.values():
            topic.sent.clear()


def main(frames: int = 1_000_000, seed: int = 0) -> int:
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        soak, memory = LoopSoak(Path(folder), seed), []
        for number in range(frames):
            soak.frame(number)
            if number % (frames // 20) == 0:
                status = Path('/proc/self/status').read_text()
                memory.append(float(status.partition('RssAnon:')[2].split()[0]))
                print(number, f'{len(soak.oracle.lies)} lies, {memory[-1]:.0f} kB', flush=True)
    oracle, counts = soak.oracle, soak.statistics
    report = {
        'frames': frames, 'days': (soak.now_s - START_S) / 86400, 'lies': oracle.lies[:9],
        'faulty': frames - oracle.sent['good'], 'true': oracle.num_true, 'blind': oracle.blind,
        'ready': oracle.ready, 'kinds': dict(soak.kinds), 'processed': counts.num_processed,
        'refused': counts.num_faulty, 'memory_kb': memory,
    }
    print(json.dumps(report))
    is_exact = sum(soak.kinds.values()) == frames and soak.kinds['fault'] == counts.num_faulty
    # Memory goes up and down by 3 MB: strings that Python keeps.
    is_flat = median(memory[-7:]) - memory[2] < MOST_KB
    return int(bool(oracle.lies) or not is_exact or not is_flat)


if __name__ == '__main__':
    sys.exit(main(*map(int, sys.argv[1:])))
