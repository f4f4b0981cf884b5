# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What is painted white counts in no score, wherever the image lies in the network's input."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import mask_digest
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.storage.ignore_mask import load_ignore_mask
from uncertainty_seg.storage.model_bundle import load_bundle

SETTINGS = Settings(backend='onnxruntime', threads=1)


def write(path: Path, mask: np.ndarray) -> str:
    cv2.imwrite(str(path), mask)
    return str(path)


def test_no_path_is_no_mask() -> None:
    assert load_ignore_mask('') is None


def test_a_pixel_of_any_colour_is_left_out(tmp_path: Path) -> None:
    picture = np.zeros((4, 5, 3), np.uint8)
    picture[1, 2, 0], picture[3, 4, 2] = 1, 255
    mask = load_ignore_mask(write(tmp_path / 'mask.png', picture))
    assert mask is not None and np.argwhere(mask).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(('content', 'words'), [
    (None, 'cannot be read, expected a picture'),
    (b'no picture', 'cannot be read, expected a picture'),
    (np.full((3, 3), 255, np.uint8), 'leaves out every pixel'),
])
def test_what_is_no_mask_is_said(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / 'mask.png'
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        write(path, content)
    with pytest.raises(ConfigError, match=words):
        load_ignore_mask(str(path))


@pytest.mark.parametrize('size', [(48, 64), (96, 128), (100, 64)])
def test_what_lies_under_the_mask_moves_no_score(
    tiny_bundle: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    """The left half is noise, of which the whole frame's scores are full; blue is sure."""
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 255
    sure = image.copy()
    image[:, :width // 2] = np.random.default_rng(0).integers(0, 255, (height, width // 2, 3))
    # The tiny network averages blocks of 4x4 pixels: one more of them belongs to the noise.
    mask = np.zeros((30, 40), np.uint8)
    mask[:, :24] = 255
    bundle = load_bundle(str(tiny_bundle))
    ignore = load_ignore_mask(write(tmp_path / 'mask.png', mask))
    plain, masked = (open_pipeline(bundle, SETTINGS, i) for i in (None, ignore))
    assert masked.measure(image, 0).scores == pytest.approx(masked.measure(sure, 0).scores)
    assert plain.measure(image, 0).scores['entropy.mean'] \
        > plain.measure(sure, 0).scores['entropy.mean'] + 0.1


def test_another_mask_than_that_of_the_calibration_is_said(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load_bundle(str(tiny_bundle))
    mask = np.zeros((6, 8), np.bool_)
    mask[0] = True
    open_pipeline(bundle, SETTINGS)
    assert 'another ignore mask' not in caplog.text
    open_pipeline(bundle, SETTINGS, mask)
    assert 'calibrated with another ignore mask' in caplog.text
    caplog.clear()
    assert bundle.calibration is not None
    with_mask = dataclasses.replace(bundle.calibration, ignore_sha256=mask_digest(mask))
    masked = ModelBundle(bundle.folder, bundle.card, with_mask)
    open_pipeline(masked, SETTINGS, mask)
    assert 'another ignore mask' not in caplog.text
    open_pipeline(masked, SETTINGS, ~mask)
    assert 'another ignore mask' in caplog.text
