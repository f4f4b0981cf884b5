# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
An installed program that tells all the while which of its threads use the processor.

    python thread_watch.py FILE node|verb [WORD...]

FILE holds one JSON object: `wall_s` by the clock, `ours` and `libraries`, the seconds of processor
time of the threads that Python started and of all others, each thread by its number.

"""

from __future__ import annotations

import json
import os
from pathlib import Path
import sys
import threading
import time

PAUSE_S = 0.2
TICK_S = 1 / os.sysconf('SC_CLK_TCK')


def used_s() -> dict[int, float]:
    """Return the processor time of each thread of this process, user's and system's."""
    found = {}
    for folder in Path('/proc/self/task').iterdir():
        try:
            fields = (folder / 'stat').read_text().rpartition(') ')[2].split()
        except OSError:  # it has just ended
            continue
        found[int(folder.name)] = (int(fields[11]) + int(fields[12])) * TICK_S
    return found


def tell(path: Path) -> None:
    """Write what the threads have used until now, again and again."""
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
