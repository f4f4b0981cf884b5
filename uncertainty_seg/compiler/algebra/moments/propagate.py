# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From a network with masks to one that computes mean and variance of its logits.

Nodes that no noise reaches are copied; every other one becomes the nodes of its two moments. A
mask is a random factor of mean 1 and variance p/(1-p): it is never drawn. The sensor's noise is
the variance of the image. Elements are taken as normal and, with the exceptions that `writing`
names, as independent of each other: so are the two sides of a sum behind a skip connection.

"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from uncertainty_seg.compiler.algebra.dropout_to_masks import PASSES_AXIS
from uncertainty_seg.compiler.algebra.free_passes import one_pass
from uncertainty_seg.compiler.algebra.moments import activations, linear, pooling
from uncertainty_seg.compiler.algebra.moments.writing import Moments, MomentWriter, unknown
from uncertainty_seg.compiler.algebra.split import LOGITS
from uncertainty_seg.compiler.onnx_tools import (
    attribute,
    build_model,
    constants,
    copy_of,
    float_info,
    image_inputs,
    needed_nodes,
    rename_tensors,
    shapes,
)
from uncertainty_seg.compiler.plan import graph_cost
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError

MEAN, VARIANCE, NOISE = 'logit_mean', 'logit_variance', 'noise'

_Rule = Callable[[onnx.NodeProto, Moments, MomentWriter], Moments]
# What a node does to the moments of its first input, the others being constants.
_RULES: dict[str, _Rule] = {
    'Conv': linear.conv, 'ConvTranspose': linear.conv, 'BatchNormalization': linear.batch_norm,
    'AveragePool': linear.average, 'GlobalAveragePool': linear.average,
    'ReduceMean': linear.average, 'ReduceSum': linear.reduce_sum, 'Resize': linear.resize,
    'MaxPool': pooling.max_pool, 'Relu': activations.relu, 'LeakyRelu': activations.leaky_relu,
    'PRelu': activations.leaky_relu, 'Clip': activations.clip, 'Softmax': activations.softmax,
}
_LAYOUT = ('Identity', 'Cast', 'Transpose', 'Reshape', 'Flatten', 'Squeeze', 'Unsqueeze', 'Slice',
           'Split', 'Pad', 'Expand', 'Tile', 'Gather', 'DepthToSpace', 'SpaceToDepth')
_TWO_SIDED = ('Add', 'Sub', 'Mul', 'Div')
# What a mask may go through on its way to the tensor that it multiplies.
_MASK_LAYOUT = ('Identity', 'Transpose', 'Reshape', 'Squeeze', 'Unsqueeze')


def propagate_moments(
    model: onnx.ModelProto, sites: Sequence[DropoutSite], sensor_std: float = 0.0,
    is_centred: bool = False,
) -> onnx.ModelProto:
    """
    Make the graph of mean and variance of a network's logits.

    Parameters
    ----------
    model : ModelProto
        Image of bytes and masks to one output of logits; from `dropout_to_masks`, or without
        dropout where there is noise of the sensor. Left as it is.
    sites : sequence of DropoutSite
        Its mask inputs; may be empty.
    sensor_std : float
        Standard deviation of each pixel value, of 0 to 255, by the camera's noise.
    is_centred : bool
        Where the logits come out of a convolution, take the variance of each less the mean of
        all classes: a mask moves them together, and what they have in common no softmax sees.

    Returns
    -------
    ModelProto
        Image to `logit_mean` and `logit_variance`, float32 (1, C, hl, wl).

    Raises
    ------
    GraphError
        If noise reaches an operator that has no rule, or does not reach the logits.

    """
    single = one_pass(model, sites)
    known = shapes(single)
    macs = graph_cost(single.graph.node, known).macs
    write = MomentWriter(single, known, constants(single.graph), macs)
    logits = single.graph.output[0].name
    ratios = {site.name: site.p / (1 - site.p) for site in sites}
    walk = _Propagation(write, ratios, logits if is_centred else '')
    masks = {site.name for site in sites}
    images = [info for info in image_inputs(single.graph) if info.name not in masks]
    if sensor_std:
        walk.moments[images[0].name] = _sensor(images[0].name, sensor_std, write)
    for node in single.graph.node:
        walk.take(node)
    found = walk.moments.get(logits)
    if found is None:
        raise GraphError('no dropout reaches the output', 'noise that propagates to the logits',
                         'name the output that the dropout belongs to, or give --sensor-std')
    return _finished(single, found, known[logits], images, write)


