# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Fill a torch net from a file of weights: a state dict of torch or safetensors, or a checkpoint.

A file whose keys or shapes do not fit the net is refused with what does not fit; nothing is
loaded half.

"""

from __future__ import annotations

from collections.abc import Mapping
import logging
from pathlib import Path
import re
from typing import Any
import warnings

import torch
from torch import nn, Tensor

from uncertainty_seg.errors import TrainingError

# Where the training frameworks put the state dict in a checkpoint.
_WRAPPERS = ('state_dict', 'model_state_dict', 'model_state', 'model')
# Written before each key by DataParallel, and by torch.compile.
_PREFIXES = ('module.', '_orig_mod.')
_NAMED = 3
# How files that torch.save writes begin: a zip archive, or a pickle up to torch 1.5.
_BEGINNINGS = (b'PK', b'\x80')
_TENSORS = 'a state dict of tensors'
_log = logging.getLogger(__name__)


def load_weights(net: nn.Module, path: Path) -> None:
    """
    Fill a network from a file.

    Parameters
    ----------
    net : Module
        Changed in place, if all fits.
    path : Path
        A state dict as .safetensors, or written by torch.save, alone or as 'state_dict' or
        'model' of a checkpoint.

    Raises
    ------
    TrainingError
        If the file is missing, holds no state dict, or that of another network.

    """
    state = _strip(read_state(path))
    wanted = net.state_dict()
    missing = [k for k in wanted if k not in state]
    unexpected = [k for k in state if k not in wanted]
    reshaped = [f'{k} {tuple(state[k].shape)} for {tuple(v.shape)}' for k, v in wanted.items()
                if k in state and isinstance(v, Tensor) and state[k].shape != v.shape]
    problems = [
        f'{len(found)} {what} ({", ".join(found[:_NAMED])}{", ..." * (len(found) > _NAMED)})'
        for what, found in (('missing', missing), ('unexpected', unexpected),
                            ('of another shape', reshaped)) if found
    ]
    if problems:
        raise TrainingError(
            f'of {len(state)} weights in {path} and {len(wanted)} of the network, '
            f'{"; ".join(problems)}', 'weights of this network',
            'build it with the classes and options that it was trained with',
        )
    net.load_state_dict(state)


def read_state(path: Path) -> dict[str, Tensor]:
    """
    Read a state dict.

    Raises
    ------
    TrainingError
        If the file is missing or holds none.

    """
    if not path.is_file():
        raise TrainingError(f'no weights at {path}', 'a file of weights')
    content = _read_safetensors(path) if path.suffix == '.safetensors' else _read_torch(path)
    while isinstance(content, Mapping):
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise TrainingError(f'{path} holds {type(content).__name__}', 'a state dict',
                            'save net.state_dict()')
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        keys = ', '.join(map(str, list(content)[:_NAMED])) or 'nothing'
        raise TrainingError(f'{path} holds no tensor, but {keys}', 'a state dict',
                            "save net.state_dict(), alone or as 'state_dict'")
    return tensors


def _read_torch(path: Path) -> Any:
    _require_torch_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # what matters of them is in the error
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as err:  # damaged pickles raise almost anything
        # torch's own words are a page about its options, with escapes for a terminal.
        _log.debug('torch.load of %s: %s', path, err)
        raise _refused(path, str(err)) from err


def _require_torch_file(path: Path) -> None:
    """Refuse what torch would take for an old pickle, and fail on in some odd way."""
    try:
        with path.open('rb') as file:
            start = file.read(64)
    except OSError as err:
        raise TrainingError(f'{path} cannot be read ({err})', 'a file of weights') from err
    if not start:
        raise TrainingError(f'{path} is empty', _TENSORS, 'copy or save it again')
    if not start.startswith(_BEGINNINGS):
        line = start.split(b'\n')[0].decode('ascii', 'replace')
        words = re.sub(r'[^ -~]', '?', line)[:24]
        raise TrainingError(f'{path} is no file of torch.save, it begins with {words!r}', _TENSORS,
                            'give the file with the weights, or download it again')


def _refused(path: Path, says: str) -> TrainingError:
    """Say in a sentence why torch does not load a file that looks like one of its own."""
    if 'TorchScript' in says:
        return TrainingError(f'{path} is a TorchScript archive', _TENSORS,
                             'save the state_dict() of the net it was made of')
    found = re.search(r'[Uu]nsupported (?:global: )?GLOBAL ([\w.]+)', says)
    if found:
        return TrainingError(
            f'{path} holds an object of {found[1]}, which could run code when it is loaded',
            _TENSORS, 'save net.state_dict() alone, not the whole net')
    return TrainingError(f'{path} is damaged or cut short', _TENSORS,
                         'copy it again, or save net.state_dict() again')


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as err:
        raise TrainingError(f'{path} needs safetensors, which is not installed', '',
                            'pip install safetensors') from err
    try:
        return load_file(path)
    except (OSError, SafetensorError) as err:
        raise TrainingError(f'{path} cannot be loaded ({err})', 'a safetensors file') from err


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix):]: value for key, value in state.items()}
    return state
