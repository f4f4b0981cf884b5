# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The command line: ``uncertainty_seg``, and ``python -m uncertainty_seg`` in a checkout.

It knows nothing of the verbs: ``cli.main`` does. To import what a verb needs takes seconds, in
which Python would answer Ctrl-C with a traceback; so would it at the end, after the last line of
the verb. In both nothing is running that has to be stopped: the process ends at once.
"""

import os
import signal
import sys
from types import FrameType

_SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT


def main() -> int:
    """Run the verb that the process was started with; returns the exit code."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def stop(number: int, frame: FrameType | None) -> None:
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b'stopped\n')
        os._exit(128 + number)

    def begin() -> None:
        for number in heeded:
            signal.signal(number, before[number])

    for number in heeded:
        signal.signal(number, stop)
    from uncertainty_seg.cli.main import main

    code = main(begin=begin)
    for number in heeded:
        signal.signal(number, lambda *_: os._exit(code))
    return code


if __name__ == '__main__':
    sys.exit(main())
