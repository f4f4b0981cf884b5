# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Engines on disk, each under a key of everything it depends on.

A plan can be read only by the TensorRT that built it, on the GPU it was built on: some versions
report anything else and some crash. So all of that is in the key, and what does not fit is never
opened. Next to each plan is a JSON file with the same facts in words and the plan's hash.

TensorRT-RTX compiles the kernels of an engine when it first runs. What it compiled is kept beside
the engine, under the same key, so that the next start compiles nothing.

A plan is code: the folder belongs to the user, and nothing is downloaded into it.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
import dataclasses
from dataclasses import dataclass
import fcntl
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Protocol

from uncertainty_seg.backends.gpu.engine_build import EngineSpec
from uncertainty_seg.backends.gpu.tensorrt_api import TensorRt
from uncertainty_seg.errors import BackendError
from uncertainty_seg.storage.whole_files import replace_file

FOLDER_VARIABLE = 'UNCERTAINTY_SEG_ENGINE_CACHE'
# Increased when engines are built differently from the same spec, so that old ones are not used.
_RECIPE = 2
# Beyond this, the engines that were not used for the longest time are removed.
MAX_BYTES = 4 * 10**9
_DIGEST_BYTES = 32  # of sha256, in front of compiled kernels
_log = logging.getLogger(__name__)


