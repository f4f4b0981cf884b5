# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
TensorRT on an NVIDIA GPU, from 8.6 on, and TensorRT-RTX.

The trunk runs once and the head with its reduction inside runs in chunks of passes; the sums over
the passes stay on the device, and only the maps are copied to the host. No engine is built here:
`EngineOpener` takes them from the cache. Where the GPU's memory is full, engines for fewer passes
at once are looked for.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
from functools import partial
import logging
from pathlib import Path
import threading
import time

from uncertainty_seg.backends.gpu.bundle_engines import BundleEngines, engines_of, NeededEngine
from uncertainty_seg.backends.gpu.device import CudaDevice, DeviceMemory, find_device, open_memory
from uncertainty_seg.backends.gpu.device_passes import SeededMasks
from uncertainty_seg.backends.gpu.engine_cache import EngineCache, EngineTarget
from uncertainty_seg.backends.gpu.self_check_record import require_not_failed, SelfCheckKey
from uncertainty_seg.backends.gpu.tensorrt_api import load_tensorrt, TensorRt
from uncertainty_seg.backends.gpu.tensorrt_engine import (
    Engine,
    FrameRunner,
    Kernels,
    Runtime,
)
from uncertainty_seg.backends.graph_files import require_graphs
from uncertainty_seg.backends.runner import require_image, require_inputs, Runner
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import Masks
from uncertainty_seg.core.settings import passes_of, precision_of, Settings
from uncertainty_seg.core.uncertainty import MapRequest, NO_MORE, UncertaintyMaps
from uncertainty_seg.errors import (
    BackendError,
    EngineMissingError,
    ShapeError,
    UncertaintySegError,
)

# How long after an error of the device everything is opened again, at the earliest.
BACK_OFF_S = 1.0
_log = logging.getLogger(__name__)


class NoMemoryError(BackendError):
    """The GPU's memory is full; engines and device are in order."""

    def __init__(self, name: str, reason: object) -> None:
        super().__init__(
            f'the GPU has no memory for {name!r} ({reason})', fix='free memory, or set '
            'memory_budget_mb lower and run uncertainty_seg build-engines again')


