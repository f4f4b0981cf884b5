# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Channels that a pass drops are not computed.

With balanced masks a site keeps exactly K of its C channels in each pass, though not the same
ones. The convolution before the site then needs K rows of its weights, the one behind it K
columns, gathered for each pass. Exact, but for the order of sums, under balanced masks; under
others it is wrong.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
import math

import onnx

from uncertainty_seg.core.dropout_masks import kept_channels
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.graph.cost import MACS_AN_ELEMENT, node_cost
from uncertainty_seg.graph.kept_nodes import repeated, with_kept_channels
from uncertainty_seg.graph.masked_graph import MaskedView, only_user, producer, view_of
from uncertainty_seg.graph.onnx_tools import attribute, consumers
from uncertainty_seg.graph.plan import Decision

# A multiply-add of a convolution with gathered weights, against one of a plain one whose weights
# the runtime has packed; the second number over the pixels is added. On one core, 3x3: ONNX
# Runtime 1.32 took 1.7 at 192x256, 1.3 at 48x64 and 24x32, 1.9 at 12x16, 3.5 at 6x8; OpenVINO
# 2026.4 1.0 to 1.3 down to 24x32. In between, the sites of p 0.3 and above are worth it.
_SLOWER, _SLOWER_PIXELS = 1.35, 100
# Each works on every channel by itself.
_BY_CHANNEL = ('Relu', 'LeakyRelu', 'Identity', 'Sigmoid', 'Tanh', 'HardSwish', 'HardSigmoid',
               'Elu', 'Selu', 'Softplus', 'Erf', 'Exp', 'Sqrt', 'Neg', 'Abs', 'Clip', 'MaxPool',
               'AveragePool', 'GlobalAveragePool', 'GlobalMaxPool', 'Resize')
_BINARY = ('Add', 'Sub', 'Mul', 'Div')
# The factor of a mask is put into the weights behind, so these must let it pass.
_FACTOR_PASSES = ('Relu', 'LeakyRelu', 'Identity', 'Neg', 'Abs', 'MaxPool', 'AveragePool',
                  'GlobalAveragePool', 'GlobalMaxPool', 'Resize')


@dataclass(frozen=True)
class _Reach:
    """The surroundings of a site: what is made for its kept channels, and what takes them."""

    made: frozenset[str]
    before: tuple[onnx.NodeProto, ...]
    behind: tuple[tuple[onnx.NodeProto, int], ...]


def keep_channels(
    head: onnx.ModelProto, sites: Iterable[DropoutSite], chunk: int
) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """
    Compute only the channels that a pass keeps, where that pays.

    Parameters
    ----------
    head : ModelProto
        From `split_trunk_head`; left as it is.
    sites : iterable of DropoutSite
        Its mask inputs.
    chunk : int
        Passes of one call.

    Returns
    -------
    head : ModelProto
        Takes exactly `chunk` passes of balanced masks; as it came if it pays nowhere.
    decisions : tuple of Decision
        One a site that drops channels; savings are those of one chunk.

    """
    sites = tuple(sites)
    view, decisions = view_of(head, sites), []
    applied: dict[str, int] = {}
    made: dict[str, str] = {}
    for site in sites:
        kept = kept_channels(site)
        if kept == site.shape[0]:
            continue
        reach = _reach(head.graph, site, view)
        reason = reach if isinstance(reach, str) else ''
        saved = 0
        if isinstance(reach, _Reach):
            saved = _saving(reach, site.shape[0], kept, chunk, view)
            reason = '' if saved > 0 else 'to gather the weights costs more than it saves'
        if isinstance(reach, _Reach) and not reason:
            applied[site.name] = kept
            made |= dict.fromkeys(reach.made, site.name)
        decisions.append(Decision(
            'kept_channels', site.name, not reason,
            reason or f'{kept} of {site.shape[0]} channels computed', max(saved, 0)))
    if not applied:
        return head, tuple(decisions)
    once = with_kept_channels(head, view, applied, made)
    return repeated(once, [site.name for site in sites], chunk), tuple(decisions)


