# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""An ONNX file with QDQ nodes, quantised by NNCF, compiles with its 8-bit weights."""

from collections import Counter
from pathlib import Path
import sys

import numpy as np
import onnx
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from uncertainty_seg.compiler.request import compile_network  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.release, pytest.mark.filterwarnings('ignore')]
IMAGE = (1, 3, 32, 48)


def test_a_qdq_file_keeps_its_8_bit_weights_in_trunk_and_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'openvino_telemetry', None)  # blocks NNCF's telemetry
    nncf = pytest.importorskip('nncf', reason='nncf is not installed: pip install nncf')
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3, 1, 1),
        torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Conv2d(16, 16, 3, 1, 1),
        torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 1)).train()
    with torch.no_grad():
        net[-1].weight *= 20
    torch.onnx.export(net, (torch.zeros(IMAGE),), str(tmp_path / 'float.onnx'), dynamo=False,
                      training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
                      opset_version=17, input_names=['image'])
    rng = np.random.default_rng(0)
    images = [rng.normal(size=IMAGE).astype(np.float32) for _ in range(8)]
    quantised = nncf.quantize(onnx.load(str(tmp_path / 'float.onnx')),
                              nncf.Dataset(images, lambda x: {'image': x}), subset_size=8)
    onnx.save(quantised, str(tmp_path / 'qdq.onnx'))
    made = compile_network(tmp_path / 'qdq.onnx', tmp_path / 'bundle', IMAGE[:1:-1], list('abcd'))
    assert [(s.shape, s.p) for s in made.compiled.sites] == [((16, 16, 24), 0.3)]
    assert made.report.masked_error < 2e-2
    for name in ('trunk', 'passes'):
        graph = onnx.load(str(tmp_path / 'bundle' / f'{name}.onnx')).graph
        ops = Counter(node.op_type for node in graph.node)
        large = [t.data_type for t in graph.initializer if np.prod(t.dims) >= 16 * 4]
        assert ops['DequantizeLinear'] >= ops['Conv'] and large, ops
        assert set(large) <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
