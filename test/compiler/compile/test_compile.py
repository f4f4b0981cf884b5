# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
`uncertainty_seg compile` from the command line: a bundle that the pipeline opens, or one sentence.

The torch factories are in a separate module, in a folder on the path.
"""

from collections.abc import Callable
import importlib.util
import json
from pathlib import Path

from conftest import write_key
from graph_samples import net
import numpy as np
import onnx
from onnx import helper
import pytest

from uncertainty_seg.backends.cpu.openvino import core_of_process, has_bf16
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.cli.main import main
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import grid_maps
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.storage.signatures import public_line, read_private_key

NETS = '''
import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    """Dropout by a function, twice the resolution at the end, a dict as torchvision returns."""

    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.last = nn.Conv2d(8, classes, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = self.last(functional.dropout2d(x, 0.4, self.training))
        x = functional.interpolate(x, scale_factor=2, mode='bilinear')
        return {'out': x, 'aux': x[:, :2]}


class Still(nn.Sequential):
    def __init__(self):
        torch.manual_seed(1)
        super().__init__(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 1))


class Deep(nn.Sequential):
    def __init__(self):
        torch.manual_seed(2)
        super().__init__(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Dropout2d(0.5), nn.Upsample(scale_factor=4),
            nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(32, 3, 3, 1, 1))
        with torch.no_grad():
            self[-1].weight *= 5


class Path(nn.Module):
    """One path, dropped so rarely that the first passes all keep it."""

    def __init__(self):
        torch.manual_seed(4)
        super().__init__()
        self.first, self.block = nn.Conv2d(3, 3, 3, 2, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.first(x)
        keep = x.new_empty(len(x), 1, 1, 1).bernoulli_(0.98) / 0.98 if self.training else 1
        return x + self.block(x) * keep


class TrainingNoise(Net):
    """Noise in training mode, beside dropout."""

    def forward(self, x):
        x = super().forward(x)['out']
        return x * (1 + torch.randn_like(x)) if self.training else x


class Lazy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.LazyConv2d(8, 3, 2, 1), nn.ReLU(), nn.Dropout2d(0.5),
                         nn.LazyConv2d(3, 1))


class Diverged(Net):
    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.last.weight[1, 2] = float('nan')


def broken():
    raise RuntimeError('no such file')


def number():
    return 3
'''
CLASSES = 'classes: [water, diver, wreck]\n'
SIZE = ('--input', '16x8')


@pytest.fixture
def compile_(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    (tmp_path / 'nets_of_a_user.py').write_text(NETS)
    (tmp_path / 'classes.yaml').write_text(CLASSES)
    (tmp_path / 'four.yaml').write_text('classes: [water, diver, wreck, fish]\n')
    (tmp_path / 'lacking.py').write_text('import no_such_library')
    (tmp_path / 'unparsed.py').write_text('def build(:')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(network: str, *arguments: str, classes: str = 'classes.yaml') -> tuple[int, str, str]:
        code = main(['compile', *network.split(), *SIZE, '--classes', classes, '-o', 'bundle',
                     '--compare-passes', '16', *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def sentence(result: tuple[int, str, str]) -> str:
    """Return the one sentence of a refusal; asserts that nothing went to stdout."""
    code, out, err = result
    lines = [line for line in err.splitlines() if not line.startswith('WARNING')]
    assert code == 2
    assert not out
    assert len(lines) == 1
    assert lines[0].startswith('uncertainty_seg compile: ')
    assert not Path('bundle').exists()
    assert not list(Path().glob('.writing*'))
    return lines[0]


def maps_of(name: str = 'onnxruntime', masks: dict | None = None) -> np.ndarray:
    bundle = load_bundle('bundle')
    backend = open_backend(name, bundle, Settings(threads=1))
    image = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    sums = backend.run(image, masks or pass_inputs(bundle.card, bundle.card.passes, 0), 1.0)
    backend.close()
    return grid_maps(sums).mutual_information


@pytest.mark.torch
def test_a_factory_with_functional_dropout_becomes_a_bundle_that_runs(compile_: Callable) -> None:
    pytest.importorskip('torch')
    code, out, err = compile_('nets_of_a_user:Net', '--passes', '7', '--explain')
    assert (code, err) == (0, '')
    result = json.loads(out.splitlines()[-1])
    assert result['sites'] == [{'name': 'mask_dropout', 'shape': [8, 1, 1], 'p': 0.4,
                               'kind': 'mask'}]
    assert result['folded'] == ['mask_dropout']
    assert result['logits_shape'] == [3, 4, 8]
    assert max(result['still_error'], result['masked_error']) < 1e-5
    assert 'yes  fold_masks       mask_dropout' in out
    card = load_bundle('bundle').card
    assert (card.passes, card.class_names, card.name) == (7, ('water', 'diver', 'wreck'), 'bundle')
    assert maps_of().max() > 1e-4


@pytest.mark.torch
@pytest.mark.parametrize('words, runtimes, tolerance', [
    (['--precision', 'fp16'], ['onnxruntime', 'openvino'], 2e-3),
    (['--precision', 'bf16'], ['openvino'], 2e-2),
], ids=lambda v: ' '.join(v) if isinstance(v, list) else str(v))
def test_every_option_runs_in_every_runtime_that_can(
    compile_: Callable, words: list[str], runtimes: list[str], tolerance: float
) -> None:
    pytest.importorskip('torch')
    if 'bf16' in words and _has_openvino() and not has_bf16(core_of_process()):
        pytest.skip('this processor has no bf16, and OpenVINO refuses it there')
    assert compile_('nets_of_a_user:Deep', '--passes', '8', *words)[0] == 0
    found = {name: maps_of(name) for name in runtimes if name == 'onnxruntime' or _has_openvino()}
    assert compile_('nets_of_a_user:Deep', '--passes', '8')[0] == 0
    expected = maps_of()
    assert expected.mean() > 0.01
    for name, maps in found.items():
        assert np.abs(maps - expected).max() < tolerance, name


def _has_openvino() -> bool:
    return importlib.util.find_spec('openvino') is not None


@pytest.mark.torch
def test_dropout_is_injected_with_a_warning(compile_: Callable) -> None:
    pytest.importorskip('torch')
    code, out, err = compile_('nets_of_a_user:Still', '--inject-dropout', '0.3')
    assert code == 0
    assert err.startswith('WARNING')
    (site,) = json.loads(out.splitlines()[-1])['sites']
    assert (site['shape'], site['p']) == ([8, 1, 1], 0.3)


@pytest.mark.torch
def test_a_network_with_lazy_modules_has_run_before(compile_: Callable) -> None:
    pytest.importorskip('torch')
    code, _, err = compile_('nets_of_a_user:Lazy')
    assert code == 2 and 'lazy modules' in err


@pytest.mark.torch
def test_noise_beside_dropout_is_left_out_where_allowed_and_stands_everywhere(
    compile_: Callable
) -> None:
    pytest.importorskip('torch')
    code, _, err = compile_('nets_of_a_user:TrainingNoise')
    assert code == 2 and 'randn_like' in err and not Path('bundle').exists()
    code, out, err = compile_('nets_of_a_user:TrainingNoise', '--allow-silenced')
    said = json.loads(out.splitlines()[-1])
    assert code == 0 and err.startswith('WARNING: ')
    assert said['silenced'] == ['the net itself'] and said['silenced'][0] in err
    assert load_bundle('bundle').card.silenced == ('the net itself',)
    # The network's own passes include the randomness that was silenced.
    assert said['distribution']['own_information'] > 2 * said['distribution']['information']


@pytest.mark.torch
def test_passes_that_are_all_equal_by_the_usual_seed_are_refused(compile_: Callable) -> None:
    pytest.importorskip('torch')
    code, _, err = compile_('nets_of_a_user:Path', '--passes', '2')
    assert code == 2 and ' 2 passes ' in err
    code, _, err = compile_('nets_of_a_user:Path', '--passes', '200')
    (rows,) = pass_inputs(load_bundle('bundle').card, 200, 0).values()
    assert code == 0 and np.ptp(rows) > 0


@pytest.mark.torch
def test_weights_of_three_members_make_an_ensemble(compile_: Callable, tmp_path: Path) -> None:
    torch = pytest.importorskip('torch')
    arguments = []
    for index in range(3):
        torch.manual_seed(10 + index)
        state = {'0.weight': torch.randn(8, 3, 3, 3), '0.bias': torch.randn(8),
                 '2.weight': torch.randn(3, 8, 1, 1), '2.bias': torch.randn(3)}
        torch.save(state, tmp_path / f'{index}.pt')
        arguments += ['--weights', f'{index}.pt']
    code, _, err = compile_('nets_of_a_user:Still', '--method', 'deep_ensemble', *arguments)
    assert (code, err) == (0, '')
    card = load_bundle('bundle').card
    assert (card.method, card.members, card.passes) == ('deep_ensemble', 3, 3)
    assert maps_of().max() > 1e-3


@pytest.mark.torch
@pytest.mark.parametrize('network, arguments, words', [
    ('nets_of_a_user:Still', (), 'no dropout reaches the output'),
    ('nets_of_a_user:Diverged', (), "'last.weight' of nets_of_a_user:Diverged holds NaN"),
    ('nets_of_a_user:broken', (), r'broken\(\) failed \(RuntimeError: no such file\)'),
    ('nets_of_a_user:number', (), r'number\(\) returned a int, expected a torch module'),
    ('lacking:build', (), "no module 'no_such_library'.*install 'no_such_library', which"),
    ('unparsed:build', (), r'cannot be imported \(SyntaxError: '),
    ('nets_of_a_user:Net', ('--output', 'side'), "'side'.*out.*aux|out.*aux"),
    ('nets_of_a_user:Net', ('--output', 'aux'), '2 .*3 classes'),
    ('nets_of_a_user:Still', ('--inject-dropout', '0.3', '--at', 'decodr'), 'decodr'),
    ('nets_of_a_user:Net', ('--method', 'deep_ensemble'), 'an ensemble of 0'),
])
def test_a_torch_network_that_does_not_fit_is_one_sentence(
    compile_: Callable, network: str, arguments: tuple[str, ...], words: str
) -> None:
    pytest.importorskip('torch')
    import re

    assert re.search(words, sentence(compile_(network, *arguments)))


def test_a_compiled_bundle_is_signed_where_a_key_is_given(
    compile_: Callable, tmp_path: Path
) -> None:
    key = write_key(tmp_path)
    onnx.save(net('element', resize=True), 'net.onnx')
    said = compile_('net.onnx', '--sign', 'nowhere.pem', classes='four.yaml')
    assert 'the private key' in sentence(said)
    assert compile_('net.onnx', '--sign', str(key), classes='four.yaml')[0] == 0
    load_bundle('bundle', trusted_keys=(public_line(read_private_key(key)),))


def test_two_onnx_files_make_an_ensemble(compile_: Callable) -> None:
    first, second = net('none'), net('none')
    for tensor in second.graph.initializer:
        if tensor.name == 'w1':
            values = onnx.numpy_helper.to_array(tensor) * 1.5
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, 'w1'))
    onnx.save(first, 'a.onnx')
    onnx.save(second, 'b.onnx')
    code, _, err = compile_('a.onnx b.onnx', '--method', 'deep_ensemble', classes='four.yaml')
    assert (code, err) == (0, '')
    assert load_bundle('bundle').card.members == 2


def broken_onnx(kind: str) -> None:
    model = net('element')
    if kind == 'random':
        model.graph.node.insert(0, helper.make_node('RandomNormalLike', ['input'], ['noise'],
                                                    name='noisy'))
        model.graph.node.insert(1, helper.make_node('Add', ['input', 'noise'], ['sum']))
        model.graph.node[2].input[0] = 'sum'
    if kind == 'nan':
        for tensor in model.graph.initializer:
            if tensor.name == 'w1':
                values = onnx.numpy_helper.to_array(tensor) * np.float32(np.nan)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, 'w1'))
    if kind == 'tensors':
        model.graph.node[1].output[0] = model.graph.node[0].output[0]
    if kind == 'nodes':
        for node in model.graph.node:
            node.name = 'same'
    if kind == 'mixing':
        model.graph.node[-1].input[0] = 'mean'
        model.graph.node.insert(3, helper.make_node('ReduceMean', ['d'], ['mean'], axes=[0],
                                                    name='mix'))
    onnx.save(model, 'net.onnx')


@pytest.mark.parametrize('kind, words', [
    ('random', 'noisy'), ('mixing', 'mix'),
    ('nan', 'gives NaN or infinity'), ('tensors', "two tensors of the network are called 'c'"),
    ('nodes', "two nodes of the network are called 'same'"),
])
def test_an_onnx_file_that_does_not_fit_is_one_sentence(
    compile_: Callable, kind: str, words: str
) -> None:
    broken_onnx(kind)
    assert words in sentence(compile_('net.onnx', classes='four.yaml'))
