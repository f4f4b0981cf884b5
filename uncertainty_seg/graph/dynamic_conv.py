# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A convolution whose weights differ from pass to pass becomes a product for each pass.

Networks that generate weights from the image (HyperSeg and other dynamic convolutions) are
exported for one image, with weights (O, C, k, k). With T passes there are T sets of them, which
no Conv takes at once. The shifted copies of the input under the kernel, side by side, turn it
into one matrix product a pass and group; a depthwise one is a sum of products by channel.

"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import itertools
import math

import numpy as np
import onnx
from onnx import helper

from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.masked_graph import (
    add_constant,
    drop_unused,
    MaskedView,
    swap,
    view_of,
)
from uncertainty_seg.graph.onnx_tools import attribute, copy_of
from uncertainty_seg.graph.plan import Decision


def dynamic_conv(
    masked: onnx.ModelProto, sites: Iterable[DropoutSite]
) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """
    Rewrite every convolution whose weights depend on a mask.

    Parameters
    ----------
    masked : ModelProto
        From `dropout_to_masks`, static at one pass; left as it is.
    sites : iterable of DropoutSite
        Its mask inputs.

    Returns
    -------
    masked : ModelProto
        Computes the same to rounding, for any number of passes.
    decisions : tuple of Decision
        One a convolution with such weights.

    Raises
    ------
    GraphError
        If it is a transposed one, or a shape is not static.

    """
    result = copy_of(masked)
    view, decisions = view_of(result, sites), []
    for node in list(result.graph.node):
        if node.op_type not in ('Conv', 'ConvTranspose') or node.input[1] not in view.touched:
            continue
        name = node.name or node.output[0]
        if node.op_type == 'ConvTranspose' or any(
                n not in view.shapes for n in (*node.input[:2], node.output[0])):
            raise GraphError(
                f'{node.op_type} {name!r} has weights that differ from pass to pass',
                'that of a plain Conv of static shape',
                'keep dropout out of what its weights are computed from')
        swap(result.graph, node, _Dynamic(result.graph, node, view).nodes())
        decisions.append(Decision('dynamic_conv', name, True,
                                  'its weights differ from pass to pass: a product for each'))
    drop_unused(result.graph)
    return result, tuple(decisions)


