# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""From an export by way of imports into a dataset, and from there to the verbs that read it."""

from __future__ import annotations

import json
from pathlib import Path

from calibration_helpers import write_folder
from conftest import make_tiny_bundle
from label_sample import CLASSES, write_log
import numpy as np
import pytest

from uncertainty_seg.calibration.labelled_pairs import drawn_frames
from uncertainty_seg.cli.main import main
from uncertainty_seg.storage.labelled_folder import blocks_path, load_folders, read_blocks


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_two_imports_grow_into_one_dataset_with_what_is_known_of_each_frame(
    tmp_path: Path
) -> None:
    pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels as COCO')
    masks, data = {}, tmp_path / 'data'
    assert run('dataset', 'init', data, '--val-share', 0) == 0
    for number in range(2):
        rng = np.random.default_rng(number)
        name = f'dive_{number}'
        masks[name] = [rng.integers(0, 3, (20 + number, 30)).astype(np.uint8) for _ in range(4)]
        log, out, back = (tmp_path / f'{what}_{number}' for what in ('log', 'out', 'back'))
        # Of the frames of a log the first is a control frame, and the others were flagged.
        write_log(log, masks[name], dive=name)
        assert run('export-labels', log, out, '--format', 'coco') == 0
        assert run('import-labels', out, back, '--format', 'coco', '--accept-unchanged') == 0
        # The images of a log follow from their number: another dive has others by its size.
        assert run('dataset', 'add', data, back) == 0
    every = load_folders([data], ('train', 'val'))
    assert (len(every.stems), every.class_names) == (8, CLASSES.names)
    for stem, mask in zip(every.stems, every.masks, strict=True):
        index = int(stem.split('_')[2]) % 10
        np.testing.assert_array_equal(mask, masks[stem[:6]][index])
    blocks = read_blocks(blocks_path(data, None), every.stems)
    assert blocks.tolist() == [stem[:6] for stem in every.stems]
    assert [stem[:6] for stem in drawn_frames(every, data).stems] == ['dive_0', 'dive_1']
    rows = [json.loads(line) for line in (data / 'frames.jsonl').read_text().splitlines()]
    assert {row['evidence'] for row in rows} == {'accepted unchanged'}
    assert sum('flagged' in row['reason'] for row in rows) == 6
    assert [row['score'] for row in rows] == [0.5, 1.5, 2.5, 3.5] * 2


@pytest.mark.release
def test_calibrate_and_evaluate_take_the_dives_of_a_dataset_for_blocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('sklearn', reason='scikit-learn fits the density')
    data, val = tmp_path / 'data', write_folder(tmp_path / 'val', 150, 2)
    stems = sorted(path.stem for path in (val / 'images').iterdir())
    (val / 'blocks.json').write_text(json.dumps(
        {stem: f'dive {i // 3}' for i, stem in enumerate(stems)}))
    for words in (('init', data), ('add', data, val, '--split', 'val'),
                  ('add', data, write_folder(tmp_path / 'train', 120, 1), '--split', 'train')):
        assert run('dataset', *words) == 0
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    runtime = ('--backend', 'onnxruntime', '--threads', '1')
    assert run('calibrate', bundle, '--data', data, '--bad', 'accuracy<0.6', '--alpha', '0.1',
               *runtime) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    # Of 50 dives a third finds the temperature.
    assert found['promises'][0]['num_blocks'] == 33 and found['num_val'] == 99
    assert run('evaluate', bundle, data, '--corrupt-frames', '1', *runtime) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found['gate']['accepted']['num_blocks'] == 50
