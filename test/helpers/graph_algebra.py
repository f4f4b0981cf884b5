# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Small graphs with dropout, and how to run them, for the tests of graph passes."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
import onnxruntime

from uncertainty_seg.core.dropout_masks import make_masks, PassInputs
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.graph.algebra.dropout_to_masks import dropout_to_masks
from uncertainty_seg.graph.algebra.split import split_trunk_head
from uncertainty_seg.graph.onnx_tools import float_info

TOLERANCE = 2e-5
CHANNELS, HEIGHT, WIDTH = 6, 8, 10
X = np.random.default_rng(0).normal(size=(1, CHANNELS, HEIGHT, WIDTH)).astype(np.float32)


def node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    """Make a node from names parted by blanks; '-' is an input left out."""
    names = ['' if name == '-' else name for name in inputs.split()]
    return helper.make_node(op, names, output.split(), name=output.split()[0], **attributes)


def drop(data: str, output: str, kind: str = 'channel', p: float = 0.5) -> onnx.NodeProto:
    """Make a marker of dropout whose site is called as its output."""
    return helper.make_node('Dropout', [data], [output], domain='uncertainty_seg', p=p, kind=kind,
                            site=output, name=output)


def weights(*shape: int, seed: int = 1) -> np.ndarray:
    """Draw weights that keep the scale of what they multiply."""
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
    out = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), 'net', [float_info('x', image)], [out], tensors)
    opsets = [helper.make_opsetid('', 17), helper.make_opsetid('uncertainty_seg', 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


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
    values = run(trunk, {'x': x}) if trunk.graph.output else []
    features = {o.name: v for o, v in zip(trunk.graph.output, values, strict=True)}
    return run(head, {'x': x, **features, **masks})[0]


def parts(
    model: onnx.ModelProto, sites: Sequence[DropoutSite], passes: int = 5, balanced: bool = False
) -> tuple[onnx.ModelProto, onnx.ModelProto, PassInputs, np.ndarray]:
    """Split a masked graph; return trunk, head, masks, and what the whole graph computes."""
    masks = make_masks(sites, passes, 3, balanced)
    trunk, head = split_trunk_head(model, sites)
    return trunk, head, masks, run(model, {'x': X, **masks})[0]


def ops(model: onnx.ModelProto) -> list[str]:
    """Return the operators of a graph in order."""
    return [n.op_type for n in model.graph.node]
