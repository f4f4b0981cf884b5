# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A network with features at three strides, compiled with a feature output, and its trunk."""

from graph_samples import drop, graph
from masked_bundles import SPEC
import numpy as np
import onnx
from onnx import helper

from uncertainty_seg.compiler.compile import compile_graph, CompiledGraphs
from uncertainty_seg.compiler.plan import CompileOptions

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
STRIDED = {'kernel_shape': [3, 3], 'pads': [1, 1, 1, 1]}


def pyramid(seed: int = 0, wide: int = 12, stem: int = 0, rate: float = 0.5) -> onnx.ModelProto:
    """Strides 4, 16 and 32; stride 16 is a skip connection; dropout before the classifier."""
    rng, first = np.random.default_rng(100 + seed), np.random.default_rng(stem)

    def weights(drawn: np.random.Generator, *shape: int) -> np.ndarray:
        return (drawn.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    nodes = [
        helper.make_node('Conv', ['x', 'w0'], ['s4'], strides=[4, 4], **STRIDED),
        helper.make_node('Conv', ['s4', 'w1'], ['s16'], strides=[4, 4], **STRIDED),
        helper.make_node('Conv', ['s16', 'w2'], ['wide16'], **STRIDED),
        helper.make_node('Relu', ['wide16'], ['active16']),
        helper.make_node('Conv', ['active16', 'w3'], ['s32'], strides=[2, 2], **STRIDED),
        helper.make_node('Resize', ['s32', '', '', 'size'], ['up'], mode='nearest'),
        helper.make_node('Add', ['up', 's16'], ['merged']), drop('merged', 'd', 'channel', rate),
        helper.make_node('Conv', ['d', 'w4'], ['y'], **STRIDED)]
    return graph(nodes, (1, 3, 48, 64), (1, 3, 3, 4), w0=weights(first, 8, 3, 3, 3),
                 w1=weights(first, wide, 8, 3, 3), w2=weights(rng, 24, wide, 3, 3),
                 w3=weights(rng, wide, 24, 3, 3), w4=weights(rng, 3, wide, 3, 3) * 4,
                 size=np.array([1, wide, 3, 4], np.int64))


def compiled(features: str, **facts: int) -> CompiledGraphs:
    return compile_graph(pyramid(**facts), SPEC, CompileOptions(features=features,
                                                                full_weights=True))


def trunk_run(made: CompiledGraphs, names: list[str]) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(made.files['trunk.onnx'],
                                           providers=['CPUExecutionProvider'])
    return session.run(names, {'image': IMAGE[None]})
