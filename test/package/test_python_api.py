# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The Python API: its names, the modules that it loads, and the examples of its page."""

import inspect
import os
from pathlib import Path
import re
import subprocess
import sys
from typing import Any

import cv2
from docs_stage import enter, make_stage
import numpy as np
import pytest

import uncertainty_seg as us
from uncertainty_seg.cli.main import build_parser, VERBS
from uncertainty_seg.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs' / 'reference' / 'python.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```python\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)


def bare(code: str) -> str:
    """Return the output of code in a new process."""
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, check=True,
                          capture_output=True, env={**os.environ, 'PYTHONPATH': str(ROOT)}).stdout


def test_the_import_loads_no_library_and_no_other_module() -> None:
    # Relative to a bare Python, which may load other modules (an editable install, coverage).
    loaded = 'import sys; before = set(sys.modules); import uncertainty_seg; ' \
        'print(*sorted(set(sys.modules) - before))'
    found = set(bare(loaded).split())
    assert 'uncertainty_seg' in found
    assert {name for name in found if name.partition('.')[0] not in sys.stdlib_module_names} == {
        'uncertainty_seg'}


def test_a_name_loads_what_it_needs_and_no_more() -> None:
    code = 'import sys, uncertainty_seg as us; us.{}; ' \
        "print(*({{'torch', 'onnxruntime', 'openvino', 'rclpy', 'rosbags'}} & set(sys.modules)))"
    names = [name for name in us.__all__ if name not in ('train', 'active_learn')]
    assert bare(code.format('; us.'.join(names))).split() == []


def test_every_name_is_documented_and_has_an_example() -> None:
    table = PAGE.split('| name |')[1].split('\n\n')[0]
    assert set(re.findall(r'`(\w+)`', table.replace('`process', ''))) == set(us.__all__)
    code = '\n'.join(BLOCKS)
    assert [name for name in us.__all__ if f'us.{name}' not in code] == []
    assert [name for name in us.__all__ if not (getattr(us, name).__doc__ or '').strip()] == []
    assert set(us.__all__) < set(dir(us))


# Arguments of verbs for output or checks, or that the API has in another form.
OWN_ARGUMENTS = {
    'help', 'model', 'params_file', 'assignments', 'no_check', 'nets', 'explain', 'error', 'data',
    'like', 'bundles', 'alphas', 'cache', 'compute_capability', 'root', 'serve'}


def test_every_verb_is_a_function_with_the_same_arguments() -> None:
    for verb in VERBS:
        words = next(a for a in build_parser(verb)._actions if a.choices).choices[verb]
        inside = [a for a in words._actions if a.choices and a.dest in ('action', 'kind')]
        for name, parser in (inside[0].choices if inside else {'': words}).items():
            function = getattr(us, f'{verb}_{name}'.strip('_').replace('-', '_'))
            given = {a.dest for a in parser._actions} - OWN_ARGUMENTS
            assert given <= set(inspect.signature(function).parameters), verb


def test_every_argument_of_a_function_is_described() -> None:
    for name in us.__all__:
        function = getattr(us, name)
        if inspect.isfunction(function):
            # 'a, b : type' or '**more', as in numpydoc.
            listed = re.findall(r'^ +(\*{0,2}\w+(?:, \w+)*)(?: : .*)?$', function.__doc__ or '',
                                re.MULTILINE)
            words = {word.strip(' *') for names in listed for word in names.split(',')}
            assert set(inspect.signature(function).parameters) <= words, name


@pytest.fixture(scope='module')
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('api')
    make_stage(folder)
    return folder


