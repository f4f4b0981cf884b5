# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Power is read where the board tells it, and made up nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from uncertainty_seg.compiler.self_check.run import power_reader


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a machine with the sensors of a Jetson Orin, 5 V at 1.2 A and 0.3 A."""
    folder = tmp_path / 'sys/class/hwmon/hwmon3'
    folder.mkdir(parents=True)
    for number, (label, milliampere) in enumerate((('VDD_GPU_SOC', 1200), ('VDD_CPU_CV', 300)), 1):
        (folder / f'in{number}_label').write_text(f'{label}\n')
        (folder / f'in{number}_input').write_text('5000\n')
        (folder / f'curr{number}_input').write_text(f'{milliampere}\n')
    # The shunts have labels and no current of their own.
    (folder / 'in5_label').write_text('sum of shunt voltages\n')
    (folder / 'in5_input').write_text('12\n')
    return tmp_path


def put_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / 'nvidia-smi'
    program.write_text(f'#!/bin/sh\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', str(folder))


def test_the_rails_of_a_jetson_are_volts_times_amperes(root: Path) -> None:
    read = power_reader(root)
    assert read is not None
    assert read() == {'VDD_GPU_SOC': pytest.approx(6.0), 'VDD_CPU_CV': pytest.approx(1.5)}
    (root / 'sys/class/hwmon/hwmon3/curr1_input').write_text('2000\n')
    assert read()['VDD_GPU_SOC'] == pytest.approx(10.0)


def test_nvidia_smi_is_asked_for_each_gpu(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path / 'bin', monkeypatch, 'echo 71.25; echo "[N/A]"; echo 8.5')
    read = power_reader(tmp_path)
    assert read is not None
    assert read() == {'gpu0': 71.25, 'gpu2': 8.5}


@pytest.mark.parametrize('script', ['exit 9', 'echo "[N/A]"', 'exec sleep 0'])
def test_a_board_that_does_not_tell_gives_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    put_nvidia_smi(tmp_path / 'bin', monkeypatch, script)
    assert power_reader(tmp_path) is None


def test_without_sensors_and_programs_there_is_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))
    assert power_reader(tmp_path) is None
