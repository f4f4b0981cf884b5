# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""White pixels of an ignore mask affect no score, at any position of the image in the input."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import mask_digest, Promise
from uncertainty_seg.core.gate import VOID
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.storage.foreign_files import load_ignore_mask
from uncertainty_seg.storage.model_bundle import load_bundle

SETTINGS = Settings(backend='onnxruntime', threads=1)


def write(path: Path, mask: np.ndarray) -> str:
    cv2.imwrite(str(path), mask)
    return str(path)


def test_a_pixel_of_any_colour_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    picture = np.zeros((4, 5, 3), np.uint8)
    picture[1, 2, 0], picture[3, 4, 2] = 1, 255
    write(tmp_path / 'mask.png', picture)
    mask = load_ignore_mask('~/mask.png')
    assert mask is not None and np.argwhere(mask).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize('content', [None, b'no picture', np.full((3, 3), 255, np.uint8)])
def test_what_is_no_mask_is_said(tmp_path: Path, content: object) -> None:
    path = tmp_path / 'mask.png'
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        write(path, content)
    with pytest.raises(ConfigError, match='mask.png'):
        load_ignore_mask(str(path))


@pytest.mark.parametrize('size', [(48, 64), (96, 128), (100, 64)])
def test_what_lies_under_the_mask_moves_no_score(
    tiny_bundle: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    """Mask the left half, whose noise raises every score; the network is certain of blue."""
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 255
    sure = image.copy()
    image[:, :width // 2] = np.random.default_rng(0).integers(0, 255, (height, width // 2, 3))
    # The tiny network averages 4x4 blocks, so the mask covers one more block at the edge.
    mask = np.zeros((30, 40), np.uint8)
    mask[:, :24] = 255
    bundle = load_bundle(str(tiny_bundle))
    ignore = load_ignore_mask(write(tmp_path / 'mask.png', mask))
    plain, masked = (open_pipeline(bundle, SETTINGS, i) for i in (None, ignore))
    assert masked.measure(image, 0).scores == pytest.approx(masked.measure(sure, 0).scores)
    assert plain.measure(image, 0).scores['entropy.mean'] \
        > plain.measure(sure, 0).scores['entropy.mean'] + 0.1


def test_another_mask_than_that_of_the_calibration_is_said_and_voids_the_promise(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load_bundle(str(tiny_bundle))
    mask = np.zeros((6, 8), np.bool_)
    mask[0] = True
    assert bundle.calibration is not None
    promised = dataclasses.replace(bundle.calibration, promises=(
        Promise(0.05, {'entropy.mean': 0.7}, 'iou<0.5', 60, 60, 12, 0.04, 0.7, 0.03, 0.1),))
    with_mask = dataclasses.replace(promised, ignore_sha256=mask_digest(mask))
    for calibration, ignore, is_other in (
            (promised, None, False), (promised, mask, True), (with_mask, mask, False),
            (with_mask, ~mask, True), (with_mask, None, True)):
        caplog.clear()
        pipeline = open_pipeline(ModelBundle(bundle.folder, bundle.card, calibration), SETTINGS,
                                 ignore)
        assert ('ignore_mask' in caplog.text) == is_other
        assert ['ignore_mask' in text for text in pipeline.weakened_by] == is_other * [True]
        assert (pipeline.promise == VOID) == is_other
        # Each of several cameras has its own mask.
        assert pipeline.for_camera(None).weakened_by == () or calibration is with_mask
