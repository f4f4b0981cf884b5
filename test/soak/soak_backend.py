# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The real node with a network that returns invalid results, run by the soak as a process.

The green value in the middle of the image selects a fault; other modules import `COMMANDS`.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
import sys
import time
from typing import Any

import numpy as np

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.uncertainty import PassSums
from uncertainty_seg.errors import BackendError

SLOW_S, HANG_S = 0.3, 1.4  # below and above the timeout of a second
SUMS = ('p', 'entropy_nats', 'p_squared', 'votes', 'logits')
_Change = Callable[[PassSums], PassSums]


def _with(name: str, value: float) -> _Change:
    """Return a change that sets one element of a sum."""
    def change(sums: PassSums) -> PassSums:
        values = getattr(sums, name).copy()
        values.flat[values.size // 3] = value
        return replace(sums, **{name: values})
    return change


def _each(change: Callable[[Any], Any]) -> _Change:
    """Return a change that applies to every sum."""
    return lambda sums: replace(sums, **{name: change(getattr(sums, name)) for name in SUMS})


def _fails(sums: PassSums) -> PassSums:
    raise BackendError('the engine failed on command')


def _surprises(sums: PassSums) -> PassSums:
    raise ZeroDivisionError('nobody expected this')


CHANGES: Mapping[str, _Change] = {
    'zeros': _each(np.zeros_like),
    **{f'nan_in_{name}': _with(name, np.nan) for name in SUMS},
    **{f'infinite_{name}': _with(name, np.inf) for name in SUMS},
    **{f'{name}_above_all_passes': _with(name, 1e3) for name in SUMS[:4]},
    'entropy_below_0': lambda sums: replace(sums, entropy_nats=np.full_like(
        sums.entropy_nats, -5)),
    'double_size': _each(lambda values: values.repeat(2, -2).repeat(2, -1)),
    'half_size': _each(lambda values: values[..., ::2, ::2]),
    'double_precision': lambda sums: replace(sums, p=sums.p.astype(np.float64)),
    'fails': _fails,
    'surprises': _surprises,
}
# Faults that the backend implements itself: earlier results, and delays.
OTHERS = ('repeats', 'repeats_older', 'slow', 'hang')
COMMANDS = {name: code for code, name in enumerate((*CHANGES, *OTHERS), 100)}
_NAMES = {code: name for name, code in COMMANDS.items()}


class MisbehavingBackend:
    """Run another backend, and change its result as the image commands."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._before: deque[PassSums] = deque(maxlen=3)
        self.name = f'misbehaving {inner.name}'

    def run(self, image: ImageU8, masks: Any, temperature: float) -> PassSums:
        command = _NAMES.get(int(image[image.shape[0] // 2, image.shape[1] // 2, 1]), '')
        if command in ('repeats', 'repeats_older') and self._before:
            return self._before[-1 if command == 'repeats' else 0]
        sums = self._inner.run(image, masks, temperature)
        if command in CHANGES:
            return CHANGES[command](sums)
        self._before.append(sums)
        if command in ('slow', 'hang'):
            time.sleep(HANG_S if command == 'hang' else SLOW_S)
        return sums

    @property
    def timings_ms(self) -> Mapping[str, float]:
        return self._inner.timings_ms

    def close(self) -> None:
        self._inner.close()


if __name__ == '__main__':
    from uncertainty_seg.backends import registry
    from uncertainty_seg.ros.node import main

    open_sound = registry.open_backend
    registry.open_backend = lambda *given: MisbehavingBackend(open_sound(*given))
    sys.exit(main())
