# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The commands of docs/guides/loop.md, run unchanged, and their labelling oracle."""

import json
import os
from pathlib import Path
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip('pyarrow', reason='pyarrow is not installed: no tables')
pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels')

from test_documented_commands import lines_of  # noqa: E402

from uncertainty_seg.cli.main import build_parser, main, VERBS  # noqa: E402
from uncertainty_seg.sim.dive import Dive  # noqa: E402
from uncertainty_seg.storage.labelled_folder import load_folder  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'guides' / 'loop.md'
ORACLE = ROOT / 'examples' / '08_oracle_labeller.py'
# Lines that are not run: output, and commands that need ROS and a camera.
NOT_RUN = ('mean IoU', 'version 2:', 'train:', 'val:', 'test:', 'ros2 launch')


def script() -> list[str]:
    """Return the commands of the page, with the oracle of this checkout."""
    blocks = re.findall(r'(?:^    .*\n)+', PAGE.read_text(encoding='utf-8'), re.MULTILINE)
    lines = [line[4:] for block in blocks for line in block.splitlines()]
    lines = [line for line in lines if not line.startswith(NOT_RUN)]
    place = next(i for i, line in enumerate(lines) if line.startswith('cp '))
    lines[place] = f'cp {ORACLE} .'
    return lines


def last_line(path: Path) -> dict[str, Any]:
    """Return the JSON line that a command wrote to a file."""
    line: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
    return line


def test_every_command_of_the_page_is_one_of_its_verb() -> None:
    found = []
    for line in lines_of(PAGE):
        if match := re.match(r'uncertainty_seg (.*)', line):
            words = shlex.split(match[1].replace('$i', '1').split(' > ')[0])
            build_parser(words[0]).parse_args(words)
            found.append(words[0])
    walked = ('simulate', 'train', 'score', 'select', 'labels', 'dataset',
              'calibrate', 'evaluate', 'replay')
    assert set(found) == set(walked) <= set(VERBS)


def test_the_oracle_labels_by_the_truth(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main('simulate dive pool/one --seed 3 --duration 3 --rate 1 --size 96x64'.split()) == 0
    for words in (f'score pool --out table --set model={tiny_bundle}',
                  'select table -n 3 --strategy random --min-distance 0 -o picks',
                  'labels export picks to_label --format folder'):
        assert main(words.split()) == 0
    # The classes are not those of the dive, since only ids are compared.
    table = tmp_path / 'to_label' / 'frames.json'
    assert len(json.loads(table.read_text())['classes']) == 3
    content = json.loads(table.read_text())
    content['classes'] += [{'id': i, 'name': f'class {i}', 'rgb': [0, 0, i]} for i in (3, 4, 5)]
    table.write_text(json.dumps(content))
    (tmp_path / 'to_label' / 'classes.json').unlink()
    subprocess.run([sys.executable, str(ORACLE), 'to_label', 'pool'], check=True)
    assert main('labels import to_label labelled --format folder --shares train=1.0'.split()) == 0
    data = load_folder(tmp_path / 'labelled', 'train')
    dive = Dive(3, duration_s=3.0, rate_hz=1.0, size=(96, 64))
    assert len(data.masks) == 3
    for stem, mask in zip(data.stems, data.masks, strict=True):
        assert (mask == dive.frame(int(stem[-6:])).mask).all()


# Takes four minutes on an idle machine.
@pytest.mark.timeout(1200)
@pytest.mark.release
@pytest.mark.torch
def test_the_page_runs_from_an_empty_folder_and_gains(tmp_path: Path) -> None:
    pytest.importorskip('torch', reason='torch is not installed: no training')
    pytest.importorskip('scipy', reason='scipy is not installed: no calibration')
    commands = tmp_path / 'bin'
    commands.mkdir()
    for name, words in (('uncertainty_seg', ' -m uncertainty_seg'), ('python3', '')):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable}{words} "$@"\n')
        (commands / name).chmod(0o755)
    path = f'{commands}{os.pathsep}{os.environ["PATH"]}'
    (tmp_path / 'page.sh').write_text('set -e\n' + '\n'.join(script()) + '\n')
    done = subprocess.run(['bash', '../page.sh'], cwd=commands, check=False, text=True,
                          env={**os.environ, 'PATH': path}, capture_output=True, timeout=1150)
    assert done.returncode == 0, done.stderr[-2000:]
    gain = last_line(commands / 'loop' / 'gain.txt')
    assert gain['baseline'] == 'first' and gain['gains']['second']['mean_iou'][0] > 0
    assert (commands / 'loop' / 'gain.txt').read_text().startswith('second ')
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]
    replayed = [line for line in lines if line.get('verb') == 'replay']
    assert [line['num_frames'] for line in replayed] == [10]
    assert replayed[0]['num_confident'] > 0
    card = json.loads((commands / 'loop' / 'models' / 'second' / 'card.json').read_text())
    assert card['class_names'][1] == 'pipeline'
    # Labelled frames are not chosen in the next round.
    from pyarrow import parquet

    first, second = (parquet.read_table(commands / 'loop' / name / 'selection.parquet')
                     for name in ('picks', 'picks_2'))
    keys = [set(zip(one.column('dive').to_pylist(), one.column('index').to_pylist(),
                    strict=True)) for one in (first, second)]
    assert len(keys[1]) == 20 and not keys[0] & keys[1]
