# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Cache of this machine's engines on disk, each under a key of everything it depends on.

A plan can be read only by the TensorRT that built it, on the GPU for which it was built: with any
other, some versions report an error and some crash. So the key contains all of that, and a plan
that does not fit is never opened. Next to each plan is a JSON file with the same facts in readable
form. A plan file begins with its digest.

A plan is executable code: the folder belongs to the user, and nothing is downloaded into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
import dataclasses
from dataclasses import dataclass
import fcntl
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TypeAlias

from uncertainty_seg.backends.gpu.nvidia import CudaDevice, Shape, TensorRt
from uncertainty_seg.errors import BackendError
from uncertainty_seg.storage.whole_files import replace_file

FOLDER_VARIABLE = 'UNCERTAINTY_SEG_ENGINE_CACHE'
# Increase this when the build changes for the same key fields, so that old engines are not used.
RECIPE = 4
# Above this size, the least recently used engines are removed.
MAX_BYTES = 4 * 10**9
_DIGEST_BYTES = 32  # of the sha256 at the start of a plan file
# Name of an input -> its shapes: smallest, the one to optimise for, largest.
Profiles: TypeAlias = Mapping[str, tuple[Shape, Shape, Shape]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineTarget:
    """
    The TensorRT version, GPU and driver for which an engine is valid.

    `module` and `version` are TensorRT's; the other fields are those of `CudaDevice` (a Jetson has
    fewer multiprocessors in some power modes). With empty `gpu` and `driver`, the target is every
    GPU of that compute capability.
    """

    module: str
    version: str
    gpu: str
    compute_capability: str
    driver: str
    multiprocessors: int

    @staticmethod
    def of(trt: TensorRt, device: CudaDevice) -> EngineTarget:
        """Return the target for a TensorRT and a GPU."""
        return EngineTarget(trt.name, trt.version, device.name, device.compute_capability,
                            device.driver, device.multiprocessors)

    @staticmethod
    def ahead(trt: TensorRt, compute_capability: str) -> EngineTarget:
        """Return the target for every GPU of a compute capability, for TensorRT-RTX."""
        return EngineTarget(trt.name, trt.version, '', compute_capability, '', 0)

    @property
    def is_ahead(self) -> bool:
        """Whether it is for every GPU of a compute capability."""
        return not self.gpu


@dataclass(frozen=True)
class EngineKey(EngineTarget):
    """
    Everything that an engine depends on; keys that differ in any field are different engines.

    The precision 'tf32' allows float32 products to round their factors to 10 bits, which TensorRT
    does by default and this package does not.
    """

    graph: str  # Digest of the ONNX bytes that TensorRT parses, including weights.
    precision: str  # Precision of the graph, one of `core.settings.COMPUTED`.
    profiles: Profiles
    flags: tuple[str, ...]  # Names of the TensorRT flags used to build the engine.
    recipe: int = RECIPE

    @property
    def digest(self) -> str:
        """Return the engine's name in the cache."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def cache_folder() -> Path:
    """
    Return the folder of engines, which need not exist yet.

    It is $UNCERTAINTY_SEG_ENGINE_CACHE, else uncertainty_seg/engines in $XDG_CACHE_HOME or
    ~/.cache.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(os.path.expanduser(named))
    # The XDG specification says to ignore a relative path.
    base = Path(os.environ.get('XDG_CACHE_HOME', ''))
    if not base.is_absolute():
        # A user of a container may have no home, and ~ is then left as it is.
        base = Path('/nonexistent', os.path.expanduser('~/.cache'))
    return base / 'uncertainty_seg' / 'engines'


class EngineCache:
    """
    Engines in a folder, by default `cache_folder()`; it is created with the first engine.

    Above a total of `max_bytes`, the least recently used plans are removed. Methods that access
    files raise BackendError if the folder cannot be used.
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

    def has(self, key: str) -> bool:
        """Return whether an engine exists; it may still be damaged."""
        return self.plan_path(key).is_file()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Prevent the removal of engines between checking for them and loading them."""
        if not os.access(self.folder, os.W_OK):  # it does not exist, or nothing can be removed
            yield
            return
        with self._flock('.folder.lock', fcntl.LOCK_SH):
            yield

    def load(self, key: str) -> bytes | None:
        """Return the plan of a key; None if there is none, or a damaged one, which is removed."""
        with self._usable(), self.reading():
            if not self.has(key):
                return None
            plan = _unsealed(self.plan_path(key))
            if plan is None:
                self.discard(key, 'it is damaged')
                return None
            with suppress(OSError):  # a read-only folder needs no time of use, nothing is removed
                os.utime(self.plan_path(key))
            return plan

    def store(self, key: str, plan: bytes, facts: Mapping[str, object]) -> Path:
        """
        Write an engine, and human-readable facts about it as JSON; return the path of the plan.

        Engines that another process is about to load are not removed to make room, since this
        waits until no process is in `reading`.
        """
        with self._usable(), self._flock('.folder.lock', fcntl.LOCK_EX):
            self.write(self.facts_path(key), (json.dumps(facts, indent=2) + '\n').encode())
            self.write(self.plan_path(key), _sealed(plan))
            self._evict(key)
        return self.plan_path(key)

    def discard(self, key: str, reason: str) -> None:
        """Remove an engine that cannot be used, and log why."""
        with self._usable():
            _log.warning('engine %s removed, to be built again: %s', self.plan_path(key), reason)
            for path in (self.plan_path(key), self.facts_path(key)):
                path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Lock out other processes and threads from the same work, named by a key or a word."""
        with self._flock(f'.{name}.lock', fcntl.LOCK_EX):
            yield

    def write(self, path: Path, data: bytes) -> None:
        """Write a file of the folder atomically; OSError if it cannot be written."""
        self._make_folder()
        replace_file(path, data)

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

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
    def _flock(self, name: str, kind: int) -> Iterator[None]:
        with self._usable():
            self._make_folder()
            handle = os.open(self.folder / name, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.info('waiting for another process that holds %s', self.folder / name)
                fcntl.flock(handle, kind)
            yield
        finally:
            os.close(handle)  # unlocks; the file stays, since another process may wait for it

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise BackendError(
                f'the engine cache {self.folder} cannot be used ({err})',
                fix=f'set {FOLDER_VARIABLE} to a folder that can be written') from err


def _sealed(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def _unsealed(path: Path) -> bytes | None:
    """Return a file's content after the digest; None if the digest does not match it."""
    found = path.read_bytes()
    content = found[_DIGEST_BYTES:]
    return content if _sealed(content) == found else None
