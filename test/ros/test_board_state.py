# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Heat and throttling are read off the files of a real Jetson Orin Nano, and nothing is made up.

The tree has the names and numbers of that board with JetPack 6: nine zones, of which the three of
the vision units are switched off and fail, the counters of soctherm_oc, two groups of cores.

"""

from __future__ import annotations

import math
from pathlib import Path
import sys
from types import ModuleType
from typing import Any

import pytest

from uncertainty_seg.ros import board_state as board_gpu
from uncertainty_seg.ros.board_state import BoardReader, BoardState, RETRY_AFTER_READS

ZONES = {'cpu-thermal': 63625, 'gpu-thermal': 60187, 'cv0-thermal': None, 'cv1-thermal': None,
         'cv2-thermal': None, 'soc0-thermal': 61000, 'soc1-thermal': 59968, 'soc2-thermal': 60218,
         'tj-thermal': 63781}
TRIPS = {'cpu-thermal': [('critical', 104500), ('hot', 102000), ('passive', 99000)],
         'gpu-thermal': [('critical', 104500), ('passive', 99000)],
         'tj-thermal': [('critical', 104500), ('active', 74000), ('active', 95000)]}
COOLERS = {'cpufreq-cpu0': 48, 'cpufreq-cpu4': 48, 'devfreq-17000000.gpu': 9, 'pwm-fan': 3,
           'cpu-throttle-alert': 2, 'gpu-throttle-alert': 2, 'cv0-throttle-alert': 2,
           'soc0-throttle-alert': 2, 'hot-surface-alert': 1}


def put(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{text}\n', encoding='ascii')


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    """Return the root of a Jetson Orin Nano at work; only its fan cools."""
    for i, (name, milli) in enumerate(ZONES.items()):
        zone = tmp_path / f'sys/class/thermal/thermal_zone{i}'
        put(zone / 'type', name)
        if milli is None:
            (zone / 'temp').mkdir()  # reading it fails, as EAGAIN does
        else:
            put(zone / 'temp', milli)
        for k, (kind, trip) in enumerate(TRIPS.get(name, ())):
            put(zone / f'trip_point_{k}_type', kind)
            put(zone / f'trip_point_{k}_temp', trip)
    for i, (name, largest) in enumerate(COOLERS.items()):
        device = tmp_path / f'sys/class/thermal/cooling_device{i}'
        put(device / 'type', name)
        put(device / 'cur_state', 2 if name == 'pwm-fan' else 0)
        put(device / 'max_state', largest)
    for i, count in enumerate((0, 8, 813), 1):
        put(tmp_path / f'sys/class/hwmon/hwmon3/oc{i}_event_cnt', count)
    for i in (0, 4):
        policy = tmp_path / f'sys/devices/system/cpu/cpufreq/policy{i}'
        put(policy / 'scaling_cur_freq', 1344000)
        put(policy / 'cpuinfo_max_freq', 1728000)
    return tmp_path


def zone_file(root: Path, name: str) -> Path:
    return root / f'sys/class/thermal/thermal_zone{list(ZONES).index(name)}/temp'


def cooler_file(root: Path, name: str) -> Path:
    return root / f'sys/class/thermal/cooling_device{list(COOLERS).index(name)}/cur_state'


def read(root: Path) -> BoardState:
    return BoardReader(root, asks_nvml=False).read()


# --- temperature ---------------------------------------------------------------------------------


def test_the_hottest_zone_of_a_jetson_is_told_with_its_limit(orin: Path) -> None:
    state = read(orin)
    # An active trip, at 74 degrees, turns the fan and is no limit.
    assert (state.temperature_c, state.hottest, state.limit_c) == (63.781, 'tj-thermal', 104.5)
    assert not state.is_throttled
    assert state.why == ''
    assert state.values == {
        'board.temperature_c': '63.8', 'board.hottest': 'tj-thermal',
        'board.limits_c': 'critical 104.5',
        'board.zones_c': 'cpu-thermal 63.6, gpu-thermal 60.2, soc0-thermal 61.0, '
                         'soc1-thermal 60.0, soc2-thermal 60.2, tj-thermal 63.8',
        'board.throttling': 'none', 'board.over_current_events': 'oc1 0, oc2 8, oc3 813',
        'board.cpu_mhz': '1344 of 1728, 1344 of 1728'}


def test_the_limit_is_where_slowing_begins_not_where_the_board_stops(orin: Path) -> None:
    put(zone_file(orin, 'cpu-thermal'), 70000)
    state = read(orin)
    assert (state.hottest, state.limit_c) == ('cpu-thermal', 99.0)
    assert state.values['board.limits_c'] == 'passive 99.0, hot 102.0, critical 104.5'


def test_of_two_zones_as_hot_the_one_with_a_limit_is_told(orin: Path) -> None:
    put(zone_file(orin, 'soc0-thermal'), 80000)  # has no trip point
    put(zone_file(orin, 'gpu-thermal'), 80000)
    assert read(orin).hottest == 'gpu-thermal'


@pytest.mark.parametrize('text', ['-256000', '-274000', '999999', 'nan', '', 'N/A'])
def test_a_sensor_that_is_off_or_broken_does_not_count(orin: Path, text: str) -> None:
    put(zone_file(orin, 'tj-thermal'), text)
    assert read(orin).hottest == 'cpu-thermal'


def test_a_trip_point_that_is_off_is_no_limit(tmp_path: Path) -> None:
    zone = tmp_path / 'sys/class/thermal/thermal_zone0'  # as x86_pkg_temp of a laptop
    put(zone / 'type', 'x86_pkg_temp')
    put(zone / 'temp', 54000)
    put(zone / 'trip_point_0_type', 'passive')
    put(zone / 'trip_point_0_temp', -274000)
    state = read(tmp_path)
    assert state.temperature_c == 54.0
    assert math.isnan(state.limit_c)
    assert 'board.limits_c' not in state.values


# --- throttling ----------------------------------------------------------------------------------


@pytest.mark.parametrize('name', [
    'cpufreq-cpu0', 'devfreq-17000000.gpu', 'cpu-throttle-alert', 'gpu-throttle-alert',
    'soc0-throttle-alert'])
def test_a_cooling_device_that_takes_speed_is_throttling(orin: Path, name: str) -> None:
    put(cooler_file(orin, name), 1)
    state = read(orin)
    assert state.is_throttled
    assert state.why == f'the board slows itself down: {name} is at 1 of {COOLERS[name]}'
    assert state.values['board.throttling'] == f'{name} is at 1 of {COOLERS[name]}'


@pytest.mark.parametrize(('kind', 'step', 'is_throttled'), [
    ('thermal-cpufreq-0', 3, True), ('thermal-devfreq-0', 1, True), ('Processor', 2, True),
    ('intel_powerclamp', -1, False), ('intel_powerclamp', 20, True), ('cpu-balanced', 1, True),
    ('pwm-fan', 4, False), ('hot-surface-alert', 1, False), ('TCC Offset', 5, False),
    ('iwlwifi_1', 3, False)])
def test_what_takes_no_speed_is_no_throttling(
    tmp_path: Path, kind: str, step: int, is_throttled: bool,
) -> None:
    device = tmp_path / 'sys/class/thermal/cooling_device0'
    put(device / 'type', kind)
    put(device / 'cur_state', step)
    assert read(tmp_path).is_throttled is is_throttled


def test_over_current_is_throttling_while_its_counter_grows(orin: Path) -> None:
    reader = BoardReader(orin, asks_nvml=False)
    counter = orin / 'sys/class/hwmon/hwmon3/oc3_event_cnt'
    assert not reader.read().is_throttled  # 813 events, nobody knows when
    put(counter, 824)
    state = reader.read()
    assert state.is_throttled
    assert 'oc3 counted 11 more over-current or undervoltage events' in state.why
    assert state.values['board.over_current_events'] == 'oc1 0, oc2 8, oc3 824'
    assert not reader.read().is_throttled
    put(counter, 0)  # the driver was loaded again
    assert not reader.read().is_throttled


def test_every_reason_is_in_the_sentence(orin: Path) -> None:
    reader = BoardReader(orin, asks_nvml=False)
    reader.read()
    put(cooler_file(orin, 'gpu-throttle-alert'), 2)
    put(orin / 'sys/class/hwmon/hwmon3/oc1_event_cnt', 1)
    assert reader.read().why == (
        'the board slows itself down: gpu-throttle-alert is at 2 of 2; '
        'oc1 counted 1 more over-current or undervoltage events')


# --- files that fail -----------------------------------------------------------------------------


def test_a_file_that_fails_is_left_alone_and_asked_again_much_later(orin: Path) -> None:
    reader = BoardReader(orin, asks_nvml=False)
    reader.read()
    off = zone_file(orin, 'cv0-thermal')
    off.rmdir()
    put(off, 90000)  # the unit is switched on
    states = [reader.read() for _ in range(RETRY_AFTER_READS + 1)]
    assert [state.hottest for state in states] == ['tj-thermal'] * RETRY_AFTER_READS + [
        'cv0-thermal']


def test_files_that_vanish_raise_nothing(orin: Path) -> None:
    reader = BoardReader(orin, asks_nvml=False)
    reader.read()
    for path in sorted(orin.rglob('*'), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    state = reader.read()
    assert math.isnan(state.temperature_c)
    assert not state.is_throttled


def test_a_board_that_tells_nothing_says_so(tmp_path: Path) -> None:
    state = read(tmp_path)
    assert math.isnan(state.temperature_c) and math.isnan(state.limit_c)
    assert (state.hottest, state.is_throttled, state.why) == ('', False, '')
    assert state.values == {'board.temperature_c': 'not readable here',
                            'board.throttling': 'not readable here'}


def test_this_machine_is_read_without_an_error() -> None:
    state = BoardReader().read()
    assert math.isnan(state.temperature_c) == (state.hottest == '')
    assert state.is_throttled == bool(state.why)
    assert {'board.temperature_c', 'board.throttling'} <= set(state.values)


# --- NVIDIA GPUs ---------------------------------------------------------------------------------


class FakeNvml(ModuleType):
    """One GPU; each attribute that a test sets is what the driver says, an exception is raised."""

    def __init__(self, **answers: Any) -> None:
        super().__init__('pynvml')
        self.asked: list[str] = []
        for name, answer in {'nvmlInit': None, 'nvmlDeviceGetCount': 1,
                             'nvmlDeviceGetHandleByIndex': 'handle', **answers}.items():
            setattr(self, name, self._function(name, answer))

    def _function(self, name: str, answer: Any) -> Any:
        def function(*_: object) -> Any:
            self.asked.append(name)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return function


def gpu_reader(monkeypatch: pytest.MonkeyPatch, root: Path, **answers: Any) -> BoardReader:
    """Make a reader that finds the fake driver."""
    monkeypatch.setitem(sys.modules, 'pynvml', FakeNvml(**{
        'nvmlDeviceGetTemperature': 84, 'nvmlDeviceGetTemperatureThreshold': 90,
        'nvmlDeviceGetCurrentClocksEventReasons': 0, **answers}))
    return BoardReader(root)


def test_a_gpu_hotter_than_the_board_is_the_hottest(
    orin: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = gpu_reader(monkeypatch, orin).read()
    assert (state.temperature_c, state.hottest, state.limit_c) == (84.0, 'gpu0', 90.0)
    assert state.values['board.gpu0.clocks_limited_by'] == 'nothing'


@pytest.mark.parametrize(('bits', 'said', 'is_throttled'), [
    (0x01, 'nothing', False),  # idle
    (0x02, 'nothing', False),  # clocks set by hand
    (0x04, 'power limit', False),
    (0x20, 'heat', True),
    (0x48, 'hardware slowdown, heat (by hardware)', True),
    (0x84, 'power limit, power brake', True)])
def test_heat_and_faults_throttle_a_gpu_and_full_load_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, said: str, is_throttled: bool,
) -> None:
    state = gpu_reader(monkeypatch, tmp_path, nvmlDeviceGetCurrentClocksEventReasons=bits).read()
    assert state.values['board.gpu0.clocks_limited_by'] == said
    assert state.is_throttled is is_throttled
    assert ('gpu0 runs slower for' in state.why) is is_throttled


def test_an_older_library_is_asked_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = gpu_reader(monkeypatch, tmp_path, nvmlDeviceGetCurrentClocksThrottleReasons=0x40)
    delattr(sys.modules['pynvml'], 'nvmlDeviceGetCurrentClocksEventReasons')
    assert reader.read().why.endswith(': gpu0 runs slower for heat (by hardware)')


def test_a_question_that_the_driver_refuses_is_not_put_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusal = RuntimeError('Not Supported')
    reader = gpu_reader(monkeypatch, tmp_path, nvmlDeviceGetTemperatureThreshold=refusal,
                        nvmlDeviceGetCurrentClocksEventReasons=refusal)
    states = [reader.read() for _ in range(3)]
    assert [state.temperature_c for state in states] == [84.0] * 3
    assert math.isnan(states[0].limit_c)
    asked = sys.modules['pynvml'].asked
    assert asked.count('nvmlDeviceGetCurrentClocksEventReasons') == 1
    assert asked.count('nvmlInit') == 1
    assert asked.count('nvmlDeviceGetTemperature') == 3


@pytest.mark.parametrize('name', ['nvmlInit', 'nvmlDeviceGetCount', 'nvmlDeviceGetHandleByIndex'])
def test_without_a_driver_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
) -> None:
    reader = gpu_reader(monkeypatch, tmp_path, **{name: RuntimeError('Driver Not Loaded')})
    assert math.isnan(reader.read().temperature_c)
    assert math.isnan(reader.read().temperature_c)


def test_without_pynvml_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'pynvml', None)
    assert board_gpu.find_gpus() == []


def test_the_library_of_nvidia_has_these_names_and_numbers() -> None:
    nvml = pytest.importorskip('pynvml', reason='nvidia-ml-py is not installed')
    for name in ('nvmlDeviceGetTemperature', 'nvmlDeviceGetTemperatureThreshold',
                 'nvmlDeviceGetCurrentClocksThrottleReasons', 'nvmlDeviceGetCount'):
        assert callable(getattr(nvml, name))
    assert (nvml.NVML_TEMPERATURE_GPU, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN) == (0, 1)
    assert [nvml.nvmlClocksThrottleReasonSwPowerCap, nvml.nvmlClocksThrottleReasonHwSlowdown,
            nvml.nvmlClocksThrottleReasonSwThermalSlowdown,
            nvml.nvmlClocksThrottleReasonHwThermalSlowdown,
            nvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown] == list(board_gpu._GPU_REASONS)