@pytest.mark.release
def test_every_example_runs(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ('torch', 'scipy', 'pyarrow'):
        pytest.importorskip(package)
    enter(stage, monkeypatch)
    video = cv2.VideoWriter('dive.mp4', cv2.VideoWriter.fourcc(*'mp4v'), 10, (64, 48))
    for _ in range(4):
        video.write(np.full((48, 64, 3), (250, 0, 0), np.uint8))
    video.release()
    names: dict[str, Any] = {}
    assert len(BLOCKS) >= 12
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f'docs/reference/python.md, example {number + 1}', 'exec'), names)
    assert names['made'].bundle.card.passes == 20
    assert names['check'].is_passed and names['report'].num_frames == 3
    assert names['fitted'].calibration.promises[0].alpha == 0.1
    assert len(names['chosen'].selection.rows) == 2 and len(names['grown'].added) == 2
    assert names['page'].num_frames == 3 and len(names['rounds']) == 1
    assert names['shown'].facts['processed'] == 4
    assert (stage / 'selection' / 'selection.parquet').is_file()


def test_a_bundle_without_calibration_runs_without_a_promise_where_that_is_asked(
    tmp_path: Path
) -> None:
    from conftest import make_tiny_bundle

    cold = make_tiny_bundle(tmp_path / 'cold', calibrated=False)
    warm = make_tiny_bundle(tmp_path / 'warm')
    # Red is well below the limits of the calibrated bundle.
    red = np.full((48, 64, 3), (0, 0, 255), np.uint8)
    found = {}
    for bundle in (cold, warm):
        with us.open_pipeline(bundle, backend='onnxruntime', uncalibrated='run',
                              damage_scale=0.0) as pipeline:
            found[bundle] = [pipeline.process(red) for _ in range(4)][-1]
            if bundle == cold:
                promise = pipeline.promise
                assert promise.startswith('no promise: ')
                assert pipeline.fault('a fault').promise == promise
                # No live setting makes the flag true.
                pipeline.reconfigure(us.Settings(
                    backend='onnxruntime', uncalibrated='run', damage_scale=0.0, passes=4))
                assert not any(pipeline.process(red).verdict.is_confident for _ in range(4))
    assert found[cold].scores == found[warm].scores
    assert found[warm].verdict.is_confident
    verdict = found[cold].verdict
    assert (verdict.is_confident, verdict.kind, verdict.promise) == (False, 'unknown', promise)
    assert verdict.reasons == (promise,) and verdict.score_ratio == np.inf


def test_a_setting_out_of_range_is_refused_wherever_it_is_given(tiny_bundle: Path) -> None:
    wrong = us.Settings(threads=-3)
    for call, word in (
            (lambda: us.open_pipeline(tiny_bundle, wrong), 'threads is -3'),
            (lambda: us.replay('in_bag', 'out_bag', settings=wrong), 'threads is -3'),
            (lambda: us.open_pipeline(tiny_bundle, speed=3), "unknown parameter 'speed'"),
            (lambda: us.Settings(passes=0), 'passes is 0'),
            (lambda: us.labels_import([], 'b', 'coco'), 'no labels'),
            (lambda: us.labels_import('a', 'b', 'coco', unchanged='no'), "'no'"),
            (lambda: us.self_check(tiny_bundle, runs=1), '1 runs'),
            (lambda: us.score([], 'table'), '0 inputs'),
            (lambda: us.open_pipeline(tiny_bundle, temperature=-1.0), '-1.0')):
        with pytest.raises(ConfigError, match=word):
            call()
    # What cv2.imread returns for a file that is missing.
    with us.open_pipeline(tiny_bundle) as pipeline, pytest.raises(us.UncertaintySegError):
        pipeline.process(None)


def test_a_module_is_compiled_as_its_factory_is(tmp_path: Path) -> None:
    torch = pytest.importorskip('torch')
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.Dropout2d(0.5), torch.nn.Conv2d(8, 3, 1)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = us.compile(net, tmp_path / 'one', (16, 8), ['water', 'diver', 'wreck'])
    assert made.bundle.card.class_names == ('water', 'diver', 'wreck')
    assert made.bundle.card.passes == 20 and made.report.masked_error < 1e-5
    assert net.training and all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    other = torch.nn.Conv2d(3, 3, 3, 2, 1)
    ensemble = us.compile(net, tmp_path / 'two', (16, 8), ['water', 'diver', 'wreck'],
                          members=[other], method='deep_ensemble')
    assert ensemble.bundle.card.members == 2
