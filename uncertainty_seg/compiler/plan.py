# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Options of the compiler and its decisions, with costs and reasons.

A graph costs multiply-adds and tensor elements, counted from static shapes. The counts decide
between two ways to compute the same thing; they are no prediction of time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import math

import onnx

from uncertainty_seg.compiler.onnx_tools import attribute, Shapes
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import ConfigError

# An elementwise operation reads and writes memory; a multiply-add of a convolution works in
# registers. On two CPU cores one element moved took as long as about this many multiply-adds.
MACS_AN_ELEMENT = 8
DEFAULT_PASSES, DEFAULT_SAMPLES = 20, 10
METHODS = ('single', 'mc_dropout', 'deep_ensemble', 'direct', 'error_propagation')
# Of PRECISIONS, those that a network is compiled to.
COMPUTED = ('fp32', 'fp16', 'bf16')
# What the numbers of an output are.
ACTIVATIONS = ('auto', 'logits', 'softmax', 'sigmoid', 'log_softmax')


@dataclass(frozen=True)
class Cost:
    """Cost of some nodes, for one pass."""

    macs: int  # Multiply-adds of convolutions and matrix products.
    elements: int  # Elements written by all nodes.

    def __add__(self, other: Cost) -> Cost:
        """Add two costs."""
        return Cost(self.macs + other.macs, self.elements + other.elements)

    @property
    def total(self) -> int:
        """One number to compare by, in multiply-adds."""
        return self.macs + MACS_AN_ELEMENT * self.elements


def node_cost(node: onnx.NodeProto, known: Shapes) -> Cost:
    """Return the cost of a node; tensors without a static shape count nothing."""
    written = sum(math.prod(known[name]) for name in node.output if name in known)
    return Cost(_macs(node, known), written)


def graph_cost(nodes: Iterable[onnx.NodeProto], known: Shapes) -> Cost:
    """Return the cost of nodes together."""
    return sum((node_cost(node, known) for node in nodes), Cost(0, 0))


def _macs(node: onnx.NodeProto, known: Shapes) -> int:
    shapes = [known.get(name) for name in node.input]
    out = known.get(node.output[0]) if node.output else None
    if out is None or len(shapes) < 2 or shapes[0] is None or shapes[1] is None:
        return 0
    if node.op_type == 'Conv':
        return math.prod(out) * math.prod(shapes[1][1:])
    if node.op_type == 'ConvTranspose':
        return math.prod(shapes[0]) * math.prod(shapes[1][1:])
    if node.op_type == 'MatMul':
        return math.prod(out) * shapes[0][-1]
    if node.op_type == 'Gemm':
        return math.prod(out) * shapes[0][0 if attribute(node, 'transA', 0) else 1]
    return 0


