# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compile an ONNX network to the graphs of a bundle: the order of the graph passes.

Each pass has its own file and is tested for exact equality; this file only calls them in order.
It imports no runtime: `compiler.checks` verifies that the result computes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
import logging

import onnx

from uncertainty_seg.compiler.algebra.dropout_to_masks import (
    dropout_to_masks,
    has_dropout,
    PASSES_AXIS,
    without_dropout,
)
from uncertainty_seg.compiler.algebra.ensemble import ensemble_graphs
from uncertainty_seg.compiler.algebra.free_passes import free_passes, one_pass
from uncertainty_seg.compiler.algebra.moments import propagate_moments, sampling_head
from uncertainty_seg.compiler.algebra.move_masks import fold_masks
from uncertainty_seg.compiler.algebra.split import add_feature_map, split_skips, split_trunk_head
from uncertainty_seg.compiler.frontend.constant_folding import fold_batch_norm, fold_constants
from uncertainty_seg.compiler.frontend.inject import inject_dropout
from uncertainty_seg.compiler.frontend.lint import (
    free_names,
    require_clean,
    require_compilable,
    require_own_names,
)
from uncertainty_seg.compiler.frontend.outputs import join_variance, strip_final_resize, to_logits
from uncertainty_seg.compiler.frontend.standard_form import fix_input, take_bytes, to_shipped_opset
from uncertainty_seg.compiler.frontend.unpooling import write_unpooling
from uncertainty_seg.compiler.head_graphs import add_samples, add_sums
from uncertainty_seg.compiler.onnx_tools import shapes
from uncertainty_seg.compiler.plan import (
    CompileOptions,
    CompilePlan,
    Cost,
    Decision,
    DEFAULT_SAMPLES,
    graph_cost,
)
from uncertainty_seg.compiler.precision import halve_weights, to_precision, widen_network
from uncertainty_seg.core.bundle import PASSES_FILE, TRUNK_FILE
from uncertainty_seg.core.model_card import DropoutSite, InputSpec
from uncertainty_seg.errors import GraphError

_log = logging.getLogger(__name__)
WIDENED = ('the network came with tensors of 16 bits, and is computed in float32 with the '
           'weights it has: choose a precision for what the bundle computes in')


@dataclass(frozen=True)
class CompiledGraphs:
    """Contents of a bundle apart from its card, with the plan and the graphs for the checks."""

    files: dict[str, bytes]  # Trunk and passes by file name, as written to the bundle.
    # Inputs of the passes apart from the trunk's tensors: masks, and the noise of 'direct'.
    sites: tuple[DropoutSite, ...]
    logits_shape: tuple[int, int, int]  # (C, hl, wl)
    upsampling: str  # How the maps are upsampled from the logits' grid to the image.
    plan: CompilePlan
    # Trunk and head compute in float32 with float32 weights, exactly as the network: for checks.
    trunk: onnx.ModelProto
    head: onnx.ModelProto
    # Before the algebra; one for each member. That of 'direct' has 2C channels: logits and
    # log-variances.
    prepared: tuple[Prepared, ...]
    feature_shape: tuple[int, int, int] | None = None  # (D, hf, wf) of the output `feature_map`
    # Points at which the passes are summed, in cells (down, right) from the logits' centres.
    grid_offset: tuple[float, float] = (0.0, 0.0)
    precision: str = 'fp32'  # Precision of the files: 'fp32', 'fp16' or 'bf16'.
    is_halved: bool = True  # Whether the files store large weights of float32 in 16 bits.


def compile_graph(
    model: onnx.ModelProto, spec: InputSpec, options: CompileOptions | None = None
) -> CompiledGraphs:
    """
    Compile a network by the method of the options: with dropout, a single pass, or `direct`.

    The network (opset 11 or newer) takes one image of normalised floats and returns logits,
    softmax or sigmoid at any resolution. 'mc_dropout' needs an active dropout, unless the options
    inject one; 'single' switches dropout off; 'direct' needs an output of log-variances besides
    the logits. Raises GraphError, with a remedy, if something cannot be compiled.
    """
    options = options or CompileOptions()
    prepared = prepare(model, spec, options)
    if options.method == 'single' or options.method == 'direct' and not has_dropout(
            prepared.model):
        return _still(prepared, options)
    return _finished(_with_masks(prepared.model, prepared.decisions, options), options,
                     (prepared,))


