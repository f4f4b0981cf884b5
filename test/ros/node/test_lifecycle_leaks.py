# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A hundred times through every transition, its refusal and its error: nothing is left behind."""

from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import needs_ros
from ros_lifecycle_rig import growths

pytestmark = needs_ros

Growth = dict[str, dict[str, float]]
# rclpy keeps a weak reference of some hundred bytes to every entity there ever was, 19 of them a
# configuration: 7 kB a cycle with what else grows in the middleware. A frame here has 36 kB.
MEMORY_KB = 30.0
TWO = ['refused_activate', 'raising_activate']
NOT_COUNTED = ('memory_kb', 'references')

QUICK = ['configure', 'refused_configure', 'refused_activate', 'raising_activate']
SLOW = ['activate', 'shutdown', 'raising_deactivate', 'raising_cleanup']


@pytest.fixture(scope='module')
def quick(tmp_path_factory: Any) -> Growth:
    folder = tmp_path_factory.mktemp('leaks')
    return growths(folder, make_tiny_bundle(folder / 'tiny'), [*QUICK, 'raising_configure'])


@pytest.fixture(scope='module')
def slow(tmp_path_factory: Any) -> Growth:
    folder = tmp_path_factory.mktemp('slow_leaks')
    return growths(folder, make_tiny_bundle(folder / 'tiny'), SLOW)


@pytest.fixture(scope='module')
def two_cameras(tmp_path_factory: Any) -> Growth:
    folder = tmp_path_factory.mktemp('two_cameras')
    return growths(folder, make_tiny_bundle(folder / 'tiny'), TWO, 'front,down')


def assert_nothing_grew(grown: dict[str, float]) -> None:
    more = {what: n for what, n in grown.items() if n > 0 and what not in NOT_COUNTED}
    assert not more, f'more after 100 cycles than before: {more}'


@pytest.mark.release
@pytest.mark.parametrize('name', [*QUICK, 'raising_configure'])
def test_a_hundred_transitions_leave_nothing_behind(quick: Growth, name: str) -> None:
    assert_nothing_grew(quick[name])


@pytest.mark.release
@pytest.mark.parametrize('name', QUICK)
def test_a_hundred_transitions_need_no_memory(quick: Growth, name: str) -> None:
    assert quick[name]['memory_kb'] < MEMORY_KB


def test_dead_entities_are_not_remembered(quick: Growth) -> None:
    assert quick['configure']['references'] == 0


@pytest.mark.release
@pytest.mark.parametrize('name', SLOW)
def test_a_hundred_lives_leave_nothing_behind(slow: Growth, name: str) -> None:
    # Frames are in flight at each end of 'activate'; 'shutdown' comes from all three states.
    assert_nothing_grew(slow[name])


@pytest.mark.release
def test_a_hundred_activations_with_frames_in_flight_need_no_memory(slow: Growth) -> None:
    assert slow['activate']['memory_kb'] < MEMORY_KB


@pytest.mark.release
@pytest.mark.parametrize('name', TWO)
def test_a_second_camera_that_cannot_be_had_leaves_nothing_of_the_first(
    two_cameras: Growth, name: str
) -> None:
    assert_nothing_grew(two_cameras[name])
