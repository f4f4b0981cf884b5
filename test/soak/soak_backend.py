# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The real node with a network that returns what cannot be, run by the soak as a process.

The green value amid the image commands. Other modules take the commands from here.

"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
import sys
import time
from typing import Any

import numpy as np

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import BackendError

SLOW_S, HANG_S = 0.3, 1.4  # below and above the timeout of a second
FLOATS = ('confidence', 'entropy', 'mutual_information', 'variation_ratio', 'total_variance',
          'aleatoric')
DOUBLE: Any = np.float64  # which no map may have
_Change = Callable[[UncertaintyMaps], UncertaintyMaps]


def _with(name: str, value: float) -> _Change:
    """Return a change of one pixel of a map."""
    def change(maps: UncertaintyMaps) -> UncertaintyMaps:
        values = getattr(maps, name).copy()
        values[len(values) // 3, -1] = value
        return replace(maps, **{name: values})
    return change


def _each(change: Callable[[Any], Any]) -> _Change:
    """Return a change of every map."""
    def run(maps: UncertaintyMaps) -> UncertaintyMaps:
        return UncertaintyMaps(**{name: change(getattr(maps, name))
                                  for name in ('label', *FLOATS)})
    return run


def _fails(maps: Any) -> UncertaintyMaps:
    raise BackendError('the engine failed on command')


def _surprises(maps: UncertaintyMaps) -> UncertaintyMaps:
    raise ZeroDivisionError('nobody expected this')


CHANGES: Mapping[str, _Change] = {
    'zeros': _each(np.zeros_like),
    'entropy_below_0': lambda maps: replace(maps, entropy=np.full_like(maps.entropy, -5)),
    **{f'nan_in_{name}': _with(name, np.nan) for name in FLOATS},
    **{f'infinite_{name}': _with(name, np.inf) for name in FLOATS},
    **{f'{name}_above_1': _with(name, 1.5) for name in FLOATS},
    'confidence_below_share': _with('confidence', 0.1),
    'uniform': lambda maps: replace(maps, confidence=np.full_like(maps.confidence, 0.9)),
    'label_200': _with('label', 200),
    'double_size': _each(lambda values: values.repeat(2, 0).repeat(2, 1)),
    'half_size': _each(lambda values: values[::2, ::2]),
    'double_precision': lambda maps: replace(
        maps, entropy=maps.entropy.astype(DOUBLE)),
    'fails': _fails,
    'surprises': _surprises,
}
# Done by the backend itself, with what it remembers and with time.
OTHERS = ('repeats', 'repeats_older', 'slow', 'hang')
COMMANDS = {name: code for code, name in enumerate((*CHANGES, *OTHERS), 100)}
_NAMES = {code: name for name, code in COMMANDS.items()}


class MisbehavingBackend:
    """Run another backend, and spoil what it returns if the image says so."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._before: deque[UncertaintyMaps] = deque(maxlen=3)
        self.name = f'misbehaving {inner.name}'

    def run(self, image: ImageU8, masks: Any, temperature: float) -> UncertaintyMaps:
        command = _NAMES.get(int(image[image.shape[0] // 2, image.shape[1] // 2, 1]), '')
        if command in ('repeats', 'repeats_older') and self._before:
            return self._before[-1 if command == 'repeats' else 0]
        maps = self._inner.run(image, masks, temperature)
        if command in CHANGES:
            return CHANGES[command](maps)
        self._before.append(maps)
        if command in ('slow', 'hang'):
            time.sleep(HANG_S if command == 'hang' else SLOW_S)
        return maps

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