def _reach(graph: onnx.GraphProto, site: DropoutSite, view: MaskedView) -> _Reach | str:
    users = consumers(graph.node, site.name)
    found = view.masked(users[0]) if len(users) == 1 else None
    if found is None or found[1] != site.name or len(view.shapes[found[0]]) != 4:
        return 'its mask is not applied to an image of its own, or folded already'
    behind = _behind(graph, users[0].output[0], site.shape[0], 0, view)
    if isinstance(behind, str):
        return behind
    made, before = _before(graph, found[0], view) or (frozenset[str](), ())
    return _Reach(made, before, behind)


def _behind(
    graph: onnx.GraphProto, name: str, channels: int, more: int, view: MaskedView
) -> tuple[tuple[onnx.NodeProto, int], ...] | str:
    """Return the convolutions that take a masked tensor, with their other inputs; or why not."""
    if any(info.name == name for info in graph.output):
        return 'it is applied to the output'
    found: list[tuple[onnx.NodeProto, int]] = []
    for user in consumers(graph.node, name):
        out = user.output[0]
        if _is_plain_conv(user, view) and list(user.input).count(name) == 1:
            found.append((user, more))
            continue
        if user.op_type == 'Concat' and attribute(user, 'axis') == 1:
            deeper = _behind(graph, out, channels, view.shapes[out][1] - channels, view)
        elif user.op_type in _FACTOR_PASSES and user.input[0] == name and _keeps_rank(user, view):
            deeper = _behind(graph, out, channels, more, view)
        else:
            return f'{user.op_type} {user.name or out!r} behind it needs all channels'
        if isinstance(deeper, str):
            return deeper
        found += deeper
    return tuple(found)


def _before(
    graph: onnx.GraphProto, name: str, view: MaskedView
) -> tuple[frozenset[str], tuple[onnx.NodeProto, ...]] | None:
    """Return tensors that can be made for some channels only, and the convolutions before."""
    node = producer(graph.node, name)
    if node is None or name not in view.touched or only_user(graph, name) is None:
        return None
    if _is_plain_conv(node, view):
        return frozenset([name]), (node,)
    if node.op_type in _BY_CHANNEL and _keeps_rank(node, view):
        sources = [node.input[0]]
    elif node.op_type in _BINARY and _is_by_channel(node, view):
        sources = [n for n in node.input if n in view.touched]
    else:
        return None
    made, convs = frozenset([name]), ()
    for source in sources:
        deeper = _before(graph, source, view)
        if deeper is None:
            return None
        made, convs = made | deeper[0], (*convs, *deeper[1])
    return made, convs


def _is_plain_conv(node: onnx.NodeProto, view: MaskedView) -> bool:
    return (node.op_type == 'Conv' and attribute(node, 'group', 1) == 1
            and all(name in view.constants for name in node.input[1:] if name)
            and len(view.shapes.get(node.output[0], ())) == 4)


def _keeps_rank(node: onnx.NodeProto, view: MaskedView) -> bool:
    old, new = view.shapes.get(node.input[0], ()), view.shapes.get(node.output[0], ())
    outputs = [name for name in node.output if name]
    return len(old) == len(new) == 4 and old[:2] == new[:2] and len(outputs) == 1


def _is_by_channel(node: onnx.NodeProto, view: MaskedView) -> bool:
    """Whether each input has the channels of the output, or one number for all of them."""
    out = view.shapes.get(node.output[0], ())
    for name in node.input:
        shape = view.shapes.get(name)
        if shape is None or len(out) != 4:
            return False
        wide = (1,) * (4 - len(shape)) + shape
        if wide[1] not in (1, out[1]) or (wide[1] == 1 and name in view.touched):
            return False
    return True


def _saving(reach: _Reach, channels: int, kept: int, chunk: int, view: MaskedView) -> int:
    parts = [(conv, (more + kept) / (more + channels)) for conv, more in reach.behind]
    parts += [(conv, kept / channels) for conv in reach.before]
    return int(chunk * sum(_saved_at(conv, share, view.shapes) for conv, share in parts))


def _saved_at(conv: onnx.NodeProto, share: float, shapes: Mapping[str, tuple[int, ...]]) -> float:
    macs = node_cost(conv, shapes).macs
    factor = _SLOWER + _SLOWER_PIXELS / math.prod(shapes[conv.output[0]][2:])
    gathered = MACS_AN_ELEMENT * math.prod(shapes[conv.input[1]])
    return macs - share * (factor * macs + gathered)
