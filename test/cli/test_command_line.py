# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The command line: help without heavy libraries, exit codes, one error sentence, JSON line."""

import argparse
from importlib import import_module
import io
import json
from pathlib import Path
import subprocess
import sys
import time
from unittest import mock

import pytest

from uncertainty_seg.cli import main as command_line
from uncertainty_seg.cli.arguments import (
    add_settings,
    image_size,
    print_json,
    rate,
    settings_from_args,
    whole_number,
)
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BagError, ConfigError
from uncertainty_seg.storage.progress import progress

HEAVY = ('onnxruntime', 'cv2', 'rosbags', 'torch', 'onnx', 'rclpy', 'tqdm')
BLANKED = (
    'import sys\n'
    f'sys.modules.update(dict.fromkeys({HEAVY!r}))\n'
    'from uncertainty_seg.cli.main import main\n'
    'sys.exit(main(sys.argv[1:]))\n'
)
ROOT = Path(__file__).resolve().parents[2]


def call(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'uncertainty_seg.cli.main', *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize('verb', ['', *command_line.VERBS])
def test_help_needs_no_heavy_library(verb: str) -> None:
    words = [sys.executable, '-c', BLANKED, *filter(None, [verb]), '--help']
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith(f'usage: uncertainty_seg {verb}'.rstrip())


def test_every_verb_has_a_description_and_options_and_runs() -> None:
    for verb, (name, text) in command_line.VERBS.items():
        parser = command_line.build_parser(verb)
        verbs = next(action for action in parser._actions if action.choices)
        child = verbs.choices[verb]
        assert len(child._actions) > 1 and child.description and text, verb
        assert callable(child.get_default('run')), verb
        assert child.description.strip() == (
            import_module(f'uncertainty_seg.cli.{name}').__doc__ or '').strip()


@pytest.mark.parametrize(('package', 'extra'), [('scipy', 'calibrate'), ('cv2', 'runtime'),
                                                ('pycocotools.mask', 'labels')])
def test_a_missing_package_names_the_command_that_installs_it(
    package: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr('uncertainty_seg.cli.replay.run', mock.Mock(
        side_effect=ModuleNotFoundError(f'No module named {package!r}', name=package)))
    assert command_line.main(['replay', 'in', 'out']) == 1
    said = capsys.readouterr().err
    assert said.startswith('uncertainty_seg replay: ') and said.count('\n') == 1
    assert package.split('.')[0] in said and f"pip install '.[{extra}]'" in said


@pytest.mark.parametrize('words', [
    (), ('fly',), ('replay',), ('score',), ('select', 'table'),
    ('simulate', 'dive', 'a', '--duration', 'long'),
    ('simulate',), ('demo', '--seed', '-1'), ('demo', '--colour'), ('simulate', 'dive', 'a', '-x'),
])
def test_misuse_is_one_sentence_and_exits_with_2(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        command_line.main(words)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and 'error: ' in said
    verb = words[0] if words and words != ('fly',) else ''
    assert f'uncertainty_seg {verb}'.rstrip() in said.split('; see ')[1] and '--help' in said


@pytest.mark.parametrize('setting', [
    'passes=many', 'passes=1001', 'passes=0', 'backend=abacus', 'seed=-3', 'map=treasure',
    'speed=3', '=3', 'passes', 'passes=[',
])
def test_a_setting_that_cannot_be_is_misuse_and_named(
    setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(['replay', 'in', 'out', '--set', setting]) == 2
    said = capsys.readouterr()
    assert setting.partition('=')[0] in said.err and said.out == ''


def test_a_link_to_itself_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'loop').symlink_to('loop')
    assert command_line.main(['replay', str(tmp_path / 'loop'), str(tmp_path / 'out')]) == 1
    assert 'loop' in capsys.readouterr().err


def test_failure_is_one_sentence_and_exit_code_1() -> None:
    done = call('replay', '/no/such/bag', 'out')
    assert done.returncode == 1
    assert done.stderr.startswith('uncertainty_seg replay: ') and done.stderr.count('\n') == 1
    assert '/no/such/bag' in done.stderr
    assert done.stdout == ''


@pytest.mark.parametrize(('fault', 'code', 'said'), [
    (ConfigError('x is 3', 'less'), 2, 'x is 3, expected less.'),
    (BagError('no bag'), 1, 'no bag.'),
    (PermissionError(13, 'Permission denied', 'here'), 1,
     'here cannot be used (permission denied).'),
    (ModuleNotFoundError("No module named 'my_nets'", name='my_nets'), 1, "'my_nets'."),
    (KeyboardInterrupt(), 130, 'stopped'),
    (KeyboardInterrupt('of a library'), 130, 'stopped'),
])
def test_errors_become_exit_codes(
    fault: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr('uncertainty_seg.cli.replay.run', mock.Mock(side_effect=fault))
    assert command_line.main(['replay', 'in', 'out']) == code
    assert capsys.readouterr().err.strip().endswith(said)


def test_json_line_knows_no_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({'a': float('inf'), 'b': [float('nan'), 1.5], 'c': Path('d'),
                'e': {'f': -float('inf')}})
    assert json.loads(capsys.readouterr().out) == {
        'a': None, 'b': [None, 1.5], 'c': 'd', 'e': {'f': None}
    }


def test_settings_of_the_command_line_are_those_of_the_node(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser, names_model=True)
    assert settings_from_args(parser.parse_args([])) == Settings()
    assert settings_from_args(parser.parse_args([]), seed=3).seed == 3
    file = tmp_path / 'node.yaml'
    file.write_text('/**:\n  ros__parameters:\n    seed: 5\n    passes: 8\n    gate.alpha: 0.1\n')
    settings = settings_from_args(parser.parse_args(
        ['--params-file', str(file), '--set', 'passes=7', '--set', 'mask_policy=per_frame',
         '--model', 'm']), seed=3)
    assert (settings.model, settings.passes, settings.mask_policy) == ('m', 7, 'per_frame')
    assert (settings.seed, settings.gate.alpha) == (5, 0.1)


def test_argument_types_know_their_bounds() -> None:
    assert whole_number(0, 3)('3') == 3
    assert rate('0.5') == 0.5
    assert image_size('640x480') == (640, 480)
    for convert, text in ((whole_number(0, 3), '4'), (whole_number(0), 'x'),
                          (rate, '0'), (rate, 'nan'), (rate, '-0.1'), (rate, '1'), (rate, 'x'),
                          (image_size, '640*480'), (image_size, '-1x5')):
        with pytest.raises(argparse.ArgumentTypeError, match=r', expected '):
            convert(text)


# --- progress ------------------------------------------------------------------------------------


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, items: object) -> str:
    monkeypatch.setattr('sys.stderr', stream)
    for _ in progress(items, desc='replay'):
        time.sleep(0.02)
    return stream.getvalue()


def test_short_work_prints_nothing_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO(), range(5)) == ''


def test_long_work_says_how_far_it_is_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('uncertainty_seg.storage.progress.LINE_S', 0.1)
    said = shown(monkeypatch, io.StringIO(), range(30)).split('\r')
    assert 2 <= len(said) <= 10 and '30/30' in said[-1]
