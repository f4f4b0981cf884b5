# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Small compiled bundles with every kind of dropout mask, for the tests of backends."""

from pathlib import Path
from typing import Any

from graph_samples import drop, graph
import numpy as np
import onnx
from onnx import helper

from uncertainty_seg.compiler.compile import compile_ensemble, compile_graph
from uncertainty_seg.compiler.onnx_tools import OPSET
from uncertainty_seg.compiler.plan import CompileOptions
from uncertainty_seg.core.model_card import InputSpec, ModelCard, SCHEMA_VERSION
from uncertainty_seg.storage.model_bundle import write_bundle

SPEC = InputSpec(64, 48, 'stretch', 'rgb', (0.5, 0.5, 0.5), (0.3, 0.3, 0.3))


def channels_bundle(folder: Path, first: str = 'channel') -> Path:
    """
    Write three 3x3 convolutions with channel dropout between them.

    `first` is the kind of the first dropout site; 'element' drops single values there.
    """
    rng = np.random.default_rng(3)

    def weights(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    conv = {'kernel_shape': [3, 3], 'pads': [1, 1, 1, 1]}
    nodes = [
        helper.make_node('Conv', ['x', 'w0'], ['c0'], **conv), helper.make_node(
            'Relu', ['c0'], ['r0']), drop('r0', 'd0', first, 0.5),
        helper.make_node('Conv', ['d0', 'w1'], ['c1'], **conv), helper.make_node(
            'Relu', ['c1'], ['r1']), drop('r1', 'd1', 'channel', 0.5),
        helper.make_node('Conv', ['d1', 'w2'], ['y'], **conv),
    ]
    model = graph(nodes, (1, 3, 48, 64), (1, 3, 48, 64), w0=weights(32, 3, 3, 3),
                  w1=weights(32, 32, 3, 3), w2=weights(3, 32, 3, 3) * 4)
    compiled = compile_graph(model, SPEC, CompileOptions(full_weights=True))
    write_bundle(folder, card_of(compiled, 'mc_dropout', name='bank', passes=5), compiled.files)
    return folder


def elements_bundle(folder: Path, is_direct: bool = False) -> Path:
    """Write element dropout; `is_direct` puts it on the image, which leaves the trunk empty."""
    weights = np.random.default_rng(4).normal(size=(3, 3, 3, 3)).astype(np.float32)
    conv = {'kernel_shape': [3, 3], 'pads': [1, 1, 1, 1]}
    nodes = [drop('x', 'd0', 'element', 0.2)] if is_direct else [
        helper.make_node('Conv', ['x', 'w0'], ['c0'], **conv), drop('c0', 'd0', 'element', 0.4)]
    nodes.append(helper.make_node('Conv', ['d0', 'w1'], ['y'], **conv))
    model = graph(nodes, (1, 3, 48, 64), (1, 3, 48, 64), w0=weights, w1=weights[::-1].copy())
    made = compile_graph(model, SPEC, CompileOptions(full_weights=True))
    write_bundle(folder, card_of(made, 'mc_dropout'), made.files)
    return folder


def ensemble_bundle(folder: Path) -> Path:
    made = compile_ensemble([plain_member(seed) for seed in range(4)], SPEC,
                            CompileOptions(full_weights=True))
    write_bundle(folder, card_of(made, 'deep_ensemble', members=4, passes=4), made.files)
    return folder


def method_bundle(folder: Path, method: str, rate: float = 0.0) -> Path:
    """Write a bundle of method 'single' or 'direct', with dropout of a rate if it is not 0."""
    model = plain_member(0, 6 if method == 'direct' else 3, rate)
    made = compile_graph(model, SPEC, CompileOptions(method, full_weights=True, num_classes=3))
    write_bundle(folder, card_of(made, method, passes=20 if rate else 1), made.files)
    return folder


def plain_member(seed: int, outputs: int = 3, rate: float = 0.0) -> onnx.ModelProto:
    """Make a network of two convolutions that takes a normalised image."""
    rng = np.random.default_rng(seed)
    conv = {'kernel_shape': [3, 3], 'pads': [1, 1, 1, 1]}
    nodes = [helper.make_node('Conv', ['x', 'w0'], ['c0'], **conv),
             helper.make_node('Relu', ['c0'], ['r0']), drop('r0', 'd0', 'channel', rate),
             helper.make_node('Conv', ['d0' if rate else 'r0', 'w1'], ['y'], **conv)]
    first, last = rng.normal(size=(8, 3, 3, 3)), rng.normal(size=(outputs, 8, 3, 3)) / 4
    last[3:] /= 20  # log-variances near 0; pure noise would produce many ties between classes
    return graph(nodes if rate else [nodes[0], nodes[1], nodes[3]], (1, 3, 48, 64),
                 (1, outputs, 48, 64), w0=first.astype(np.float32), w1=last.astype(np.float32))


def card_of(made: Any, method: str, **facts: Any) -> ModelCard:
    facts = {'passes': 20, 'name': method, **facts}
    return ModelCard(
        schema=SCHEMA_VERSION, method=method, class_names=('a', 'b', 'c'),
        palette=((0, 0, 0),) * 3, ignore_index=255, input=SPEC, dropout_sites=made.sites,
        opset=OPSET, logits_shape=made.logits_shape, training='', license='', not_good_for='',
        metrics={}, sha256={}, upsampling=made.upsampling,
        grid_offset=made.grid_offset, **facts)