class Device(Protocol):
    """What the cache needs to know of a GPU; a `device.CudaDevice` has it."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def compute_capability(self) -> str: ...  # noqa: D102
    @property
    def driver(self) -> str: ...  # noqa: D102
    @property
    def multiprocessors(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class EngineTarget:
    """
    Where an engine runs; it fits no other version, GPU or driver.

    Attributes
    ----------
    module, version : str
        Of TensorRT, as `TensorRt.name` and `TensorRt.version`.
    gpu, compute_capability, driver : str
        As 'Orin', '8.7', '12.6'.
    multiprocessors : int
        A Jetson has fewer in some power modes.

    """

    module: str
    version: str
    gpu: str
    compute_capability: str
    driver: str
    multiprocessors: int

    @staticmethod
    def of(trt: TensorRt, device: Device) -> EngineTarget:
        """Return the target of a TensorRT and a GPU."""
        return EngineTarget(trt.name, trt.version, device.name, str(device.compute_capability),
                            str(device.driver), int(device.multiprocessors))

    @staticmethod
    def ahead(trt: TensorRt, compute_capability: str) -> EngineTarget:
        """Return the target of every GPU of a compute capability, for TensorRT-RTX."""
        return EngineTarget(trt.name, trt.version, '', compute_capability, '', 0)


def engine_key(graph: bytes, spec: EngineSpec, target: EngineTarget) -> str:
    """Return an engine's name: sha256 over its ONNX file with weights, its spec and its target."""
    facts = {'recipe': _RECIPE, 'graph': hashlib.sha256(graph).hexdigest(),
             'spec': dataclasses.asdict(spec), 'target': dataclasses.asdict(target)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def cache_folder() -> Path:
    """
    Return the folder of engines, which need not exist yet.

    It is $UNCERTAINTY_SEG_ENGINE_CACHE, else uncertainty_seg/engines in $XDG_CACHE_HOME or
    ~/.cache.

    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).expanduser()
    return user_cache() / 'engines'


def user_cache() -> Path:
    """Return uncertainty_seg in $XDG_CACHE_HOME or ~/.cache, which need not exist yet."""
    # Its specification says that a relative path is ignored.
    base = Path(os.environ.get('XDG_CACHE_HOME', ''))
    if not base.is_absolute():
        base = Path.home() / '.cache'
    return base / 'uncertainty_seg'


class EngineCache:
    """
    Engines in a folder, which is made when the first is stored.

    Parameters
    ----------
    folder : Path, optional
        By default `cache_folder()`.
    max_bytes : int
        Size of all plans above which those not used for the longest time are removed.

    Notes
    -----
    Every method raises BackendError if the folder cannot be used.

    """

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder or cache_folder()
        self._max_bytes = max_bytes

    def plan_path(self, key: str) -> Path:
        """Return the path of an engine."""
        return self.folder / f'{key}.engine'

    def facts_path(self, key: str) -> Path:
        """Return the path of its JSON file."""
        return self.folder / f'{key}.json'

    def kernels_path(self, key: str) -> Path:
        """Return the path of the kernels that were compiled for an engine."""
        return self.folder / f'{key}.kernels'

    def has(self, key: str) -> bool:
        """Say whether an engine is there; it may still be damaged."""
        return self.plan_path(key).is_file() and self.facts_path(key).is_file()

    def load(self, key: str) -> bytes | None:
        """Return the plan of a key; None if there is none, or a damaged one, which is removed."""
        with self._usable():
            if not self.has(key):
                return None
            plan = self.plan_path(key).read_bytes()
            if hashlib.sha256(plan).hexdigest() != self._facts(key).get('sha256'):
                self.discard(key, 'plan and JSON do not belong together')
                return None
            os.utime(self.plan_path(key))
            return plan

    def store(self, key: str, plan: bytes, facts: Mapping[str, object]) -> Path:
        """
        Write an engine and facts about it as JSON, for people; return the path of the plan.

        A power cut leaves the whole of it, or nothing that would be loaded.

        """
        says = {**facts, 'sha256': hashlib.sha256(plan).hexdigest(), 'bytes': len(plan)}
        with self._usable():
            self.write(self.facts_path(key), (json.dumps(says, indent=2) + '\n').encode())
            self.write(self.plan_path(key), plan)
            self._evict(key)
        return self.plan_path(key)

    def discard(self, key: str, reason: str) -> None:
        """Remove an engine that cannot be used, and log why."""
        with self._usable():
            _log.warning('engine %s removed, to be built again: %s', self.plan_path(key), reason)
            self.plan_path(key).unlink(missing_ok=True)
            self.facts_path(key).unlink(missing_ok=True)
            self.kernels_path(key).unlink(missing_ok=True)

    def load_kernels(self, key: str) -> bytes:
        """Return the compiled kernels of an engine; empty if there are none, or damaged ones."""
        path = self.kernels_path(key)
        with self._usable():
            if not path.is_file():
                return b''
            content = path.read_bytes()
        digest, kernels = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(kernels).digest() == digest:
            return kernels
        _log.warning('%s is damaged and is ignored: kernels are compiled again', path)
        return b''

    def store_kernels(self, key: str, kernels: bytes) -> None:
        """Write the compiled kernels of an engine in place of older ones, with their digest."""
        with self._usable():
            self.write(self.kernels_path(key), hashlib.sha256(kernels).digest() + kernels)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keep other processes and threads from the same work, named by a key or a unique word."""
        with self._usable():
            self._make_folder()
            handle = os.open(self.folder / f'.{name}.lock', os.O_CREAT | os.O_RDWR, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.info('waiting for another process that works on %s', name)
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)  # which unlocks; another process may wait for the file, so it stays

    def timing_cache(self, target: EngineTarget) -> bytes:
        """Return the measurements of earlier builds on a target; empty if there are none."""
        with self._usable():
            try:
                return self._timing_path(target).read_bytes()
            except FileNotFoundError:
                return b''

    def merge_timing_cache(
        self, target: EngineTarget, new: bytes, merge: Callable[[bytes, bytes], bytes]
    ) -> None:
        """
        Join the measurements `new` of a build with those on disk; does nothing if it is empty.

        `merge` is given what is on disk and `new`; see `engine_build.merge_timing_caches`.

        """
        if not new:
            return
        path = self._timing_path(target)
        with self.lock(path.stem), self._usable():
            self.write(path, merge(self.timing_cache(target), new))

    def _timing_path(self, target: EngineTarget) -> Path:
        facts = json.dumps(dataclasses.asdict(target), sort_keys=True)
        return self.folder / f'timing-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.cache'

    def _facts(self, key: str) -> Mapping[str, object]:
        try:
            facts = json.loads(self.facts_path(key).read_text())
        except ValueError:
            return {}
        return facts if isinstance(facts, dict) else {}

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(self, path: Path, data: bytes) -> None:
        """Write a file of the folder, whole or not at all; OSError if the disk refuses."""
        self._make_folder()
        replace_file(path, data)

    def _evict(self, kept: str) -> None:
        plans = sorted(self.folder.glob('*.engine'), key=lambda path: path.stat().st_mtime)
        total = sum(path.stat().st_size for path in plans)
        for path in plans:
            if total <= self._max_bytes:
                return
            if path.stem != kept:
                total -= path.stat().st_size
                self.discard(path.stem, f'the cache holds more than {self._max_bytes / 1e9:g} GB')

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise BackendError(
                f'the engine cache {self.folder} cannot be used ({err})',
                fix=f'set {FOLDER_VARIABLE} to a folder that can be written') from err