def _sensor(name: str, std: float, write: MomentWriter) -> Moments:
    shape = write.constant(f'{name}_shape', write.shapes[name], np.int64)
    noise = write.constant(f'{name}_noise', np.full((1,) * len(write.shapes[name]), std**2))
    return Moments(name, write.node('Expand', [noise, shape], f'{name}_variance'))


def _finished(
    model: onnx.ModelProto, found: Moments, shape: tuple[int, ...],
    images: Sequence[onnx.ValueInfoProto], write: MomentWriter,
) -> onnx.ModelProto:
    if found.mean in {info.name for info in images}:
        found = replace(found, mean=write.node('Identity', [found.mean], found.mean))
    nodes = needed_nodes(write.nodes, [found.mean, found.variance])
    for node in nodes:
        rename_tensors(node, {found.mean: MEAN, found.variance: VARIANCE})
    outputs = [float_info(name, shape) for name in (MEAN, VARIANCE)]
    return build_model('trunk', nodes, images, outputs,
                       [*model.graph.initializer, *write.tensors])


def sampling_head(
    trunk: onnx.ModelProto,
) -> tuple[onnx.ModelProto, tuple[DropoutSite, ...]]:
    """
    Make the head that draws logits of the moments of a trunk.

    Parameters
    ----------
    trunk : ModelProto
        From `propagate_moments`.

    Returns
    -------
    head : ModelProto
        `logit_mean`, `logit_variance` and `noise`, float32 (T, C, 1, 1), to `logits`, float32
        (T, C, hl, wl): mean + sqrt(variance) noise. One draw serves all pixels of a class, as one
        mask does.
    sites : tuple of DropoutSite
        The noise.

    """
    mean, variance = trunk.graph.output
    shape = tuple(d.dim_value for d in mean.type.tensor_type.shape.dim)
    if len(shape) != 4:
        raise GraphError(f'the output has {len(shape)} axes', '(1, C, hl, wl) logits')
    site = DropoutSite(NOISE, (shape[1], 1, 1), 0.0, 'noise')
    nodes = [
        # Relu of NaN is 0 in OpenVINO: a variance that nobody knows would pass for none.
        helper.make_node('Abs', [VARIANCE], ['logit_size']),
        helper.make_node('Add', [VARIANCE, 'logit_size'], ['logit_twice']),
        helper.make_node('Mul', ['logit_twice', 'logit_half'], ['logit_spread_squared']),
        helper.make_node('Sqrt', ['logit_spread_squared'], ['logit_spread']),
        helper.make_node('Mul', ['logit_spread', NOISE], ['logit_shift']),
        helper.make_node('Add', [MEAN, 'logit_shift'], [LOGITS]),
    ]
    inputs = [mean, variance, float_info(NOISE, (PASSES_AXIS, *site.shape))]
    head = build_model('head', nodes, inputs, [float_info(LOGITS, (PASSES_AXIS, *shape[1:]))],
                       [numpy_helper.from_array(np.float32(0.5), 'logit_half')])
    return head, (site,)


