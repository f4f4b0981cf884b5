# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Max unpooling equals torch's, before and after dropout, for one pass and several at once.

The network is exported by torch as users do, and compared with torch run with the same masks.
"""

import functools

from graph_samples import floats, graph, run
import numpy as np
import onnx
from onnx import helper
import pytest

from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks
from uncertainty_seg.compiler.algebra.free_passes import free_passes
from uncertainty_seg.compiler.algebra.split import split_trunk_head
from uncertainty_seg.compiler.frontend.constant_folding import fold_constants
from uncertainty_seg.compiler.frontend.standard_form import to_shipped_opset
from uncertainty_seg.compiler.frontend.unpooling import write_unpooling
from uncertainty_seg.core.dropout_masks import make_masks

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
pytest.importorskip('onnxscript')
pytestmark = pytest.mark.torch

PASSES = 3
N = helper.make_node
FORMS = {
    'windows side by side': ((2, 2), (8, 12)), 'of three': ((3, 3), (9, 12)),
    'a row that no window covers': ((2, 2), (9, 13)),
}


class Unpooled(torch.nn.Module):
    """Pooling, a layer, unpooling; `early` masks the pooling's input, `late` the unpooling's."""

    def __init__(
        self, kernel: int, stride: int, pad: int = 0, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.pad, self.size = kernel, stride, pad, size
        self.first, self.middle = (torch.nn.Conv2d(i, 4, 3, padding=1) for i in (3, 4))

    def forward(self, x: torch.Tensor, early: torch.Tensor, late: torch.Tensor) -> torch.Tensor:
        y = self.first(x).relu() * early  # ReLU causes ties in many windows
        how = self.kernel, self.stride, self.pad
        small, at = torch.nn.functional.max_pool2d(y, *how, return_indices=True)
        small = self.middle(small) * late
        size = self.size or y.shape[2:]
        return torch.nn.functional.max_unpool2d(small, at, *how, size)


@functools.cache
def written(form: str) -> tuple[Unpooled, bytes]:
    """Export with torch.export, with the masks as inputs."""
    how, size = FORMS[form]
    torch.manual_seed(1)
    net, ones = Unpooled(*how), [torch.ones(1, 4, 1, 1) for _ in range(2)]
    program = torch.onnx.export(net, (torch.ones(1, 3, *size), *ones), dynamo=True, verbose=False,
                                input_names=['x', 'early', 'late'], output_names=['y'])
    return net, program.model_proto.SerializeToString()


def exported(form: str, drops: str) -> onnx.ModelProto:
    """Replace the products with masks by channel dropout."""
    model = onnx.load_from_string(written(form)[1])
    inputs = {info.name: info for info in model.graph.input}
    for node in model.graph.node:
        for name in ('early', 'late'):
            if name in node.input:
                assert node.op_type == 'Mul'
                kept = N('Identity', [node.input[0]], list(node.output))
                node.CopyFrom(kept if name not in drops else N(
                    'Dropout', [node.input[0]], list(node.output), name=name, p=0.5, site=name,
                    kind='channel', domain='uncertainty_seg'))
    del model.graph.input[:]
    model.graph.input.append(inputs['x'])
    model.opset_import.append(helper.make_opsetid('uncertainty_seg', 1))
    return write_unpooling(fold_constants(to_shipped_opset(model)))


@pytest.mark.release
@pytest.mark.parametrize('drops', ['late', 'early', 'early and late'])
@pytest.mark.parametrize('form', FORMS)
def test_unpooling_of_all_passes_is_torchs_of_each(form: str, drops: str) -> None:
    net, x = written(form)[0], floats(1, 3, *FORMS[form][1])
    masked, sites = dropout_to_masks(exported(form, drops))
    masks = make_masks(sites, PASSES, 3)
    trunk, head = split_trunk_head(free_passes(masked, sites), sites)
    names = [info.name for info in trunk.graph.output]
    values = dict(zip(names, run(trunk, {'x': x}), strict=True))
    assert {value.dtype for value in values.values()} == {np.dtype(np.float32)}
    wanted = {info.name for info in head.graph.input}
    ours = run(head, {**{k: v for k, v in {'x': x, **values}.items() if k in wanted}, **masks})[0]
    for t in range(PASSES):
        given = [torch.from_numpy(masks[f'mask_{name}'][t][None]) if name in drops
                 else torch.ones(1) for name in ('early', 'late')]
        with torch.no_grad():
            theirs = net(torch.from_numpy(x), *given).numpy()
        np.testing.assert_allclose(ours[t], theirs[0], atol=1e-5)
    assert abs(ours[0] - ours[1]).max() > 1e-3


def test_windows_side_by_side_need_no_indices() -> None:
    model = exported('windows side by side', 'late')
    assert {'ScatterND', 'ScatterElements'}.isdisjoint(node.op_type for node in model.graph.node)
    assert all(len(n.output) == 1 for n in model.graph.node if n.op_type == 'MaxPool')


def test_the_operator_of_onnx_counts_indices_through_the_planes() -> None:
    x = floats(1, 3, 6, 8)
    nodes = [N('MaxPool', ['x'], ['p', 'i'], kernel_shape=[2, 2], strides=[2, 2]),
             N('Mul', ['p', 'w'], ['d']),
             N('MaxUnpool', ['d', 'i'], ['y'], kernel_shape=[2, 2], strides=[2, 2])]
    model = graph(nodes, x.shape, w=floats(1, 3, 3, 4))
    ours = write_unpooling(model)
    assert 'MaxUnpool' not in [node.op_type for node in ours.graph.node]
    np.testing.assert_array_equal(run(ours, {'x': x})[0], run(model, {'x': x})[0])
