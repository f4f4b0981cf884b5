# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write a net whose dropout is known to ONNX, with a marker node for each dropout.

torch's exporters delete dropout in eval mode and refuse channel dropout in training mode, so an
operation that they know nothing about stands in its place. There are two exporters, and each can
write nets that the other cannot.

"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
import io
import logging
import os
import sys
from typing import Any
import warnings

import onnx
import torch
from torch import nn, Tensor
from torch.overrides import TorchFunctionMode

from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.onnx_tools import MARKER_DOMAIN, OPSET
from uncertainty_seg.training.dropout_watch import Drop, Replace
from uncertainty_seg.training.marking import first_line, MarkedNet

_log = logging.getLogger(__name__)
INPUT = 'input'
# torch.export's graphs are written in 18 and later only; a later step brings them to `OPSET`.
EXPORT_OPSET = 18
_LOUD = ('onnx_ir', 'onnxscript', 'torch.onnx', 'torch.export')


class _Mark(torch.autograd.Function):
    """Identity for torch, a marker node for the older exporter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, kind: str, site: str) -> Tensor:
        return x.clone()

    @staticmethod
    def symbolic(g: Any, x: Any, p: float, kind: str, site: str) -> Any:
        node = g.op(f'{MARKER_DOMAIN}::Dropout', x, p_f=p, kind_s=kind, site_s=site)
        return node.setType(x.type())


class _StaticSizes(TorchFunctionMode):
    """Give sizes as plain numbers: a tracer would otherwise write arithmetic on them down."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Take the tracer's sign off sizes."""
        result = func(*args, **(kwargs or {}))
        if func == Tensor.shape.__get__ or func is Tensor.size:
            return int(result) if len(args) > 1 or kwargs else torch.Size(map(int, result))
        return result


class _Traced(nn.Module):
    """A marked net whose forward returns its output tensors as a tuple."""

    def __init__(self, marked: MarkedNet, replace: Replace) -> None:
        super().__init__()
        self.net = marked.net
        self._run = (marked, replace)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        marked, replace = self._run
        with _StaticSizes():
            return tuple(marked.run(image, replace).values())


def export_net(marked: MarkedNet, height: int, width: int) -> onnx.ModelProto:
    """
    Export by the older exporter, or by torch.export where that fails.

    Parameters
    ----------
    marked : MarkedNet
        From `find_dropout`.
    height, width : int
        h and w.

    Returns
    -------
    ModelProto
        Input 'input' (1, 3, h, w); outputs by the names of `marked`; a node
        ``uncertainty_seg::Dropout`` with p, kind and site for each dropout.

    Raises
    ------
    GraphError
        If both fail, with the reasons.

    """
    image = torch.zeros(1, 3, height, width)
    reasons = []
    for name, exporter in _EXPORTERS.items():
        try:
            with _silence():
                return exporter(marked, image)
        except Exception as err:  # they raise whatever they like
            reasons.append(f'{name}: {type(err).__name__}: {first_line(err)}')
            _log.info('%s', reasons[-1])
    raise GraphError(f'torch cannot export the net ({"; ".join(reasons)})',
                     'operations that it can write to ONNX', 'replace that one in the net')


def export_by_graph(marked: MarkedNet, image: Tensor) -> onnx.ModelProto:
    """Export by torch.export, in opset 18."""
    def replace(x: Tensor, drop: Drop) -> Tensor:
        attributes = {'p': drop.p, 'kind': drop.kind, 'site': drop.site}
        return torch.onnx.ops.symbolic(f'{MARKER_DOMAIN}::Dropout', (x,), attributes,
                                       dtype=x.dtype, shape=x.shape, version=1)

    program = torch.export.export(_Traced(marked, replace).eval(), (image,), strict=False)
    written = torch.onnx.export(
        program, (image,), dynamo=True, input_names=[INPUT], output_names=list(marked.outputs),
        opset_version=EXPORT_OPSET, verbose=False,
    )
    return written.model_proto


def export_by_trace(marked: MarkedNet, image: Tensor) -> onnx.ModelProto:
    """Export by the older exporter, in opset 17."""
    def replace(x: Tensor, drop: Drop) -> Tensor:
        return _Mark.apply(x, drop.p, drop.kind, drop.site)

    file = io.BytesIO()
    # Of a domain that no node is of, torch writes a warning to stderr, from C++.
    domains = {MARKER_DOMAIN: 1} if marked.drops else {}
    torch.onnx.export(
        _Traced(marked, replace).eval(), (image,), file,
        input_names=[INPUT], output_names=list(marked.outputs),
        opset_version=OPSET, dynamo=False, custom_opsets=domains,
    )
    return onnx.load_from_string(file.getvalue())


# Both are proven; the older one is five to ten times faster and writes opset 17 itself.
_EXPORTERS = {'the older exporter': export_by_trace, 'torch.export': export_by_graph}


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporters' progress, warnings and dumps of graphs from the user."""
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    sys.stdout.flush()
    terminal, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)  # the older exporter writes whole graphs there, from C++
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        os.dup2(terminal, 1)
        os.close(terminal)
        os.close(nowhere)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
