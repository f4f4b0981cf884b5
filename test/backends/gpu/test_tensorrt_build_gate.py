# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Shipped bundles are built by the real parser and builder of TensorRT, on a machine without a GPU.

TensorRT-RTX 1.7 has the API of TensorRT 11 and 1.4 that of 10; both build without a driver. This
tests operators, types, shapes, profiles and all calls of a build, but not kernels, results, memory
or speed. The ordinary tests build with one generation, the release tests with the other. One
process per version builds (tensorrt_gate_worker), with the package's own functions.
"""

from collections.abc import Callable, Iterator
import contextlib
import io
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

from masked_bundles import method_bundle
import onnx
import onnx.parser
import pytest

from uncertainty_seg.cli.main import main
from uncertainty_seg.compiler.request import convert
from uncertainty_seg.storage.model_bundle import load_bundle, shipped_bundles

ROOT = Path(__file__).resolve().parents[3]
# Environment variable with the folder of a version -> version.
GENERATIONS = {'UNCERTAINTY_SEG_RTX17': '1.7.1.116', 'UNCERTAINTY_SEG_RTX14': '1.4.0.76'}
PARAMS = [pytest.param(name, marks=[pytest.mark.release] if '14' in name else [],
                       id=name[-5:].lower()) for name in GENERATIONS]


class Builder:
    """The worker process of one version."""

    def __init__(self, folder: str, version: str) -> None:
        self.version = version
        self._built: dict[tuple[Any, ...], dict[str, Any]] = {}
        path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / 'test' / 'rigs' / 'tensorrt_gate_worker.py'), folder],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, 'PYTHONPATH': path},
        )

    def __call__(self, job: str, **facts: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({'job': job, **facts}) + '\n')
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f'the process ended with code {self._process.wait()}'
        return json.loads(line)

    def graph(self, path: Path, **facts: Any) -> dict[str, Any]:
        return self('graph', path=str(path), **{'profiles': {}, **facts})

    def bundle(
        self, folder: Path | str, passes: int = -1, capability: str = '', **settings: str
    ) -> dict[str, Any]:
        asked = str(folder), passes, capability, *settings.items()
        if asked not in self._built:
            self._built[asked] = self('bundle', folder=str(folder), passes=passes,
                                      capability=capability, **settings)
        return self._built[asked]

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope='module', params=PARAMS)
def builder(request: pytest.FixtureRequest) -> Iterator[Builder]:
    folder = os.environ.get(request.param, '')
    if not Path(folder, 'tensorrt_rtx_bindings').is_dir():
        pytest.skip(f'TensorRT-RTX {GENERATIONS[request.param]} is not here: scripts/test '
                    f'installs it and sets {request.param}')
    worker = Builder(folder, GENERATIONS[request.param])
    assert worker('version') == {'is_done': True, 'version': worker.version}
    yield worker
    worker.close()


@pytest.mark.parametrize(('name', 'settings'), [
    *((name, {}) for name in shipped_bundles()), *(
        pytest.param(name, {'precision': 'tf32'}, marks=pytest.mark.release)
        for name in ('pipeline', 'suim'))])
def test_every_shipped_bundle_builds_in_each_way_to_run_it(
    builder: Builder, name: str, settings: dict[str, str]
) -> None:
    found = builder.bundle(name, **settings)
    assert found['is_done'], found['text']
    assert (found['built'], found['again']) == (['trunk', 'passes'], [])
    size = (shipped_bundles()[name] / 'trunk.onnx').stat().st_size
    assert found['sizes']['trunk'] > size / 2  # contains the weights
    assert found['sizes']['passes'] > 1e5
    sites = {site.name for site in load_bundle(name).card.dropout_sites}
    assert {key: [shape[0] for shape in shapes] for key, shapes in found['profiles'].items()} == \
        {key: [1, found['chunk'], found['chunk']] for key in sites}


@pytest.mark.parametrize(('method', 'rate', 'precision'), [
    ('single', 0.0, 'bf16'), ('direct', 0.0, 'fp16'), ('direct', 0.4, 'fp32')])
def test_every_method_builds(
    builder: Builder, tmp_path: Path, method: str, rate: float, precision: str
) -> None:
    folder = method_bundle(tmp_path / 'fp32', method, rate)
    if precision != 'fp32':
        convert(folder, tmp_path / precision, precision)
    card = load_bundle(str(folder)).card
    found = builder.bundle(tmp_path / precision, card.passes)
    assert found['is_done'], found['text']
    assert set(found['profiles']) == {site.name for site in card.dropout_sites}
    assert found['chunk'] == card.passes


def test_progress_rises_and_ends_with_the_engine(builder: Builder) -> None:
    shares = builder.bundle('suim')['shares']
    assert len(shares) > 20 and shares == sorted(shares)
    assert shares[0] == 0 and shares[-1] == 1
    # Two engines: the first ends at 0.5.
    assert shares.index(0.5) > 5 and max(s for s in shares if s < 1) < 1


def test_a_progress_that_raises_stops_the_build_and_no_other(builder: Builder) -> None:
    path = shipped_bundles()['suim'] / 'trunk.onnx'
    assert builder.graph(path, is_stopped=True)['stopped_in'] not in ('', 'build')
    assert builder.graph(path)['size'] > 1e6


def test_an_engine_can_be_made_for_gpus_that_are_not_here(builder: Builder) -> None:
    assert builder.bundle('suim', -1, '8.6')['sizes']['trunk'] > 1e6
    found = builder.bundle('suim', -1, '3.5')
    assert found['error'] == 'BackendError'
    assert '3.5' in found['text'] and '7.5, 8.0, 8.6' in found['text']


# Nodes that TensorRT must refuse, and the node named in the error.
REFUSED = {
    'dropout': ('y = Dropout (x, rate, yes)', "node 'the_node' (Dropout)"),
    'unknown': ('y = of.mine.Sorcery (x)', "node 'the_node' (Sorcery)"),
}


@pytest.mark.parametrize('name', REFUSED)
def test_a_graph_that_tensorrt_cannot_compute_is_refused_by_node(
    builder: Builder, tmp_path: Path, name: str
) -> None:
    code, words = REFUSED[name]
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17, "of.mine": 1]>
        g (float[1, 4] x) => (float[1, 4] y) <float rate = {{0.5}}, bool yes = {{1}}> {{{code}}}
        """)
    model.graph.node[0].name = 'the_node'
    onnx.save(model, str(tmp_path / 'a.onnx'))
    found = builder.graph(tmp_path / 'a.onnx')
    assert found.get('error') == 'GraphError', found
    assert builder.version in found['text'] and 'a.onnx' in found['text']
    assert words in found['text']


