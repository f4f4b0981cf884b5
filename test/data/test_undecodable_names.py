# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""File names that are not UTF-8, as from old archives, from score to export."""

import os
from pathlib import Path
import shutil

import cv2
import numpy as np
import pytest

pytest.importorskip('pyarrow', reason='pyarrow is not installed: no score tables')
pytest.importorskip('jinja2')
pytest.importorskip('pycocotools')

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.storage.score_rows import read_rows  # noqa: E402

# Two bytes of Latin-1 that are not valid UTF-8.
ODD = os.fsdecode(b'\xff\xe9')
RUN = ['--set', 'threads=1', '--set', 'backend=onnxruntime']


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a dive whose images have such names."""
    root, rng = tmp_path / f'root_{ODD}', np.random.default_rng(0)
    (root / 'good').mkdir(parents=True)
    for number in range(6):
        png = cv2.imencode('.png', rng.integers(0, 255, (48, 64, 3), np.uint8))[1]
        (root / 'good' / f'im{ODD}{number}.png').write_bytes(png.tobytes())
    return root


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.release
def test_pictures_and_folders_of_any_name_go_all_the_way(
    root: Path, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run all verbs; the dive is given by a relative path, other folders have such names."""
    monkeypatch.chdir(root)
    table, selection, sent, labels, data = (str(tmp_path / f'{name}_{ODD}') for name in (
        'table', 'selection', 'sent', 'labels', 'data'))
    sources = ['--root', str(root)]
    assert main(['score', 'good', '--out', table, '--set', f'model={tiny_bundle}', *RUN]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(['select', table, '-n', '3', '--out', selection, *sources]) == 0
    page = (Path(selection) / 'contact_sheet.html').read_bytes().decode()
    assert page.count('data:image/') >= 3
    assert main(['labels', 'export', selection, sent, '--format', 'folder', *sources]) == 0
    assert main(['labels', 'import', sent, labels, '--format', 'folder', '--accept-unchanged',
                 '--shares', 'train=1.0']) == 0
    assert main(['dataset', 'add', data, labels]) == 0
    # Without its sources a page has no pictures, and names the folders that are missing.
    shutil.rmtree(root)
    assert main(['browse', table, '-o', str(tmp_path / 'bare.html')]) == 0


def test_a_dive_that_no_table_can_name_is_one_sentence_and_the_others_are_scored(
    root: Path, tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(root / 'good', tmp_path / 'dives' / 'one')
    shutil.copytree(root / 'good', tmp_path / 'dives' / f'two_{ODD}')
    words = ['score', str(tmp_path / 'dives'), '--out', str(tmp_path / 'table'), '--set',
             f'model={tiny_bundle}', *RUN]
    assert main(words) == 1
    assert "two_\\udcff\\udce9'" in said(capsys)
    assert len(read_rows(tmp_path / 'table')) == 6


def test_labelled_images_of_such_names_are_refused_in_a_sentence(
    root: Path, tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / 'good', tmp_path / 'data' / 'images')
    (tmp_path / 'data' / 'masks').mkdir()
    data = str(tmp_path / 'data')
    for words in (['evaluate', str(tiny_bundle), data, *RUN],
                  ['dataset', 'add', str(tmp_path / 'grown'), data],
                  ['active-learn', 'active', '--pool', data, '--test', data, '--out',
                   str(tmp_path / 'study')]):
        assert main(words) == 2
        assert f'6 images of {data} ' in said(capsys)
