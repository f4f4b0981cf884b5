# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Every script of examples/ runs unchanged, and so do the first lines of the README."""

import os
from pathlib import Path
import re
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / 'examples').glob('0*.py'))


def run(folder: Path, *words: str) -> str:
    """Run Python in a folder; return its output."""
    done = subprocess.run([sys.executable, *words], cwd=folder, text=True, capture_output=True,
                          check=False, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_an_example_is_short() -> None:
    assert len(EXAMPLES) == 7
    assert [path.name for path in EXAMPLES if len(path.read_text().splitlines()) >= 64] == []


def test_the_python_of_the_readme_says_that_a_clear_scene_is_confident(tmp_path: Path) -> None:
    blocks = re.findall(r'^```python\n(.*?)^```$', (ROOT / 'README.md').read_text(),
                        re.MULTILINE | re.DOTALL)
    assert run(tmp_path, '-c', blocks[0]).startswith('True')


# 06 and 07 need a node (test_mission_example), 08 an export (test_tutorial_loop).
@pytest.mark.release
@pytest.mark.timeout(600)
@pytest.mark.parametrize('name, argument, texts', [
    ('01_one_image', '', ['confident: True']),
    ('02_maps', 'maps.png', ['clear   confident: True', 'turbid  confident: False',
                             'diver   confident: False']),
    ('03_own_network', 'net', ['20 passes', 'no promise: the bundle has no calibration']),
    ('04_calibrate', '30', ['promised: at most 10%', 'on other scenes: mean IoU 0.']),
    ('05_replay_a_bag', '', [' of 80 frames are confident', 's  uncertain: ']),
])
def test_an_example_runs(name: str, argument: str, texts: list[str], tmp_path: Path) -> None:
    packages = {'03_own_network': 'torch', '04_calibrate': 'scipy'}
    pytest.importorskip(packages.get(name, 'numpy'))
    said = run(tmp_path, str(ROOT / 'examples' / f'{name}.py'), *argument.split())
    assert [text for text in texts if text not in said] == [], said
