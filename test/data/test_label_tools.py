# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Exports read by the labelling tools' own code: Label Studio's SDK and datumaro.

The tools are in a separate folder, since they pin other versions of OpenCV and numpy:
UNCERTAINTY_SEG_LABEL_TOOLS, filled by ``pip install --target FOLDER -r
scripts/requirements/label_tools.txt`` of this Python.
"""

import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import cv2
from label_sample import CLASSES, make_frame, REASON
import numpy as np
import pytest

pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels as COCO')

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.data.label_formats import decode_brush, write_export  # noqa: E402
from uncertainty_seg.data.label_frames import LabelFrame  # noqa: E402
from uncertainty_seg.storage.labelled_folder import read_mask  # noqa: E402

pytestmark = pytest.mark.release
WORKER = Path(__file__).resolve().parents[1] / 'rigs' / 'label_tools_worker.py'
BANDS = 'ö潜 bands'


def frames_to_send() -> list[LabelFrame]:
    """Return masks with holes, split regions, unknown pixels, and names in other scripts."""
    rings = np.full((60, 80), 255, np.uint8)
    rings[5:55, 10:70], rings[15:45, 20:60], rings[22:38, 30:50], rings[28:32, 36:44] = 0, 1, 0, 2
    noise = cv2.GaussianBlur(np.random.default_rng(0).random((240, 320)), (0, 0), 20)
    nested = np.digitize(noise, np.quantile(noise, [0.3, 0.7, 0.9])).astype(np.uint8)
    nested[nested == 3] = 255
    # Wavy bands from edge to edge, so that no class has a hole.
    edge = (160 + 30 * np.sin(np.arange(240) / 20))[:, None]
    bands = np.digitize(np.arange(320)[None] - edge, [-60, 60]).astype(np.uint8)
    return [make_frame(0, (33, 20)), make_frame(1, (7, 9), 'dive 2'), named('ö潜 rings', rings),
            named('ö潜 nested', nested), named(BANDS, bands),
            make_frame(5, (5, 5), mask=np.ones((5, 5), np.uint8))]


def named(stem: str, mask: Any) -> LabelFrame:
    return make_frame(2, mask.shape, 'Tauchgang é', mask, stem=stem, file=f'{stem}.png')


def require_equal(root: Path, kind: str, frames: list[LabelFrame]) -> None:
    with np.load(root / f'{kind}.npz') as masks:
        assert set(masks) == {frame.row.stem for frame in frames}
        for frame in frames:
            np.testing.assert_array_equal(masks[frame.row.stem], frame.mask, kind)
    reasons = json.loads((root / f'{kind}.json').read_text())
    if kind != 'coco':  # datumaro drops fields that are not in COCO
        assert reasons == {frame.row.stem: REASON for frame in frames}


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    places = [os.environ.get('UNCERTAINTY_SEG_LABEL_TOOLS', ''),
              str(Path(sys.prefix) / 'label_tools')]
    found = [place for place in places if place and Path(place).is_dir()]
    if not found:
        pytest.skip('the labelling tools are not here (set UNCERTAINTY_SEG_LABEL_TOOLS)')
    folder = tmp_path_factory.mktemp('exports')
    for kind in ('label-studio', 'coco'):
        write_export(folder / kind, kind, frames_to_send(), CLASSES)
    done = subprocess.run([sys.executable, str(WORKER), str(folder)], text=True, timeout=180,
                          capture_output=True, env={**os.environ, 'PYTHONPATH': found[0]})
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize('kind', ['label-studio', 'coco'])
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
            decode_brush(packed[frame.row.stem], *frame.mask.shape), frame.mask == 1)


@pytest.mark.parametrize('kind', ['cvat', 'voc_segmentation', 'label_me', 'polygons'])
def test_masks_go_by_datumaro_to_other_tools_and_back(
    kind: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compare: mask formats keep every pixel; polygons fill holes and move borders by 2 pixels."""
    back = root / 'back' / kind
    if not back.is_dir():
        pytest.skip('datumaro is not installed in UNCERTAINTY_SEG_LABEL_TOOLS')
    out = tmp_path / 'out'
    words = ['labels', 'import', str(back), str(out), '--frames', str(root / 'coco'),
             '--format', 'coco', '--shares', 'train=1.0']
    if kind != 'polygons':
        # They were not corrected, so an import refuses them.
        assert main(words) == 2
        assert '6 of 6 masks' in capsys.readouterr().err
    assert main([*words, '--accept-unchanged']) == 0
    for frame in frames_to_send():
        mask = read_mask(out / 'masks' / f'{frame.row.stem}.png')
        if kind != 'polygons':
            np.testing.assert_array_equal(mask, frame.mask)
        elif frame.row.stem == BANDS:
            wrong, cross = mask != frame.mask, np.ones((5, 5), np.uint8)
            border = cv2.dilate(frame.mask, cross) != cv2.erode(frame.mask, cross)
            border[[0, -1]] = border[:, [0, -1]] = True
            assert 0 < wrong.mean() < 0.02 and not (wrong & ~border).any()
