# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The examples of mission code: the one in Python beside the real node, the one in C++ compiled.

Where rclcpp is not installed the C++ example is only held against the one in Python. Against the
headers of rclcpp 28.1 (Jazzy) it was compiled by hand.

"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import importlib.util
import math
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
from types import SimpleNamespace
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import Client, HAS_ROS, needs_ros, own_domain, Process, ROOT, SKIP_REASON

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from ros_lifecycle_rig import BAD, node_rig, NodeRig  # noqa: I100

from uncertainty_seg.core.gate import KINDS

pytestmark = needs_ros
PYTHON = ROOT / 'examples' / 'mission_node.py'
CPP = ROOT / 'examples' / 'mission_cpp'
CRUISE, SLOW = 1.5, 0.25


class Mission:
    """The node, the example beside it in a process of its own, and what it allows."""

    def __init__(self, rig: NodeRig, folder: Path) -> None:
        from std_msgs.msg import Float32

        self.rig = rig
        self.limits: list[Any] = rig.client.listen('/speed_limit', Float32)
        self.process = Process(
            [str(PYTHON), '--ros-args', '-r', 'verdict:=/uncertainty_seg/verdict',
             '-r', 'trigger_log:=/uncertainty_seg/trigger_log', '-p', f'cruise_mps:={CRUISE}',
             '-p', f'slow_mps:={SLOW}'], rig.domain, folder / 'mission.log')

    def wait_for(self, limit_mps: float) -> None:
        """Wait until a limit is published now."""
        def is_there() -> bool:
            return bool(self.limits) and self.limits[-1].data == pytest.approx(limit_mps)
        self.rig.wait(is_there, f'a limit of {limit_mps} m/s\n{self.process.output}')


@pytest.fixture(scope='module')
def mission(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mission]:
    folder: Path = tmp_path_factory.mktemp('mission')
    make_tiny_bundle(folder / 'tiny')
    with node_rig(folder, folder / 'tiny', log__folder=str(folder / 'frames')) as rig:
        rig.client.wait_for_topics('/uncertainty_seg/verdict')
        rig.client.wait_for_camera_match()
        found = Mission(rig, folder)
        try:
            yield found
        finally:
            found.process.end()


def test_it_allows_nothing_before_the_first_confident_verdict(mission: Mission) -> None:
    mission.wait_for(0.0)
    assert {limit.data for limit in mission.limits} == {0.0}


def test_it_cruises_while_confident_and_slows_down_and_asks_for_a_log_when_unsure(
    mission: Mission
) -> None:
    rig = mission.rig
    # The node repeats its false, so the first verdict tells that the two have met.
    rig.wait(lambda: '[mission]: fault' in mission.process.output, 'the mission to hear it')
    rig.raise_flag()
    mission.wait_for(CRUISE)
    for second in range(3):
        rig.answer(70_000 + second, pixels=BAD)
    mission.wait_for(SLOW)
    rig.wait(lambda: '[mission]: log: ' in mission.process.output, 'the answer of trigger_log')
    assert re.search(r'\[mission\]: confident: image of \d+\.0{9}, ', mission.process.output)
    assert re.search(r'\[mission\]: uncertain: image of 70000\.0{9}, ', mission.process.output)
    rig.raise_flag()  # each fall is asked for once, not each frame
    assert mission.process.output.count('log: ') == 1


def test_it_stops_when_frames_stop_and_when_the_node_is_killed(mission: Mission) -> None:
    rig = mission.rig
    rig.raise_flag()
    mission.wait_for(CRUISE)
    mission.wait_for(0.0)  # the node says so after stale_timeout_s
    assert rig.process.is_running
    rig.raise_flag()
    mission.wait_for(CRUISE)
    rig.client.watched = None
    rig.process.send_signal(signal.SIGKILL)  # now nobody says so
    mission.wait_for(0.0)


def test_it_ends_in_order(mission: Mission) -> None:
    assert mission.process.interrupt() == 0
    assert 'Traceback' not in mission.process.output


# --- a verdict that waited -----------------------------------------------------------------------

TIMEOUT_S = 1.0


