# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Calibration on imported labels: only randomly drawn frames with reviewed labels are used."""

from collections.abc import Mapping
import json
from pathlib import Path
import shutil
from typing import Any

from calibration_helpers import RULE, RUN, splits_of, write_folder
from conftest import make_tiny_bundle
import numpy as np
import pytest

from uncertainty_seg.calibration.labelled_pairs import drawn_frames, without_selected
from uncertainty_seg.cli.main import main
from uncertainty_seg.storage.labelled_folder import load_folder
from uncertainty_seg.storage.review_record import FrameReview, write_review

pytest.importorskip('scipy', reason='scipy computes the bounds')


def record(folder: Path, origins: Mapping[str, str], unseen: tuple[str, ...] = ()) -> None:
    write_review(folder, {stem: FrameReview(stem not in unseen, 'corrected', origin)
                          for stem, origin in origins.items()})


def stems_of(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / 'images').iterdir())


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with training frames, randomly drawn ones, and these plus hard frames."""
    root = tmp_path_factory.mktemp('selected')
    write_folder(root / 'train', 60, 1)
    write_folder(root / 'val', 20, 4)
    drawn = write_folder(root / 'drawn', 60, 2)
    mixed = shutil.copytree(drawn, root / 'mixed')
    write_folder(mixed, 40, 3, bad_share=0.9)
    record(mixed, {stem: 'control' if stem.startswith('frame_2') else 'selected'
                   for stem in stems_of(mixed)})
    return root


def calibrated(bundle: Path, folders: Path, limits: str) -> dict[str, Any]:
    assert main(['calibrate', str(bundle), *splits_of(folders, limits), '--bad', RULE, '--alpha',
                 '0.1', *RUN]) == 0
    found: dict[str, Any] = json.loads((bundle / 'calibration.json').read_text())
    return found


def test_a_promise_is_made_on_what_was_drawn_by_chance_alone(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = {}
    for limits in ('drawn', 'mixed'):
        bundle = make_tiny_bundle(tmp_path / limits, calibrated=False)
        found[limits] = calibrated(bundle, folders, limits)
    assert '40 of 100' in caplog.text and ' 60 ' in caplog.text
    assert found['mixed'] == found['drawn']
    capsys.readouterr()
    assert main(['evaluate', str(tmp_path / 'mixed'), str(folders / 'mixed'), *RUN]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said['is_fitted'] and len(load_folder(folders / 'mixed', 'val').stems) == 100


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if ', expected ' in line]
    assert len(said) == 1
    return said[0]


def test_selected_frames_alone_and_too_few_drawn_ones_are_one_sentence(
    folders: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    val = shutil.copytree(folders / 'drawn', tmp_path / 'val')
    words = ['calibrate', str(tiny_bundle), *splits_of(folders, str(val)), '--bad', RULE,
             '--alpha', '0.1', *RUN]
    record(val, dict.fromkeys(stems_of(val), 'selected'))
    assert 'all 60 frames of' in refused(capsys, words)
    record(val, {stem: 'selected' if index > 7 else 'control'
                 for index, stem in enumerate(stems_of(val))})
    said = refused(capsys, words)
    assert ' 0.1 ' in said and ' 9' in said and '52 of 60' in caplog.text


def test_what_is_not_reviewed_is_refused_by_every_verb(
    folders: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(folders / 'drawn', tmp_path / 'data')
    stems = stems_of(data)
    record(data, dict.fromkeys(stems, 'control'), unseen=tuple(stems[:7]))
    for words in (['calibrate', str(tiny_bundle), '--data', str(data)],
                  ['calibrate', str(tiny_bundle), '--train', str(data), '--val',
                   str(folders / 'val'), '--limits', str(folders / 'drawn')],
                  ['evaluate', str(tiny_bundle), str(data)]):
        said = refused(capsys, [*words, *RUN])
        assert '7 of 60' in said and str(data) in said


@pytest.mark.release
def test_an_evaluation_says_which_frames_it_is_of(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """State them in JSON line and report; selected frames alone do not test a promise."""
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    calibrated(bundle, folders, 'drawn')
    chosen = shutil.copytree(folders / 'drawn', tmp_path / 'chosen')
    record(chosen, dict.fromkeys(stems_of(chosen), 'selected'))
    said, pages = {}, {}
    for data in (folders / 'drawn', folders / 'mixed', chosen):
        capsys.readouterr()
        assert main(['evaluate', str(bundle), str(data), '--report', str(tmp_path / 'e.html'),
                     *RUN]) == 0
        said[data.name] = json.loads(capsys.readouterr().out.splitlines()[-1])
        pages[data.name] = (tmp_path / 'e.html').read_text()
    assert said['drawn']['selected'] is None and said['drawn']['promise'] is not None
    assert 'selected by their scores' not in pages['drawn']
    for name, sentence in (
            ('mixed', '40 of 100 frames of'),
            ('chosen', 'all 60 frames of')):
        assert said[name]['selected'].startswith(sentence)
        assert f'<p class="warning">{sentence[0].upper()}{sentence[1:]}' in pages[name]
    assert said['mixed']['promise'] == said['drawn']['promise']
    assert said['chosen']['promise'] is None and 'are both accepted and bad' in pages['drawn']
    assert 'are both accepted and bad' not in pages['chosen']
    assert said['chosen']['gate']['accepted'] == said['drawn']['gate']['accepted']


def test_a_folder_that_does_not_say_how_it_was_chosen_is_taken_as_drawn(
    folders: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(folders / 'drawn', tmp_path / 'data')
    record(data, dict.fromkeys(stems_of(data), 'selected'))
    read = load_folder(data, 'val')
    same, remark = without_selected(read, data)
    assert same is read and 'were selected by their scores' in remark
    (data / 'review.json').unlink()
    assert drawn_frames(read, data) is read
    np.testing.assert_array_equal(read.masks[0], load_folder(folders / 'drawn', 'val').masks[0])
