# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Options of the compiler and its decisions, with costs and reasons.

The cost of a graph is its multiply-adds and tensor elements, counted from static shapes. The costs
decide between two ways to compute the same result; they do not predict latency.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import math

import onnx

from uncertainty_seg.compiler.onnx_tools import attribute, Shapes
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import ConfigError

# An elementwise operation is limited by memory, a convolution's multiply-add works in registers.
# On two CPU cores, moving one element took as long as about this many multiply-adds.
MACS_AN_ELEMENT = 8
DEFAULT_PASSES, DEFAULT_SAMPLES = 20, 10
METHODS = ('single', 'mc_dropout', 'deep_ensemble', 'direct', 'error_propagation')
# The members of PRECISIONS that a network can be compiled to.
COMPUTED = ('fp32', 'fp16', 'bf16')
# Possible meanings of an output's values.
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
        """Return the combined cost for comparisons, in multiply-adds."""
        return self.macs + MACS_AN_ELEMENT * self.elements


def node_cost(node: onnx.NodeProto, known: Shapes) -> Cost:
    """Return the cost of a node; a tensor without a static shape adds nothing."""
    written = sum(math.prod(known[name]) for name in node.output if name in known)
    return Cost(_macs(node, known), written)


def graph_cost(nodes: Iterable[onnx.NodeProto], known: Shapes) -> Cost:
    """Return the total cost of some nodes."""
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
    Options of a compilation, apart from the network's image.

    Raises ConfigError if an option is out of range, or two contradict each other.
    """

    method: str = 'mc_dropout'  # One of `METHODS`.
    passes: int | None = None  # T for which costs are weighed; the bundle works with any T.
    num_classes: int = 0  # C that the network must have; 0 accepts any.
    output: str | None = None  # Name of the output of logits; None if it is unambiguous.
    activation: str = 'auto'  # One of `ACTIVATIONS`; 'auto' decides by the graph's last nodes.
    inject_dropout: float | None = None  # Rate of dropout to insert into a network without any.
    at: str = 'head'  # Where to insert it: 'decoder', 'head', or names separated by commas.
    precision: str = 'fp32'  # Precision of trunk and head: 'fp32', 'fp16' or 'bf16'.
    full_weights: bool = False  # Store large weights in 32 bits even where 16 would do.
    # Standard deviation of camera noise for error propagation, in pixel values of 0 to 255.
    sensor_std: float = 0.0
    # For 'direct': name of the output of log-variances; None if it is unambiguous.
    variance: str | None = None
    samples: int | None = None  # For 'direct': S, the noise samples of one pass; None for 10.
    features: str = 'none'  # 'none', 'auto' or a trunk tensor that becomes an output.

    @property
    def num_passes(self) -> int:
        """Return the T for which costs are weighed."""
        return 1 if self.method == 'single' else self.passes or DEFAULT_PASSES

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
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
    """One choice between two ways to compute the same result."""

    step: str  # Name of the graph pass that decided.
    where: str  # Name of the mask, node or tensor concerned.
    is_applied: bool  # Whether the graph was changed.
    reason: str  # Human-readable reason, with the numbers compared.


@dataclass(frozen=True)
class CompilePlan:
    """Decisions for a network, and its costs before and after."""

    passes: int  # T for which the decisions were made.
    network: Cost  # One pass of the original network.
    trunk: Cost
    head: Cost  # One pass of the head.
    sites: tuple[DropoutSite, ...]
    decisions: tuple[Decision, ...]

    @property
    def trunk_share(self) -> float:
        """Share of one pass's multiply-adds that runs only once per frame; 0..1."""
        total = self.trunk.macs + self.head.macs
        return self.trunk.macs / total if total else 0.0


def explain(plan: CompilePlan) -> str:
    """Return a plan as a short human-readable text."""
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
    lines += [f'  {"yes" if d.is_applied else "no "}  {d.step:<16} {d.where}: {d.reason}'
              for d in plan.decisions] or ['  none']
    return '\n'.join(lines)


def _row(name: str, macs: int) -> list[str]:
    return [f'{name:<28}{2 * macs / 1e9:>10.3f}']
