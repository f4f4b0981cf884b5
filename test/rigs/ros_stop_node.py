# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The real node, whose configure stays in C code that no signal interrupts, such as a compiler's.

It prints when it is in C. Python's signal handlers do not run before that code returns.
"""

import hashlib
import sys
from typing import NoReturn

from uncertainty_seg.ros import node
from uncertainty_seg.ros.node import main

ROUNDS = 2**31 - 1  # half an hour


def stay(*_: object) -> NoReturn:
    print('in C', flush=True)
    hashlib.pbkdf2_hmac('sha256', b'x', b'y', ROUNDS)
    raise SystemExit('it has returned')


if __name__ == '__main__':
    node.open_or_build = stay
    sys.exit(main())
