# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The real node with a network that misbehaves on command, run by the ROS tests as a process.

The green value of the middle pixel commands, see `ros_fault_node_commands`: fail like a runtime,
give NaN, wait until the file named by UNCERTAINTY_SEG_TEST_RELEASE exists (and say so in one with
the suffix .waits), or raise what nobody expected. Anything else goes to the backend that was asked
for. An image of the encoding 'raise' makes the subscription's callback raise.

"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
from pathlib import Path
import sys
import threading
from typing import Any

import numpy as np
from ros_fault_node_commands import FAILS, GIVES_NAN, SURPRISES, WAITS

from uncertainty_seg.backends import registry
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import BackendError
from uncertainty_seg.ros.frame_scheduler import Slot
from uncertainty_seg.ros.main import main


class FaultyBackend:

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.name = f'faulty {inner.name}'

    def run(self, image: Any, masks: Any, temperature: float) -> UncertaintyMaps:
        command = int(image[image.shape[0] // 2, image.shape[1] // 2, 1])
        if command == FAILS:
            raise BackendError('the engine failed on command')
        if command == SURPRISES:
            raise ZeroDivisionError('nobody expected this')
        if command == WAITS:
            release = Path(os.environ['UNCERTAINTY_SEG_TEST_RELEASE'])
            release.with_suffix('.waits').touch()
            while not release.exists():
                threading.Event().wait(0.01)
        maps = self._inner.run(image, masks, temperature)
        if command == GIVES_NAN:
            return dataclasses.replace(maps, entropy=np.full_like(maps.entropy, np.nan))
        return maps

    @property
    def timings_ms(self) -> Mapping[str, float]:
        return self._inner.timings_ms

    def close(self) -> None:
        self._inner.close()


def put_faultily(slot: Any, item: Any) -> None:
    if item.msg.encoding == 'raise':
        raise ZeroDivisionError('the callback fails on command')
    _put(slot, item)


def open_faulty(name: str, bundle: Any, settings: Any) -> FaultyBackend:
    return FaultyBackend(open_backend(name, bundle, settings))


if __name__ == '__main__':
    registry.open_backend = open_faulty
    _put = Slot.put
    Slot.put = put_faultily  # type: ignore[method-assign]
    sys.exit(main())