@contextmanager
def mission_alone(folder: Path, *words: str) -> Iterator[tuple[Client, Process, list[Any]]]:
    """Start the example without a node, where the test says what the node would."""
    from std_msgs.msg import Float32

    with own_domain() as domain:
        process = Process([str(PYTHON), '--ros-args', '-r', 'verdict:=/v', '-p',
                           f'cruise_mps:={CRUISE}', '-p', f'timeout_s:={TIMEOUT_S}', *words],
                          domain, folder / 'log')
        client = Client(domain, process)
        try:
            yield client, process, client.listen('/speed_limit', Float32)
        finally:
            client.close()
            process.end()


def confident_verdict(client: Client, stamped_s_ago: float = 0.05, age_s: float = 0.05) -> Any:
    from rclpy.duration import Duration
    from sensor_msgs.msg import JointState

    msg = JointState(name=['confident', 'kind', 'score_ratio', 'age_s', 'of_frame'],
                     position=[1.0, 0.0, 0.5, age_s, 1.0])
    msg.header.stamp = (
        client.node.get_clock().now() - Duration(seconds=stamped_s_ago)).to_msg()
    return msg


@pytest.mark.release
@pytest.mark.parametrize('compare_clocks', [True, False])
def test_a_verdict_that_waited_while_the_process_was_paused_allows_nothing(
    tmp_path: Path, compare_clocks: bool
) -> None:
    from sensor_msgs.msg import JointState

    word = f'compare_clocks:={str(compare_clocks).lower()}'
    with mission_alone(tmp_path, '-p', word) as (client, process, limits):
        node = client.node.create_publisher(JointState, '/v', 10)
        client.wait_until(node.get_subscription_count, 'the mission to listen')

        def cruises() -> bool:
            node.publish(confident_verdict(client))
            client.spin(0.05)
            return bool(limits) and limits[-1].data == CRUISE
        client.wait_until(cruises, 'full speed by new verdicts')
        client.wait_until(lambda: limits[-1].data == 0, 'no verdict')
        process.send_signal(signal.SIGSTOP)
        node.publish(confident_verdict(client))
        client.spin(2 * TIMEOUT_S)
        limits.clear()
        process.send_signal(signal.SIGCONT)

        def has_come() -> bool:  # seconds later where DDS sends it again
            if compare_clocks:
                return 'was not judged now' in process.output
            return any(limit.data == CRUISE for limit in limits)
        client.wait_until(has_come, 'the verdict that waited')
        client.spin(3 * TIMEOUT_S)
        # By the receipt alone it is new, so it did wait and come.
        assert {limit.data for limit in limits} == ({0.0} if compare_clocks else {CRUISE, 0.0})
        assert ('was not judged now' in process.output) is compare_clocks


@pytest.mark.parametrize(('stamped_s_ago', 'age_s', 'limit_mps'), [
    (60.0, 60.0, CRUISE),  # judged now, of a camera with another clock
    (60.0, 0.05, 0.0), (60.0, math.nan, 0.0), (60.0, math.inf, 0.0), (60.0, -60.0, 0.0),
    (0.0, math.nan, CRUISE), (-60.0, 0.0, 0.0), (0.0, 1e300, 0.0),
])
def test_a_verdict_is_as_old_as_its_stamp_and_age_say(
    tmp_path: Path, stamped_s_ago: float, age_s: float, limit_mps: float
) -> None:
    from sensor_msgs.msg import JointState

    with mission_alone(tmp_path) as (client, _, limits):
        node = client.node.create_publisher(JointState, '/v', 10)
        client.wait_until(node.get_subscription_count, 'the mission to listen')
        client.wait_until(lambda: limits, 'a limit')
        limits.clear()

        def is_allowed() -> bool:  # again where a busy machine made it wait for too long
            node.publish(confident_verdict(client, stamped_s_ago, age_s))
            client.spin(0.8 * TIMEOUT_S)
            return max((limit.data for limit in limits), default=-1.0) == limit_mps
        client.wait_until(is_allowed, f'{limit_mps} m/s')
        assert {limit.data for limit in limits} <= {0.0, limit_mps}


