# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Exports, read by the tools they are for: Label Studio's SDK, datumaro, LabelMe, FiftyOne.

The tools live in a folder of their own, since they pin other versions of OpenCV and numpy:
UNCERTAINTY_SEG_LABEL_TOOLS, filled by ``pip install --target FOLDER -r
scripts/requirements/label_tools.txt`` of this Python. FiftyOne wants a database:
UNCERTAINTY_SEG_FIFTYONE is the Python of an environment with it (docs/labels.md).

"""

from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys

from label_sample import CLASSES, make_frame, REASON
import numpy as np
import pytest

pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels as COCO')

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.data.labels.formats import READERS, write_export  # noqa: E402
from uncertainty_seg.data.labels.frames import LabelFrame, read_mask, read_table  # noqa: E402
from uncertainty_seg.data.labels.label_studio import decode_brush  # noqa: E402
from uncertainty_seg.storage.review_record import is_prediction  # noqa: E402

WORKER = Path(__file__).resolve().parents[2] / 'rigs' / 'label_tools_worker.py'
KINDS = ('label-studio', 'cvat', 'coco', 'labelme', 'voc')


def frames_to_send() -> list[LabelFrame]:
    blocks = np.full((37, 41), 255, np.uint8)
    blocks[3:30, 5:25], blocks[10:20, 20:41], blocks[36] = 0, 1, 2
    return [make_frame(0, (33, 20)), make_frame(1, (7, 9), 'dive 2'),
            make_frame(2, (37, 41), mask=blocks),
            make_frame(3, (5, 5), mask=np.ones((5, 5), np.uint8))]


def read_by_tools(
    root: Path, frames: list[LabelFrame], kinds: tuple[str, ...], python: str, path: str | None
) -> None:
    for kind in kinds:
        write_export(root / kind, kind, frames, CLASSES)
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    if path is not None:
        environment['PYTHONPATH'] = path
    done = subprocess.run(
        [python, str(WORKER), str(root), *kinds], text=True, capture_output=True, timeout=180,
        env={**environment, 'FIFTYONE_DO_NOT_TRACK': 'true', 'QT_QPA_PLATFORM': 'offscreen',
             'FIFTYONE_DATABASE_DIR': str(root / 'database')})
    assert done.returncode == 0, done.stderr[-2000:]


def require_equal(root: Path, kind: str, frames: list[LabelFrame]) -> None:
    with np.load(root / f'{kind}.npz') as masks:
        assert set(masks) == {frame.stem for frame in frames}
        for frame in frames:
            np.testing.assert_array_equal(masks[frame.stem], frame.mask, kind)
    reasons = json.loads((root / f'{kind}.json').read_text())
    if kind not in ('coco', 'voc'):  # datumaro keeps no field that COCO does not name
        assert reasons == {frame.stem: REASON for frame in frames}


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    places = [os.environ.get('UNCERTAINTY_SEG_LABEL_TOOLS', ''),
              str(Path(sys.prefix) / 'label_tools')]
    found = [place for place in places if place and Path(place).is_dir()]
    if not found:
        pytest.skip('the labelling tools are not here (set UNCERTAINTY_SEG_LABEL_TOOLS)')
    folder = tmp_path_factory.mktemp('exports')
    read_by_tools(folder, frames_to_send(), KINDS, sys.executable, found[0])
    return folder


@pytest.mark.parametrize('kind', KINDS)
def test_the_tool_sees_every_pixel_and_the_reason(kind: str, root: Path) -> None:
    if not (root / f'{kind}.npz').is_file():
        pytest.skip(f'the reader of {kind} is not installed in UNCERTAINTY_SEG_LABEL_TOOLS')
    require_equal(root, kind, frames_to_send())


def test_what_label_studio_packs_is_unpacked(root: Path) -> None:
    file = root / 'label-studio' / 'packed_by_sdk.json'
    if not file.is_file():
        pytest.skip('label-studio-sdk is not installed in UNCERTAINTY_SEG_LABEL_TOOLS')
    packed = json.loads(file.read_text())
    for frame in frames_to_send():
        np.testing.assert_array_equal(
            decode_brush(packed[frame.stem], frame.height, frame.width), frame.mask == 1)


def test_what_datumaro_makes_of_voc_is_known_as_the_prediction(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has VOC's unknown pixels as a class of their own."""
    back = root / 'voc' / 'back'
    if not back.is_dir():
        pytest.skip('datumaro is not installed in UNCERTAINTY_SEG_LABEL_TOOLS')
    assert 'ignored' in (back / 'annotations' / 'instances_default.json').read_text()
    words = ['import-labels', str(back), str(tmp_path / 'out'), '--format', 'coco', '--frames',
             str(root / 'voc')]
    assert main(words) == 2
    assert '4 of 4 masks came back as they were exported' in capsys.readouterr().err
    assert main([*words, '--accept-unchanged', '--shares', 'train=1.0']) == 0
    for frame in frames_to_send():
        np.testing.assert_array_equal(
            read_mask(tmp_path / 'out' / 'masks' / f'{frame.stem}.png'), frame.mask)


@pytest.mark.release
def test_fiftyone_imports_its_data_set(tmp_path: Path) -> None:
    python = os.environ.get('UNCERTAINTY_SEG_FIFTYONE', '')
    if not python:
        pytest.skip('no FiftyOne is here (set UNCERTAINTY_SEG_FIFTYONE to its Python)')
    frames = frames_to_send()
    read_by_tools(tmp_path, frames, ('fiftyone',), python, None)
    require_equal(tmp_path, 'fiftyone', frames)
    targets = json.loads((tmp_path / 'fiftyone' / 'targets.json').read_text())
    assert targets == {str(index): name for index, name in enumerate(CLASSES.names)}
    with np.load(tmp_path / 'fiftyone' / 'maps.npz') as maps:
        for frame in frames:
            assert frame.uncertainty is not None
            np.testing.assert_allclose(maps[frame.stem] / 255, frame.uncertainty, atol=1 / 500)
    # Its own export to a plain folder copies the files of masks, with what they say.
    plain = sorted((tmp_path / 'fiftyone' / 'plain' / 'labels').iterdir())
    assert len(plain) == len(frames) and all(map(is_prediction, plain))
    back = {one.stem: one for one in READERS['fiftyone'](
        tmp_path / 'fiftyone' / 'back', read_table(tmp_path / 'fiftyone'))}
    first, second, *others = sorted(frames, key=lambda frame: frame.stem)
    assert (back[first.stem].mask == 0).all() and not back[first.stem].mark
    assert back[second.stem].mark == 'reviewed in FiftyOne'
    for frame in (second, *others):
        np.testing.assert_array_equal(back[frame.stem].mask, frame.mask)
