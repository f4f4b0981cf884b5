# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Data that cannot give a promise is refused before the network runs."""

from collections.abc import Callable
import json
import os
from pathlib import Path
import shutil

from calibration_helpers import RULE, splits_of, write_folder
from calibration_helpers import RUN as NODE
from conftest import make_tiny_bundle
import cv2
import numpy as np
import pytest

from uncertainty_seg import errors as libraries
from uncertainty_seg.calibration import calibrate as calibration_run
from uncertainty_seg.calibration import evaluate as evaluation_run
from uncertainty_seg.calibration.labelled_pairs import known_frames
from uncertainty_seg.cli.main import main
from uncertainty_seg.core.calibration import image_digest
from uncertainty_seg.storage.labelled_folder import load_folder
from uncertainty_seg.storage.model_bundle import load_bundle

pytest.importorskip('scipy')
pytest.importorskip('matplotlib')
RUN = [*NODE, '--bad', RULE]


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a frame is measured."""
    def measure(*_: object, **__: object) -> None:
        raise AssertionError('measured')

    for module in (calibration_run, evaluation_run):
        monkeypatch.setattr(module, 'evaluate', measure)


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('data')
    write_folder(root / 'train', 40, 1)
    write_folder(root / 'val', 20, 2)
    write_folder(root / 'limits', 40, 3)
    return root


def twin_of(split: str) -> Callable[[Path], None]:
    """Return a function that copies an image of `limits` into another split."""
    def spoil(root: Path) -> None:
        image = sorted((root / 'limits' / 'images').iterdir())[5].read_bytes()
        sorted((root / split / 'images').iterdir())[7].write_bytes(image)

    return spoil


def trained_on(root: Path) -> None:
    """Change the card to list an image of `limits` as a training image."""
    card = json.loads((root / 'tiny' / 'card.json').read_text())
    image = cv2.imread(str(root / 'limits' / 'images' / 'frame_3_004.png'))
    (root / 'tiny' / 'card.json').write_text(
        json.dumps({**card, 'seen_images': image_digest(image)}))
    (root / 'tiny' / 'SHA256SUMS').unlink()


@pytest.mark.parametrize(('words', 'spoil', 'sentence'), [
    (['--scores', 'entropy.median'], None, 'entropy.median'),
    (['--report', 'missing/r.html'], None, 'missing/r.html'),
    (['--report', '.'], None, 'it is a folder'),
    ([], twin_of('train'), "'frame_3_005', which is 'frame_1_007'"),
    ([], twin_of('val'), "'frame_3_005', which is 'frame_2_007'"),
    ([], trained_on, "'frame_3_004'"),
])
@pytest.mark.usefixtures('no_run')
def test_it_is_said_before_anything_is_measured(
    folders: Path, tmp_path: Path, words: list[str],
    spoil: Callable[[Path], None] | None, sentence: str, capsys: pytest.CaptureFixture[str],
) -> None:
    root = shutil.copytree(folders, tmp_path / 'data')
    bundle = make_tiny_bundle(root / 'tiny', calibrated=False)
    if spoil:
        spoil(root)
    code = main(['calibrate', str(bundle), *splits_of(root), *RUN, *words])
    assert code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(('words', 'named'), [
    (['--like', 'other', '--bad', 'iou<0.5'], '--bad'),
    (['--like', 'other', '--alpha', '0.05', '0.1'], '--alpha'),
    (['--like', 'other', '--blocks', 'b.csv'], '--blocks'), (['--error', '0.005'], '--error'),
])
def test_an_option_that_would_not_be_used_is_refused_and_not_passed_over(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['calibrate', 'suim', '--data', 'none', *words]) == 2
    assert named in capsys.readouterr().err.split(', expected')[0]


@pytest.mark.parametrize(('verb', 'library'), [
    *(('calibrate', name) for name in ('scipy', 'matplotlib', 'jinja2')),
    *(('evaluate', name) for name in ('scipy', 'matplotlib', 'jinja2')),
])
@pytest.mark.usefixtures('no_run')
def test_a_library_that_is_missing_at_the_end_is_missed_at_the_beginning(
    tiny_bundle: Path, folders: Path, tmp_path: Path, verb: str, library: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    find = libraries.find_spec
    monkeypatch.setattr(libraries, 'find_spec',
                        lambda name: None if name == library else find(name))
    data = splits_of(folders) if verb == 'calibrate' else [str(folders / 'val')]
    code = main([verb, str(tiny_bundle), *data, '--report', str(tmp_path / 'r.html'), *RUN])
    assert code == 1
    assert library in capsys.readouterr().err


@pytest.mark.usefixtures('no_run')
def test_a_bundle_or_a_report_that_may_not_be_written(
    tiny_bundle: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    closed = tmp_path / 'closed'
    closed.mkdir()
    answers = {tiny_bundle: False, closed: False}
    ask = os.access
    monkeypatch.setattr(os, 'access', lambda path, mode: answers.get(Path(path), ask(path, mode)))
    assert main(['calibrate', str(tiny_bundle), *splits_of(folders), *RUN]) == 2
    assert f'bundle {tiny_bundle} is read-only' in capsys.readouterr().err
    assert main(['evaluate', str(tiny_bundle), str(folders / 'val'), '--report',
                 str(closed / 'r.html'), *RUN]) == 2
    assert str(closed) in capsys.readouterr().err


def test_frames_that_nobody_knows_are_left_out_and_counted(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / 'val', 5, 3)
    for index in (1, 3):
        path = folder / 'masks' / f'frame_3_00{index}.png'
        cv2.imwrite(str(path), np.full((48, 64), 255, np.uint8))
    found = known_frames(load_bundle(str(tiny_bundle)), load_folder(folder, 'val'), '')
    assert found.stems == ['frame_3_000', 'frame_3_002', 'frame_3_004']
    assert len(found.pairs) == 3 and all((mask != 255).all() for _, mask in found.pairs)
    assert '2 of 5' in caplog.text


def test_nothing_is_known_under_the_ignore_mask(tiny_bundle: Path, tmp_path: Path) -> None:
    """Ignore the left half, with a mask of another size; one frame has labels only there."""
    folder = write_folder(tmp_path / 'val', 2, 3)
    path = folder / 'masks' / 'frame_3_001.png'
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    mask[:, 32:] = 255
    cv2.imwrite(str(path), mask)
    ignore = np.zeros((10, 20), np.uint8)
    ignore[:, :10] = 255
    cv2.imwrite(str(tmp_path / 'ignore.png'), ignore)
    data = load_folder(folder, 'val')
    found = known_frames(load_bundle(str(tiny_bundle)), data, str(tmp_path / 'ignore.png'))
    assert found.stems == ['frame_3_000']
    (_, known), = found.pairs
    assert (known[:, :32] == 255).all()
    np.testing.assert_array_equal(known[:, 32:], data.masks[0][:, 32:])
