# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The real node on a backend whose engine is missing, with a builder that does as it is told.

The folder UNCERTAINTY_SEG_TEST_BUILD holds what the test and this process tell each other:
`order` is what the builder does next ('0.42 words' reports progress, 'finish', 'fail', 'crash',
'native' stays in C code and reports nothing, as TensorRT does while it times kernels, 'rtx' builds
the engines of `pipeline` by TensorRT-RTX again and again), `built` is the engine, and the builder
notes `begun` and how it `ended`.

"""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import os
from pathlib import Path
import sys
import threading
from typing import Any

from fake_backend import FakeBackend

from uncertainty_seg.backends import registry
from uncertainty_seg.errors import BackendError, EngineMissingError
from uncertainty_seg.ros import node
from uncertainty_seg.ros.node import main

FOLDER = Path(os.environ['UNCERTAINTY_SEG_TEST_BUILD'])


def open_if_built(bundle: Any, settings: Any) -> FakeBackend:
    if not (FOLDER / 'built').exists():
        raise EngineMissingError('the engine of the tiny network is missing')
    return FakeBackend(bundle.card)


def build_on_command(
    bundle: Any, settings: Any, progress: Callable[[float, str], None]
) -> None:
    with (FOLDER / 'begun').open('a') as begun:
        begun.write(f'{threading.current_thread().name}\n')
    try:
        follow(progress)
    except BaseException as err:
        (FOLDER / 'ended').write_text(type(err).__name__)
        raise
    (FOLDER / 'ended').write_text('well')


def build_for_real(progress: Callable[[float, str], None]) -> None:
    from uncertainty_seg.backends.gpu.engine_build import work_ahead
    from uncertainty_seg.backends.gpu.engine_cache import EngineCache
    from uncertainty_seg.core.settings import Settings
    from uncertainty_seg.storage.model_bundle import load_bundle

    work = work_ahead(load_bundle('pipeline'), Settings(), '8.6')
    for number in range(1000):
        (FOLDER / 'real').touch()
        work.build(EngineCache(FOLDER / f'cache{number}'), progress)


def follow(progress: Callable[[float, str], None]) -> None:
    while True:
        order = (FOLDER / 'order').read_text() if (FOLDER / 'order').exists() else ''
        if order == 'finish':
            (FOLDER / 'built').touch()
            return
        if order == 'fail':
            raise BackendError('the builder failed on command')
        if order == 'crash':
            raise ZeroDivisionError('nobody expected this')
        if order == 'native':  # for half an hour, on a core, without the lock of the interpreter
            hashlib.pbkdf2_hmac('sha256', b'x', b'y', 2**31 - 1)
        if order == 'rtx':
            build_for_real(progress)
        if order and order != 'hang':
            share, _, words = order.partition(' ')
            progress(float(share), words)
        threading.Event().wait(0.01)


if __name__ == '__main__':
    registry.OPENERS['tensorrt'] = open_if_built
    node.build_here = build_on_command
    sys.exit(main())
