# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""An image under several names counts as one frame, and a labelled image is not foreign."""

import json
from pathlib import Path
import shutil

from calibration_helpers import RUN, splits_of, write_folder
from conftest import make_tiny_bundle
import cv2
import numpy as np
import pytest

pytest.importorskip('scipy', reason='scipy computes the bounds')
pytest.importorskip('matplotlib', reason='matplotlib draws the report')

from uncertainty_seg.calibration.labelled_pairs import (  # noqa: E402
    KnownFrames,
    warn_of_lone_frames,
    without_twins,
)
from uncertainty_seg.cli.main import main  # noqa: E402

RULE = ['--bad', 'accuracy<0.6']


def copy_frames(folder: Path, times: int) -> None:
    """Copy all frames of a folder under other names."""
    for path in sorted(folder.glob('*/*.png')):
        for k in range(1, times):
            shutil.copy(path, path.with_name(f'copy_{k}_{path.name}'))


def test_copies_in_other_blocks_are_left_out_and_those_in_their_own_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    images = [np.full((4, 4, 3), value, np.uint8) for value in (1, 2, 1, 1, 3)]
    masks = [np.full((4, 4), value, np.uint8) for value in (0, 1, 0, 0, 2)]
    known = KnownFrames(list(zip(images, masks, strict=True)), list('abcde'))
    left, blocks = without_twins(known, np.array(['x', 'y', 'x', 'z', 'z']))
    assert left.stems == ['a', 'b', 'c', 'e'] and blocks.tolist() == ['x', 'y', 'x', 'z']
    assert '1 of 5' in caplog.text and ' d' in caplog.text
    # Frames of unknown dives form a block each.
    for names, count in (blocks, 1), (np.array(['frame a', 'frame b']), 2):
        warn_of_lone_frames(names)
        assert len(caplog.records) == count


def test_copies_do_not_buy_a_promise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refuse alpha 0.05, which needs 19 blocks: 18 images with two copies each are 18 blocks."""
    for seed, (name, count) in enumerate((('train', 40), ('val', 10), ('limits', 18))):
        write_folder(tmp_path / name, count, seed)
    copy_frames(tmp_path / 'limits', 3)
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    assert main(['calibrate', str(bundle), *splits_of(tmp_path), *RULE, *RUN]) == 2
    said = capsys.readouterr().err
    assert '18 ' in said and ' 0.05 ' in said


def test_figures_and_intervals_are_those_without_the_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ignore copies, which as separate blocks would narrow intervals by 3 ** -0.5."""
    data = write_folder(tmp_path / 'data', 30, 3)
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    lines = []
    for times in (1, 3):
        copy_frames(data, times)
        assert main(['evaluate', str(bundle), str(data), *RUN]) == 0
        lines.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert lines[0] == lines[1]


def test_one_image_with_two_masks_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_folder(tmp_path / 'data', 4, 4)
    copy_frames(data, 2)
    cv2.imwrite(str(data / 'masks' / 'copy_1_frame_4_000.png'), np.zeros((48, 64), np.uint8))
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    assert main(['evaluate', str(bundle), str(data), *RUN]) == 2
    said = capsys.readouterr().err
    assert "'frame_4_000'" in said and "'copy_1_frame_4_000'" in said


@pytest.mark.parametrize('verb', ['evaluate', 'compare'])
def test_labelled_frames_are_not_foreign(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exclude them: as foreign frames they would give an AUROC of 0.5."""
    data = write_folder(tmp_path / 'data', 120, 5, splits=True)
    ood = write_folder(tmp_path / 'ood', 3, 6)
    shutil.copy(data / 'images' / 'frame_5_070.png', ood / 'images' / 'reef.png')
    bundle, other = (str(make_tiny_bundle(tmp_path / name, calibrated=False))
                     for name in ('tiny', 'other'))
    words = {'evaluate': ['evaluate', bundle, str(data)],
             'compare': ['evaluate', bundle, other, str(data)]}
    assert main([*words[verb], '--ood', str(ood), *RULE, *RUN]) == 2
    said = capsys.readouterr().err
    assert '1 of 4' in said and "'reef.png'" in said and "'frame_5_070'" in said
