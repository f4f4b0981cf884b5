# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The inputs and outputs that the two files of a bundle declare, held against its card.

Read from the files and not from a runtime, so that every backend refuses the same bundles in the
same words. What the nodes compute is not looked at.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8, require_shape
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.errors import ModelBundleError, ShapeError

# -------------------------------------------------------------------------------------------------
# What every backend asks of an image and a set of masks before it runs.


def require_inputs(
    card: ModelCard, image: ImageU8, masks: Mapping[str, NDArray[np.float32]]
) -> int:
    """
    Refuse what the network was not made for.

    Parameters
    ----------
    card : ModelCard
        Says what it was made for.
    image : ndarray of uint8, shape (h, w, 3)
        The fitted image.
    masks : mapping of str to ndarray of float32, shape (T, *site.shape)
        One array for each dropout site of the card.

    Returns
    -------
    int
        T, which all masks agree on.

    Raises
    ------
    ShapeError
        If the image has another size or dtype, a mask is missing or unknown, or the masks
        disagree about T.

    """
    require_shape('image', image, (card.input.height, card.input.width, 3), np.uint8)
    wanted = {site.name: site.shape for site in card.dropout_sites}
    if set(masks) != set(wanted):
        raise ShapeError(f'masks for {sorted(masks)}', f'{sorted(wanted)}, the sites of the card')
    for name, shape in wanted.items():
        require_shape(f'mask {name!r}', masks[name], (None, *shape), np.float32)
    counts = {name: len(mask) for name, mask in masks.items()}
    passes = min(counts.values())
    if passes < 1 or len(set(counts.values())) > 1:
        raise ShapeError(f'masks for {counts} passes', 'the same T >= 1 for every site')
    return passes


# -------------------------------------------------------------------------------------------------

IMAGE, LOGITS = 'image', 'logits'
COMPILE = 'compile the bundle again'
_FLOAT, _BYTE = 'tensor(float)', 'tensor(uint8)'
_Tensors: TypeAlias = dict[str, tuple[str, list[int | None]]]


@dataclass(frozen=True)
class GraphNames:
    """
    Names of the tensors that pass from one graph to the other, in the order of the files.

    Attributes
    ----------
    frontier : tuple of str
        Outputs of the trunk.
    head_inputs : tuple of str
        What the head takes: frontier and masks, and the image if it looks at it.

    """

    frontier: tuple[str, ...]
    head_inputs: tuple[str, ...]


def require_graphs(bundle: ModelBundle) -> GraphNames:
    """
    Refuse graphs whose inputs and outputs are not what the card says.

    Parameters
    ----------
    bundle : ModelBundle
        Input size, dropout sites, chunk and logits are its card's.

    Returns
    -------
    GraphNames
        What to pass on from trunk to head.

    Raises
    ------
    ModelBundleError
        With the first tensor that is missing, unknown, or of another type or shape.

    """
    card, spec = bundle.card, bundle.card.input
    trunk, head = _graph(bundle.trunk_path), _graph(bundle.head_path)
    passes = card.chunk or None
    image: _Tensors = {IMAGE: (_BYTE, [1, spec.height, spec.width, 3])}
    features = _tensors(trunk.output)
    sites: _Tensors = {site.name: (_FLOAT, [passes, *site.shape]) for site in card.dropout_sites}
    _require_tensors('trunk.onnx takes', _tensors(_inputs(trunk)), image)
    inputs = _tensors(_inputs(head))
    direct = image if IMAGE in inputs else {}
    _require_tensors('head.onnx takes', inputs, {**direct, **features, **sites})
    _require_tensors('head.onnx gives', _tensors(head.output),
                     {LOGITS: (_FLOAT, [passes, *card.logits_shape])})
    return GraphNames(tuple(features), tuple(inputs))


def with_masks(path: Path, masks: Mapping[str, NDArray[np.float32]]) -> bytes:
    """
    Read a head with some passes' masks as constants in it.

    Parameters
    ----------
    path : Path
        The head.
    masks : mapping of str to ndarray of float32, shape (chunk, *site.shape)
        Of every site.

    Returns
    -------
    bytes
        An ONNX file without mask inputs. What is gathered by masks is folded when it is opened.

    """
    import onnx

    model = onnx.load(str(path))
    kept = [info for info in model.graph.input if info.name not in masks]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(mask, name) for name, mask in masks.items())
    return bytes(model.SerializeToString())


def _graph(path: Path) -> Any:
    import onnx

    try:
        return onnx.load(str(path), load_external_data=False).graph
    except Exception as err:  # protobuf's own error class has moved between versions
        raise ModelBundleError(f'{path} is no ONNX file ({err})', fix=COMPILE) from err


def _inputs(graph: Any) -> list[Any]:
    """Return the inputs that are no weights; old files list those too."""
    weights = {weight.name for weight in graph.initializer}
    return [info for info in graph.input if info.name not in weights]


def _tensors(infos: Iterable[Any]) -> _Tensors:
    """Return type and shape by name; a symbolic axis is None."""
    import onnx

    found: _Tensors = {}
    for info in infos:
        kind = info.type.tensor_type
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        dims = [dim.dim_value if dim.HasField('dim_value') else None for dim in kind.shape.dim]
        found[info.name] = (f'tensor({name})', dims)
    return found


def _require_tensors(what: str, found: _Tensors, wanted: _Tensors) -> None:
    if set(found) != set(wanted):
        raise ModelBundleError(f'{what} {sorted(found)}', f'{sorted(wanted)} as the card says',
                               COMPILE)
    for name, (kind, shape) in wanted.items():
        if found[name] != (kind, shape):
            raise ModelBundleError(
                f'{what} {name!r} as {found[name][0]} {found[name][1]}',
                f'{kind} {shape} as the card says', COMPILE,
            )
