# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Files of torch's two exporters, in every opset, compute the same after the front end."""

import io
from typing import Any
import warnings

import numpy as np
import onnx
from onnx_front_end_helpers import ops, run
import pytest

from uncertainty_seg.compiler.frontend.constant_folding import fold_constants
from uncertainty_seg.compiler.frontend.lint import require_compilable
from uncertainty_seg.compiler.frontend.outputs import to_logits
from uncertainty_seg.compiler.frontend.standard_form import fix_input, to_shipped_opset

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.torch
HEIGHT, WIDTH = 24, 32
IMAGE = np.random.default_rng(0).normal(size=(1, 3, HEIGHT, WIDTH)).astype(np.float32)
LEFT = {'Shape', 'Size', 'Gather', 'If', 'Loop', 'Range', 'ConstantOfShape', 'Cast', 'Expand',
        'Constant', 'Identity', 'GroupNormalization', 'Attention', 'CastLike'}


class Net(torch.nn.Module):
    """Convolutions, norms, activations, attention, and sizes computed from tensors."""

    def __init__(self, has_attention: bool = True) -> None:
        super().__init__()
        nn = torch.nn
        self.has_attention = has_attention
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.GELU())
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.Mish())
        self.norm, self.qkv = nn.LayerNorm(16), nn.Linear(16, 48)
        self.drop = nn.Dropout(0.25)
        self.last = nn.Conv2d(24, 4, 1)

    def attend(self, x: Any) -> Any:
        n, c, h, w = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = (t.reshape(n, h * w, 2, 8).transpose(1, 2)
                   for t in self.qkv(tokens).chunk(3, -1))
        if self.has_attention:
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            out = torch.softmax(q @ k.transpose(-1, -2) * 8 ** -0.5, -1) @ v
        return out.transpose(1, 2).reshape(n, h * w, c).transpose(1, 2).reshape(n, c, h, w)

    def forward(self, x: Any) -> Any:
        resize = torch.nn.functional.interpolate
        fine = self.stem(x)
        coarse = self.down(fine)
        coarse = coarse + self.attend(coarse)
        up = resize(coarse, size=fine.shape[2:], mode='bilinear', align_corners=False)
        z = self.last(self.drop(torch.cat([fine, up], 1)))
        return resize(z, size=x.shape[2:], mode='bilinear', align_corners=False)


def net(has_attention: bool = True) -> Any:
    torch.manual_seed(0)
    return Net(has_attention).eval()


def exported(opset: int, is_dynamic: bool, is_older: bool) -> onnx.ModelProto:
    module, image = net(opset >= 14), torch.from_numpy(IMAGE)
    names: dict[str, Any] = {'input_names': ['x'], 'output_names': ['y']}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if is_older:
            file = io.BytesIO()
            axes = {'x': {0: 'n', 2: 'h', 3: 'w'}} if is_dynamic else None
            torch.onnx.export(module, (image,), file, opset_version=opset, dynamo=False,
                              dynamic_axes=axes, **names)
            return onnx.load_from_string(file.getvalue())
        size = torch.export.Dim.DYNAMIC
        shapes = ({0: size, 2: size, 3: size},) if is_dynamic else None
        program = torch.onnx.export(module, (image,), opset_version=opset, dynamo=True,
                                    dynamic_shapes=shapes, verbose=False, **names)
        return program.model_proto


def require_same(model: onnx.ModelProto) -> None:
    static = fold_constants(to_shipped_opset(fix_input(model, HEIGHT, WIDTH)))
    require_compilable(static)
    logits = to_logits(static, None, 4)
    onnx.checker.check_model(logits, full_check=True)
    assert not LEFT & set(ops(logits))
    with torch.no_grad():
        expected = net()(torch.from_numpy(IMAGE)).numpy()
    np.testing.assert_allclose(run(logits, IMAGE)[0], expected, atol=1e-5)


@pytest.mark.parametrize('is_dynamic', [False, True])
@pytest.mark.parametrize('opset', range(11, 18))
def test_files_of_the_older_exporter_compute_the_same(opset: int, is_dynamic: bool) -> None:
    require_same(exported(opset, is_dynamic, is_older=True))


@pytest.mark.release
@pytest.mark.parametrize('opset, is_dynamic', [(18, True), (20, False)])
def test_files_of_the_newer_exporter_compute_the_same(opset: int, is_dynamic: bool) -> None:
    pytest.importorskip('onnxscript')
    require_same(exported(opset, is_dynamic, is_older=False))
