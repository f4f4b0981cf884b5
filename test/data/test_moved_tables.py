# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Tables whose sources and bundle are found from other folders and by other paths."""

import json
from pathlib import Path
import shutil

from conftest import make_tiny_bundle
import cv2
import numpy as np
import pytest

parquet = pytest.importorskip('pyarrow.parquet', reason='pyarrow is not installed: no tables')

from test_label_sources import random_images  # noqa: E402

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.storage import model_bundle  # noqa: E402
from uncertainty_seg.storage.bags.writer import BagWriter  # noqa: E402


@pytest.fixture
def work(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with a bag, a bundle, and their score table."""
    folder = tmp_path / 'work'
    shutil.copytree(tiny_bundle, folder / 'models' / 'mine')
    with BagWriter(folder / 'dives' / 'one') as bag:
        for index, image in enumerate(random_images(6)):
            bag.write_image('/cam/image_raw', 10**9 * (index + 1), 'cam', image, 'bgr8')
    monkeypatch.chdir(folder)
    assert main(['score', 'dives', '--out', 'table', '--set', 'model=models/mine']) == 0
    return folder


def chosen(folder: Path) -> list[int]:
    return sorted(parquet.read_table(folder / 'selection.parquet').column('index').to_pylist())


def select(table: object, out: object, *words: object) -> int:
    return main(['select', str(table), '-o', str(out), '--min-gap', '0',
                 *map(str, words)])


def test_what_is_labelled_is_known_by_whatever_path_it_was_scored(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert select('table', 'first', '-n', 4) == 0
    assert main(['score', str(work / 'dives'), '--out', 'again', '--set',
                 'model=models/mine']) == 0
    assert select('again', 'second', '-n', 2, '--labelled', 'first') == 0
    # The remaining frames, whose dive keeps its one name.
    assert chosen(work / 'second') == sorted(set(range(6)) - set(chosen(work / 'first')))
    dives = parquet.read_table(work / 'second' / 'selection.parquet').column('dive').to_pylist()
    assert set(dives) == {'one'}
    assert 'share a name' not in capsys.readouterr().err


def test_a_dive_that_begins_as_another_one_is_not_labelled_with_it(work: Path) -> None:
    black = np.zeros((48, 64, 3), np.uint8)
    for dive in ('north', 'south'):
        (work / dive / 'frames').mkdir(parents=True)
        for index, image in enumerate([black, *random_images(2, seed=len(dive) + ord(dive[0]))]):
            cv2.imwrite(str(work / dive / 'frames' / f'{index}.png'), image)
        assert main(['score', f'{dive}/frames', '--out', f'of {dive}',
                     '--set', 'model=models/mine']) == 0
    for labelled, other in (('north', 'south'), ('south', 'north')):
        assert main(['select', 'of north', 'of south', '-n', '6', '-o', f'not {labelled}',
                     '--min-gap', '0', '--min-distance', '0',
                     '--labelled', f'of {labelled}']) == 0
        rows = parquet.read_table(work / f'not {labelled}' / 'selection.parquet')
        assert rows.column('source').to_pylist() == [f'{other}/frames'] * 3


def export(capsys: pytest.CaptureFixture[str], *words: object) -> int:
    """Run labels export; return the number of exported frames."""
    capsys.readouterr()
    assert main(['labels', 'export', *map(str, words), '--format', 'folder']) == 0
    frames: int = json.loads(capsys.readouterr().out.splitlines()[-1])['frames']
    return frames


def test_a_bundle_by_a_relative_path_is_found_from_another_folder(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(['select', str(work / 'table'), '-n', '3', '-o', 'picks']) == 0
    page = (elsewhere / 'picks' / 'contact_sheet.html').read_text()
    assert 'no model' not in page and 'another model' not in page
    # --root names the folder of the sources of a moved selection.
    assert export(capsys, 'picks', 'out', '--root', work) == 3


def test_the_shipped_model_of_a_table_is_never_a_folder_of_that_name(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(work / 'models' / 'mine', tmp_path / 'shipped' / 'net')
    monkeypatch.setattr(model_bundle, 'models_folders', lambda: [tmp_path / 'shipped'])
    assert main(['score', 'dives', '--out', 'of net', '--set', 'model=net']) == 0
    assert select('of net', 'picks', '-n', 3) == 0
    other = make_tiny_bundle(work / 'net', words='another network')
    assert export(capsys, 'picks', 'out') == 3
    # The name alone is now ambiguous and refused.
    assert main(['score', 'dives', '--out', 'new', '--set', 'model=net']) == 2
    said = capsys.readouterr().err
    assert "'net'" in said and said.count('\n') == 1
    assert main(['score', 'dives', '--out', 'new', '--set', f'model=./{other.name}']) == 0
