# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run an installed program and record continuously how much CPU time its threads use.

    python thread_watch.py FILE node|verb [ARGUMENT...]

FILE contains one JSON object: `wall_s`, the wall-clock time, and `ours` and `libraries`, the CPU
seconds by thread id of the threads that Python started and of all others.
"""

import json
import os
from pathlib import Path
import sys
import threading
import time

PAUSE_S = 0.2
TICK_S = 1 / os.sysconf('SC_CLK_TCK')


def used_s() -> dict[int, float]:
    """Return the CPU time of each thread of this process, user plus system."""
    found = {}
    for folder in Path('/proc/self/task').iterdir():
        try:
            fields = (folder / 'stat').read_text().rpartition(') ')[2].split()
        except OSError:  # the thread has just ended
            continue
        found[int(folder.name)] = (int(fields[11]) + int(fields[12])) * TICK_S
    return found


def tell(path: Path) -> None:
    """Write the CPU times of the threads to the file, repeatedly."""
    ours: dict[int, float] = {}
    libraries: dict[int, float] = {}
    while True:
        known = {thread.native_id for thread in threading.enumerate()}
        for number, spent_s in used_s().items():
            (ours if number in known or number in ours else libraries)[number] = spent_s
        draft = path.with_suffix('.draft')
        draft.write_text(json.dumps(
            {'wall_s': time.monotonic(), 'ours': ours, 'libraries': libraries}))
        draft.replace(path)
        time.sleep(PAUSE_S)


def main() -> None:
    """Run the program."""
    file, program, *words = sys.argv[1:]
    threading.Thread(target=tell, args=(Path(file),), daemon=True).start()
    sys.argv = [program, *words]
    if program == 'node':
        from uncertainty_seg.ros import entry

        entry.node()
    from uncertainty_seg.cli.main import main as verb

    sys.exit(verb(words))


if __name__ == '__main__':
    main()
