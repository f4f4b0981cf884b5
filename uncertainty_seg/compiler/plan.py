# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Options of the compiler and its decisions, with costs and reasons: ``compile --explain``.

A graph costs multiply-adds and tensor elements, counted from static shapes. The counts decide
between two ways to compute the same thing; they are no prediction of time.

"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import math

import onnx

from uncertainty_seg.compiler.onnx_tools import attribute, Shapes
from uncertainty_seg.core.model_card import DropoutSite, PRECISIONS
from uncertainty_seg.errors import ConfigError

# An elementwise operation reads and writes memory; a multiply-add of a convolution works in
# registers. On two CPU cores one element moved took as long as about this many multiply-adds.
MACS_AN_ELEMENT = 8
DEFAULT_SAMPLES = 10
# What the numbers of an output are, and which axis has the classes.
ACTIVATIONS = ('auto', 'logits', 'softmax', 'sigmoid', 'log_softmax')
LAYOUTS = ('auto', 'nchw', 'nhwc')


@dataclass(frozen=True)
class Cost:
    """
    Cost of some nodes, for one pass.

    Attributes
    ----------
    macs : int
        Multiply-adds of convolutions and matrix products.
    elements : int
        Elements written by all nodes.

    """

    macs: int
    elements: int

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

    Attributes
    ----------
    passes : int
        T that costs are weighed for; other numbers of passes work too.
    num_classes : int
        C that the network must have; 0 to take what comes.
    output : str or None
        Which output holds the logits; None where there is no doubt.
    inject : (float, str) or None
        Rate and place of dropout to put into an ONNX network that has none.
    is_half : bool
        Store large weights in 16 bits.
    precision : str
        'fp32', 'fp16' or 'bf16': what trunk and head compute in. ('int8' is a trunk quantised
        afterwards.)
    chunk : int
        Passes a call of the head, for a head that computes kept channels only; 0 for a head that
        computes all channels and takes any number of passes.
    sensor_std : float
        Noise of the camera that error propagation starts from, in pixel values of 0 to 255.
    method : str
        'mc_dropout', 'single' or 'direct'.
    variance : str or None
        For 'direct': which output holds the log-variance; None where there is no doubt.
    samples : int
        For 'direct': S, the noise samples of one pass.
    features : str
        'none', 'auto' or a tensor of the trunk: what `feature_output` makes an output.
    activation : str
        One of `ACTIVATIONS`: what the output is; 'auto' for what its last nodes say.
    layout : str
        One of `LAYOUTS`: where the output has its classes; 'auto' for where only they fit.

    """

    passes: int = 20
    num_classes: int = 0
    output: str | None = None
    inject: tuple[float, str] | None = None
    is_half: bool = True
    precision: str = 'fp32'
    chunk: int = 0
    sensor_std: float = 0.0
    method: str = 'mc_dropout'
    variance: str | None = None
    samples: int = DEFAULT_SAMPLES
    features: str = 'none'
    activation: str = 'auto'
    layout: str = 'auto'

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.precision not in PRECISIONS:
            raise ConfigError(f'precision {self.precision!r}', f'one of {", ".join(PRECISIONS)}')
        for name, value, known in (('activation', self.activation, ACTIVATIONS),
                                   ('layout', self.layout, LAYOUTS)):
            if value not in known:
                raise ConfigError(f'{name} {value!r}', f'one of {", ".join(known)}')
        if self.passes < 1 or self.chunk < 0:
            raise ConfigError(f'{self.passes} passes in chunks of {self.chunk}', 'at least 1 pass')
        if self.method == 'direct' and (self.num_classes < 2 or self.samples < 1):
            raise ConfigError(f'{self.num_classes} classes and {self.samples} samples',
                              'the number of classes, and at least 1 sample, for direct')
        if self.method == 'direct' and self.activation not in ('auto', 'logits'):
            raise ConfigError(f'--activation {self.activation} with --method direct',
                              'logits, which its variance belongs to')


@dataclass(frozen=True)
class Decision:
    """
    One choice between two ways to compute the same thing.

    Attributes
    ----------
    step : str
        The pass that chose, by the name of its module.
    where : str
        Mask, node or tensor.
    is_applied : bool
        Whether the graph was changed.
    reason : str
        Why, in words, with the numbers compared.
    saved : int
        Estimated saving for all T passes, in multiply-adds; 0 if not applied.

    """

    step: str
    where: str
    is_applied: bool
    reason: str
    saved: int = 0


@dataclass(frozen=True)
class CompilePlan:
    """
    All that `--explain` prints.

    Attributes
    ----------
    passes : int
        T that the choices were made for.
    network, trunk, head : Cost
        One pass of the network as it came; the trunk; one pass of the head.
    sites : tuple of DropoutSite
        In graph order.
    decisions : tuple of Decision
        In the order they were taken.

    """

    passes: int
    network: Cost
    trunk: Cost
    head: Cost
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
