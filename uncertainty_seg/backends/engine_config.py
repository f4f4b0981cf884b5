# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What an engine is built for, and how a builder of any version of TensorRT is told so.

From 10 on networks are strongly typed: what is 16 bits and what is float32 stands in the graph,
as `graph.precision` wrote it. TensorRT 8.6 chooses types itself; there every layer behind the
logits is held in float32. That way has been run against names and types only, never on a GPU.

"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from uncertainty_seg.backends.tensorrt_api import TensorRt
from uncertainty_seg.errors import BackendError, GraphError

if TYPE_CHECKING:
    import tensorrt

Shape: TypeAlias = tuple[int, ...]
# Precision -> flag of the builder, where TensorRT chooses the types.
_WEAK_FLAGS = {'fp16': 'FP16', 'bf16': 'BF16', 'int8': 'INT8'}
_FITTING = 'min <= opt <= max, and shapes that the graph allows'


@dataclass(frozen=True)
class EngineSpec:
    """
    What an engine is built for, beside its graph.

    Attributes
    ----------
    precision : str
        What the graph computes in, one of `core.model_card.PRECISIONS`.
    profiles : mapping of str to (min, opt, max)
        Shapes of each input that has a symbolic axis; the others are left out.
    is_strongly_typed : bool
        Types of the graph are kept. False is for TensorRT 8.6, which cannot.
    is_tf32 : bool
        Products of float32 may round their factors to 10 bits, as TensorRT does by itself.
    float32_behind : str
        Tensor behind which all stays in float32 where types are weak; empty for none.
    compute_capabilities : tuple of str
        What TensorRT-RTX builds for where no such GPU is, as ('8.6', '8.9'); empty for any.

    """

    precision: str
    profiles: Mapping[str, tuple[Shape, Shape, Shape]] = field(default_factory=dict)
    is_strongly_typed: bool = True
    is_tf32: bool = True
    float32_behind: str = ''
    compute_capabilities: tuple[str, ...] = ()


def configure(
    trt: TensorRt, builder: tensorrt.Builder, config: tensorrt.IBuilderConfig,
    network: tensorrt.INetworkDefinition, spec: EngineSpec, what: str,
) -> None:
    """
    Write a spec into a builder's configuration, and into the network where types are weak.

    Parameters
    ----------
    trt : TensorRt
        Says what its version can do.
    builder, config, network : Builder, IBuilderConfig, INetworkDefinition
        As TensorRT made them; the network has been parsed.
    spec : EngineSpec
        What for.
    what : str
        Name of the graph, for errors.

    Raises
    ------
    BackendError
        If the spec does not fit the graph or the version.
    GraphError
        If the graph lacks the tensor behind which all is float32.

    """
    _set_types(trt, config, network, spec, what)
    _set_profiles(builder, config, network, spec, what)
    _set_targets(trt, config, spec)


def _set_types(
    trt: TensorRt, config: tensorrt.IBuilderConfig, network: tensorrt.INetworkDefinition,
    spec: EngineSpec, what: str,
) -> None:
    tf32 = trt.module.BuilderFlag.TF32
    if spec.is_tf32:
        config.set_flag(tf32)
    else:
        config.clear_flag(tf32)
    if spec.is_strongly_typed:
        return
    if trt.has_strong_types and not trt.has_weak_types:
        raise BackendError(f'TensorRT {trt.version} knows strongly typed networks only',
                           'is_strongly_typed')
    if spec.precision == 'fp32':
        return
    flag = trt.builder_flag(_WEAK_FLAGS[spec.precision])
    if flag is None:
        raise BackendError(f'TensorRT {trt.version} does not compute in {spec.precision}',
                           fix='take a bundle in fp32 or fp16, or TensorRT 10')
    config.set_flag(flag)
    config.set_flag(trt.module.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    if spec.float32_behind:
        _hold_float32(trt, network, spec.float32_behind, what)


def _hold_float32(
    trt: TensorRt, network: tensorrt.INetworkDefinition, start: str, what: str
) -> None:
    """Hold every layer behind a tensor in float32; in 16 bits most entropies were NaN."""
    kinds = trt.module.DataType
    floats = (kinds.FLOAT, kinds.HALF)
    behind, is_found = {start}, False
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        is_found = is_found or any(t.name == start for t in outputs)
        given = [t for t in map(layer.get_input, range(layer.num_inputs)) if t is not None]
        if behind.isdisjoint(t.name for t in given):
            continue
        behind.update(t.name for t in outputs)
        if any(t.dtype in floats for t in given):
            layer.precision = kinds.FLOAT
        for number, tensor in enumerate(outputs):
            if tensor.dtype in floats:
                layer.set_output_type(number, kinds.FLOAT)
    if not is_found:
        raise GraphError(f'{what} has no tensor {start!r}', 'the reduction behind it',
                         'compile the bundle again')


def _set_profiles(
    builder: tensorrt.Builder, config: tensorrt.IBuilderConfig,
    network: tensorrt.INetworkDefinition, spec: EngineSpec, what: str,
) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = {t.name for t in inputs if -1 in tuple(t.shape)}
    if dynamic != set(spec.profiles):
        raise BackendError(
            f'{what} has symbolic axes in {sorted(dynamic)}, and profiles are given for '
            f'{sorted(spec.profiles)}', 'a profile for each of them')
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    try:
        for name, shapes in spec.profiles.items():
            profile.set_shape(name, *shapes)
        is_taken = config.add_optimization_profile(profile) >= 0
    except ValueError as err:
        raise BackendError(f'profile {dict(spec.profiles)} of {what} ({err})',
                           _FITTING) from err
    if not is_taken:
        raise BackendError(f'TensorRT refuses the profile {dict(spec.profiles)} of {what}',
                           _FITTING)


def _set_targets(trt: TensorRt, config: tensorrt.IBuilderConfig, spec: EngineSpec) -> None:
    if not spec.compute_capabilities:
        return
    if not trt.is_rtx:
        raise BackendError(
            f'TensorRT {trt.version} builds for the GPU of this machine only',
            'no compute capability', 'use TensorRT-RTX to build for another GPU')
    members = trt.module.ComputeCapability.__members__
    config.num_compute_capabilities = len(spec.compute_capabilities)
    for index, number in enumerate(spec.compute_capabilities):
        name = f'SM{number.replace(".", "")}'
        if name not in members or not config.set_compute_capability(members[name], index):
            raise BackendError(f'TensorRT-RTX {trt.version} cannot build for {number!r}',
                               ', '.join(f'{key[2:-1]}.{key[-1]}' for key in members
                                         if key.startswith('SM')))
