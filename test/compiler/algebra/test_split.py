# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Splitting conv(cat[u, s]) into conv_u(u) + conv_s(s), where conv_s moves to the trunk."""

from collections.abc import Sequence

from graph_samples import drop, floats, graph, ints, run, run_split
import numpy as np
import onnx
from onnx import helper
import pytest

from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks
from uncertainty_seg.compiler.algebra.free_passes import free_passes
from uncertainty_seg.compiler.algebra.split import split_skips, split_trunk_head
from uncertainty_seg.core.dropout_masks import make_masks

NODE = helper.make_node
BETWEEN = {
    'nothing': [],
    'relu': [NODE('Relu', ['j'], ['b'])],
    'norm, relu and upsampling': [
        NODE('BatchNormalization', ['j', 'gamma', 'beta', 'mean', 'var'], ['b0']),
        NODE('LeakyRelu', ['b0'], ['b1'], alpha=0.2),
        NODE('Resize', ['b1', '', 'twice'], ['b'], mode='linear')],
    'scale and shift': [NODE('Mul', ['j', 'factor'], ['b0']), NODE('Add', ['shift', 'b0'], ['b'])],
}


def skip_net(between: Sequence[onnx.NodeProto] = (), wide: int = 16) -> onnx.ModelProto:
    """Make s = relu(x), u = dropout(conv(x)), and conv(cat[s, u, x]) after the nodes `between`."""
    channels = 3 + wide + 3
    nodes = [
        NODE('Relu', ['x'], ['s']),
        NODE('Conv', ['x', 'w1'], ['c'], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        drop('c', 'u', 'channel'),
        NODE('Concat', ['s', 'u', 'x'], ['j'], axis=1), *between,
        NODE('Conv', ['b' if between else 'j', 'w2', 'b2'], ['y'], name='over', pads=[1, 1, 1, 1],
             kernel_shape=[3, 3]),
    ]
    return graph(nodes, (1, 3, 8, 10), w1=floats(wide, 3, 3, 3), w2=floats(2, channels, 3, 3),
                 b2=floats(2), gamma=floats(channels), beta=floats(channels),
                 mean=floats(channels), var=abs(floats(channels)) + 0.5,
                 twice=np.array([1, 1, 2, 2], np.float32), factor=floats(1, channels, 1, 1),
                 shift=floats(channels, 1, 1))


def parts(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    masked, sites = dropout_to_masks(model)
    split, _ = split_skips(masked, sites, 20)
    return split_trunk_head(free_passes(split, sites), sites)


@pytest.mark.parametrize('between', BETWEEN)
def test_the_sum_equals_the_convolution_of_the_join(between: str) -> None:
    model = skip_net(BETWEEN[between])
    masked, sites = dropout_to_masks(model)
    split, (decision,) = split_skips(masked, sites, 20)
    assert decision.is_applied
    assert (decision.where, decision.step) == ('over', 'skip_split')
    masks = make_masks(sites, 4, 0)
    x = floats(1, 3, 8, 10)
    wanted = run(free_passes(masked, sites), {'x': x, **masks})[0]
    np.testing.assert_allclose(run(free_passes(split, sites), {'x': x, **masks})[0], wanted,
                               rtol=1e-5, atol=1e-4)
    trunk, head = parts(model)
    np.testing.assert_allclose(run_split(trunk, head, masks, x), wanted, rtol=1e-5, atol=1e-4)


def test_the_same_half_runs_in_the_trunk_and_nothing_is_joined_in_the_head() -> None:
    trunk, head = parts(skip_net())
    assert [n.op_type for n in trunk.graph.node].count('Conv') == 2
    assert [n.op_type for n in head.graph.node] == ['Mul', 'Conv', 'Add']


def test_it_is_left_alone_where_the_sum_costs_more() -> None:
    """One pass saves nothing."""
    masked, sites = dropout_to_masks(skip_net())
    split, (decision,) = split_skips(masked, sites, 1)
    assert not decision.is_applied
    assert '6 of 22 channels' in decision.reason
    assert [n.op_type for n in split.graph.node] == [n.op_type for n in masked.graph.node]


@pytest.mark.parametrize('node', [
    NODE('Softmax', ['j'], ['b'], axis=1),
    NODE('Reshape', ['j', 'same'], ['b']),
    NODE('Mul', ['j', 'everywhere'], ['b']),
])
def test_what_looks_at_several_channels_stops_it(node: onnx.NodeProto) -> None:
    model = skip_net([node])
    model.graph.initializer.extend(graph([], (1,), same=ints(1, 22, 8, 10),
                                         everywhere=floats(1, 22, 8, 10)).graph.initializer)
    masked, sites = dropout_to_masks(model)
    assert split_skips(masked, sites, 20)[1] == ()


def test_what_is_no_float_goes_to_the_head_as_it_is() -> None:
    """Test a boolean, and integers of both signs that exceed the precision of float32."""
    nodes = [
        NODE('Greater', ['x', 'zero'], ['is_above']), NODE('ArgMax', ['x'], ['first'], axis=1),
        NODE('Sub', ['first', 'two'], ['signed']), NODE('Mul', ['signed', 'large'], ['many']),
        drop('x', 'd', 'element'), NODE('Cast', ['d'], ['whole'], to=onnx.TensorProto.INT64),
        NODE('Add', ['many', 'whole'], ['sum']), NODE('Mod', ['sum', 'thousand'], ['rest']),
        NODE('Cast', ['rest'], ['float'], to=1), NODE('Where', ['is_above', 'float', 'd'], ['y'])]
    x = floats(1, 5, 4, 6)
    model, sites = dropout_to_masks(graph(
        nodes, x.shape, zero=np.array(0, np.float32), two=np.array(2), thousand=np.array(1000),
        large=np.array(8123456789)))
    trunk, head = split_trunk_head(free_passes(model, sites), sites)
    kinds = {info.type.tensor_type.elem_type for info in trunk.graph.output}
    assert kinds == {onnx.TensorProto.FLOAT}
    masks = make_masks(sites, 3, 1)
    values = dict(zip([i.name for i in trunk.graph.output], run(trunk, {'x': x}), strict=True))
    wanted = {info.name for info in head.graph.input}
    given = {name: value for name, value in {'x': x, **values}.items() if name in wanted}
    d = x * masks[sites[0].name]
    rest = ((x.argmax(1, keepdims=True) - 2) * 8123456789 + d.astype(np.int64)) % 1000
    np.testing.assert_allclose(run(head, {**given, **masks})[0], np.where(x > 0, rest, d))
