# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What the compiler decided, where, and why: the record behind ``compile --explain``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.graph.cost import Cost


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
    lines += [f'  {s.name}  {"x".join(map(str, s.shape))}  p={s.p:g}' for s in plan.sites]
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
