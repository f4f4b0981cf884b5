# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is kept of this machine on disk: engines, each under a key of everything it depends on.

A plan can be read only by the TensorRT that built it, on the GPU it was built on: some versions
report anything else and some crash. So all of that is in the key, and what does not fit is never
opened. Next to each plan is a JSON file with the same facts in words. A plan begins with its
digest.

TensorRT-RTX compiles the kernels of an engine when it first runs. What it compiled is kept beside
the engine, under the same key, so that the next start compiles nothing.

The results of the self-check are in the same folder. A model and a precision that failed on this
machine are not opened again until they pass. A result is valid for these graphs, this version of
the runtime, this precision and this device only.

A plan is code: the folder belongs to the user, and nothing is downloaded into it.

"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
import dataclasses
from dataclasses import dataclass
import fcntl
import hashlib
import json
import logging
import os
from pathlib import Path
import sys
from typing import Any, TypeAlias

from uncertainty_seg.backends.gpu.nvidia import CudaDevice, Shape, TensorRt
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.plausibility import Backend
from uncertainty_seg.errors import BackendError, BackendUnavailableError
from uncertainty_seg.storage.whole_files import replace_file

FOLDER_VARIABLE = 'UNCERTAINTY_SEG_ENGINE_CACHE'
# Increased when engines are built differently from the same facts, so that old ones are not used.
RECIPE = 4
# Beyond this, the engines that were not used for the longest time are removed.
MAX_BYTES = 4 * 10**9
_DIGEST_BYTES = 32  # of sha256, in front of plans and compiled kernels
# Name of an input -> its shapes, the least, those it is made fastest for, and the largest.
Profiles: TypeAlias = Mapping[str, tuple[Shape, Shape, Shape]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineTarget:
    """
    Where an engine runs; it fits no other version, GPU or driver.

    Attributes
    ----------
    module, version : str
        Of TensorRT, as `TensorRt.name` and `TensorRt.version`.
    gpu, compute_capability, driver : str
        As in `CudaDevice`; without a GPU and a driver for any of that compute capability.
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
    def of(trt: TensorRt, device: CudaDevice) -> EngineTarget:
        """Return the target of a TensorRT and a GPU."""
        return EngineTarget(trt.name, trt.version, device.name, device.compute_capability,
                            device.driver, device.multiprocessors)

    @staticmethod
    def ahead(trt: TensorRt, compute_capability: str) -> EngineTarget:
        """Return the target of every GPU of a compute capability, for TensorRT-RTX."""
        return EngineTarget(trt.name, trt.version, '', compute_capability, '', 0)

    @property
    def is_ahead(self) -> bool:
        """Whether it is for every GPU of a compute capability."""
        return not self.gpu


@dataclass(frozen=True)
class EngineKey(EngineTarget):
    """
    Everything that an engine is built from and for; two that differ in anything are two engines.

    Attributes
    ----------
    graph : str
        Digest of the bytes that TensorRT parses, weights included.
    precision : str
        What the graph computes in, one of `core.settings.COMPUTED`.
    profiles : mapping of str to (min, opt, max)
        Shapes of each input with a row for each pass.
    flags : tuple of str
        Names of TensorRT's flags that the engine is built with.
    recipe : int
        `RECIPE`.

    """

    graph: str
    precision: str
    profiles: Profiles
    flags: tuple[str, ...]
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
        return self.plan_path(key).is_file()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep all engines where they are, between a look at what is there and its loading."""
        if not os.access(self.folder, os.W_OK):  # it is not there, or nothing leaves it
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
            with suppress(OSError):  # in a folder that is only read, nothing is removed
                os.utime(self.plan_path(key))
            return plan

    def store(self, key: str, plan: bytes, facts: Mapping[str, object]) -> Path:
        """
        Write an engine, and facts about it as JSON, for a reader; return the path of the plan.

        Engines that are removed to make room for it are none that another process is about to
        load.

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
            for path in (self.plan_path(key), self.facts_path(key), self.kernels_path(key)):
                path.unlink(missing_ok=True)

    def load_kernels(self, key: str) -> bytes:
        """Return the compiled kernels of an engine; empty if there are none, or damaged ones."""
        path = self.kernels_path(key)
        with self._usable():
            kernels = _unsealed(path) if path.exists() else b''
        if kernels is None:
            _log.warning('%s is damaged and is ignored: kernels are compiled again', path)
        return kernels or b''

    def store_kernels(self, key: str, kernels: bytes) -> None:
        """Write the compiled kernels of an engine in place of older ones."""
        with self._usable():
            self.write(self.kernels_path(key), _sealed(kernels))

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keep other processes and threads from the same work, named by a key or a unique word."""
        with self._flock(f'.{name}.lock', fcntl.LOCK_EX):
            yield

    def write(self, path: Path, data: bytes) -> None:
        """Write a file of the folder, whole or not at all; OSError if the disk refuses."""
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
            os.close(handle)  # which unlocks; another process may wait for the file, so it stays

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
    """Return what follows the digest in a file; None where it is not of what follows."""
    found = path.read_bytes()
    content = found[_DIGEST_BYTES:]
    return content if _sealed(content) == found else None


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file of the folder; nothing where it is missing or damaged, which is said."""
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as err:
        _log.warning('%s cannot be read (%s) and counts for nothing', path, err)
        return {}
    return found if isinstance(found, dict) else {}


# -------------------------------------------------------------------------------------------------
# Results of the self-check.

RECORD_FILE = 'self_check.json'
# What only says how far the maps lie from those in float32. A network in bf16 is another one: it
# may fail these, and be calibrated as what it is.
DIFFERENCES = ('label_share', 'vote_share', 'mean', 'quantile', 'largest', 'score')
ROUGH = 'bf16'
# Of the processor: bf16 there is opened with a warning.
_PROCESSOR = ('openvino', 'onnxruntime')
_is_checking: ContextVar[bool] = ContextVar('is_checking', default=False)


@dataclass(frozen=True)
class SelfCheckKey:
    """
    What a result is valid for.

    Attributes
    ----------
    graphs : str
        Digest over the files of the bundle.
    backend, version : str
        Name of the backend; version of its runtime.
    precision : str
        One of `core.model_card.PRECISIONS`.
    device : str
        Name of the GPU; empty for a backend of the CPU.

    """

    graphs: str
    backend: str
    version: str
    precision: str
    device: str = ''

    @staticmethod
    def of(
        card: ModelCard, backend: str, version: str, precision: str, device: str = ''
    ) -> SelfCheckKey:
        """Make the key of a bundle's card."""
        files = '\n'.join(f'{name} {card.sha256[name]}' for name in sorted(card.sha256))
        digest = hashlib.sha256(files.encode()).hexdigest()
        return SelfCheckKey(digest, backend, version, precision, device)

    @property
    def text(self) -> str:
        """Return the key in the file."""
        return ' '.join((self.graphs, self.backend, self.version, self.precision,
                         self.device.replace(' ', '_'))).rstrip()


@dataclass(frozen=True)
class SelfCheckRecord:
    """A result: whether every check passed, the names of those that failed, and the report."""

    key: SelfCheckKey
    is_passed: bool
    failed: tuple[str, ...]
    report: Mapping[str, Any]


def key_of(card: ModelCard, backend: Backend, precision: str) -> SelfCheckKey:
    """
    Make the key of a backend that is open for a card, in a precision.

    Its attributes `version` and `device_name` say what it runs on, where it has them; the version
    is else that of the module of its name, or empty.

    """
    # An open backend has imported it.
    module = sys.modules.get(backend.name)
    version = getattr(backend, 'version', None) or getattr(module, '__version__', '')
    device = str(getattr(backend, 'device_name', ''))
    return SelfCheckKey.of(card, backend.name, str(version), precision, device)


def read_record(key: SelfCheckKey, folder: Path | None = None) -> SelfCheckRecord | None:
    """Return the result for a key, by default from this user's folder; None if there is none."""
    found = _read((folder or cache_folder()) / RECORD_FILE).get(key.text)
    if not isinstance(found, dict) or not isinstance(found.get('is_passed'), bool):
        return None
    failed = tuple(str(name) for name in found.get('failed', ()))
    return SelfCheckRecord(key, found['is_passed'], failed, found.get('report', {}))


def write_record(record: SelfCheckRecord, folder: Path | None = None) -> Path:
    """Write a result in place of an older one of the same key; return the file's path."""
    cache = EngineCache(folder)
    path = cache.folder / RECORD_FILE
    with cache.lock('self_check'):
        records = _read(path)
        records[record.key.text] = {'is_passed': record.is_passed, 'failed': list(record.failed),
                                    'report': record.report}
        cache.write(path, (json.dumps(records, indent=1, allow_nan=False) + '\n').encode())
    return path


def require_not_failed(key: SelfCheckKey, folder: Path | None = None) -> None:
    """Refuse, with BackendUnavailableError, what failed its check here; never in `checking`."""
    record = None if _is_checking.get() else read_record(key, folder)
    if record is not None and not record.is_passed:
        raise BackendUnavailableError(
            f'{key.backend} {key.version} in {key.precision} failed its self-check on this model '
            f'({", ".join(record.failed)})',
            fix='choose another precision or backend, or repair it and run uncertainty_seg '
                'self-check again',
        )


def warn_of_rough(card: ModelCard, backend: Backend, precision: str) -> None:
    """
    Say what the self-check found of a backend that computes in bf16 on a processor.

    Raises BackendUnavailableError if it found more than differences from float32, as values that
    are not finite or change from run to run. Never inside `checking`.
    """
    if precision != ROUGH or backend.name not in _PROCESSOR or _is_checking.get():
        return
    key = key_of(card, backend, precision)
    record = read_record(key)
    if record is None:
        _log.warning('%s', unchecked(card.name, precision))
    elif not set(record.failed) <= set(DIFFERENCES):
        require_not_failed(key)
    elif not record.is_passed:
        labels = record.report.get('checks', {}).get('label_share', {}).get('measured')
        share = f', with other labels at {labels:.1%} of the pixels' \
            if isinstance(labels, float) else ''
        _log.warning(
            '%r failed its self-check in %s on this machine (%s%s): only thresholds that were '
            'calibrated in %s on labelled images hold for such masks', card.name, precision,
            ', '.join(record.failed), share, precision)


def unchecked(name: str, precision: str) -> str:
    """Return what to say of a model in a precision that was never checked on this machine."""
    return (f'{name!r} was never checked in {precision} on this machine, where its masks may '
            'not be those in float32: run uncertainty_seg self-check before it is relied on')


@contextmanager
def checking() -> Iterator[None]:
    """Allow everything to be opened: what failed must be opened to be checked again."""
    token = _is_checking.set(True)
    try:
        yield
    finally:
        _is_checking.reset(token)
