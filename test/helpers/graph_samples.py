# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Small graphs with dropout, and functions that run them, for tests of graph passes and bundles.

Inputs and outputs: `net` maps `input` to `output`, `network` `x` to `output`, `graph` `x` to `y`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import onnxruntime

from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks
from uncertainty_seg.compiler.algebra.split import split_trunk_head
from uncertainty_seg.compiler.onnx_tools import float_info, IR_VERSION, OPSET
from uncertainty_seg.core.dropout_masks import make_masks, PassInputs
from uncertainty_seg.core.model_card import DropoutSite, InputSpec

TOLERANCE = 2e-5
CHANNELS, HEIGHT, WIDTH = 6, 8, 10
X = np.random.default_rng(0).normal(size=(1, CHANNELS, HEIGHT, WIDTH)).astype(np.float32)
RNG = np.random.default_rng(5)
SPEC = InputSpec(16, 8, 'stretch', 'rgb', (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def tensor(name: str, values: np.ndarray) -> onnx.TensorProto:
    """Make an initializer."""
    return numpy_helper.from_array(values, name)


def net(dropouts: str = 'element', resize: bool = False, rate: float = 0.5) -> onnx.ModelProto:
    """Make 3 -> 8 channels, stride 2, ReLU, dropout, 1x1 to 4 classes, optionally upsampled."""
    domain = 'uncertainty_seg' if dropouts == 'channel' else ''
    drop = helper.make_node('Dropout', ['r', 'rate', 'yes'], ['d'], name='drop')
    if dropouts == 'channel':
        drop = helper.make_node('Dropout', ['r'], ['d'], name='drop', domain=domain, p=rate,
                                kind='channel', site='head')
    if dropouts == 'none':
        drop = helper.make_node('Identity', ['r'], ['d'])
    logits = 'low' if resize else 'output'
    nodes = [
        helper.make_node('Conv', ['input', 'w1', 'b1'], ['c'], kernel_shape=[3, 3],
                         strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node('Relu', ['c'], ['r']),
        drop,
        helper.make_node('Conv', ['d', 'w2', 'b2'], [logits], kernel_shape=[1, 1]),
    ]
    rng = np.random.default_rng(1)
    tensors = [tensor('w1', rng.normal(size=(8, 3, 3, 3)).astype(np.float32)),
               tensor('b1', rng.normal(size=8).astype(np.float32)),
               tensor('w2', rng.normal(size=(4, 8, 1, 1)).astype(np.float32)),
               tensor('b2', rng.normal(size=4).astype(np.float32)),
               tensor('rate', np.array(rate, np.float32)), tensor('yes', np.array(True))]
    if resize:
        nodes.append(helper.make_node('Resize', ['low', '', 'scales'], ['output'], mode='linear'))
        tensors.append(tensor('scales', np.array([1, 1, 2, 2], np.float32)))
    output = float_info('output', (1, 4, 8, 16) if resize else (1, 4, 4, 8))
    graph = helper.make_graph(nodes, 'net', [float_info('input', (1, 3, 8, 16))], [output],
                              tensors)
    opsets = [helper.make_opsetid('', OPSET)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def graph(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[int], out: Sequence[int] | None = None,
    **constants: np.ndarray,
) -> onnx.ModelProto:
    """Make a network from `x` to `y`."""
    result = helper.make_tensor_value_info('y', TensorProto.FLOAT, out)
    made = helper.make_graph(list(nodes), 'net', [float_info('x', shape)], [result],
                             [tensor(name, value) for name, value in constants.items()])
    opsets = [helper.make_opsetid('', OPSET), helper.make_opsetid('uncertainty_seg', 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION)


def ints(*values: int) -> np.ndarray:
    """Return int64 numbers."""
    return np.array(values, np.int64)


def floats(*shape: int) -> np.ndarray:
    """Draw float32 numbers."""
    return RNG.normal(size=shape).astype(np.float32)


def node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    """Make a node from space-separated names; '-' omits an optional input."""
    names = ['' if name == '-' else name for name in inputs.split()]
    return helper.make_node(op, names, output.split(), name=output.split()[0], **attributes)


def drop(data: str, output: str, kind: str = 'channel', p: float = 0.5) -> onnx.NodeProto:
    """Make a dropout marker whose site has the name of its output."""
    return helper.make_node('Dropout', [data], [output], domain='uncertainty_seg', p=p, kind=kind,
                            site=output, name=output)


def weights(*shape: int, seed: int = 1) -> np.ndarray:
    """Draw weights that preserve the scale of their input."""
    rng = np.random.default_rng(seed)
    scale = np.sqrt(np.prod(shape[1:]) or 1)
    return (rng.normal(size=shape) / scale).astype(np.float32)


def network(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray],
    image: tuple[int, ...] = (1, CHANNELS, HEIGHT, WIDTH), output: str = 'output',
) -> onnx.ModelProto:
    """Make a network from `x` to `output`."""
    used = {name for n in nodes for name in n.input}
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()
               if k in used]
    out = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), 'net', [float_info('x', image)], [out], tensors)
    opsets = [helper.make_opsetid('', OPSET), helper.make_opsetid('uncertainty_seg', 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def masked(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray],
    image: tuple[int, ...] = (1, CHANNELS, HEIGHT, WIDTH),
) -> tuple[onnx.ModelProto, tuple[DropoutSite, ...]]:
    """Make a network and turn its dropout into masks."""
    return dropout_to_masks(network(nodes, constants, image))


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a graph on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    wanted = {i.name for i in session.get_inputs()}
    return session.run(None, {k: v for k, v in feeds.items() if k in wanted})


def run_split(
    trunk: onnx.ModelProto, head: onnx.ModelProto, masks: PassInputs, x: np.ndarray = X
) -> np.ndarray:
    """Run the trunk once and the head on all passes."""
    image = {info.name: x for info in trunk.graph.input} or {'x': x}
    values = run(trunk, image) if trunk.graph.output else []
    features = {o.name: v for o, v in zip(trunk.graph.output, values, strict=True)}
    return run(head, {**image, **features, **masks})[0]


def parts(
    model: onnx.ModelProto, sites: Sequence[DropoutSite], passes: int = 5
) -> tuple[onnx.ModelProto, onnx.ModelProto, PassInputs, np.ndarray]:
    """Split a masked graph; return trunk, head, masks, and the output of the whole graph."""
    masks = make_masks(sites, passes, 3)
    trunk, head = split_trunk_head(model, sites)
    return trunk, head, masks, run(model, {'x': X, **masks})[0]


def ops(model: onnx.ModelProto) -> list[str]:
    """Return the operators of a graph in order."""
    return [n.op_type for n in model.graph.node]
