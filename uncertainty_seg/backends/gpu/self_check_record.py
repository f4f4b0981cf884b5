# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The results of `uncertainty_seg self-check` on this machine, in the folder of the engines.

TensorRT is not opened again for a model and a precision in which it failed, until it passes; where
the precision needs a check it is not opened before it has passed. bf16 on a processor is opened
with a warning. A record is valid for these graphs, this version of the runtime, this precision and
this device only.

"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields
import hashlib
import json
import logging
from pathlib import Path
import sys
from typing import Any

from uncertainty_seg.backends.gpu.engine_cache import cache_folder, EngineCache
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.plausibility import Backend
from uncertainty_seg.errors import BackendUnavailableError

RECORD_FILE = 'self_check.json'
# Backend -> the module that has its version. Not the distribution: ONNX Runtime has several.
_MODULES = {'openvino': 'openvino', 'onnxruntime': 'onnxruntime'}
# What only says how far the maps lie from those in float32. A network in bf16 is another one: it
# may fail these, and be calibrated as what it is.
DIFFERENCES = ('label_share', 'vote_share', 'mean', 'quantile', 'largest', 'score')
ROUGH = 'bf16'
_log = logging.getLogger(__name__)
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
        return ' '.join((self.graphs[:16], self.backend, self.version, self.precision,
                         self.device.replace(' ', '_'))).rstrip()


_KEY_FIELDS = {field.name for field in fields(SelfCheckKey)}


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
    is else that of its module, or empty.

    """
    # An open backend has imported it.
    module = sys.modules.get(_MODULES.get(backend.name, ''))
    version = getattr(backend, 'version', None) or getattr(module, '__version__', '')
    device = str(getattr(backend, 'device_name', ''))
    return SelfCheckKey.of(card, backend.name, str(version), precision, device)


def read_record(key: SelfCheckKey, folder: Path | None = None) -> SelfCheckRecord | None:
    """
    Return the result for a key, from a folder of engines or else this user's.

    None if it was never checked, or the file cannot be read, which is logged.

    """
    found = _read(folder or cache_folder()).get(key.text)
    if not isinstance(found, dict) or not isinstance(found.get('is_passed'), bool):
        return None
    failed = tuple(str(name) for name in found.get('failed', ()))
    # The file's key has a shortened digest; the whole digest decides.
    if found.get('key') != asdict(key):
        return None
    return SelfCheckRecord(key, found['is_passed'], failed, found.get('report', {}))


def write_record(record: SelfCheckRecord, folder: Path | None = None) -> Path:
    """Write a result in place of an older one of the same key; return the file's path."""
    cache = EngineCache(folder)
    path = cache.folder / RECORD_FILE
    with cache.lock('self_check'):
        records = _read(cache.folder)
        records[record.key.text] = {
            'key': asdict(record.key), 'is_passed': record.is_passed,
            'failed': list(record.failed), 'report': record.report,
        }
        cache.write(path, (json.dumps(records, indent=1, allow_nan=False) + '\n').encode())
    return path


def require_not_failed(
    key: SelfCheckKey, must_have_passed: bool = False, folder: Path | None = None
) -> None:
    """
    Refuse what failed its check here.

    Parameters
    ----------
    key : SelfCheckKey
        What is about to run.
    must_have_passed : bool
        Also refuse what was never checked.
    folder : Path or None
        Of the engines; that of this user if None.

    Raises
    ------
    BackendUnavailableError
        If it failed, or was not checked and has to be. Never inside `checking`.

    """
    if _is_checking.get():
        return
    record = read_record(key, folder)
    what = f'{key.backend} {key.version} in {key.precision}'.replace('  ', ' ')
    if record is not None and not record.is_passed:
        raise BackendUnavailableError(
            f'{what} failed its self-check on this model ({", ".join(record.failed)})',
            fix='choose another precision or backend, or repair it and run uncertainty_seg '
                'self-check again',
        )
    if record is None and must_have_passed:
        raise BackendUnavailableError(
            f'{what} was never checked on this model', 'a self-check that passed',
            'run uncertainty_seg self-check, or choose another precision',
        )


def warn_of_rough(card: ModelCard, backend: Backend, precision: str) -> None:
    """
    Say what the self-check found of a backend that computes in bf16 on a processor.

    Raises BackendUnavailableError if it found more than differences from float32, as values that
    are not finite or change from run to run. Never inside `checking`.
    """
    if precision != ROUGH or backend.name not in _MODULES or _is_checking.get():
        return
    key = key_of(card, backend, precision)
    record = read_record(key)
    if record is not None and not set(record.failed) <= set(DIFFERENCES):
        require_not_failed(key)
    if remark := _remark(card.name, precision, record):
        _log.warning('%s', remark)


def check_remark(card: ModelCard, precision: str, folder: Path | None = None) -> str:
    """Say that no backend of this machine passed its check, or one failed; empty otherwise."""
    graphs = SelfCheckKey.of(card, '', '', precision).graphs
    keys = [SelfCheckKey(**found['key']) for found in _read(folder or cache_folder()).values()
            if isinstance(found, dict) and isinstance(found.get('key'), dict)
            and {*found['key']} == _KEY_FIELDS
            and (found['key']['graphs'], found['key']['precision']) == (graphs, precision)]
    records = [record for key in keys if (record := read_record(key, folder)) is not None]
    return _remark(card.name, precision, min(records, key=lambda one: one.is_passed, default=None))


def _remark(name: str, precision: str, record: SelfCheckRecord | None) -> str:
    if record is None:
        return (f'{name!r} was never checked in {precision} on this machine, where its masks may '
                'not be those in float32: run uncertainty_seg self-check before it is relied on')
    if record.is_passed:
        return ''
    measured = record.report.get('checks', {}).get('label_share', {}).get('measured')
    labels = f', with other labels at {measured:.1%} of the pixels' \
        if isinstance(measured, float) else ''
    return (f'{name!r} failed its self-check in {precision} on this machine ('
            f'{", ".join(record.failed)}{labels}): only limits that were calibrated in '
            f'{precision} on labelled images hold for such masks')


@contextmanager
def checking() -> Iterator[None]:
    """Allow everything to be opened: what failed must be opened to be checked again."""
    token = _is_checking.set(True)
    try:
        yield
    finally:
        _is_checking.reset(token)


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / RECORD_FILE).read_text(encoding='utf-8'))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as err:
        _log.warning('%s cannot be read (%s): nothing counts as checked',
                     folder / RECORD_FILE, err)
        return {}
    return found if isinstance(found, dict) else {}
