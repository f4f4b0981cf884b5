# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The tensors in whatever a net returns: a tensor, a dict, a sequence, or a dataclass of them.

Which of them are the logits is decided elsewhere, by these names.

"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from torch import Tensor

from uncertainty_seg.errors import GraphError

SINGLE = 'output'


def named_outputs(returned: Any) -> dict[str, Tensor]:
    """
    Name every tensor of a net's result.

    Parameters
    ----------
    returned : object
        As the net's forward returned it.

    Returns
    -------
    dict of str to Tensor
        'output' for a single tensor; else keys and fields by name, elements of a sequence as
        'output_0' and on, nested names joined by an underscore, one more where two clash.

    Raises
    ------
    GraphError
        If there is no tensor in it.

    """
    found: dict[str, Tensor] = {}
    for wish, value in _walk(returned, ''):
        name = wish
        while name in found:
            name += '_'
        found[name] = value
    if not found:
        raise GraphError(f'the net returns {type(returned).__name__} without a tensor',
                         'logits, alone or in a dict, sequence or dataclass')
    if len(found) == 1 and not isinstance(returned, Mapping):
        return {SINGLE: next(iter(found.values()))}
    return found


def _walk(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name or SINGLE, value
        return
    for key, part in _parts(value):
        is_place = isinstance(key, int) and not name
        yield from _walk(part, f'{SINGLE}_{key}' if is_place else f'{name}_{key}'.lstrip('_'))


def _parts(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if hasattr(value, '_fields'):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    return []
