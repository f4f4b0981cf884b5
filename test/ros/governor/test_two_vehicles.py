# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Two vehicles in one ROS domain, a node and a governor each: neither speaks for the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
import time
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import (
    Client,
    compile_loops,
    image_message,
    needs_ros,
    NODE,
    own_domain,
    Process,
    solid,
)
from ros_speed_rig import GOVERNOR

pytestmark = needs_ros
VEHICLES = ('auv1', 'auv2')
STALE_S = 3.0
LONGEST_S = 120.0
RED = solid(0, 0, 255)


class Fleet:
    """Both vehicles, their cameras, and what they say."""

    def __init__(self, folder: Path, domain: int) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from geometry_msgs.msg import Twist
        from sensor_msgs.msg import Image
        from std_msgs.msg import Bool, Float32

        bundle = make_tiny_bundle(folder / 'tiny')
        compile_loops()
        self.processes = []
        for name in VEHICLES:
            space = ['--ros-args', '-r', f'__ns:=/{name}']
            self.processes += [
                Process([*NODE, *space, '-p', f'model:={bundle}', '-p', 'backend:=onnxruntime',
                         '-p', 'max_repeats:=-1', '-p', 'max_age_s:=0.0',
                         '-p', f'stale_timeout_s:={STALE_S}'], domain, folder / f'{name}_node'),
                Process([*GOVERNOR, *space, '-r', 'confident:=uncertainty_seg/confident',
                         '-p', f'deadline_s:={STALE_S}', '-p', f'settle_s:={STALE_S}',
                         '-p', 'rise_per_s:=1.0', '-p', 'command_timeout_s:=600.0'],
                        domain, folder / f'{name}_governor')]
        self.client = Client(domain)
        self.flags = {name: self.client.listen(f'/{name}/uncertainty_seg/confident', Bool)
                      for name in VEHICLES}
        self.factors = {name: self.client.listen(f'/{name}/speed_governor/speed_factor', Float32)
                        for name in VEHICLES}
        self.limited = {name: self.client.listen(f'/{name}/cmd_vel_limited', Twist)
                        for name in VEHICLES}
        self.health = self.client.listen('/diagnostics', DiagnosticArray)
        self.cameras = {name: self.client.node.create_publisher(Image, f'/{name}/image', 5)
                        for name in VEHICLES}
        self.drivers = {name: self.client.node.create_publisher(Twist, f'/{name}/cmd_vel', 5)
                        for name in VEHICLES}
        self._stamps = count(10**9, 10**8)

    def send_until(self, condition: Callable[[], Any], seen: str) -> None:
        """Show one vehicle what it is confident of, and the other nothing, until something is."""
        end_s = time.monotonic() + LONGEST_S
        while not condition():
            assert time.monotonic() < end_s, [process.output for process in self.processes]
            self.cameras[seen].publish(image_message(RED, next(self._stamps)))
            self.client.spin(0.1)

    def factor(self, name: str) -> float:
        return float(self.factors[name][-1].data) if self.factors[name] else -1.0

    def close(self) -> None:
        self.client.close()
        for process in self.processes:
            process.end()


@pytest.fixture(scope='module')
def fleet(tmp_path_factory: Any) -> Iterator[Fleet]:
    with own_domain() as domain, closing_fleet(tmp_path_factory.mktemp('fleet'), domain) as made:
        yield made


@contextmanager
def closing_fleet(folder: Path, domain: int) -> Iterator[Fleet]:
    made = Fleet(folder, domain)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(('sure', 'unsure'), [
    VEHICLES, pytest.param(*VEHICLES[::-1], marks=pytest.mark.release)])
def test_one_that_is_confident_is_fast_and_the_other_stays_slow(
    fleet: Fleet, sure: str, unsure: str
) -> None:
    from geometry_msgs.msg import Twist

    fleet.send_until(lambda: fleet.factor(sure) == 1.0, sure)
    fleet.send_until(lambda: fleet.flags[unsure] and not fleet.flags[unsure][-1].data
                     and fleet.factor(unsure) == pytest.approx(0.2), sure)
    command = Twist()
    command.linear.x = 2.0
    for name in VEHICLES:
        fleet.limited[name].clear()
        fleet.drivers[name].publish(command)
    fleet.send_until(lambda: all(fleet.limited.values()), sure)
    assert fleet.limited[sure][-1].linear.x == 2.0
    assert fleet.limited[unsure][-1].linear.x == pytest.approx(0.4)


@pytest.mark.release
def test_nobody_writes_under_the_name_of_another_in_the_diagnostics(fleet: Fleet) -> None:
    wanted = {f'{name}/{part}' for name in VEHICLES
              for part in ('uncertainty_seg: health', 'speed_governor: speed')}
    fleet.health.clear()
    fleet.send_until(lambda: wanted <= {
        status.name for msg in fleet.health for status in msg.status}, VEHICLES[0])
    assert {status.name for msg in fleet.health for status in msg.status} == wanted
