# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Model bundles on disk: find, check, read, write, sign.

A bundle is checked as a whole before the first frame. SHA256SUMS lists every file of its folder;
a file that is not listed is never opened. The graphs must contain no random operators, and every
weight. This module does not depend on what they compute.

A bundle without that list, which a killed process may leave, has hashes only of its graphs, in its
card. It is loaded with a warning, unless there are trusted keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import dataclasses
import hashlib
import io
import logging
import os
from pathlib import Path
import re
import sys
import tempfile
from typing import Any

import numpy as np

from uncertainty_seg.core.bundle import (
    CALIBRATION_FILE,
    CARD_FILE,
    FEATURES_FILE,
    HASHES_FILE,
    ModelBundle,
    PASSES_FILE,
    SIGNATURE_FILE,
    TRUNK_FILE,
)
from uncertainty_seg.core.calibration import (
    Calibration,
    calibration_from_json,
    calibration_to_json,
)
from uncertainty_seg.core.model_card import card_from_json, card_to_json, ModelCard
from uncertainty_seg.core.scores.density import FeatureDensity
from uncertainty_seg.errors import (
    BackendUnavailableError,
    CalibrationError,
    install_command,
    ModelBundleError,
    UnknownModelError,
)
from uncertainty_seg.storage.foreign_files import read_arrays, why, ZIP_ERRORS
from uncertainty_seg.storage.onnx_nodes import every_node, every_tensor, LOOP_OPS, RANDOM_OPS
from uncertainty_seg.storage.signatures import require_signature, SigningKey
from uncertainty_seg.storage.whole_files import replace_file, whole_folder

_log = logging.getLogger(__name__)
_NEW, _ELSEWHERE = 'a new folder, or that of a bundle', 'write it elsewhere'

_LATER_FIELDS = ('precision', 'members', 'upsampling', 'feature_shape', 'mask_draw', 'grid_offset',
                 'silenced')
_RECALIBRATE = 'calibrate the bundle again'
_COMPILE = 'restore the bundle from its source or compile it again'
# Maximum sizes of files, to refuse one before it is read; a protocol buffer is limited to 2 GiB.
_MOST_BYTES = {CARD_FILE: 10**6, CALIBRATION_FILE: 64 * 10**6, HASHES_FILE: 10**6,
               SIGNATURE_FILE: 64, FEATURES_FILE: 64 * 10**6}
_MOST_GRAPH_BYTES = 2**31
_GRAPH_ENDING = '.onnx'
# A comment for sha256sum; with it, the signature of another list cannot pass for a bundle's.
_HASHES_TITLE = '# Files of an uncertainty_seg bundle, format 1: sha256sum -c SHA256SUMS'
_SHA256 = re.compile('[0-9a-f]{64}')
_LISTED_NAME = re.compile(r'[\w+-][\w+. -]{0,198}')
_RELIST = (f'restore the bundle from its source; if the change is yours, delete {HASHES_FILE} '
           'and calibrate or sign the bundle again')