@dataclass(frozen=True)
class _Dynamic:
    """One convolution on its way to a product; shapes in comments are those of T passes."""

    graph: onnx.GraphProto
    conv: onnx.NodeProto
    view: MaskedView

    def nodes(self) -> list[onnx.NodeProto]:
        data, weights, out = (self.view.shapes[n] for n in (*self.conv.input[:2],
                                                            self.conv.output[0]))
        groups = attribute(self.conv, 'group', 1)
        copies, nodes = self._copies(data[2:], weights[2:], out[2:])
        if groups == data[1] == out[1]:
            nodes += self._by_channel(copies, out)
        else:
            nodes += self._by_product(copies, groups, weights, out)
        return [*nodes, *self._bias(len(data))]

    def _copies(
        self, size: Sequence[int], kernel: Sequence[int], out: Sequence[int]
    ) -> tuple[list[str], list[onnx.NodeProto]]:
        """Return the input as each weight of the kernel sees it, (T, C, h, w) each."""
        rank = len(size)
        strides = attribute(self.conv, 'strides', [1] * rank)
        dilations = attribute(self.conv, 'dilations', [1] * rank)
        pads = _pads(self.conv, size, kernel, out, strides, dilations)
        name, nodes = self.conv.input[0], []
        if any(pads):
            amounts = self._shape('pads', [0, 0, *pads[:rank], 0, 0, *pads[rank:]])
            nodes.append(self._node('Pad', [name, amounts], 'padded'))
            name = nodes[-1].output[0]
        if set(kernel) == set(strides) == {1}:
            return [name], nodes
        copies = []
        axes = self._shape('axes', range(2, 2 + rank))
        steps = self._shape('steps', strides)
        for at in itertools.product(*(range(k) for k in kernel)):
            first = [i * d for i, d in zip(at, dilations, strict=True)]
            last = [f + (n - 1) * s + 1 for f, n, s in zip(first, out, strides, strict=True)]
            tag = 'x'.join(map(str, at))
            nodes.append(self._node('Slice', [
                name, self._shape(f'first_{tag}', first), self._shape(f'last_{tag}', last),
                axes, steps], f'copy_{tag}'))
            copies.append(nodes[-1].output[0])
        return copies, nodes

    def _by_product(
        self, copies: list[str], groups: int, weights: tuple[int, ...], out: tuple[int, ...]
    ) -> list[onnx.NodeProto]:
        outputs, inputs = weights[0] // groups, weights[1]
        kernel, pixels = math.prod(weights[2:]), math.prod(out[2:])
        wide = self._shape('grouped', [-1, groups, inputs, pixels])
        nodes = [self._node('Reshape', [copy, wide], f'columns_{i}')
                 for i, copy in enumerate(copies)]  # (T, g, C/g, hw)
        columns = [node.output[0] for node in nodes]
        if len(columns) > 1:
            nodes.append(self._node('Concat', columns, 'columns', axis=2))
        split = self._shape('split', [-1, groups, outputs, inputs, kernel])
        flat = self._shape('rows', [-1, groups, outputs, kernel * inputs])
        back = self._shape('planes', [-1, *out[1:]])
        rows = [self._node('Reshape', [self.conv.input[1], split], 'kernels'),
                self._node('Transpose', [self._name('kernels')], 'moved', perm=[0, 1, 2, 4, 3]),
                self._node('Reshape', [self._name('moved'), flat], 'rows_of_weights')]
        product = self._node('MatMul', [rows[-1].output[0], nodes[-1].output[0]], 'product')
        return [*nodes, *rows, product, self._node('Reshape', [product.output[0], back], 'plain')]

    def _by_channel(self, copies: list[str], out: tuple[int, ...]) -> list[onnx.NodeProto]:
        shape = [-1, out[1], len(copies), *[1] * (len(out) - 2)]
        nodes = [self._node('Reshape', [self.conv.input[1], self._shape('kernels', shape)],
                            'kernels')]  # (T, C, k * k, 1, 1)
        total = ''
        for i, copy in enumerate(copies):
            pick = add_constant(self.graph, self._name(f'pick_{i}'), i, np.int64)
            nodes.append(self._node('Gather', [nodes[0].output[0], pick], f'weight_{i}', axis=2))
            nodes.append(self._node('Mul', [copy, self._name(f'weight_{i}')], f'term_{i}'))
            if total:
                nodes.append(self._node('Add', [total, self._name(f'term_{i}')], f'sum_{i}'))
            total = nodes[-1].output[0]
        return [*nodes, self._node('Identity', [total], 'plain')]

    def _bias(self, rank: int) -> list[onnx.NodeProto]:
        plain, out = self._name('plain'), self.conv.output[0]
        if len(self.conv.input) < 3 or not self.conv.input[2]:
            return [helper.make_node('Identity', [plain], [out])]
        outputs = self.view.shapes[self.conv.output[0]][1]
        tall = self._shape('bias_shape', [-1, outputs, *[1] * (rank - 2)])
        return [self._node('Reshape', [self.conv.input[2], tall], 'bias'),
                helper.make_node('Add', [plain, self._name('bias')], [out])]

    def _name(self, suffix: str) -> str:
        return f'{self.conv.output[0]}_{suffix}'

    def _node(
        self, op: str, inputs: Sequence[str], suffix: str, **attributes: object
    ) -> onnx.NodeProto:
        return helper.make_node(op, list(inputs), [self._name(suffix)], **attributes)

    def _shape(self, suffix: str, values: Iterable[int]) -> str:
        return add_constant(self.graph, self._name(f'{suffix}_values'), list(values), np.int64)


def _pads(
    conv: onnx.NodeProto, size: Sequence[int], kernel: Sequence[int], out: Sequence[int],
    strides: Sequence[int], dilations: Sequence[int],
) -> list[int]:
    """Return the padding before and after each axis, as `pads` has it."""
    mode = attribute(conv, 'auto_pad', 'NOTSET')
    if mode in ('NOTSET', 'VALID'):
        return list(attribute(conv, 'pads', [0] * 2 * len(size)))
    total = [max(0, (n - 1) * s + (k - 1) * d + 1 - i)
             for n, s, k, d, i in zip(out, strides, kernel, dilations, size, strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return [*small, *large] if mode == 'SAME_UPPER' else [*large, *small]
