# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Log to a real disk that gets full, is made read-only, and is taken away.

    unshare -m python test/rigs/frame_log_disk_rig.py FOLDER

Mounts a tmpfs of 1 MB on FOLDER, which only this process sees. Prints one JSON line with what the
log said at each stage.

"""

from __future__ import annotations

from contextlib import suppress
import json
from pathlib import Path
import shutil
import subprocess
import sys

from frame_log_helpers import (
    ABOUT,
    assert_whole,
    log_frame,
    number_of,
    room_for,
    settings,
    wait_for,
)

from uncertainty_seg.core.settings import LogSettings
from uncertainty_seg.storage.frame_log.format import iter_frames, LogFrame
from uncertainty_seg.storage.frame_log.log import FrameLog, LogState, RETRY_S

SIZE_KB, INODES = 1024, 400


class Rig:
    """A log on a disk of its own, and how many frames were offered."""

    def __init__(self, disk: Path, chosen: LogSettings) -> None:
        self.now_s, self.number, self._disk = 0.0, 0, disk
        mount('-t', 'tmpfs', '-o', f'size={SIZE_KB}k,nr_inodes={INODES}', 'tmpfs', str(disk))
        self.log = FrameLog(disk / 'log', chosen, ABOUT, clock=lambda: self.now_s)

    def offer(self, num_frames: int) -> LogState:
        """Offer frames one after the other and wait for the last."""
        for _ in range(num_frames):
            self.log.offer(log_frame(self.number))
            self.number += 1
            wait_for(self._is_done, 'a frame')
        return self.log.state()

    def _is_done(self) -> bool:
        state = self.log.state()
        ends = (state.kept, state.skipped, state.dropped)
        return sum(n for counts in ends for n in counts.values()) == self.number

    def whole_frames(self) -> int:
        """Read every frame there is; return how many."""
        frames = list(iter_frames(self._disk / 'log'))
        for frame in frames:
            assert_whole(frame)
        return len(frames)

    def stage(self, name: str, state: LogState) -> dict[str, object]:
        """Say what the log said."""
        return {'stage': name, 'writing': state.is_writing, 'error': state.error,
                'dropped': {k: n for k, n in state.dropped.items() if n},
                'kept': sum(state.kept.values()), 'evicted': state.num_evicted,
                'whole': self.whole_frames()}


def mount(*words: str) -> None:
    """Call mount."""
    subprocess.run(['mount', *words], check=True, capture_output=True)


def use_up_inodes(folder: Path) -> None:
    """Make empty files until the disk refuses, while bytes are still free."""
    with suppress(OSError):
        for k in range(INODES + 1):
            (folder / str(k)).touch()


def main() -> None:
    """Go through the stages; the log is never restarted."""
    disk = Path(sys.argv[1])
    chosen = settings()
    # Each is worth more than those before it, so that none is refused for its score.
    LogFrame.log_weight = property(lambda frame: 50.0 * number_of(frame.stamp_ns))
    rig = Rig(disk, chosen)
    stages = [rig.stage('plain', rig.offer(3))]

    others = disk / 'others'
    others.mkdir()
    free = rig.log.state().free_mb
    (others / 'large').write_bytes(bytes(int(free * 1e6) - 100_000))
    stages.append(rig.stage('others fill it', rig.offer(8)))

    shutil.rmtree(others)
    others.mkdir()
    use_up_inodes(others)
    stages.append(rig.stage('full', rig.offer(3)))
    shutil.rmtree(others)
    rig.now_s += 2 * RETRY_S
    stages.append(rig.stage('room again', rig.offer(2)))

    mount('-o', 'remount,ro', str(disk))
    # A smaller quota cannot be had now; it is when the disk is back.
    rig.log.reconfigure(room_for(4))
    stages.append(rig.stage('read-only', rig.offer(4)))
    mount('-o', 'remount,rw', str(disk))
    rig.now_s += 2 * RETRY_S
    stages.append(rig.stage('writable again', rig.offer(2)))

    mount('-t', 'tmpfs', 'tmpfs', str(disk))  # as if the disk were pulled out
    state = rig.offer(2)
    rig.now_s += 2 * RETRY_S
    state = rig.offer(2)
    empty = not any(disk.iterdir())
    subprocess.run(['umount', str(disk)], check=True)
    stages.append({**rig.stage('taken away', state), 'empty': empty})
    rig.now_s += 2 * RETRY_S
    stages.append(rig.stage('put back', rig.offer(1)))
    assert rig.log.close(20)
    print(json.dumps(stages))


if __name__ == '__main__':
    main()
