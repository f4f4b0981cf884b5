# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Kill a process that writes a frame log, repeatedly, and check what is on the disk.

    python test/rigs/frame_log_crasher.py FOLDER ROUNDS [SEED]

In each round a child opens the log and writes frames as fast as it can, until SIGKILL ends it at a
random time, possibly while it opens the log. In every second round the log has a quota of a few
frames, so that it also removes frames. Prints one JSON line.
"""

import collections
import json
import os
from pathlib import Path
import random
import signal
import sys
import time

import cv2
from frame_log_helpers import ABOUT, assert_whole, log_frame, room_for, settings

from uncertainty_seg.storage.frame_log.format import iter_frames, LogFrame
from uncertainty_seg.storage.frame_log.log import FrameLog

LATEST_KILL_S = 0.4
SMALL_QUOTA = 5


def write_until_killed(folder: Path, first: int, pipe: int, is_small: bool) -> None:
    """Write frames without end; report each frame on the disk to the parent."""
    def tell(frame: LogFrame, _: str) -> None:
        os.write(pipe, f'{frame.stamp_ns}\n'.encode())

    chosen = room_for(SMALL_QUOTA) if is_small else settings()
    log = FrameLog(folder, chosen, ABOUT, tell)
    for number in range(first, first + 10**6):
        log.offer(log_frame(number))
        while log.state().num_waiting > 2:
            time.sleep(0.0005)


def killed_after(seconds: float, folder: Path, first: int, is_small: bool) -> set[int]:
    """Run a child, kill it after `seconds`; return the stamps that it reported."""
    reader, pipe = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            write_until_killed(folder, first, pipe, is_small)
        finally:
            os._exit(3)
    os.close(pipe)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f'the writer ended by itself, {status}'
    with os.fdopen(reader, 'rb') as told:
        return {int(line) for line in told.read().splitlines(keepends=True)
                if line.endswith(b'\n')}


def look(folder: Path, promised: set[int], is_small: bool) -> collections.Counter[str]:
    """Check every frame that a reader finds; count frames and leftover folders."""
    counts: collections.Counter[str] = collections.Counter()
    if not (folder / 'frames').is_dir():
        assert not promised
        return counts
    seen = set()
    for frame in iter_frames(folder):
        assert_whole(frame)
        seen.add(frame.sidecar['stamp_ns'])
    for path in (folder / 'frames').iterdir():
        counts['building'] += path.name.startswith('.new-')
        counts['leaving'] += path.name.startswith(('.out-', '.gone-'))
    if is_small:
        assert len(seen) <= SMALL_QUOTA + 1
    else:
        assert promised <= seen, f'{len(promised - seen)} frames are lost'
    counts['frames'] = len(seen)
    return counts


def reopen(folder: Path) -> int:
    """Open the log after a crash, as a node does; return the number of leftovers it found."""
    log = FrameLog(folder, settings(), ABOUT)
    state = log.state()
    assert log.close(20)
    listed = {json.loads(line)['frame_id'] for line in
              (folder / 'manifest.jsonl').read_text().splitlines() if '"add"' in line}
    there = {path.name for path in (folder / 'frames').iterdir()}
    assert listed == there == {frame.frame_id for frame in iter_frames(folder)}
    assert state.num_frames == len(there)
    return state.num_leftovers


def main() -> None:
    """Kill, check, reopen, and continue in the same folder."""
    cv2.setNumThreads(1)
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    luck = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    total: collections.Counter[str] = collections.Counter()
    promised: dict[Path, set[int]] = collections.defaultdict(set)
    for k in range(rounds):
        is_small = k % 2 == 1
        log = folder / ('small' if is_small else 'large')
        # Mostly the same folder; sometimes a new one, to kill during its creation.
        if k % 20 >= 18:
            log = folder / f'{log.name}_{k}'
        told = killed_after(luck.uniform(0, LATEST_KILL_S), log, k * 10**4, is_small)
        promised[log] |= told
        counts = look(log, promised[log], is_small)
        total['kills'] += 1
        total['told'] += len(told)
        total['building'] += counts['building']
        total['leaving'] += counts['leaving']
        # In half of the rounds the next writer is the first to find the leftovers.
        if luck.random() < 0.5 and (log / 'frames').is_dir():
            total['leftovers'] += reopen(log)
    print(json.dumps({**total, 'frames': counts['frames']}))


if __name__ == '__main__':
    main()
