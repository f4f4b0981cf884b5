# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Make small ONNX models and run them, for the tests of the ONNX front end."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import onnxruntime

from uncertainty_seg.compiler.frontend.constant_folding import fold_constants
from uncertainty_seg.compiler.frontend.standard_form import fix_input

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1, 3, 8, 16)).astype(np.float32)
N = helper.make_node


def values(*shape: int, seed: int = 1) -> np.ndarray:
    """Return normally distributed float32 numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make(
    nodes: Sequence[onnx.NodeProto], tensors: Mapping[str, Any] | None = None, opset: int = 17,
    shape: Sequence[int | str | None] = (1, 3, 8, 16), outputs: Sequence[str] = ('y',),
    kind: int = TensorProto.FLOAT, source: str = 'x', domains: Sequence[str] = (),
    made: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Make a model with one input; `tensors` has the constants by name."""
    weights = [numpy_helper.from_array(np.asarray(value), name)
               for name, value in (tensors or {}).items()]
    results = [helper.make_tensor_value_info(name, made, None) for name in outputs]
    graph = helper.make_graph(
        list(nodes), 'net', [helper.make_tensor_value_info(source, kind, shape)], results, weights)
    opsets = [helper.make_opsetid('', opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def marker(source: str, target: str, kind: str = 'channel', site: str = 'a',
           p: float = 0.5) -> onnx.NodeProto:
    """Make a dropout marker."""
    return N('Dropout', [source], [target], name=f'drop_{site}', domain='uncertainty_seg', p=p,
             kind=kind, site=site)


def ops(model: onnx.ModelProto) -> list[str]:
    """Return the operators of a model, in order."""
    return [node.op_type for node in model.graph.node]


def run(model: onnx.ModelProto, image: np.ndarray = X) -> list[np.ndarray]:
    """Run a model in ONNX Runtime with its graph optimizations disabled."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    return session.run(None, {session.get_inputs()[0].name: image})


def make_static(model: onnx.ModelProto, height: int, width: int) -> onnx.ModelProto:
    """Fix the size of the image and fold all constants that depend on it."""
    return fold_constants(fix_input(model, height, width))