@dataclass(frozen=True)
class CompileOptions:
    """
    How a network is to be compiled, apart from the image it takes.

    Raises ConfigError if one is out of range, or two contradict each other.
    """

    method: str = 'mc_dropout'  # One of `METHODS`.
    passes: int | None = None  # T, which costs are weighed for; other numbers work too.
    num_classes: int = 0  # C that the network must have; 0 to take what comes.
    output: str | None = None  # Which output holds the logits; None where there is no doubt.
    activation: str = 'auto'  # One of `ACTIVATIONS`; 'auto' for what the last nodes say.
    inject_dropout: float | None = None  # Rate of dropout to put into a network without any.
    at: str = 'head'  # Where: 'decoder', 'head', or names by commas.
    precision: str = 'fp32'  # 'fp32', 'fp16' or 'bf16': what trunk and head compute in.
    full_weights: bool = False  # Store large weights in 32 bits, where 16 would do.
    # The camera's noise for error propagation, in pixel values of 0 to 255.
    sensor_std: float = 0.0
    # For 'direct': which output holds the log-variance; None where there is no doubt.
    variance: str | None = None
    samples: int | None = None  # For 'direct': S, the noise samples of one pass; None for 10.
    features: str = 'none'  # 'none', 'auto' or a tensor of the trunk, to become an output.

    @property
    def num_passes(self) -> int:
        """Return T where the costs of passes are weighed."""
        return 1 if self.method == 'single' else self.passes or DEFAULT_PASSES

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name, value, known in (
            ('method', self.method, METHODS), ('precision', self.precision, COMPUTED),
            ('activation', self.activation, ACTIVATIONS),
        ):
            if value not in known:
                raise ConfigError(f'{name} {value!r}', f'one of {", ".join(known)}')
        is_single, is_direct = self.method == 'single', self.method == 'direct'
        is_propagated = self.method == 'error_propagation'
        for is_wrong, came, expected in (
            (self.passes is not None and self.passes < 1, f'{self.passes} passes', 'at least 1'),
            (is_single and self.passes not in (None, 1), f'{self.passes} passes with the method '
             'single', '1'),
            (self.method in ('single', 'deep_ensemble') and bool(self.inject_dropout),
             f'injected dropout with the method {self.method}', 'no dropout'),
            (not is_direct and bool(self.variance or self.samples),
             f'variance or samples with the method {self.method}', 'the method direct with them'),
            (is_direct and (self.num_classes < 2 or self.samples is not None and self.samples < 1),
             f'{self.num_classes} classes and {self.samples} samples',
             'the number of classes, and at least 1 sample, for direct'),
            (is_direct and self.activation not in ('auto', 'logits'),
             f'the activation {self.activation} with the method direct',
             'logits, which its variance belongs to'),
            (self.variance is not None and self.variance == self.output,
             f'output and variance are both {self.output}',
             'the output of the logits and that of their log-variances'),
            (is_propagated and self.precision != 'fp32',
             f'the precision {self.precision} with error_propagation',
             'fp32: variances are too small for fewer bits'),
            (not 0 <= self.sensor_std <= 255, f'sensor_std {self.sensor_std:g}',
             'a number of 0 to 255 pixel values'),
            (self.sensor_std > 0 and not is_propagated, f'sensor_std with {self.method}',
             'the method error_propagation with it'),
        ):
            if is_wrong:
                raise ConfigError(came, expected)


@dataclass(frozen=True)
class Decision:
    """One choice between two ways to compute the same thing."""

    step: str  # The pass that chose, by the name of its module.
    where: str  # Mask, node or tensor.
    is_applied: bool  # Whether the graph was changed.
    reason: str  # Why, in words, with the numbers compared.


@dataclass(frozen=True)
class CompilePlan:
    """What was decided for a network, and what it costs."""

    passes: int  # T that the choices were made for.
    network: Cost  # One pass of the network as it came.
    trunk: Cost
    head: Cost  # One pass of the head.
    sites: tuple[DropoutSite, ...]
    decisions: tuple[Decision, ...]

    @property
    def trunk_share(self) -> float:
        """Share of one pass that runs once a frame, by multiply-adds; 0..1."""
        total = self.trunk.macs + self.head.macs
        return self.trunk.macs / total if total else 0.0


def explain(plan: CompilePlan) -> str:
    """Write a plan as a text of a few lines for people."""
    t = plan.passes
    loop, ours = t * plan.network.macs, plan.trunk.macs + t * plan.head.macs
    lines = ['dropout sites:']
    lines += [f'  {s.name}  {"x".join(map(str, s.shape))}  p={s.p:g}' for s in plan.sites] \
        or ['  none']
    lines += [
        f'{"part":<28}{"GFLOPs":>10}', *_row('network, one pass', plan.network.macs),
        *_row('trunk, once', plan.trunk.macs), *_row('head, one pass', plan.head.macs),
        *_row(f'T={t} passes of the network', loop), *_row(f'trunk + {t} heads', ours),
        f'trunk share {100 * plan.trunk_share:.1f} %, '
        f'{loop / max(ours, 1):.2f} times fewer operations than {t} passes', 'decisions:',
    ]
    return '\n'.join([*lines, *_decision_lines(plan.decisions)])


def _row(name: str, macs: int) -> list[str]:
    return [f'{name:<28}{2 * macs / 1e9:>10.3f}']


def _decision_lines(decisions: Sequence[Decision]) -> list[str]:
    return [f'  {"yes" if d.is_applied else "no "}  {d.step:<16} {d.where}: {d.reason}'
            for d in decisions] or ['  none']