class _Propagation:
    """Goes through the nodes in order and keeps the moments of every random tensor."""

    def __init__(self, write: MomentWriter, masks: dict[str, float], centred: str) -> None:
        self.moments: dict[str, Moments] = {}
        self._centred = centred
        self._write, self._masks = write, masks
        # What made each random tensor of one other, element by element: that one, and the nodes.
        self._made: dict[str, tuple[str, list[onnx.NodeProto]]] = {}

    def take(self, node: onnx.NodeProto) -> None:
        """Write a node, or the nodes of its moments."""
        if any(name in self._masks for name in node.input):
            self._take_mask(node)
        elif any(name in self.moments for name in node.input):
            self._take_random(node)
        else:
            self._write.nodes.append(copy_of(node))

    def _take_mask(self, node: onnx.NodeProto) -> None:
        masks = [name for name in node.input if name in self._masks]
        out, write = node.output[0], self._write
        ratio = math.prod(1 + self._masks[name] for name in masks) - 1
        others = [name for name in node.input if name not in self._masks]
        if node.op_type in _MASK_LAYOUT or (node.op_type == 'Mul' and not others):
            self._masks[out] = ratio
        elif node.op_type == 'Mul' and others[0] not in write.fixed:
            self.moments[out] = self._dropped(others[0], masks[0], ratio, out)
        else:
            raise GraphError(
                f'error propagation does not know what node {node.name or out!r} ({node.op_type}) '
                'does to a mask, as AlphaDropout has it', 'masks that are multiplied in',
                'compile with --method mc_dropout')

    def _dropped(self, data: str, mask: str, ratio: float, out: str) -> Moments:
        write, x = self._write, self.moments.get(data)
        is_shared = all(size == 1 for size in write.shapes[mask][2:])
        if x is None:
            amplitude = write.scaled(data, math.sqrt(ratio), f'{out}_amplitude')
            variance = write.square(amplitude)
            return Moments(data, variance, is_shared, amplitude if is_shared else None)
        own = write.scaled(x.variance, 1 + ratio, f'{out}_own')
        drawn = write.scaled(write.square(x.mean), ratio, f'{out}_drawn')
        variance = write.node('Add', [own, drawn], f'{out}_variance')
        return Moments(x.mean, variance, is_shared and x.is_shared)

    def _take_random(self, node: onnx.NodeProto) -> None:
        write, first = self._write, self.moments.get(node.input[0])
        out = node.output[0]
        if node.op_type in _TWO_SIDED:
            self._take_two_sided(node)
        elif node.op_type in ('MatMul', 'Gemm'):
            inputs = [self.moments.get(name, name) for name in node.input]
            self.moments[out] = linear.matrix(node, inputs, write)
        elif node.op_type == 'Concat':
            self.moments[out] = self._joined(node)
        elif first is None or any(name in self.moments for name in node.input[1:]):
            raise unknown(node, ' with random arguments')
        elif node.op_type in _LAYOUT:
            self.moments.update(zip(node.output, linear.layout(node, first, write), strict=True))
        elif node.op_type == 'Neg':
            self.moments[out] = Moments(write.twin(node, [first.mean], out), first.variance,
                                        first.is_shared)
        elif node.op_type == 'Conv' and out == self._centred:
            self.moments[out] = linear.conv(node, first, write, is_centred=True)
        elif node.op_type in _RULES:
            self.moments[out] = _RULES[node.op_type](node, first, write)
            self._note(node, node.input[0])
        elif node.op_type in activations.SMOOTH or self._is_power(node):
            self._note(node, node.input[0])
            self.moments[out] = activations.by_points([node], node.input[0], first, write)
        else:
            raise unknown(node)

    def _is_power(self, node: onnx.NodeProto) -> bool:
        exponent = self._write.fixed.get(node.input[1]) if node.op_type == 'Pow' else None
        return exponent is not None and exponent.size == 1 and exponent.reshape(-1)[0] in (2, 3)

    def _note(self, node: onnx.NodeProto, source: str) -> None:
        """Remember a function of one element, which may meet that element again."""
        if node.op_type in (*activations.SMOOTH, *_TWO_SIDED, 'Relu', 'Clip', 'LeakyRelu', 'Pow'):
            root, nodes = self._made.get(source, (source, []))
            self._made[node.output[0]] = root, [*nodes, node]

    # -- Sums and products ------------------------------------------------------------------------

    def _take_two_sided(self, node: onnx.NodeProto) -> None:
        names, out = list(node.input), node.output[0]
        drawn = [name for name in names if name in self.moments]
        if len(drawn) == 1:
            self.moments[out] = self._with_fixed(node, drawn[0])
            self._note(node, drawn[0])
            return
        sources = [self._made.get(name, (name, [])) for name in names]
        if sources[0][0] == sources[1][0]:  # x sigmoid(x): no two random tensors, but one
            nodes = [*sources[0][1], *(n for n in sources[1][1] if n not in sources[0][1]), node]
            root = sources[0][0]
            self.moments[out] = activations.by_points(nodes, root, self.moments[root], self._write)
            self._made[out] = root, nodes
        elif node.op_type == 'Div':
            raise unknown(node, ' by a random tensor')
        else:
            self.moments[out] = self._of_two(node)

    def _with_fixed(self, node: onnx.NodeProto, drawn: str) -> Moments:
        write, x, out = self._write, self.moments[drawn], node.output[0]
        means = [x.mean if name == drawn else name for name in node.input]
        mean = write.twin(node, means, out)
        other = next(name for name in node.input if name != drawn)
        if node.op_type in ('Add', 'Sub'):
            is_turned = node.op_type == 'Sub' and node.input[1] == drawn
            is_same = write.shapes[drawn] == write.shapes[out]
            amplitude = x.amplitude if is_same and not is_turned else None
            variance = write.spread(x.variance, drawn, out)
            return Moments(mean, variance, x.is_shared, amplitude)
        if node.op_type == 'Div':
            if node.input[0] != drawn:
                raise unknown(node, ' by a random tensor')
            one = write.constant(f'{out}_one', 1.0)
            other = write.constant(f'{out}_factor', 1 / write.values(other)) \
                if other in write.fixed else write.node('Div', [one, other], f'{out}_factor')
        return linear.scaled(x, mean, other, write)

    def _of_two(self, node: onnx.NodeProto) -> Moments:
        """Return the moments of a sum or product of two tensors taken as independent."""
        write, out = self._write, node.output[0]
        x, y = (self.moments[name] for name in node.input)
        mean = write.twin(node, [x.mean, y.mean], out)
        if node.op_type == 'Mul':
            power = write.node('Add', [y.variance, write.square(y.mean)], f'{out}_power')
            parts = [write.node('Mul', [x.variance, power], f'{out}_first'),
                     write.node('Mul', [write.square(x.mean), y.variance], f'{out}_second')]
        else:
            parts = [x.variance, y.variance]
        return Moments(mean, write.node('Add', parts, f'{out}_variance'),
                       x.is_shared and y.is_shared)

    def _joined(self, node: onnx.NodeProto) -> Moments:
        write, out = self._write, node.output[0]
        parts = [self.moments.get(name) for name in node.input]
        mean = write.twin(node, [name if x is None else x.mean for name, x in zip(
            node.input, parts, strict=True)], out)
        drawn = [x for x in parts if x is not None]
        is_shared = all(x.is_shared for x in drawn) and attribute(node, 'axis') == 1

        def join(names: Sequence[str | None], wish: str) -> str:
            return write.twin(node, [name or self._nothing(source) for name, source in zip(
                names, node.input, strict=True)], wish)

        variance = join([None if x is None else x.variance for x in parts], f'{out}_variance')
        amplitude = None
        if is_shared and all(x.amplitude for x in drawn):
            names = [None if x is None else x.amplitude for x in parts]
            amplitude = join(names, f'{out}_amplitude')
        return Moments(mean, variance, is_shared, amplitude)

    def _nothing(self, like: str) -> str:
        """Return zeros of the shape of a tensor without noise."""
        zero = self._write.constant(f'{like}_zero', 0.0)
        shape = self._write.constant(f'{like}_shape', self._write.shapes[like], np.int64)
        return self._write.node('Expand', [zero, shape], f'{like}_nothing')
