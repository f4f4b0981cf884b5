# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A signal ends a verb and the processes it started: a closed terminal leaves nothing behind."""

import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

from conftest import make_tiny_bundle
import cv2
import numpy as np
import pytest
from ros_helpers import HAS_ROS, ros_environment, SKIP_REASON

ROOT = Path(__file__).resolve().parents[2]
# A verb that prints when it runs, waits, and prints when it has cleaned up.
WAITING = (
    'import sys, time\n'
    'from uncertainty_seg.cli import main, replay as replay_bag\n'
    'def run(args):\n'
    '    try:\n'
    '        print("running", flush=True)\n'
    '        time.sleep(60)\n'
    '    finally:\n'
    '        print("cleaned up", flush=True)\n'
    'replay_bag.run = run\n'
    'sys.exit(main.main(["replay", "in", "out"]))\n'
)
PROCESSES = ('ros.node', 'ros.recorder', 'ros.bag_player')
# A shell that starts the tests with `&` makes them, and so their processes, ignore some signals.
HEEDED = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
          if signal.getsignal(number) is not signal.SIG_IGN]


def started(*before: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*before, sys.executable, '-c', WAITING], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert process.stdout is not None and process.stdout.readline() == 'running\n'
    return process


@pytest.mark.parametrize('number', HEEDED)
def test_a_signal_ends_a_verb_and_what_it_left_is_cleaned_up(number: int) -> None:
    process = started()
    process.send_signal(number)
    assert process.communicate(timeout=60) == ('cleaned up\n', 'stopped\n')
    assert process.returncode == 128 + number


# The program, paused in the import of a module, where a library may catch the interrupt.
IMPORTING = (
    'import runpy, sys, time\n'
    'where, hides = sys.argv[1], sys.argv.pop(2) == "hides"\n'
    'class Finder:\n'
    '    def find_spec(name, path=None, target=None):\n'
    '        if name == where:\n'
    '            try:\n'
    '                print("running", flush=True)\n'
    '                time.sleep(60)\n'
    '            except KeyboardInterrupt:\n'
    '                if hides:\n'
    '                    raise ImportError("initialisation failed") from None\n'
    '                raise\n'
    'sys.meta_path.insert(0, Finder)\n'
    'del sys.argv[1]\n'
    'exec("runpy.run_module(\'uncertainty_seg\', run_name=\'__main__\', alter_sys=True)")\n'
)


@pytest.mark.parametrize('number', HEEDED)
@pytest.mark.parametrize(('where', 'hides'), [
    ('uncertainty_seg.cli.main', ''), ('uncertainty_seg.cli.score', ''),
    ('numpy', ''), ('onnxruntime', ''), ('onnxruntime', 'hides')])
def test_a_signal_while_a_verb_is_imported_is_answered_in_a_word(
    tmp_path: Path, where: str, hides: str, number: int
) -> None:
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((48, 64, 3), np.uint8))
    process = subprocess.Popen(
        [sys.executable, '-c', IMPORTING, where, hides or 'shows', 'score', str(tmp_path),
         '--set', 'model=suim', '--set', 'backend=onnxruntime', '--out',
         str(tmp_path / 'table.parquet')],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert process.stdout is not None and process.stdout.readline() == 'running\n'
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert out == '' and err.startswith('stopped') and len(err.splitlines()) == 1
    assert process.returncode == 128 + number
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']


@pytest.mark.skipif(shutil.which('nohup') is None, reason='nohup is not installed')
def test_nohup_keeps_a_verb_alive() -> None:
    process = started('nohup')
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == 'cleaned up\n'
    assert process.returncode == 128 + signal.SIGTERM


def running(word: str) -> dict[int, str]:
    """Return pid and module of the demo's processes with `word` in their command line."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            words = (folder / 'cmdline').read_bytes().decode(errors='replace').split('\0')
        except OSError:  # the process has just ended
            continue
        if word in ' '.join(words):
            found |= {int(folder.name): name for name in PROCESSES
                      if f'uncertainty_seg.{name}' in words}
    return found


@pytest.mark.release
@pytest.mark.ros
@pytest.mark.skipif(not HAS_ROS, reason=SKIP_REASON)
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
@pytest.mark.parametrize('number', [signal.SIGHUP, signal.SIGTERM])
def test_a_demo_that_is_ended_leaves_no_process(
    tmp_path: Path, domain: int, number: int
) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    with (tmp_path / 'log').open('w') as log:
        demo = subprocess.Popen(
            [sys.executable, '-m', 'uncertainty_seg', 'demo', '--set', f'model={bundle}',
             '--out', str(tmp_path / 'out'), '--duration', '30', '--size', '64x48'],
            cwd=ROOT, stdout=log, stderr=log, env=ros_environment(domain))
    try:
        end_s = time.monotonic() + 120
        while sorted(running(str(tmp_path)).values()) != sorted(PROCESSES):
            assert demo.poll() is None and time.monotonic() < end_s, \
                (tmp_path / 'log').read_text()
            time.sleep(0.1)
        demo.send_signal(number)
        assert demo.wait(90) == 128 + number
        assert running(str(tmp_path)) == {}
    finally:
        demo.kill()
        demo.wait()
        for pid in running(str(tmp_path)):
            os.kill(pid, signal.SIGKILL)
