# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The examples of mission code: the one in Python beside the real node, the one in C++ compiled.

Where rclcpp is not installed the C++ example is only held against the one in Python. Against the
headers of rclcpp 28.1 (Jazzy) it was compiled by hand.

"""

from __future__ import annotations

from collections.abc import Iterator
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
from ros_helpers import HAS_ROS, needs_ros, Process, ROOT, SKIP_REASON

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
