# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The launch files under the real `ros2 launch` and launch_testing, where ROS has them.

The wheels on PyPI do not: there these tests are skipped, the launch files are read with stand-ins
(test_launch_files.py), and scripts/check_launch starts the node through play_launch.

"""

from collections.abc import Iterator
from importlib.util import find_spec
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
from ros_helpers import own_domain, ros_environment

from uncertainty_seg.storage.bags.writer import BagWriter, compressed_message

HERE = Path(__file__).resolve().parent
IS_INSTALLED = any(
    (Path(prefix) / 'share' / 'uncertainty_seg' / 'launch').is_dir()
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if prefix)
pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(find_spec('launch_testing') is None or shutil.which('ros2') is None,
                       reason='launch_testing and ros2 are missing: source a ROS 2 from apt'),
    pytest.mark.skipif(not IS_INSTALLED, reason='the package is not installed: colcon build and '
                       'source install/setup.bash'),
]


@pytest.fixture(scope='module')
def domain() -> Iterator[int]:
    with own_domain() as number:
        yield number


def run(words: list[str], domain: int) -> tuple[int, str]:
    """Run to the end; the exit code, the output, and that no process of the domain is left."""
    done = subprocess.run(words, env=ros_environment(domain), capture_output=True, text=True,
                          timeout=300, check=False)
    assert left_behind(domain) == [], done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def left_behind(domain: int) -> list[str]:
    """List our programs that run in a ROS domain."""
    found = []
    for process in Path('/proc').glob('[0-9]*'):
        try:
            words = (process / 'cmdline').read_bytes().decode(errors='replace').split('\0')
            variables = (process / 'environ').read_bytes().split(b'\0')
        except OSError:  # of another user, or gone
            continue
        if any('/lib/uncertainty_seg/' in word for word in words) and \
                f'ROS_DOMAIN_ID={domain}'.encode() in variables:
            found.append(' '.join(words))
    return found


@pytest.mark.parametrize('file', ['launch_node.py', 'launch_demo.py', 'launch_governor.py'])
def test_what_a_launch_file_starts_works_and_ends(
    tmp_path: Path, domain: int, file: str
) -> None:
    given = {'launch_node.py': ['model'], 'launch_demo.py': ['model', 'bag']}.get(file, [])
    values = {'model': make_tiny_bundle(tmp_path / 'tiny'), 'bag': tmp_path / 'bag'}
    with BagWriter(values['bag']) as writer:
        for k in range(9):
            data = cv2.imencode('.jpg', np.full((48, 64, 3), 20 * k, np.uint8))[1].tobytes()
            stamp_ns = 10**18 + k * 10**8
            writer.write('/cam/compressed', compressed_message(stamp_ns, 'cam', 'jpeg', data),
                         stamp_ns)
    words = [f'{name}:={values[name]}' for name in given]
    code, output = run(
        [sys.executable, '-m', 'launch_testing.launch_test', str(HERE / file), *words], domain)
    assert code == 0, output


def test_a_second_launch_under_the_name_ends_and_starts_nothing_again(
    tmp_path: Path, domain: int
) -> None:
    words = ['ros2', 'launch', 'uncertainty_seg', 'uncertainty_seg.launch.py',
             f'model:={make_tiny_bundle(tmp_path / "tiny")}']
    with (tmp_path / 'log').open('w') as log:
        first = subprocess.Popen(words, env=ros_environment(domain), stdout=log, stderr=log,
                                 start_new_session=True)
    try:
        end_s = time.monotonic() + 120
        while 'active, waiting' not in (tmp_path / 'log').read_text():
            assert first.poll() is None and time.monotonic() < end_s, \
                (tmp_path / 'log').read_text()
            time.sleep(0.1)
        second = subprocess.run(words, env=ros_environment(domain), capture_output=True, text=True,
                                timeout=120, check=False)
        said = second.stdout + second.stderr
        assert second.returncode == 1, said
        assert said.count('a node of the name /uncertainty_seg runs already, process ') == 1
        assert said.count('process started') == 1 and 'Traceback' not in said
        assert len(left_behind(domain)) == 1 and first.poll() is None
    finally:
        os.killpg(first.pid, signal.SIGINT)
        first.wait(60)
    assert left_behind(domain) == []


@pytest.mark.parametrize(('words', 'sentence'), [
    (['uncertainty_seg.launch.py'], 'no model is named'),
    (['uncertainty_seg.launch.py', 'model:=dolphin'], "no model 'dolphin'"),
    (['uncertainty_seg.launch.py', 'model:=pipeline', 'rviz:=true'], 'rviz2 is not installed'),
    (['uncertainty_seg.launch.py', 'params_file:=/nofile.yaml'], '/nofile.yaml is not there'),
    (['uncertainty_seg.launch.py', 'model:=pipeline', 'params_file:=EMPTY'], 'no parameters of'),
    (['uncertainty_seg.launch.py', 'model:=pipeline', 'params_file:=TYPES'],
     "threads is 'many', expected a whole number"),
    (['uncertainty_seg.launch.py', 'model:=pipeline', 'cameras:=a=/x y'], "camera a is '/x y'"),
    (['demo.launch.py', 'model:=pipeline', 'bag:=/no/bag'], "'/no/bag', and nothing is there"),
    (['demo.launch.py', 'model:=pipeline', 'bag:=EMPTY'], 'EMPTY'),
    (['speed_governor.launch.py', 'params_file:=TYPES'], "for '/uncertainty_seg', expected some"),
    (['speed_governor.launch.py', 'params_file:=SLOW'], 'slow_factor is 7.0, expected'),
])
def test_bad_input_is_one_sentence_a_failure_and_no_process_left(
    tmp_path: Path, domain: int, words: list[str], sentence: str
) -> None:
    files = {'EMPTY': '', 'TYPES': 'uncertainty_seg:\n  ros__parameters:\n    threads: many\n',
             'SLOW': '/**:\n  ros__parameters:\n    slow_factor: 7.0\n'}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    words = [word.replace(':=' + name, f':={tmp_path / name}') for word in words
             for name in [next((n for n in files if word.endswith(':=' + n)), '\0')]]
    if 'rviz:=true' in words and shutil.which('rviz2'):
        pytest.skip('rviz2 is here')
    code, output = run(['ros2', 'launch', 'uncertainty_seg', *words], domain)
    assert code == 1, output
    assert sentence in output
    assert output.count('process started') <= 2 and 'Traceback' not in output


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_a_launch_that_is_ended_otherwise_than_by_ctrl_c_leaves_no_process(
    tmp_path: Path, domain: int, number: int
) -> None:
    with (tmp_path / 'log').open('w') as log:
        launch = subprocess.Popen(
            ['ros2', 'launch', 'uncertainty_seg', 'uncertainty_seg.launch.py', 'model:=suim'],
            env=ros_environment(domain), stdout=log, stderr=log, start_new_session=True)
    end_s = time.monotonic() + 120
    while 'active, waiting' not in (tmp_path / 'log').read_text():
        assert launch.poll() is None and time.monotonic() < end_s, (tmp_path / 'log').read_text()
        time.sleep(0.1)
    assert len(left_behind(domain)) == 1
    launch.send_signal(number)
    launch.wait(60)
    end_s = time.monotonic() + 30
    while left_behind(domain):
        assert time.monotonic() < end_s
        time.sleep(0.1)
