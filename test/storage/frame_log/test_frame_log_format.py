# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Reading a frame log: encoding of the map, skipped and refused files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
from frame_log_helpers import ABOUT, HEIGHT, log_frame, settings, WIDTH
import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.errors import FrameLogError
from uncertainty_seg.storage.frame_log.format import (
    iter_frames,
    uncertainty_from_uint16,
    uncertainty_to_uint16,
)
from uncertainty_seg.storage.frame_log.log import FrameLog


def test_known_values_of_the_map() -> None:
    values = np.array([[0.0, 0.5, 1.0], [np.nan, -0.1, 7.0]], np.float32)
    expected = [[0, 32767, 65534], [65535, 0, 65534]]
    np.testing.assert_array_equal(uncertainty_to_uint16(values), expected)


@hypothesis.given(hnp.arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)
                             | st.just(float('nan'))))
def test_the_map_comes_back(values: NDArray[np.float32]) -> None:
    back = uncertainty_from_uint16(uncertainty_to_uint16(values))
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    np.testing.assert_allclose(back, values, atol=0.51 / 65534)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Write a log of three frames."""
    frame_log = FrameLog(tmp_path / 'log', settings(), ABOUT)
    for number in range(3):
        frame_log.offer(log_frame(number))
    assert frame_log.close(20)
    return tmp_path / 'log'


def test_no_log_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FrameLogError):
        list(iter_frames(tmp_path))


@pytest.mark.parametrize('damage', [
    '{', '{"version": 1}', '{"version": 99}', '[]', None, '[' * 10**6,
    '{"version": 1, "frame_id": "x", "image": {"file": "/etc/x.png"}, "stamp_ns": 1}',
    '{"version": 1, "frame_id": "x", "image": {"file": "../../x.png"}, "stamp_ns": 1}',
    '{"version": 1, "frame_id": "x", "image": {"file": "x.png"}, "stamp_ns": 1e999}',
    *(f'{{"version": 1, "frame_id": "x", "image": {{"file": "x.png"}}, "stamp_ns": 1, {verdict}}}'
      for verdict in ('"verdict": null', '"verdict": {"score_ratio": "1"}',
                      '"verdict": {"reasons": 7}')),
], ids=['cut', 'lacking', 'version', 'list', 'gone', 'deep', 'absolute', 'above', 'infinite',
        'verdict', 'ratio', 'reasons'])
def test_a_damaged_frame_is_told_or_left_out(log: Path, damage: str | None) -> None:
    second = sorted((log / 'frames').iterdir())[1] / 'frame.json'
    second.unlink() if damage is None else second.write_text(damage)
    problems: list[str] = []
    assert len(list(iter_frames(log, problems))) == 2
    assert len(problems) == 1 and 'frame.json' in problems[0]
    with pytest.raises(FrameLogError):
        list(iter_frames(log))


@pytest.mark.parametrize('name', ['image.png', 'mask.png', 'uncertainty.png'])
@pytest.mark.parametrize('damage', ['empty', 'cut', 'other', 'gone'])
def test_a_damaged_file_is_one_sentence(log: Path, name: str, damage: str) -> None:
    frame = next(iter_frames(log))
    path = frame.folder / name
    data = path.read_bytes()
    # An 8-bit colour image is neither a valid map nor a valid mask.
    other = cv2.imencode('.png', np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()
    path.write_bytes({'empty': b'', 'cut': data[:40], 'other': other, 'gone': b''}[damage])
    if damage == 'gone':
        path.unlink()
    readers: dict[str, Callable[[], NDArray[Any]]] = {
        'image.png': frame.read_image, 'mask.png': frame.read_mask,
        'uncertainty.png': frame.read_uncertainty}
    if (name, damage) == ('image.png', 'other'):
        assert not readers[name]().any()  # a valid image
        return
    with pytest.raises(FrameLogError, match=name):
        readers[name]()


def test_hidden_folders_are_not_frames(log: Path) -> None:
    for name in ('.new-1', '.gone-2'):
        (log / 'frames' / name).mkdir()
    assert len(list(iter_frames(log))) == 3
