# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A study on a Ray cluster has the results of one process, and what a chain raises arrives."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
pytest.importorskip('pyarrow.parquet')
pytest.importorskip('scipy')

from ramp_nets import write_greys  # noqa: E402
from test_active_learn import HELPERS, words  # noqa: E402

from uncertainty_seg.cli.main import main  # noqa: E402

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(importlib.util.find_spec('ray') is None, reason='ray is not installed'),
]


def test_a_cluster_gives_the_results_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_greys(tmp_path / 'data', {
        'train': {f's{k}': 20 * k for k in range(6)}, 'val': {'v': 60}, 'test': {'t': 40}})
    # The workers inherit it.
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(HELPERS.parents[2]), str(HELPERS)]))
    more = ['--strategy', 'random', 'mi', '--labels', '2', '4']
    assert main(words(tmp_path / 'here', data, *more)) == 0
    assert main(words(tmp_path / 'there', data, *more, '--ray', 'local')) == 0
    one, other = ((tmp_path / name / 'results.parquet').read_bytes() for name in ('here', 'there'))
    assert one == other
    # A chain whose start is damaged says so from afar.
    picks = tmp_path / 'there' / 'rounds' / 'start' / 'seed-0' / 'round-0.picks.json'
    picks.write_text('{')
    for file in (tmp_path / 'there' / 'rounds' / 'mi' / 'seed-0').iterdir():
        file.unlink()
    assert main(words(tmp_path / 'there', data, *more, '--ray', 'local')) == 2
    assert 'round-0.picks.json is missing or damaged' in capsys.readouterr().err


def test_workers_that_import_another_network_of_the_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The machines of a cluster have their own files: here another folder comes first there."""
    data = write_greys(tmp_path / 'data', {
        'train': {f's{k}': 20 * k for k in range(6)}, 'val': {'v': 60}, 'test': {'t': 40}})
    for name, rate in (('own', '0.5'), ('far', '0.25')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'twin_net.py').write_text(
            f'from ramp_nets import RampNet\n\n\ndef build():\n    return RampNet({rate})\n')
    monkeypatch.syspath_prepend(tmp_path / 'own')
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(
        [str(tmp_path / 'far'), str(HELPERS.parents[2]), str(HELPERS)]))
    more = ['--strategy', 'random', '--labels', '2', '4', '--net', 'twin_net:build']
    assert main(words(tmp_path / 's', data, *more, '--ray', 'local')) == 2
    assert 'has other code of --net than' in capsys.readouterr().err
    assert not list((tmp_path / 's').glob('rounds/*/*/*.json'))
