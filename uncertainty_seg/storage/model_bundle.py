# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Model bundles on disk: find, check, read, write.

A bundle is checked as a whole before the first frame: the graphs are the files that the card
names, and contain no random operators of their own. What they compute is not known here.

"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import os
from pathlib import Path
import sys

from uncertainty_seg.core.bundle import (
    CALIBRATION_FILE,
    CARD_FILE,
    HEAD_FILE,
    ModelBundle,
    TRUNK_FILE,
)
from uncertainty_seg.core.calibration import (
    Calibration,
    calibration_from_json,
    calibration_to_json,
)
from uncertainty_seg.core.model_card import card_from_json, card_to_json, ModelCard
from uncertainty_seg.errors import (
    BackendUnavailableError,
    CalibrationError,
    install_command,
    ModelBundleError,
)
from uncertainty_seg.storage.whole_files import replace_file, whole_folder

# Runtimes remove or reseed these silently; dropout has to come in as a mask.
RANDOM_OPS = frozenset({
    'Dropout', 'Bernoulli', 'Multinomial', 'RandomNormal', 'RandomNormalLike', 'RandomUniform',
    'RandomUniformLike',
})
_LATER_FIELDS = ('precision', 'reduction', 'chunk', 'is_balanced', 'members', 'upsampling')
_COMPILE = 'restore the bundle from its source or compile it again'


def models_folders() -> list[Path]:
    """List the folders of shipped bundles: source tree, each sourced ROS prefix, this Python."""
    source = Path(__file__).resolve().parents[2] / 'config' / 'models'
    prefixes = [Path(p) for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    share = [p / 'share' / 'uncertainty_seg' / 'config' / 'models'
             for p in (*prefixes, Path(sys.prefix))]
    return [folder for folder in (source, *share) if folder.is_dir()]


def shipped_bundles() -> dict[str, Path]:
    """Return name to folder of every shipped bundle."""
    found: dict[str, Path] = {}
    for folder in models_folders():
        for card in sorted(folder.glob(f'*/{CARD_FILE}')):
            found.setdefault(card.parent.name, card.parent)
    return found


def find_bundle(name_or_path: str | Path) -> Path:
    """
    Find the folder of a bundle by the name of a shipped one ('pipeline'), or by its path.

    ModelBundleError if there is no folder with a card.
    """
    path = Path(name_or_path).expanduser()
    if (path / CARD_FILE).is_file():
        return path
    shipped = shipped_bundles()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    what = f'{path} holds no {CARD_FILE}' if path.is_dir() else f'no model {str(name_or_path)!r}'
    names = ', '.join(shipped) or 'none found'
    raise ModelBundleError(
        what, f"a bundle's folder or a shipped name ({names})", 'set model to one of them'
    )


def load_bundle(name_or_path: str | Path, has_calibration: bool = True) -> ModelBundle:
    """
    Read and check a bundle.

    Parameters
    ----------
    name_or_path : str or Path
        A shipped name ('pipeline', 'suim') or the folder of a bundle.
    has_calibration : bool
        False leaves the calibration unread, as when a new one is made.

    Returns
    -------
    ModelBundle
        Card and calibration; every file's hash has been compared.

    Raises
    ------
    ModelBundleError
        If it is missing, truncated, modified, of another schema, or has random operators.
    CalibrationError
        If its calibration was made for other graphs.

    """
    folder = find_bundle(name_or_path)
    card = card_from_json((folder / CARD_FILE).read_bytes())
    for name in (TRUNK_FILE, HEAD_FILE):
        if name not in card.sha256:
            raise ModelBundleError(f'card of {card.name!r} has no sha256 of {name}', fix=_COMPILE)
    for name, digest in card.sha256.items():
        _check_file(folder, name, digest)
    for name in card.sha256:  # not before every hash is known to be right
        _check_ops(folder / name)
    calibration = _read_calibration(folder, card) if has_calibration else None
    return ModelBundle(folder, card, calibration)


def model_digest(card: ModelCard) -> str:
    """Return a digest of a card's graphs and of every field that changes a score."""
    files = [f'{name} {card.sha256[name]}' for name in sorted(card.sha256)]
    fields = (card.method, card.class_names, card.input, card.dropout_sites, card.logits_shape)
    # Included only if not the default, so that older calibrations stay valid.
    fields += tuple((name, getattr(card, name)) for name in _LATER_FIELDS
                    if getattr(card, name) != _default(name))
    return hashlib.sha256('\n'.join([*files, repr(fields)]).encode()).hexdigest()


def _default(name: str) -> object:
    return next(f.default for f in dataclasses.fields(ModelCard) if f.name == name)


def write_bundle(folder: Path, card: ModelCard, files: Mapping[str, bytes]) -> ModelCard:
    """
    Write a bundle of graphs, given by file name, whole or not at all; an older one is replaced.

    Returns the card with the hashes of the files. Raises ModelBundleError if `folder` exists and
    is no bundle.
    """
    if folder.exists() and not (folder / CARD_FILE).is_file() and any(folder.iterdir()):
        raise ModelBundleError(f'{folder} exists and holds no {CARD_FILE}', 'a new folder')
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    card = dataclasses.replace(card, sha256=digests)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as draft:
        for name, data in files.items():
            (draft / name).write_bytes(data)
        (draft / CARD_FILE).write_text(card_to_json(card))
    return card


def write_calibration(bundle: ModelBundle, calibration: Calibration) -> None:
    """Write calibration.json into a bundle, whole or not at all."""
    replace_file(bundle.folder / CALIBRATION_FILE, calibration_to_json(calibration))


def update_metrics(bundle: ModelBundle, metrics: Mapping[str, float]) -> None:
    """Write measured figures into a bundle's card; the graphs stay as they are."""
    card = dataclasses.replace(bundle.card, metrics=dict(metrics))
    replace_file(bundle.folder / CARD_FILE, card_to_json(card))


def _check_file(folder: Path, name: str, digest: str) -> None:
    path = folder / name
    if Path(name).name != name:
        raise ModelBundleError(f'card names the file {name!r}', 'a name without folders')
    if not path.is_file():
        raise ModelBundleError(f'{path} is missing', 'every file the card names', _COMPILE)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != digest:
        raise ModelBundleError(
            f'{path} has sha256 {actual[:12]} ({path.stat().st_size} bytes)',
            f'{digest[:12]} as the card says: the file was truncated or changed', _COMPILE,
        )


def _check_ops(path: Path) -> None:
    try:
        import onnx
    except ImportError as err:
        raise BackendUnavailableError(
            f'onnx cannot be imported ({err})', 'it, to check the graphs of a bundle',
            install_command('onnx'),
        ) from err
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as err:  # protobuf's own error class has moved between versions
        raise ModelBundleError(f'{path} is no ONNX file ({err})', fix=_COMPILE) from err
    random = sorted({node.op_type for node in graph.node} & RANDOM_OPS)
    if random:
        raise ModelBundleError(
            f'{path.name} holds {", ".join(random)}', 'dropout as mask inputs only',
            'a runtime would drop it without a word: compile the network with uncertainty_seg',
        )


def _read_calibration(folder: Path, card: ModelCard) -> Calibration | None:
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    calibration = calibration_from_json(path.read_bytes())
    if calibration.model_sha256 != model_digest(card):
        raise CalibrationError(
            f'{path} was made for the model {calibration.model_sha256[:12]}',
            f'{model_digest(card)[:12]}, what {card.name!r} is by its card',
            'restore the card, or calibrate the bundle again',
        )
    return calibration
