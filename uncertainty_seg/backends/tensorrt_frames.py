# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One frame through the two engines of a bundle: everything between the image and the maps.

All of it is enqueued on one stream and waited for once. What is enqueued the same way in every
frame is recorded as a CUDA graph when it first runs; where that does not work it is enqueued.

"""

from __future__ import annotations

from collections.abc import Mapping
import logging
from typing import Any

import numpy as np

from uncertainty_seg.backends.device_memory import DeviceMemory, Replay
from uncertainty_seg.backends.device_reduction import DeviceReduction, STATISTICS
from uncertainty_seg.backends.graph_files import GraphNames, IMAGE
from uncertainty_seg.backends.mask_bank import MaskBank, Masks
from uncertainty_seg.backends.pass_parts import Part, split_passes
from uncertainty_seg.backends.tensorrt_engine import Engine, require_tensors
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.uncertainty import UncertaintyMaps

INV_TEMPERATURE = 'inv_temperature'
_log = logging.getLogger(__name__)


class Recording:
    """
    Whether calls are recorded as CUDA graphs; off for good after the first that cannot be.

    Parameters
    ----------
    is_on : bool
        At first.

    """

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on

    def give_up(self, reason: object) -> None:
        """Enqueue from now on."""
        self.is_on = False
        _log.warning('no CUDA graphs, which only costs time: %s', reason)


class _Call:
    """An engine with buffers; recorded when it has run once, if it may be."""

    def __init__(self, engine: Engine, buffers: Mapping[str, Any], recording: Recording) -> None:
        self._engine, self._buffers, self._recording = engine, buffers, recording
        self._replay: Replay | None = None

    def enqueue(self) -> None:
        if self._replay is not None:
            self._replay()
            return
        self._engine.bind(self._buffers)
        self._engine.enqueue()
        if self._recording.is_on:
            # An error of what has just run is the frame's and not the recording's.
            self._engine.wait()
            try:
                self._replay = self._engine.capture()
            except Exception as err:  # torch's and TensorRT's errors derive from nothing narrower
                self._recording.give_up(err)

    def clear(self) -> None:
        self._buffers, self._replay = {}, None


class _HeadCalls:
    """The calls of the head for T passes, and the masks they read."""

    def __init__(self, parts: tuple[Part, ...], bank: MaskBank, calls: list[_Call]) -> None:
        self.parts, self.bank, self.calls = parts, bank, calls

    def clear(self) -> None:
        for call in self.calls:
            call.clear()
        self.bank.clear()


class FrameRunner:
    """
    Two engines, their buffers, and what has been recorded of them.

    Parameters
    ----------
    card : ModelCard
        Of the bundle.
    names : GraphNames
        What passes from trunk to head.
    trunk, head : Engine
        Opened; `head` is the one with statistics.
    memory : DeviceMemory
        Where all buffers lie.
    chunk : int
        Passes of a call of the head, at most.
    is_recorded : bool
        Whether to record CUDA graphs.

    Raises
    ------
    ModelBundleError
        If the engines do not fit the card.

    """

    def __init__(
        self, card: ModelCard, names: GraphNames, trunk: Engine, head: Engine,
        memory: DeviceMemory, chunk: int, is_recorded: bool,
    ) -> None:
        self._card, self._memory, self._trunk, self._head = card, memory, trunk, head
        self.chunk = chunk
        self.recording = Recording(is_recorded)
        spec = card.input
        with memory.active():
            self._reduction = DeviceReduction(card.num_classes, spec.height, spec.width, memory)
            self._require_engines(names)
            # What is in the host's buffers is read until the frame is waited for, not after.
            self._image, self._host_image = memory.inlet((1, spec.height, spec.width, 3), np.uint8)
            self._scale, self._host_scale = memory.inlet((1,), np.float32)
            features = {name: memory.empty(*trunk.outputs[name]) for name in names.frontier}
            self._statistics = {name: memory.empty(*head.outputs[name]) for name in STATISTICS}
        self._trunk_call = _Call(trunk, {IMAGE: self._image, **features}, self.recording)
        given = {IMAGE: self._image, INV_TEMPERATURE: self._scale, **features}
        self._fixed = {**{name: given[name] for name in head.inputs if name in given},
                       **self._statistics}
        self._plans: dict[int, _HeadCalls] = {}
        self.timings_ms: dict[str, float] = {}

    def run(
        self, image: ImageU8, masks: Masks, passes: int, temperature: float
    ) -> UncertaintyMaps:
        """Compute the maps of a checked image; see `StreamingBackend.run`."""
        memory = self._memory
        with memory.active():
            plan = self._plan(passes)
            marks = [memory.mark()]
            np.copyto(self._host_image.numpy()[0], image)
            self._host_scale.fill_(1 / temperature)
            memory.copy(self._image, self._host_image)
            memory.copy(self._scale, self._host_scale)
            plan.bank.load(masks)
            self._trunk_call.enqueue()
            marks.append(memory.mark())
            self._reduction.reset()
            for part, call in zip(plan.parts, plan.calls, strict=True):
                call.enqueue()
                self._reduction.add(self._statistics, part.counted, part.share)
            marks.append(memory.mark())
            self._reduction.enqueue_finish()
            marks.append(memory.mark())
            memory.wait()
        self.timings_ms = {name: memory.elapsed_ms(marks[i], marks[i + 1])
                           for i, name in enumerate(('trunk', 'head', 'reduction'))}
        return self._reduction.maps()

    def is_full(self, error: BaseException) -> bool:
        """Say whether an error means that there is no memory left."""
        return self._memory.is_full(error)

    def halve(self) -> bool:
        """Give the head half as many passes from now on; say whether that was possible."""
        self._plans = {}
        if self._card.chunk or self.chunk <= 1:
            return False
        self.chunk //= 2
        return True

    def close(self) -> None:
        """Let go of everything: what was recorded, engines, buffers."""
        for plan in self._plans.values():
            plan.clear()
        self._trunk_call.clear()
        self._head.close()
        self._trunk.close()
        # One by one, because whoever keeps an exception keeps this object by its traceback.
        for name in ('_image', '_scale', '_host_image', '_host_scale', '_reduction'):
            delattr(self, name)
        self._plans, self._statistics, self._fixed = {}, {}, {}
        self._memory.close()

    def _plan(self, passes: int) -> _HeadCalls:
        """Return the calls for T passes; those for another T make place."""
        if passes not in self._plans:
            self._plans = {}
            parts = split_passes(passes, self.chunk, self._card.chunk)
            bank = MaskBank(self._card, parts, self._memory)
            # A context has one shape at a time, and what was recorded holds for that shape.
            is_uniform = len({part.size for part in parts}) == 1
            recording = self.recording if is_uniform else Recording(False)
            calls = [_Call(self._head, {**self._fixed, **buffers}, recording)
                     for buffers in bank.buffers]
            self._plans[passes] = _HeadCalls(parts, bank, calls)
            _log.info('T=%d in calls of %s passes%s', passes, '+'.join(str(p.size) for p in parts),
                      '' if recording.is_on else ', not recorded')
        return self._plans[passes]

    def _require_engines(self, names: GraphNames) -> None:
        sites = {site.name for site in self._card.dropout_sites}
        require_tensors(self._trunk, 'the trunk', {IMAGE}, set(names.frontier), {}, set())
        require_tensors(self._head, 'the head', sites, set(STATISTICS), self._reduction.shapes,
                        {IMAGE, INV_TEMPERATURE, *names.frontier})