def models_folders() -> list[Path]:
    """List the folders of shipped bundles: source tree, each sourced ROS prefix, this Python."""
    source = Path(__file__).resolve().parents[2] / 'config' / 'models'
    prefixes = [Path(p) for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    share = [p / 'share' / 'uncertainty_seg' / 'config' / 'models'
             for p in (*prefixes, Path(sys.prefix))]
    return [folder for folder in (source, *share) if folder.is_dir()]


def shipped_bundles() -> dict[str, Path]:
    """Return the folder of every shipped bundle, by name."""
    found: dict[str, Path] = {}
    for folder in models_folders():
        for card in sorted(folder.glob(f'*/{CARD_FILE}')):
            found.setdefault(card.parent.name, card.parent)
    return found


@contextmanager
def _as_bundle_error() -> Iterator[None]:
    # No restart may read what this user may not, and some would try for ever.
    try:
        yield
    except OSError as err:
        raise ModelBundleError(f'{err.filename or "a file of the bundle"} cannot be read '
                               f'({why(err)})', 'a folder and files that this user may read',
                               'look at the permissions of the whole path') from err


@_as_bundle_error()
def find_bundle(name_or_path: str | Path) -> Path:
    """
    Find the folder of a bundle by the name of a shipped one ('pipeline'), or by its path.

    UnknownModelError if there is no folder with a card, the name is empty (there is no default),
    or it is that of a shipped bundle and of another one in the working folder; a `Path`, or a text
    with a separator, is never a name.
    """
    path, name = Path(os.path.expanduser(name_or_path)), str(name_or_path)
    is_there, shipped = bool(name) and (path / CARD_FILE).is_file(), shipped_bundles()
    if is_there and isinstance(name_or_path, str) and name in shipped \
            and not path.samefile(shipped[name]):
        raise UnknownModelError(
            f'{name!r} is a shipped model and a bundle in the working folder {Path.cwd()}',
            'the one or the other',
            f'write ./{name} for the folder, or {shipped[name]} for the shipped one')
    if is_there:
        return path
    if name in shipped:
        return shipped[name]
    what = f'{path} holds no {CARD_FILE}' if path.is_dir() else f'no model {name!r}'
    raise UnknownModelError(
        what if name else 'no model is named', "a bundle's folder or a shipped name "
        f'({", ".join(shipped) or "none found"})', 'set model to one of them')


def lasting_name(name_or_path: str | Path) -> str:
    """Return a name that finds a bundle from any folder: a shipped name, or an absolute path."""
    path = Path(os.path.expanduser(name_or_path))
    return str(path.absolute()) if (path / CARD_FILE).is_file() else str(name_or_path)


@_as_bundle_error()
def load_bundle(
    name_or_path: str | Path, has_calibration: bool = True, trusted_keys: Sequence[str] = (),
) -> ModelBundle:
    """
    Read and check a bundle.

    Raises UnknownModelError if there is none of that name; ModelBundleError if a file is missing,
    truncated, modified, of another schema, has random operators, or is not signed by a trusted
    key; CalibrationError if its calibration was made for other graphs; ConfigError if a trusted
    key cannot be read, BackendUnavailableError if the library for it is not installed.

    Parameters
    ----------
    name_or_path : str or Path
        Name of an included model ('pipeline', 'suim') or folder of a bundle.
    has_calibration : bool
        False leaves the calibration unread, as when a new one is made.
    trusted_keys : sequence of str
        Public keys (PEM files, or the line inside of one), one of which must have signed the
        bundle. If empty, signatures are not checked.

    """
    folder = find_bundle(name_or_path)
    # A calibration that is about to be replaced may be missing or modified.
    unread = () if has_calibration else (CALIBRATION_FILE, FEATURES_FILE)
    files = _Files(folder, trusted_keys, unread)
    card = card_from_json(files.read(CARD_FILE))
    for name in (TRUNK_FILE, PASSES_FILE):
        if name not in card.sha256:
            raise ModelBundleError(f'card of {card.name!r} has no sha256 of {name}', fix=_COMPILE)
    for name, digest in card.sha256.items():
        _compare(folder / name, files.digest(name), digest, 'the card')
    for name in card.sha256:  # only after every hash was checked
        if name.endswith(_GRAPH_ENDING):
            _check_graph(folder, name, files.read(name))
    calibration = _read_calibration(files, card) if has_calibration else None
    return ModelBundle(folder, card, calibration, _read_features(files, card, calibration))


def model_digest(card: ModelCard) -> str:
    """Return a digest of a card's graphs and of every field that changes a score."""
    files = [f'{name} {card.sha256[name]}' for name in sorted(card.sha256)]
    fields = (card.method, card.class_names, card.input, card.dropout_sites, card.logits_shape)
    # Included only if not the default, so that older calibrations stay valid.
    defaults = {field.name: field.default for field in dataclasses.fields(card)}
    fields += tuple((name, getattr(card, name)) for name in _LATER_FIELDS
                    if getattr(card, name) != defaults[name])
    return hashlib.sha256('\n'.join([*files, repr(fields)]).encode()).hexdigest()


def _require_own(folder: Path) -> None:
    if folder.exists() and not (folder / CARD_FILE).is_file() and any(folder.iterdir()):
        raise ModelBundleError(f'{folder} exists and holds no {CARD_FILE}', _NEW, _ELSEWHERE)


def require_place(folder: Path) -> None:
    """Raise ModelBundleError, before minutes of work, if no bundle can be written to a folder."""
    if folder.is_file():
        raise ModelBundleError(f'{folder} is a file', _NEW, _ELSEWHERE)
    _require_own(folder)
    above = next(path for path in folder.absolute().parents if path.exists())
    try:
        os.rmdir(tempfile.mkdtemp(dir=above))
    except OSError as err:
        what = 'may not be written to' if above.is_dir() else 'is no folder'
        raise ModelBundleError(f'no bundle can be written to {folder}: {above} {what}', _NEW,
                               _ELSEWHERE) from err


def write_bundle(folder: Path, card: ModelCard, files: Mapping[str, bytes]) -> ModelCard:
    """
    Write a bundle of graphs, given by file name, whole or not at all; an older one is replaced.

    Returns the card with the hashes of the files. Raises ModelBundleError if `folder` exists and
    is no bundle.
    """
    _require_own(folder)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    card = dataclasses.replace(card, sha256=digests)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as draft:
        for name, data in {**files, CARD_FILE: card_to_json(card).encode()}.items():
            (draft / name).write_bytes(data)
        (draft / HASHES_FILE).write_bytes(_hash_list(draft))
    return card


def write_calibration(
    bundle: ModelBundle, calibration: Calibration, features: FeatureDensity | None = None
) -> None:
    """Write a calibration and the features whose digest it has; the bundle loses its signature."""
    with _changed(bundle.folder):
        if features is None:
            (bundle.folder / FEATURES_FILE).unlink(missing_ok=True)
        else:
            replace_file(bundle.folder / FEATURES_FILE, features_file(features))
        replace_file(bundle.folder / CALIBRATION_FILE, calibration_to_json(calibration))


def update_measured(
    bundle: ModelBundle, metrics: Mapping[str, float], promise: str
) -> None:
    """
    Write measured figures and the promise into a bundle's card; the graphs are not changed.

    The bundle is no longer signed. A process that is killed meanwhile leaves a bundle without
    SHA256SUMS, which loads with a warning, and never one that looks signed.
    """
    with _changed(bundle.folder):
        card = dataclasses.replace(bundle.card, metrics=dict(metrics), promise=promise)
        replace_file(bundle.folder / CARD_FILE, card_to_json(card))


def sign_bundle(folder: Path, key: SigningKey) -> None:
    """
    Sign every file of a bundle, by a key of `read_private_key`; SHA256SUMS is written anew.

    Raises ModelBundleError if the bundle is damaged, so that no change by hand is signed.
    """
    load_bundle(folder)
    hashes = _hash_list(folder)
    # At no time may an old signature lie next to a new list, or a new one next to an old list.
    (folder / SIGNATURE_FILE).unlink(missing_ok=True)
    replace_file(folder / HASHES_FILE, hashes)
    replace_file(folder / SIGNATURE_FILE, key.sign(hashes))


# -------------------------------------------------------------------------------------------------
# The list of hashes.


@contextmanager
def _changed(folder: Path) -> Iterator[None]:
    """Remove signature and list while the block changes files of a bundle; write a new list."""
    if (folder / SIGNATURE_FILE).exists():
        _log.warning('%s is no longer signed, since its files change: sign it again', folder)
    (folder / SIGNATURE_FILE).unlink(missing_ok=True)
    (folder / HASHES_FILE).unlink(missing_ok=True)
    yield
    replace_file(folder / HASHES_FILE, _hash_list(folder))


def _hash_list(folder: Path) -> bytes:
    """Return SHA256SUMS of a folder: of every file in it that is not hidden."""
    names = sorted(path.name for path in folder.iterdir()
                   if path.is_file() and not path.name.startswith('.')
                   and path.name not in (HASHES_FILE, SIGNATURE_FILE))
    odd = [name for name in names if not _LISTED_NAME.fullmatch(name)]
    if odd:
        raise ModelBundleError(f'{folder} holds the file {odd[0]!r}', 'a name of letters, digits '
                               'and . _ + - or a space', 'rename it, or move it elsewhere')
    lines = [_HASHES_TITLE, *(f'{_digest_of(folder / name)}  {name}' for name in names)]
    return '\n'.join([*lines, '']).encode()


class _Files:
    """The files of a bundle; with a list, only listed ones, checked at once unless unread."""

    def __init__(
        self, folder: Path, trusted_keys: Sequence[str], unread: Sequence[str],
    ) -> None:
        path, signature = folder / HASHES_FILE, folder / SIGNATURE_FILE
        self.folder = folder
        self._listed: Mapping[str, str] | None = None
        if trusted_keys and not (path.is_file() and signature.is_file()):
            raise ModelBundleError(
                f'{folder} is not signed', 'a signature of one of the trusted_keys',
                'sign it, or name no trusted_keys')
        if not path.is_file():
            _log.warning('%s has no %s: the hashes of its graphs are checked, those of its card '
                         'and calibration are unknown. Calibrating or signing the bundle writes '
                         'it', folder, HASHES_FILE)
            return
        data = _read_file(path)
        if trusted_keys:
            require_signature(data, _read_file(signature), trusted_keys, str(path))
        self._listed = _parsed_list(path, data)
        for name in sorted(self._listed.keys() - set(unread)):
            self._require(name)
            _compare(folder / name, _digest_of(folder / name), self._listed[name], HASHES_FILE)

    def digest(self, name: str) -> str:
        """Return the sha256 of a file."""
        self._require(name)
        return _digest_of(self.folder / name) if self._listed is None else self._listed[name]

    def read(self, name: str) -> bytes:
        """Read a whole file, and check the bytes against the list."""
        self._require(name)
        data = _read_file(self.folder / name)
        if self._listed is not None:
            _compare(self.folder / name, hashlib.sha256(data).hexdigest(), self._listed[name],
                     HASHES_FILE)
        return data

    def _require(self, name: str) -> None:
        path = self.folder / name
        if Path(name).name != name:
            raise ModelBundleError(f'card names the file {name!r}', 'a name without folders')
        if not path.is_file():
            raise ModelBundleError(f'{path} is missing',
                                   f'every file that card and {HASHES_FILE} name', _COMPILE)
        if self._listed is not None and name not in self._listed:
            raise ModelBundleError(f'{path} is not in {HASHES_FILE}', 'every file that is read to '
                                   'be listed there', _RELIST)


def _parsed_list(path: Path, data: bytes) -> dict[str, str]:
    title, *lines = data.decode('utf-8', 'replace').splitlines() or ['']
    found = {}
    for line in lines:
        digest, _, name = line.partition('  ')
        if not _SHA256.fullmatch(digest) or not _LISTED_NAME.fullmatch(name) or name in found:
            raise ModelBundleError(f'{path} holds the line {line!r:.120}', 'a sha256, two spaces '
                                   'and the name of a file, each once', _RELIST)
        found[name] = digest
    if title != _HASHES_TITLE or not found:
        raise ModelBundleError(f'{path} begins with {title!r:.120}', repr(_HASHES_TITLE), _RELIST)
    return found


def _compare(path: Path, actual: str, digest: str, source: str) -> None:
    if actual != digest:
        raise ModelBundleError(
            f'{path} has sha256 {actual} ({path.stat().st_size} bytes)',
            f'{digest} as {source} says: one of the two was changed',
            _RELIST if source == HASHES_FILE else _COMPILE,
        )


def _read_file(path: Path) -> bytes:
    most = _MOST_BYTES.get(path.name, _MOST_GRAPH_BYTES)
    if path.stat().st_size > most:
        raise ModelBundleError(f'{path} has {path.stat().st_size} bytes', f'at most {most}',
                               _COMPILE)
    with path.open('rb') as file:
        return file.read(most + 1)


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------------
# Reading the files.


_FEATURE_ARRAYS = {'bank': 'float16', 'neighbours': 'int64', 'centre': 'float32',
                   'axes': 'float32'}


def features_file(density: FeatureDensity) -> bytes:
    """Return the file of features to compare with; the same values give the same bytes."""
    arrays: dict[str, Any] = {name: np.array(getattr(density, name), kind, order='C')
                              for name, kind in _FEATURE_ARRAYS.items()}
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _read_features(
    files: _Files, card: ModelCard, calibration: Calibration | None,
) -> FeatureDensity | None:
    """Read the features that the calibration was made with; any other file is refused."""
    if calibration is None or not calibration.features_sha256:
        return None
    path = files.folder / FEATURES_FILE
    data = files.read(FEATURES_FILE)
    _compare(path, hashlib.sha256(data).hexdigest(), calibration.features_sha256,
             CALIBRATION_FILE)
    try:
        arrays = read_arrays(data, _FEATURE_ARRAYS, _MOST_BYTES[FEATURES_FILE])
        density = FeatureDensity(arrays['bank'], arrays['centre'], arrays['axes'],
                                 int(arrays['neighbours']))
    except (*ZIP_ERRORS, TypeError) as err:
        raise CalibrationError(f'{path} cannot be read ({why(err)})', 'what was written with '
                               'it', _RECALIBRATE) from err
    if density.num_channels != (card.feature_shape or [0])[0]:
        raise CalibrationError(f'{path} has {density.num_channels} channels',
                               f'{(card.feature_shape or [0])[0]}', _RECALIBRATE)
    return density


def _check_graph(folder: Path, name: str, data: bytes) -> None:
    try:
        import onnx

        model = onnx.ModelProto.FromString(data)
    except ImportError as err:
        raise BackendUnavailableError(
            f'onnx cannot be imported ({err})', 'onnx, to check the graphs of a bundle',
            install_command('onnx')) from err
    except Exception as err:  # protobuf's own error class has moved between versions
        raise ModelBundleError(f'{folder / name} is no ONNX file ({err})', fix=_COMPILE) from err
    kinds = {node.op_type for node in every_node(model)}
    if random := sorted(kinds & RANDOM_OPS):
        raise ModelBundleError(
            f'{name} holds {", ".join(random)}', 'dropout as mask inputs only',
            'a runtime would remove it silently: compile the network with uncertainty_seg',
        )
    if loops := sorted(kinds & LOOP_OPS):
        raise ModelBundleError(f'{name} holds {", ".join(loops)}',
                               'a fixed sequence of operators', _COMPILE)
    for tensor in every_tensor(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ModelBundleError(f'the weight {tensor.name!r:.80} of {name} is in another file',
                                   'every weight in its graph', _COMPILE)


def _read_calibration(files: _Files, card: ModelCard) -> Calibration | None:
    path = files.folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    calibration = calibration_from_json(files.read(CALIBRATION_FILE))
    if calibration.model_sha256 != model_digest(card):
        raise CalibrationError(
            f'{path} was made for the model {calibration.model_sha256[:12]}',
            f'{model_digest(card)[:12]}, what {card.name!r} is by its card',
            'restore the card, or calibrate the bundle again',
        )
    return calibration
