# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The eager reference with masks equals torch's dropout; exported graphs equal the reference."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, TensorProto
import onnxruntime
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from torch import nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch_nets import Attention, DropPath, masked_logits, Net  # noqa: E402

from uncertainty_seg.compiler.capture.dropout_watch import Drop  # noqa: E402
from uncertainty_seg.compiler.capture.export import (  # noqa: E402
    export_by_graph,
    export_by_trace,
    export_marked,
    export_net,
)
from uncertainty_seg.compiler.capture.marking import find_dropout, named_outputs  # noqa: E402
from uncertainty_seg.compiler.onnx_tools import attribute, MARKER_DOMAIN, refill  # noqa: E402
from uncertainty_seg.core.model_card import InputSpec  # noqa: E402
from uncertainty_seg.errors import GraphError  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings('ignore')]
HEIGHT, WIDTH, P = 6, 8, 0.25
SPEC = InputSpec(WIDTH, HEIGHT, 'stretch', 'rgb', (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
IMAGE = np.random.default_rng(0).standard_normal((1, 3, HEIGHT, WIDTH), np.float32)


@dataclass
class Drawn:
    """A call of torch's random generator: the requested shape and the drawn values."""

    shape: tuple
    values: np.ndarray


@contextmanager
def recorded() -> Iterator[list[Drawn]]:
    """Record every 0 and 1 that torch's dropout draws, in any operation."""
    from torch.utils._python_dispatch import TorchDispatchMode

    drawn: list[Drawn] = []

    class Recorder(TorchDispatchMode):

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if 'bernoulli' in str(func):
                drawn.append(Drawn(tuple(result.shape), result.clone().numpy()))
            return result
    with Recorder():
        yield drawn


def attend(x: torch.Tensor, training: bool, **options: object) -> torch.Tensor:
    tokens = x.reshape(1, 2, 2, 48).transpose(2, 3)
    out = F.scaled_dot_product_attention(tokens, tokens, tokens, **options,
                                         dropout_p=P if training else 0.0)
    return out.transpose(2, 3).reshape(x.shape)


def grouped(x: torch.Tensor, training: bool) -> torch.Tensor:
    tokens = x.reshape(1, 2, 2, 48).transpose(2, 3)
    out = F.scaled_dot_product_attention(tokens, tokens[:, :1], tokens[:, :1], enable_gqa=True,
                                         dropout_p=P if training else 0.0)
    return out.transpose(2, 3).reshape(x.shape)


def used_after(x: torch.Tensor, training: bool) -> torch.Tensor:
    F.dropout(x, P, training, inplace=True)
    return x * 2


LOWER = torch.ones(48, 48, dtype=torch.bool).tril()
BODIES = {
    'element': lambda: nn.Dropout(P), 'channel': lambda: nn.Dropout2d(P),
    'in place': lambda: used_after, 'path': lambda: DropPath(P),
    'rows': lambda: nn.Sequential(nn.Flatten(0, 1), DropPath(P), nn.Unflatten(0, (1, 4))),
    'channels of a line': lambda: lambda x, t: F.dropout1d(x.flatten(2), P, t).reshape(x.shape),
    'no batch': lambda: lambda x, t: F.dropout1d(x[0].flatten(1), P, t).reshape(x.shape),
    'alpha': lambda: nn.AlphaDropout(P), 'feature alpha': lambda: nn.FeatureAlphaDropout(P),
    'alpha in place': lambda: lambda x, t: F.alpha_dropout(x * 1, P, t, True),
    'drawn': lambda: lambda x, t: x * x.new_empty((1, 4, 1, 1)).bernoulli_(0.75) if t else x * .75,
    'attention': lambda: attend,
    'causal': lambda: lambda x, t: attend(x, t, is_causal=True),
    'boolean mask': lambda: lambda x, t: attend(x, t, attn_mask=LOWER),
    'added mask, scale': lambda: lambda x, t: attend(x, t, attn_mask=LOWER * 2.0, scale=0.3),
    'grouped': lambda: grouped,
    'layer': lambda: Attention(True, True),
    'layer, sequence first': lambda: Attention(True, False),
}


def masks_of(drops: tuple[Drop, ...], drawn: list[Drawn]) -> dict[str, np.ndarray]:
    """Return torch's draws as masks in the layout of cards: scaled, T first, no batch axis."""
    masks = {}
    for drop, draw in zip(drops, drawn, strict=True):
        rows = draw.values / np.float32(1 - drop.p)
        batch = draw.shape.index(1) if 1 in draw.shape and len(draw.shape) > 1 else None
        masks[f'mask_{drop.site}'] = rows[None] if batch is None else rows.squeeze(batch)[None]
    return masks


@pytest.mark.parametrize('name', BODIES)
def test_the_masked_reference_is_torchs_own_dropout_given_what_it_drew(name: str) -> None:
    net = Net(BODIES[name]())
    for seed in range(20):
        torch.manual_seed(seed)
        with recorded() as drawn, torch.no_grad():
            theirs = net.train()(torch.from_numpy(IMAGE)).numpy()
        masks = masks_of(find_dropout(net, HEIGHT, WIDTH).drops, drawn)
        if all((m == 0).any() for m in masks.values()):
            break
    else:
        pytest.fail('nothing was ever dropped')
    np.testing.assert_allclose(masked_logits(net, IMAGE, masks), theirs, atol=2e-6)


def random_masks(drops: tuple[Drop, ...], passes: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    masks = {}
    for drop in drops:
        ones = {'channel': 2}.get(drop.kind, len(drop.shape))
        shape = (*drop.shape[:ones], *[1] * (len(drop.shape) - ones))
        kept = rng.random((passes, *shape)) >= drop.p
        masks[f'mask_{drop.site}'] = (kept / (1 - drop.p)).astype(np.float32)
    return masks


def run_marked(model: onnx.ModelProto, masks: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run a marked graph, with each marker replaced by a product with its mask of one pass."""
    nodes, feed = [], {}
    for node in model.graph.node:
        if node.domain != MARKER_DOMAIN:
            nodes.append(node)
            continue
        name = f'mask_{attribute(node, "site")}'
        feed[name] = masks[name][0]
        model.graph.input.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, feed[name].shape))
        nodes.append(helper.make_node('Mul', [node.input[0], name], node.output))
    refill(model.graph.node, nodes)
    del model.graph.value_info[:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                           providers=['CPUExecutionProvider'])
    return session.run(None, {'input': IMAGE, **feed})


@pytest.mark.parametrize('name', BODIES)
def test_the_older_exporters_graph_is_the_reference(name: str) -> None:
    net = Net(BODIES[name]())
    marked = find_dropout(net, HEIGHT, WIDTH)
    masks = random_masks(marked.drops)
    model = export_by_trace(marked, torch.zeros(1, 3, HEIGHT, WIDTH))
    ours, = run_marked(model, masks)
    np.testing.assert_allclose(ours, masked_logits(net, IMAGE, masks), atol=2e-6)


@pytest.mark.parametrize('name', ['channel', 'in place', 'drawn', 'layer', 'causal'])
def test_the_graph_of_torch_export_is_the_reference(name: str) -> None:
    net = Net(BODIES[name]())
    marked = find_dropout(net, HEIGHT, WIDTH)
    masks = random_masks(marked.drops)
    model = export_by_graph(marked, torch.zeros(1, 3, HEIGHT, WIDTH))
    assert {e.domain: e.version for e in model.opset_import} == {'': 18, MARKER_DOMAIN: 1}
    ours, = run_marked(model, masks)
    np.testing.assert_allclose(ours, masked_logits(net, IMAGE, masks), atol=2e-6)


def test_a_net_the_older_exporter_cannot_write_goes_through_torch_export() -> None:
    class SoftPlus(nn.Module):
        """Softplus as logaddexp, which the older exporter does not support."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.logaddexp(x, torch.zeros_like(x))

    net = Net(nn.Sequential(SoftPlus(), nn.Dropout(P)))
    marked = find_dropout(net, HEIGHT, WIDTH)
    masks = random_masks(marked.drops)
    model = export_net(marked, HEIGHT, WIDTH)
    assert [e.version for e in model.opset_import if not e.domain] == [18]
    np.testing.assert_allclose(run_marked(model, masks)[0], masked_logits(net, IMAGE, masks),
                               atol=2e-6)


# --- outputs ---


class Outputs(nn.Module):

    def __init__(self, shape: Callable) -> None:
        super().__init__()
        self.inner, self.shape = Net(nn.Dropout(P)), shape

    def forward(self, x: torch.Tensor) -> object:
        logits = self.inner(x)
        return self.shape(logits, logits.flatten(2))


@dataclass
class Fields:
    loss: None
    logits: torch.Tensor
    states: tuple


@pytest.mark.parametrize(('shape', 'names'), [
    (lambda a, b: a, ['output']), (lambda a, b: (a,), ['output']),
    (lambda a, b: [a, b], ['output_0', 'output_1']),
    (lambda a, b: {'out': a, 'aux': b}, ['out', 'aux']), (lambda a, b: {'out': a}, ['out']),
    (lambda a, b: (a, [b, None, b]), ['output_0', 'output_1_0', 'output_1_2']),
    (lambda a, b: Fields(None, a, (b,)), ['logits', 'states_0']),
])
def test_every_tensor_of_the_result_is_an_output_by_name(shape: Callable, names: list) -> None:
    net = Outputs(shape)
    model = export_marked(net, SPEC)
    assert [o.name for o in model.graph.output] == names
    with torch.no_grad():
        theirs = named_outputs(net.eval()(torch.from_numpy(IMAGE)))
    masks = {'mask_inner_body': np.ones((1, 1, 4, HEIGHT, WIDTH), np.float32)}
    for name, ours in zip(names, run_marked(model, masks), strict=True):
        np.testing.assert_allclose(ours, theirs[name].numpy(), atol=2e-6)


# --- masks that the reference refuses ---


def test_an_ill_fitting_mask_is_refused_and_a_missing_one_is_off() -> None:
    net = Net(nn.Sequential(nn.Dropout(P), nn.Dropout2d(P)))
    good = random_masks(find_dropout(net, HEIGHT, WIDTH).drops)
    with pytest.raises(GraphError, match=r"'body_1' has the shape \(3, 1, 1\)"):
        masked_logits(net, IMAGE, {**good, 'mask_body_1': np.ones((1, 3, 1, 1), np.float32)})
    some = {'mask_body_0': good['mask_body_0']}
    ones = {**some, 'mask_body_1': np.ones_like(good['mask_body_1'])}
    assert np.array_equal(masked_logits(net, IMAGE, some), masked_logits(net, IMAGE, ones))
