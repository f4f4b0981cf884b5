# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From a bundle to engines that are ready to run, out of the cache and never by building.

Where the GPU's memory is full, engines for fewer passes at once are looked for.

"""

from __future__ import annotations

from collections.abc import Iterator
import logging

from uncertainty_seg.backends.bundle_engines import BundleEngines, engines_of, NeededEngine
from uncertainty_seg.backends.cuda_device import CudaDevice
from uncertainty_seg.backends.device_memory import DeviceMemory
from uncertainty_seg.backends.engine_cache import EngineCache, EngineTarget
from uncertainty_seg.backends.graph_files import require_graphs
from uncertainty_seg.backends.tensorrt_api import TensorRt
from uncertainty_seg.backends.tensorrt_engine import Engine, Runtime
from uncertainty_seg.backends.tensorrt_frames import FrameRunner
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.settings import BUNDLE_PASSES, Settings
from uncertainty_seg.errors import BackendError, EngineMissingError

_log = logging.getLogger(__name__)


class NoMemoryError(BackendError):
    """The GPU's memory is full; engines and device are well."""

    def __init__(self, name: str, reason: object) -> None:
        super().__init__(
            f'the GPU has no memory for {name!r} ({reason})', fix='free memory, or set '
            'memory_budget_mb lower and run uncertainty_seg build-engines again')


class EngineOpener:
    """
    Opens the engines of one bundle, as often as it is asked.

    Parameters
    ----------
    bundle : ModelBundle
        A checked bundle.
    settings : Settings
        Gives passes, memory budget and precision.
    trt : TensorRt
        What runs them.
    device : CudaDevice
        Where.
    cache : EngineCache
        Where they lie.

    Raises
    ------
    ModelBundleError
        If a graph does not fit the card.

    """

    def __init__(
        self, bundle: ModelBundle, settings: Settings, trt: TensorRt, device: CudaDevice,
        cache: EngineCache,
    ) -> None:
        self._bundle, self._settings = bundle, settings
        self._trt, self._device, self._cache = trt, device, cache
        self._target = EngineTarget.of(trt, device)
        self._names = require_graphs(bundle)

    def open(self, memory: DeviceMemory, is_recorded: bool) -> FrameRunner:  # noqa: A003
        """
        Open both engines.

        Parameters
        ----------
        memory : DeviceMemory
            Where the buffers go.
        is_recorded : bool
            Whether to record CUDA graphs.

        Returns
        -------
        FrameRunner
            Closed by the caller.

        Raises
        ------
        EngineMissingError
            If one was not built yet, or is damaged; then it is taken out of the cache.
        NoMemoryError
            If there is no memory for them, and no engine for fewer passes at once.
        BackendUnavailableError
            If this TensorRT cannot run the bundle in its precision.
        ModelBundleError
            If an engine does not fit the card.

        """
        engines = self._engines(0)
        reason = ''
        while True:
            try:
                return self._runner(engines, memory, is_recorded)
            except EngineMissingError:
                if not reason:
                    raise
            except Exception as err:
                if not memory.is_full(err):
                    raise
                # As text: the error itself would hold what was opened so far.
                reason = str(err)
            chunk = engines.chunking.passes
            if self._bundle.card.chunk or chunk <= 1:
                raise NoMemoryError(self._bundle.card.name, reason)
            _log.warning('no engine or no memory for %d passes at once, trying %d: %s', chunk,
                         chunk // 2, reason)
            # What torch keeps of buffers that are gone is not there for TensorRT.
            memory.close()
            engines = self._engines(chunk // 2)

    def _engines(self, chunk: int) -> BundleEngines:
        settings, card = self._settings, self._bundle.card
        passes = card.passes if settings.passes == BUNDLE_PASSES else settings.passes
        return engines_of(self._bundle, settings, passes, self._trt, chunk)

    def _runner(
        self, engines: BundleEngines, memory: DeviceMemory, is_recorded: bool
    ) -> FrameRunner:
        # Both are looked for before one is opened.
        found = [self._plan(needed) for needed in engines.all]
        runtime = Runtime(self._trt)
        trunk, head = (self._engine(runtime, needed, *one, memory)
                       for needed, one in zip(engines.all, found, strict=True))
        return FrameRunner(self._bundle.card, self._names, trunk, head, memory,
                           engines.chunking.passes, is_recorded)

    def _plan(self, needed: NeededEngine) -> tuple[str, bytes]:
        """Return an engine with its key."""
        for key in self._keys(needed):
            plan = self._cache.load(key)
            if plan is not None:
                return key, plan
        raise self._missing(needed)

    def _keys(self, needed: NeededEngine) -> Iterator[str]:
        """Give the key of an engine that was built here, and of one for all GPUs like this."""
        yield needed.key(self._target)
        if self._trt.is_rtx:
            yield needed.key_ahead(self._trt, self._device.compute_capability)

    def _engine(
        self, runtime: Runtime, needed: NeededEngine, key: str, plan: bytes, memory: DeviceMemory
    ) -> Engine:
        engine = runtime.open_plan(plan)
        if engine is None:
            self._cache.discard(key, runtime.messages.said())
            raise self._missing(needed)
        return Engine(runtime, engine, memory, needed.role)

    def _missing(self, needed: NeededEngine) -> EngineMissingError:
        return EngineMissingError(
            f'no engine for {needed.path.name} of {self._bundle.card.name!r} in '
            f'{needed.spec.precision}, TensorRT {self._trt.version}, {self._device.name}',
            'one built on this machine',
            f'run uncertainty_seg build-engines {self._bundle.folder}')