@dataclass(frozen=True)
class _Halves:
    """Trunk, head and the plan that they result from."""

    trunk: onnx.ModelProto
    head: onnx.ModelProto
    plan: CompilePlan


def _with_masks(
    model: onnx.ModelProto, before: Sequence[Decision], options: CompileOptions
) -> _Halves:
    masked, sites = dropout_to_masks(model)
    network = graph_cost(masked.graph.node, shapes(one_pass(masked, sites)))
    masked, skips = split_skips(masked, sites, options.num_passes)
    trunk, head = split_trunk_head(free_passes(masked, sites), sites)
    # Counted before folding, which moves work into tensors of T x C.
    cost = graph_cost(head.graph.node, shapes(one_pass(head, sites)))
    head, folded = fold_masks(head, sites, options.num_passes)
    decisions = [*before, *skips, *folded]
    plan = CompilePlan(options.num_passes, network, graph_cost(trunk.graph.node, shapes(trunk)),
                       cost, sites, tuple(decisions))
    return _Halves(trunk, head, plan)


def compile_ensemble(
    models: Sequence[onnx.ModelProto], spec: InputSpec, options: CompileOptions | None = None,
) -> CompiledGraphs:
    """
    Compile several networks to one bundle in which each network is a pass.

    The result's site `member` selects the network. Dropout is not needed and is switched off.
    Raises GraphError if a network cannot be compiled or if their logits differ in shape.
    """
    options = options or CompileOptions()
    prepared = tuple(_member(index, model, spec, options) for index, model in enumerate(models))
    if len({p.upsampling for p in prepared}) > 1:
        raise GraphError('the members upsample their logits in different ways', 'one way')
    graphs = [p.model for p in prepared]
    decisions = tuple(d for p in prepared for d in p.decisions)
    trunk, head, sites = ensemble_graphs(graphs)
    plan = CompilePlan(
        len(models), graph_cost(graphs[0].graph.node, shapes(graphs[0])),
        graph_cost(trunk.graph.node, shapes(trunk)), Cost(0, 0), sites, decisions)
    return _finished(_Halves(trunk, head, plan), options, prepared)


def _member(
    index: int, model: onnx.ModelProto, spec: InputSpec, options: CompileOptions
) -> Prepared:
    try:
        return prepare(model, spec, options)
    except GraphError as err:
        raise GraphError(f'member {index}: {err}') from err


def compile_moments(
    model: onnx.ModelProto, spec: InputSpec, options: CompileOptions | None = None
) -> CompiledGraphs:
    """
    Compile a network with dropout to one pass that propagates mean and variance.

    The trunk computes mean and variance of the logits, from which the passes are sampled. With
    camera noise, `options.sensor_std`, no dropout is needed. Raises GraphError if the network
    cannot be compiled, or noise reaches an operator without a propagation rule.
    """
    options = options or CompileOptions()
    prepared = prepare(model, spec, options)
    plain = without_dropout(prepared.model)
    masked, masks = (plain, ()) if options.sensor_std and not has_dropout(prepared.model) \
        else dropout_to_masks(prepared.model)
    masked, skips = split_skips(masked, masks, options.num_passes)
    trunk = propagate_moments(masked, masks, options.sensor_std, is_centred=True)
    head, sites = sampling_head(trunk)
    plan = CompilePlan(options.num_passes, graph_cost(plain.graph.node, shapes(plain)),
                       graph_cost(trunk.graph.node, shapes(trunk)),
                       graph_cost(head.graph.node, shapes(one_pass(head, sites))), sites,
                       (*prepared.decisions, *skips))
    return _finished(_Halves(trunk, head, plan), options, (prepared,))


def _still(prepared: Prepared, options: CompileOptions) -> CompiledGraphs:
    """Compile a network whose dropout is switched off."""
    network = without_dropout(prepared.model)
    trunk, head = split_trunk_head(network, ())
    whole, once, last = (graph_cost(m.graph.node, shapes(m)) for m in (network, trunk, head))
    plan = CompilePlan(1, whole, once, last, (), prepared.decisions)
    return _finished(_Halves(trunk, head, plan), options, (prepared,))


