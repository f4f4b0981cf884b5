# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Unreadable files, and graphs that some runtime would run wrongly, are reported."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, TensorProto
from onnx_front_end_helpers import make, N, run, values
import pytest

from uncertainty_seg.compiler import onnx_tools
from uncertainty_seg.compiler.frontend.lint import lint
from uncertainty_seg.compiler.onnx_tools import float_info, load_model, OPSET
from uncertainty_seg.errors import GraphError

I64 = np.int64


def net() -> onnx.ModelProto:
    return make([N('Conv', ['x', 'w'], ['y'])], {'w': values(64, 3, 5, 5)})


def external(folder: Path) -> Path:
    path = folder / 'net.onnx'
    onnx.save(net(), path, save_as_external_data=True, location='weights.bin', size_threshold=0)
    return path


def test_weights_in_a_file_beside_are_read(tmp_path: Path) -> None:
    np.testing.assert_array_equal(run(load_model(str(external(tmp_path))))[0], run(net())[0])


def test_nodes_of_a_file_may_come_in_any_order(tmp_path: Path) -> None:
    sorted_ = make([N('Relu', ['x'], ['r']), N('Exp', ['r'], ['e']), N('Add', ['r', 'e'], ['y'])])
    model = onnx.ModelProto.FromString(sorted_.SerializeToString())
    onnx_tools.refill(model.graph.node, reversed(sorted_.graph.node))
    (tmp_path / 'net.onnx').write_bytes(model.SerializeToString())
    assert [n.name for n in load_model(str(tmp_path / 'net.onnx')).graph.node] == ['r', 'e', 'y']


def test_a_missing_file_of_weights_is_named(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / 'weights.bin').unlink()
    with pytest.raises(GraphError, match="weights in 'weights.bin', which is not beside it"):
        load_model(str(path))


def test_weights_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / 'net'
    folder.mkdir()
    model = onnx.load(external(folder), load_external_data=False)
    (folder / 'weights.bin').rename(tmp_path / 'weights.bin')
    model.graph.initializer[0].external_data[0].value = '../weights.bin'
    (folder / 'net.onnx').write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match=r'net\.onnx'):
        load_model(str(folder / 'net.onnx'))


@pytest.mark.parametrize('content', [b'\x80\x02}q\x00', b'not a network'])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'net.onnx').write_bytes(content)
    with pytest.raises(GraphError, match='is no ONNX file, or only a part'):
        load_model(str(tmp_path / 'net.onnx'))


def test_more_weights_than_one_file_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = external(tmp_path)
    assert 64 * 3 * 25 * 4 == 19_200
    monkeypatch.setattr(onnx_tools, 'LARGEST_BYTES', 19_200)
    load_model(str(path))
    monkeypatch.setattr(onnx_tools, 'LARGEST_BYTES', 19_199)
    with pytest.raises(GraphError, match='GB of weights, expected less than the 2 GB'):
        load_model(str(path))


def clean() -> onnx.ModelProto:
    """Make a head from features and masks to logits and a statistic."""
    nodes = [N('Mul', ['f', 'mask_a'], ['m']), N('Conv', ['m', 'w'], ['logits']),
             N('ReduceMax', ['logits', 'one'], ['sum_p'])]
    model = make(nodes, {'w': values(4, 3, 1, 1), 'one': np.array([1])}, OPSET, source='f',
                 outputs=('logits', 'sum_p'))
    model.graph.input.append(float_info('mask_a', ('T', 3, 1, 1)))
    return model


def add(*nodes: onnx.NodeProto, **tensors: np.ndarray) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in tensors.items())
    return change


def half_logits(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = 'z'
    model.graph.node.insert(2, N('Cast', ['z'], ['logits'], to=TensorProto.FLOAT16))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.FLOAT16


BROKEN: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    'shift': (add(N('BitShift', ['a', 'a'], ['d'], name='o', direction='LEFT'),
                  a=np.ones(2, np.uint64)), "'o' is BitShift"),
    'computed axes': (add(N('Shape', ['m'], ['s']), N('ReduceSum', ['m', 's'], ['d'], name='o')),
                      "ReduceSum 'o' has computed axes"),
    'one hot': (add(N('Size', ['m'], ['s']), N('OneHot', ['i', 's', 'v'], ['d'], name='o'),
                    i=np.array([1], I64), v=np.array([0, 1], np.float32)),
                "OneHot 'o' has a computed size"),
    'top k': (add(N('Shape', ['m'], ['s']), N('TopK', ['m', 's'], ['d', 'e'], name='o')),
              "TopK 'o' has a computed size"),
    'large k': (add(N('TopK', ['m', 'k'], ['d', 'e'], name='o'), k=np.array([3841], I64)),
                "TopK 'o' takes the 3841 largest, more than 3840"),
    'cubic': (add(N('Resize', ['m', '', 's'], ['d'], name='o', mode='cubic'),
                  s=np.array([1, 1, 2, 2], np.float32)), "'o' is neither nearest nor linear"),
    'antialias': (add(N('Resize', ['m', '', 's'], ['d'], name='o', mode='linear', antialias=1),
                      s=np.array([1, 1, 2, 2], np.float32)), "Resize 'o' uses antialiasing"),
    'bytes inside': (add(N('Cast', ['m'], ['b'], name='o', to=TensorProto.UINT8),
                         N('Cast', ['b'], ['g'], to=TensorProto.FLOAT)),
                     "Cast 'o' makes the bytes 'b'"),
    'half logits': (half_logits, r"\['logits', 'sum_p'\] at or behind 'logits' are of 16 bits"),
    'half behind': (add(N('Cast', ['sum_p'], ['h'], to=TensorProto.BFLOAT16)),
                    r"\['h'\] at or behind 'logits' are of 16 bits"),
    'half weights': (add(N('Conv', ['m', 'v'], ['d'], name='o'),
                         v=values(4, 3, 1, 1).astype(np.float16)), "'o' mixes FLOAT and FLOAT16"),
}


@pytest.mark.parametrize('name', BROKEN)
def test_each_rule_finds_what_it_is_for_and_nothing_else(name: str) -> None:
    model = clean()
    assert lint(model) == []
    change, words = BROKEN[name]
    change(model)
    found = lint(model)
    assert len(found) == 1, found
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(found[0])


@pytest.mark.parametrize('change', [
    add(N('QuantizeLinear', ['m', 's', 'z'], ['q']), N('DequantizeLinear', ['q', 's', 'z'], ['d']),
        s=np.array(.1, np.float32), z=np.array(128, np.uint8)),
    add(N('Cast', ['v'], ['w32'], to=TensorProto.FLOAT), N('Conv', ['m', 'w32'], ['d']),
        v=values(4, 3, 1, 1).astype(np.float16)),
    add(N('TopK', ['m', 'k'], ['d', 'e']), k=np.array([3840], I64)),
])
def test_what_runtimes_read_right_is_clean(change: Callable[[onnx.ModelProto], None]) -> None:
    model = clean()
    change(model)
    assert lint(model) == []