class TensorRtBackend(Runner):
    """
    Run a bundle with TensorRT.

    Parameters
    ----------
    bundle : ModelBundle
        A checked bundle.
    settings : Settings
        Gives passes, memory budget and precision.
    trt, memory, device, cache : optional
        By default what is installed, the first GPU, and this user's cache of engines.
    is_recorded : bool
        Whether to record what is the same in every frame as CUDA graphs.
    clock : callable, optional
        Seconds, for the back-off.

    Raises
    ------
    EngineMissingError
        If an engine was not built yet, or cannot be used any more.
    BackendUnavailableError
        If there is no GPU, TensorRT, or torch with CUDA or cuda-python, or the bundle or its
        precision cannot be run, or failed its self-check here.
    ConfigError
        If the graphs cannot be computed in the precision of the settings.
    ModelBundleError
        If a graph does not fit the card.
    BackendError
        If the GPU has no memory for the engines.

    Notes
    -----
    A second thread in `run` is refused, because a context that two threads use computes wrong
    results. After an error of the device everything is opened again, once; after the next error
    the backend stays closed.

    """

    name = 'tensorrt'

    def __init__(
        self, bundle: ModelBundle, settings: Settings, trt: TensorRt | None = None,
        memory: DeviceMemory | None = None, device: CudaDevice | None = None,
        cache: EngineCache | None = None, is_recorded: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._card = bundle.card
        self.precision = precision_of(bundle.card, settings.precision)
        self._device = device or find_device()  # before TensorRT is touched
        self._trt = trt or load_tensorrt()
        cache = cache or EngineCache()
        self._require_checked(cache.folder)
        self._new_memory: Callable[[], DeviceMemory] = (
            partial(open_memory, is_mapped=self._device.is_integrated) if memory is None
            else lambda: memory)
        self._opener = EngineOpener(bundle, settings, self._trt, self._device, cache)
        self._is_recorded, self._clock = is_recorded, clock
        self._lock = threading.Lock()
        self._user = ''
        self._fault, self._retry_s, self._is_last_try = '', 0.0, False
        self._runner: FrameRunner | None = None
        self._is_open = True
        self._timings_ms: Mapping[str, float] = {}
        self._open()
        _log.info('TensorRT %s on %s, %s', self.version, self.device_name, self.precision)

    def pass_inputs(self, passes: int, seed: int) -> SeededMasks:
        """Return the masks of a seed, to be drawn on the device when they are run."""
        return SeededMasks(self._card, passes, seed)

    def run(
        self, image: ImageU8, masks: Masks, temperature: float, request: MapRequest = NO_MORE
    ) -> UncertaintyMaps:
        """Compute the maps of one image; see `Runner.run`; one thread at a time."""
        with self._alone():
            passes = self._require_inputs(image, masks)
            runner = self._ready()
            runner.require(request)
            try:
                maps = self._run_fitting(runner, image, masks, passes, temperature, request)
            except NoMemoryError:  # which is no error of the device
                raise
            except Exception as err:  # torch's and TensorRT's errors derive from nothing narrower
                raise self._failed(err, passes) from err
            self._timings_ms = runner.timings_ms
            return maps

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """Milliseconds on the device of each stage of the last run; see `Runner.timings_ms`."""
        return self._timings_ms

    def close(self) -> None:
        """Free engines and buffers, now or when the running frame ends; may be called twice."""
        self._is_open = False
        self._free_if_idle()

    @property
    def version(self) -> str:
        """Of TensorRT."""
        return self._trt.version

    @property
    def device_name(self) -> str:
        """Of the GPU."""
        return self._device.name

    @property
    def is_recorded(self) -> bool:
        """Whether CUDA graphs are in use; false while one could not be recorded."""
        return self._runner is not None and self._runner.recording.is_due

    def _require_checked(self, folder: Path) -> None:
        """Refuse what failed its self-check, and unchecked types that TensorRT chose."""
        is_chosen = (self.precision not in ('fp32', 'tf32')
                     and not self._trt.has_strong_types)
        key = SelfCheckKey.of(self._card, self.name, self.version, self.precision,
                              self.device_name)
        require_not_failed(key, is_chosen, folder)

    def _require_inputs(self, image: ImageU8, masks: Masks) -> int:
        if isinstance(masks, SeededMasks) and masks.card is self._card:
            require_image(self._card, image)
            if masks.passes < 1:
                raise ShapeError(f'masks for {masks.passes} passes', 'T >= 1')
            return masks.passes
        return require_inputs(self._card, image, masks)

    def _open(self) -> None:
        self._runner = self._opener.open(self._new_memory(), self._is_recorded)

    def _run_fitting(
        self, runner: FrameRunner, image: ImageU8, masks: Masks, passes: int, temperature: float,
        request: MapRequest,
    ) -> UncertaintyMaps:
        """Run a frame; where memory is full, with fewer passes at once from now on."""
        while True:
            try:
                return runner.run(image, masks, passes, temperature, request)
            except Exception as err:
                if not runner.is_full(err):
                    raise
                had = runner.chunk
                if not runner.halve():
                    raise NoMemoryError(self._card.name, err) from err
                _log.warning('no memory for %d passes at once, from now on %d: %s', had,
                             runner.chunk, err)

    def _failed(self, err: Exception, passes: int) -> BackendError:
        """Record an error of the device, and return what to raise."""
        says = str(err) if isinstance(err, UncertaintySegError) else f'{type(err).__name__}: {err}'
        self._fault, self._retry_s = says, self._clock() + BACK_OFF_S
        self._free()
        return BackendError(f'tensorrt failed on {passes} passes of {self._card.name!r} ({says})')

    def _ready(self) -> FrameRunner:
        """Return what runs frames; after an error, open it again, once and after a delay."""
        if self._fault:
            self._reopen()
        assert self._runner is not None
        return self._runner

    def _reopen(self) -> None:
        if self._is_last_try:
            raise BackendError(f'tensorrt gave up after a second error ({self._fault})',
                               fix='restart the process: an error can spoil all later work on '
                               'the GPU; if it comes back, run uncertainty_seg self-check')
        wait_s = self._retry_s - self._clock()
        if wait_s > 0:
            raise BackendError(f'tensorrt opens again in {wait_s:.1f} s after an error '
                               f'({self._fault})')
        self._is_last_try = True
        _log.warning('opening tensorrt again after an error: %s', self._fault)
        try:
            self._open()
        except Exception as err:  # as in run
            self._fault = f'{self._fault}; opening again: {err}'
            raise BackendError(f'tensorrt cannot be opened again ({self._fault})') from err
        self._fault = ''

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        thread = threading.current_thread().name
        if not self._lock.acquire(blocking=False):
            raise BackendError(f'run from thread {thread!r} while {self._user!r} is in it',
                               'one thread', 'open a backend for each thread')
        try:
            self._user = thread
            if not self._is_open:
                raise BackendError('run of a closed backend', fix='open it again')
            yield
        finally:
            self._lock.release()
            if not self._is_open:
                self._free_if_idle()

    def _free_if_idle(self) -> None:
        """Free everything, unless a frame runs, whose end does it."""
        if self._lock.acquire(blocking=False):
            try:
                self._free()
            finally:
                self._lock.release()

    def _free(self) -> None:
        runner, self._runner = self._runner, None
        if runner is None:
            return
        try:
            runner.close()
        except Exception as err:  # after an error of the device, freeing fails as well
            _log.info('freeing TensorRT: %s', err)


class EngineOpener:
    """Opens the cached engines of one bundle; raises ModelBundleError if a graph does not fit."""

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
        Open both engines, with CUDA graphs if `is_recorded`; the caller closes the result.

        Raises
        ------
        EngineMissingError
            If one was not built yet, or is damaged, which removes it from the cache.
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
                # As text: the error itself would keep alive what was opened so far.
                reason = str(err)
            chunk = engines.chunking.passes
            if self._bundle.card.chunk or chunk <= 1:
                raise NoMemoryError(self._bundle.card.name, reason)
            _log.warning('no engine or no memory for %d passes at once, trying %d: %s', chunk,
                         chunk // 2, reason)
            # Freed memory that torch keeps is not available to TensorRT.
            memory.close()
            engines = self._engines(chunk // 2)

    def _engines(self, chunk: int) -> BundleEngines:
        passes = passes_of(self._bundle.card, self._settings)
        return engines_of(self._bundle, self._settings, passes, self._trt, chunk)

    def _runner(
        self, engines: BundleEngines, memory: DeviceMemory, is_recorded: bool
    ) -> FrameRunner:
        # Both are loaded before one is opened.
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
        """Yield the key of an engine that was built here, and of one for all GPUs like this."""
        yield needed.key(self._target)
        if self._trt.is_rtx:
            yield needed.key_ahead(self._trt, self._device.compute_capability)

    def _engine(
        self, runtime: Runtime, needed: NeededEngine, key: str, plan: bytes, memory: DeviceMemory
    ) -> Engine:
        engine = runtime.open_plan(plan)
        if engine is None:
            self._cache.discard(key, runtime.messages.reason())
            raise self._missing(needed)
        # Of this machine, also where the engine was built for every GPU of its kind.
        own = needed.key(self._target)
        return Engine(runtime, engine, memory, needed.role, Kernels(self._cache, own)
                      if self._trt.compiles_kernels else None)

    def _missing(self, needed: NeededEngine) -> EngineMissingError:
        return EngineMissingError(
            f'no engine for {needed.path.name} of {self._bundle.card.name!r} in '
            f'{needed.spec.precision}, TensorRT {self._trt.version}, {self._device.name}',
            'one built on this machine',
            f'run uncertainty_seg build-engines {self._bundle.folder}')