VERDICTS = {
    'image of 12.000000345, 0.250 s old, at 0.50 of its limit': (0.25, 0.5, 1.0),
    'image of 12.000000345, its age is not known, at 1.25 of its limit': (math.nan, 1.25, 1.0),
    'image of 12.000000345, 3.000 s old, without a score': (3.0, math.inf, 1.0),
    'no image was judged': (math.nan, math.inf, 0.0),
}


@pytest.mark.parametrize('words', VERDICTS)
def test_what_is_not_known_of_a_verdict_is_said_in_words(words: str) -> None:
    spec = importlib.util.spec_from_file_location('mission_node', PYTHON)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    values = dict(zip(('age_s', 'score_ratio', 'of_frame'), VERDICTS[words], strict=True))
    assert module.words_of(SimpleNamespace(sec=12, nanosec=345), values) == words


# --- in C++ --------------------------------------------------------------------------------------


def test_both_examples_use_the_same_names_numbers_and_defaults() -> None:
    python, cpp = PYTHON.read_text(), (CPP / 'src' / 'mission_node.cpp').read_text()
    enum = re.search(r'enum Kind \{([^}]*)\}', cpp)
    assert enum
    assert re.findall(r'(\w+) = (\d)', enum[1]) == [
        (kind.upper(), str(number)) for number, kind in enumerate(KINDS)]
    parameter = r'declare_parameter\(["\'](\w+)["\'], ([\d.]+|[Tt]rue)\)'
    found = [[(name, value.lower()) for name, value in re.findall(parameter, text)]
             for text in (python, cpp)]
    assert found[0] == found[1] and len(found[0]) == 4
    for name in ('verdict', 'speed_limit', 'trigger_log', 'kind', 'confident', 'age_s',
                 'score_ratio', 'of_frame'):
        assert f'"{name}"' in cpp
        assert re.search(rf'["\']{name}["\']', python)


@pytest.mark.release
def test_the_cpp_example_says_the_same_words(tmp_path: Path) -> None:
    compiler = shutil.which('c++')
    if compiler is None:
        pytest.skip('a C++ compiler is needed')
    text = (CPP / 'src' / 'mission_node.cpp').read_text()
    functions = re.findall(r'  static .*?\n  }\n', text, re.DOTALL)
    assert len(functions) == 2
    calls = [f'std::cout << words_of({{{{{{12, 345}}}}, {{"age_s", "score_ratio", "of_frame"}}, '
             f'{{{", ".join(map(_in_cpp, values))}}}}}) << std::endl;'
             for values in VERDICTS.values()]
    (tmp_path / 'a.cpp').write_text('\n'.join([
        *re.findall('#include <.*>', text), '#include <iostream>', '#include <vector>',
        'struct Stamp {int sec; unsigned nanosec;};', 'struct Header {Stamp stamp;};',
        'struct JointState {Header header; std::vector<std::string> name; '
        'std::vector<double> position;};', *functions, 'int main() {', *calls, '}']))
    subprocess.run([compiler, '-std=c++17', '-Wall', '-Wextra', '-Werror', str(tmp_path / 'a.cpp'),
                    '-o', str(tmp_path / 'a')], check=True)
    said = subprocess.run([str(tmp_path / 'a')], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == list(VERDICTS)


def _in_cpp(value: float) -> str:
    return repr(value) if math.isfinite(value) else 'NAN' if math.isnan(value) else 'INFINITY'


def test_the_cpp_example_compiles_where_rclcpp_is(tmp_path: Path) -> None:
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    if not any((Path(prefix) / 'share' / 'rclcpp').is_dir() for prefix in prefixes if prefix):
        pytest.skip('rclcpp is not installed: source a ROS 2 to compile examples/mission_cpp')
    if shutil.which('cmake') is None or shutil.which('c++') is None:
        pytest.skip('cmake and a C++ compiler are needed to compile examples/mission_cpp')
    for words in (['cmake', '-S', str(CPP), '-B', str(tmp_path), '-DCMAKE_CXX_FLAGS=-Werror'],
                  ['cmake', '--build', str(tmp_path)]):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / 'mission_node').is_file()
