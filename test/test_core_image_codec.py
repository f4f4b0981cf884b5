# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Image messages: pixels come out right, and bad ones get one sentence."""

import cv2
import numpy as np
import pytest

from uncertainty_seg.core.image_codec import decode, KNOWN_ENCODINGS, RawImage
from uncertainty_seg.errors import ImageError

RNG = np.random.default_rng(0)
BGR = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def raw(pixels: np.ndarray, encoding: str, pad: int = 0, big: bool = False) -> RawImage:
    height, width = pixels.shape[:2]
    dtype = pixels.dtype.newbyteorder('>' if big else '<')
    rows = pixels.astype(dtype).reshape(height, -1).view(np.uint8)
    padded = np.hstack([rows, np.full((height, pad), 77, np.uint8)])
    return RawImage(padded.tobytes(), height, width, encoding, padded.shape[1], big)


@pytest.mark.parametrize('pad', [0, 5])
@pytest.mark.parametrize('encoding, pixels', [
    ('bgr8', BGR),
    ('rgb8', BGR[..., ::-1]),
    ('bgra8', np.dstack([BGR, BGR[..., 0]])),
    ('rgba8', np.dstack([BGR[..., ::-1], BGR[..., 0]])),
    ('8UC3', BGR),
])
def test_colour_orders_come_out_as_bgr_padded_or_not(
    encoding: str, pixels: np.ndarray, pad: int
) -> None:
    np.testing.assert_array_equal(decode(raw(pixels, encoding, pad)), BGR)


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('encoding', ['mono16', '16UC1'])
def test_sixteen_bits_keep_their_upper_byte_in_both_byte_orders(encoding: str, big: bool) -> None:
    values = (BGR[..., 0].astype(np.uint16) << 8) + 200
    image = decode(raw(values[..., None], encoding, 4, big))
    np.testing.assert_array_equal(image, np.repeat(BGR[..., :1], 3, 2))


def test_mono_becomes_grey() -> None:
    np.testing.assert_array_equal(
        decode(raw(BGR[..., :1], 'mono8', 3)), np.repeat(BGR[..., :1], 3, 2))


@pytest.mark.parametrize('big', [False, True])
def test_float_images_are_zero_to_one(big: bool) -> None:
    np.testing.assert_array_equal(
        decode(raw((BGR / 255).astype(np.float32), '32FC3', 0, big)), BGR)


@pytest.mark.parametrize('encoding, offsets', [
    ('bayer_rggb8', {'r': (0, 0), 'b': (1, 1)}),
    ('bayer_bggr8', {'b': (0, 0), 'r': (1, 1)}),
    ('bayer_gbrg8', {'b': (0, 1), 'r': (1, 0)}),
    ('bayer_grbg8', {'r': (0, 1), 'b': (1, 0)}),
])
def test_a_red_scene_through_each_bayer_pattern_is_red(
    encoding: str, offsets: dict[str, tuple[int, int]]
) -> None:
    mosaic = np.zeros((16, 16, 1), np.uint8)
    y, x = offsets['r']
    mosaic[y::2, x::2] = 200
    centre = decode(raw(mosaic, encoding))[4:-4, 4:-4].reshape(-1, 3).mean(0)
    assert centre[2] > 150
    assert centre[0] < 5


@pytest.mark.parametrize('encoding, code', [
    ('yuv422', cv2.COLOR_YUV2BGR_UYVY), ('yuv422_yuy2', cv2.COLOR_YUV2BGR_YUY2)])
def test_yuv_equals_opencv(encoding: str, code: int) -> None:
    packed = RNG.integers(0, 256, (6, 8, 2), np.uint8)
    np.testing.assert_array_equal(decode(raw(packed, encoding, 2)), cv2.cvtColor(packed, code))


def test_every_known_encoding_decodes_something() -> None:
    for encoding in KNOWN_ENCODINGS:
        size = 8 * 4 * 4 * 4
        image = decode(RawImage(bytes(8 * size), 8, 8, encoding, size))
        assert image.shape == (8, 8, 3), encoding
        assert image.dtype == np.uint8


@pytest.mark.parametrize('image, words', [
    (RawImage(b'', 0, 8, 'bgr8', 24), '8x0 pixels'),
    (RawImage(b'', 6, 0, 'bgr8', 0), '0x6 pixels'),
    (RawImage(bytes(144), 6, 8, 'bgr8', 20), 'step 20 for 8 pixels of bgr8, expected at least 24'),
    (RawImage(bytes(100), 6, 8, 'bgr8', 24), '100 bytes, expected at least 144'),
    (RawImage(bytes(144), 6, 8, 'bgr9', 24), "encoding 'bgr9', expected one of bgr8"),
    (RawImage(bytes(81), 9, 9, 'bayer_rggb8', 9), 'expected even sides'),
])
def test_a_bad_message_gets_one_sentence(image: RawImage, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decode(image)


@pytest.mark.parametrize('value, words', [
    (np.nan, '1 values that are NaN'), (np.inf, 'NaN or infinite'), (7.0, 'from 0 to 7'),
    (-0.5, 'from -0.5')])
def test_a_float_image_with_strange_values_is_refused(value: float, words: str) -> None:
    pixels = np.zeros((4, 4, 1), np.float32)
    pixels[2, 1] = value
    with pytest.raises(ImageError, match=words):
        decode(raw(pixels, '32FC1'))
