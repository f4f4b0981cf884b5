# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Log to a real file system that fills up, becomes read-only, and disappears.

    unshare -m python test/rigs/frame_log_disk_rig.py FOLDER

Mounts a tmpfs of 1 MB on FOLDER, visible to this process only. Prints one JSON line with the state
of the log at each stage.
"""

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
    """A log on its own file system, and the number of offered frames."""

    def __init__(self, disk: Path, chosen: LogSettings) -> None:
        self.now_s, self.number, self._disk = 0.0, 0, disk
        mount('-t', 'tmpfs', '-o', f'size={SIZE_KB}k,nr_inodes={INODES}', 'tmpfs', str(disk))
        self.log = FrameLog(disk / 'log', chosen, ABOUT, clock=lambda: self.now_s)

    def offer(self, num_frames: int) -> LogState:
        """Offer frames one by one, and wait until each is handled."""
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
        """Check every frame in the log; return their number."""
        frames = list(iter_frames(self._disk / 'log'))
        for frame in frames:
            assert_whole(frame)
        return len(frames)

    def stage(self, name: str, state: LogState) -> dict[str, object]:
        """Return the state of the log in a form for JSON."""
        return {'stage': name, 'writing': state.is_writing, 'error': state.error,
                'dropped': {k: n for k, n in state.dropped.items() if n},
                'kept': sum(state.kept.values()), 'evicted': state.num_evicted,
                'whole': self.whole_frames()}


def mount(*words: str) -> None:
    """Run the command mount."""
    subprocess.run(['mount', *words], check=True, capture_output=True)


def use_up_inodes(folder: Path) -> None:
    """Create empty files until no inode is left, while bytes are still free."""
    with suppress(OSError):
        for k in range(INODES + 1):
            (folder / str(k)).touch()


def main() -> None:
    """Run all stages without restarting the log."""
    disk = Path(sys.argv[1])
    chosen = settings()
    # Each frame has more weight than those before it, so that none is refused for its score.
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
    # The smaller quota cannot be enforced now, but when the disk is writable again.
    rig.log.reconfigure(room_for(4))
    stages.append(rig.stage('read-only', rig.offer(4)))
    mount('-o', 'remount,rw', str(disk))
    rig.now_s += 2 * RETRY_S
    stages.append(rig.stage('writable again', rig.offer(2)))

    mount('-t', 'tmpfs', 'tmpfs', str(disk))  # hides the log, as if the disk were removed
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