def test_profiles_that_do_not_fit_the_graph_are_refused(builder: Builder) -> None:
    path = shipped_bundles()['pipeline'] / 'passes.onnx'
    site = load_bundle('pipeline').card.dropout_sites[0]
    falling = {site.name: [(rows, *site.shape) for rows in (4, 2, 2)]}
    for profiles in ({}, falling):
        found = builder.graph(path, profiles=profiles)
        assert found.get('error') == 'BackendError' and site.name in found['text']


# All of zoo.NETS: channel, element and token dropout, attention, skips, dropout in every layer.
ZOO = ('unet', 'unet_dropout', 'fpn', 'deeplabv3plus', 'pspnet', 'segformer', 'deeplabv3',
       'lraspp', 'fc_densenet56')
VARIANTS = (('fpn', 'fp16'), ('segformer', 'bf16'), ('lraspp', 'bf16'))


@pytest.fixture(scope='session')
def zoo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a cached function that compiles a network of the zoo."""
    for package in ('torchvision', 'segmentation_models_pytorch', 'timm'):
        pytest.importorskip(package)
    import zoo

    assert set(ZOO) == set(zoo.NETS)
    root = tmp_path_factory.mktemp('zoo')
    classes = root / 'classes.json'
    classes.write_text(json.dumps({'classes': [
        {'id': i, 'name': str(i), 'rgb': [i, i, i]} for i in range(zoo.NUM_CLASSES)]}))

    def compiled(name: str) -> Path:
        recipe = zoo.NETS[name]
        words = ['compile', f'zoo:{name}', '--input', '128x96', '--classes', str(classes),
                 '-o', str(root / name)]
        if recipe.inject:
            words += ['--inject-dropout', str(recipe.inject), '--at', recipe.at]
        if not (root / name).exists():
            with contextlib.redirect_stdout(io.StringIO()):
                assert main(words) == 0
        return root / name

    return compiled


@pytest.mark.release
@pytest.mark.torch
@pytest.mark.parametrize(('name', 'precision'), [*((name, '') for name in ZOO), *VARIANTS])
def test_networks_of_many_kinds_build(
    builder: Builder, tmp_path: Path, zoo_bundle: Callable[[str], Path], name: str, precision: str
) -> None:
    folder = zoo_bundle(name)
    if precision:
        # A unique name, since builds are cached by folder, and pytest reuses folder names.
        convert(folder, tmp_path / f'{name}_{precision}', precision)
        folder = tmp_path / f'{name}_{precision}'
    found = builder.bundle(folder, 16)
    if (name, precision) == ('lraspp', 'bf16'):  # TensorRT lacks this kernel
        assert found['error'] == 'GraphError' and '(HardSwish)' in found['text']
        return
    assert found['is_done'], found['text']
    # With dropout in every layer, memory does not suffice for all passes at once.
    assert 1 < found['chunk'] <= 16
