# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Results of the self-check, in the folder of the engines.

A model in a precision that failed on this machine is not opened again until it passes. A result is
valid only for its graphs, version of the runtime, precision and device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
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
# Checks of the difference from the maps in float32. A bf16 network may fail them, since its own
# calibration takes the difference into account.
DIFFERENCES = ('label_share', 'vote_share', 'mean', 'quantile', 'largest', 'score')
ROUGH = 'bf16'
# Backends of the CPU, which open bf16 with a warning.
_PROCESSOR = ('openvino', 'onnxruntime')
_log = logging.getLogger(__name__)
_is_checking: ContextVar[bool] = ContextVar('is_checking', default=False)


@dataclass(frozen=True)
class SelfCheckKey:
    """The configuration for which a result is valid."""

    graphs: str  # Digest of the bundle's files.
    backend: str
    version: str  # Version of its runtime.
    precision: str  # One of `core.model_card.PRECISIONS`.
    device: str = ''  # Name of the GPU; empty for a backend of the CPU.

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
        """Return the key as text, as stored in the file."""
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
    Return the key of an open backend for a card and a precision.

    It uses the backend's attributes `version` and `device_name` if present. The version is
    otherwise that of the module of the backend's name, or empty.
    """
    # An open backend has imported its module.
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
    """Write a result, replacing an older one of the same key; return the file's path."""
    cache = EngineCache(folder)
    path = cache.folder / RECORD_FILE
    with cache.lock('self_check'):
        records = _read(path)
        records[record.key.text] = {'is_passed': record.is_passed, 'failed': list(record.failed),
                                    'report': record.report}
        cache.write(path, (json.dumps(records, indent=1, allow_nan=False) + '\n').encode())
    return path


def require_not_failed(key: SelfCheckKey, folder: Path | None = None) -> None:
    """Raise BackendUnavailableError if the self-check of a key failed, except in `checking`."""
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
    Warn if a CPU backend in bf16 failed its self-check, or has none; silent in `checking`.

    Raises BackendUnavailableError if it failed more than the comparisons with float32, such as the
    checks for finite and repeatable values.
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
    """Return the warning for a model in a precision that was never checked on this machine."""
    return (f'{name!r} was never checked in {precision} on this machine, where its masks may '
            'differ from those in float32: run uncertainty_seg self-check before you rely on it')


@contextmanager
def checking() -> Iterator[None]:
    """Allow backends that failed to be opened, so that they can be checked again."""
    token = _is_checking.set(True)
    try:
        yield
    finally:
        _is_checking.reset(token)


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file's content; empty if it is missing, or damaged, which is logged."""
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as err:
        _log.warning('%s cannot be read (%s) and is ignored', path, err)
        return {}
    return found if isinstance(found, dict) else {}