def _finished(
    made: _Halves, options: CompileOptions, prepared: tuple[Prepared, ...]
) -> CompiledGraphs:
    trunk, head, plan = made.trunk, made.head, made.plan
    sites = plan.sites
    shape = tuple(d.dim_value for d in head.graph.output[0].type.tensor_type.shape.dim)
    if len(shape) != 4:
        raise GraphError(f'the output has {len(shape)} axes', '(1, C, hl, wl) logits')
    if options.method == 'direct':
        axis = shape[0] if sites and shape[0] else PASSES_AXIS
        head, noise = add_samples(head, options.samples or DEFAULT_SAMPLES, axis)
        sites, shape = (*sites, noise), (shape[0], shape[1] // 2, *shape[2:])
    upsampling = prepared[0].upsampling
    trunk, features, chosen = add_feature_map(trunk, options.features)
    plan = replace(plan, decisions=(*plan.decisions, *chosen))
    _log.info(
        '%d dropout sites (%s), trunk %d nodes, head %d nodes', len(sites),
        ', '.join(f'{s.name} p={s.p:g}' for s in sites), len(trunk.graph.node),
        len(head.graph.node),
    )
    return with_files(CompiledGraphs(
        {}, sites, (shape[1], shape[2], shape[3]), upsampling, plan, trunk, head, prepared,
        features, precision=options.precision, is_halved=not options.full_weights))


def with_files(compiled: CompiledGraphs) -> CompiledGraphs:
    """Write the files again after the grid or the storage of the weights has changed."""
    parts = {TRUNK_FILE: compiled.trunk,
             PASSES_FILE: add_sums(compiled.head, compiled.grid_offset)}
    # Precision is converted last: onnx checks the graph of the sums, and its Conv has no bf16.
    if compiled.precision in ('fp16', 'bf16'):
        parts = {name: to_precision(part, compiled.precision) for name, part in parts.items()}
    elif compiled.is_halved:
        parts = {name: halve_weights(part) for name, part in parts.items()}
    for part in parts.values():
        require_clean(part)
    return replace(compiled, files={
        name: part.SerializeToString() for name, part in parts.items()})


@dataclass(frozen=True)
class Prepared:
    """
    A network in the standard form that the algebra needs.

    One opset, one image of bytes at batch 1, static shapes, folded shape arithmetic and batch
    norms, one output of logits at the network's resolution, and dropout still in place.
    """

    model: onnx.ModelProto
    # The original computation from normalised floats to logits, including upsampling: the checks
    # compare the result with it.
    float_model: onnx.ModelProto
    upsampling: str  # Kind of the final resize to the image's size, which the graph leaves out.
    injected: tuple[str, ...]  # Names of injected dropout sites.
    decisions: tuple[Decision, ...]


def prepare(model: onnx.ModelProto, spec: InputSpec, options: CompileOptions) -> Prepared:
    """Convert a network to the algebra's standard form; GraphError, with a remedy, if it fails."""
    require_own_names(model)
    widened = widen_network(model)
    if widened is not None:
        _log.warning('%s', WIDENED)
    static = fold_constants(to_shipped_opset(fix_input(widened or model, spec.height, spec.width)))
    static = write_unpooling(static)
    require_compilable(static)
    if options.method == 'direct':
        static = join_variance(static, options.output, options.variance, options.num_classes)
        static = to_logits(static, None, 2 * options.num_classes)
    elif options.num_classes:
        static = to_logits(static, options.output, options.num_classes, options.activation)
    logits = free_names(static)
    injected: tuple[str, ...] = ()
    if options.inject_dropout:
        logits, injected = inject_dropout(logits, options.inject_dropout, options.at)
    plain, upsampling = strip_final_resize(take_bytes(logits, spec), (spec.height, spec.width))
    decisions = () if widened is None else (
        Decision('widen_network', model.graph.name, True, WIDENED),)
    return Prepared(fold_batch_norm(plain), logits, upsampling, injected, decisions)
