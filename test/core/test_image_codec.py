# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Image messages: pixels come out right, and bad ones get one sentence."""

from types import SimpleNamespace
from typing import Any

import cv2
from image_oracle import answer, BAYER, EVERY, MOSAICS, PAIRS, PLAIN
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


def noise(encoding: str, height: int, width: int, pad: int = 0, big: bool = False) -> RawImage:
    """Return an image of random bytes; of random numbers from 0 to 1 where they are floats."""
    rows = {'nv12': height * 3 // 2, 'nv21': height * 3 // 2, 'nv24': height * 3}
    if encoding.startswith('32F'):
        values = RNG.random((height, width, int(encoding[-1])), np.float32)
        return raw(values, encoding, pad, big)
    # Four values of two bytes are the most a pixel has.
    step = width * 8 + pad
    data = RNG.integers(0, 256, (rows.get(encoding, height), step), np.uint8)
    return RawImage(data.tobytes(), height, width, encoding, step, big)


def test_the_table_has_every_encoding_of_a_picture() -> None:
    assert sorted(KNOWN_ENCODINGS) == sorted(EVERY)


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('size', [(6, 8), (5, 6), (4, 7), (3, 3), (1, 2), (1, 1)])
@pytest.mark.parametrize('encoding', EVERY)
def test_every_encoding_is_what_its_definition_says(
    encoding: str, size: tuple[int, int], big: bool
) -> None:
    for pad in (0, 5):
        message = noise(encoding, *size, pad, big)
        right = answer(message)
        if right is not None:
            right.check(decode(message))
        else:
            with pytest.raises(ImageError, match='expected (an even width|even sides|at least 3)'):
                decode(message)


@pytest.mark.parametrize('pad', [0, 5])
@pytest.mark.parametrize('encoding, pixels', [
    ('bgr8', BGR),
    ('rgb8', BGR[..., ::-1]),
    ('bgra8', np.dstack([BGR, BGR[..., 0]])),
    ('rgba8', np.dstack([BGR[..., ::-1], BGR[..., 0]])),
    ('8UC3', BGR),
    ('8UC4', np.dstack([BGR, BGR[..., 0]])),
])
def test_colour_orders_come_out_as_bgr_padded_or_not(
    encoding: str, pixels: np.ndarray, pad: int
) -> None:
    np.testing.assert_array_equal(decode(raw(pixels, encoding, pad)), BGR)


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('encoding, order', [
    ('bgr16', [0, 1, 2]), ('rgb16', [2, 1, 0]), ('bgra16', [0, 1, 2, 0]),
    ('rgba16', [2, 1, 0, 0]), ('16UC3', [0, 1, 2]), ('16UC4', [0, 1, 2, 0])])
def test_deep_colours_keep_their_upper_byte(
    encoding: str, order: list[int], big: bool
) -> None:
    values = (BGR[..., order].astype(np.uint16) << 8) + 200
    np.testing.assert_array_equal(decode(raw(values, encoding, 6, big)), BGR)


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


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('pattern', BAYER)
def test_a_coloured_scene_through_each_bayer_pattern_keeps_its_colour(
    pattern: str, bits: int
) -> None:
    color = {'b': 40, 'g': 90, 'r': 200}
    dtype = np.uint8 if bits == 8 else np.uint16
    mosaic = np.zeros((15, 17, 1), dtype)
    for place, name in enumerate(pattern):
        mosaic[place // 2::2, place % 2::2] = color[name] << (bits - 8)
    image = decode(raw(mosaic, f'bayer_{pattern}{bits}', 2, big=bits == 16))
    np.testing.assert_array_equal(image, np.broadcast_to([40, 90, 200], image.shape))


@pytest.mark.parametrize('encoding', MOSAICS)
def test_a_mosaic_equals_opencv_border_included(encoding: str) -> None:
    bits = 8 if encoding.endswith('8') else 16
    code = {'rggb': cv2.COLOR_BayerRGGB2BGR, 'bggr': cv2.COLOR_BayerBGGR2BGR,
            'gbrg': cv2.COLOR_BayerGBRG2BGR, 'grbg': cv2.COLOR_BayerGRBG2BGR}[encoding[6:10]]
    mosaic = RNG.integers(0, 2**bits, (9, 11), np.uint8 if bits == 8 else np.uint16)
    want = cv2.cvtColor(mosaic, code) >> (bits - 8)
    np.testing.assert_array_equal(decode(raw(mosaic[..., None], encoding, 3)), want)


@pytest.mark.parametrize('height', [6, 5])
@pytest.mark.parametrize('encoding', PAIRS)
def test_yuv_in_pairs_equals_opencv(encoding: str, height: int) -> None:
    code = cv2.COLOR_YUV2BGR_YUY2 if 'y2' in encoding or encoding == 'yuyv' \
        else cv2.COLOR_YUV2BGR_UYVY
    packed = RNG.integers(0, 256, (height, 8, 2), np.uint8)
    np.testing.assert_array_equal(decode(raw(packed, encoding, 2)), cv2.cvtColor(packed, code))


@pytest.mark.parametrize('encoding, code', [
    ('nv12', cv2.COLOR_YUV2BGR_NV12), ('nv21', cv2.COLOR_YUV2BGR_NV21)])
def test_yuv_in_planes_equals_opencv_padded_or_not(encoding: str, code: int) -> None:
    planes = RNG.integers(0, 256, (9, 8), np.uint8)
    for pad in (0, 24):
        data = np.hstack([planes, np.full((9, pad), 7, np.uint8)]).tobytes()
        image = decode(RawImage(data, 6, 8, encoding, 8 + pad))
        np.testing.assert_array_equal(image, cv2.cvtColor(planes, code))


def test_chroma_for_every_pixel_or_for_four_is_the_same_where_the_four_are_equal() -> None:
    luma, chroma = RNG.integers(0, 256, (6, 8), np.uint8), RNG.integers(0, 256, (3, 4, 2),
                                                                        np.uint8)
    dense = chroma.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(
        decode(RawImage(luma.tobytes() + dense.tobytes(), 6, 8, 'nv24', 8)),
        decode(RawImage(luma.tobytes() + chroma.tobytes(), 6, 8, 'nv12', 8)))


def test_what_is_left_out_after_the_last_row_is_not_missed() -> None:
    message = raw(BGR, 'bgr8', 8)
    short = RawImage(bytes(message.data)[:-8], 6, 8, 'bgr8', message.step)
    np.testing.assert_array_equal(decode(short), BGR)


@pytest.mark.parametrize('image, words', [
    (RawImage(b'', 0, 8, 'bgr8', 24), '8x0 pixels'),
    (RawImage(b'', 6, 0, 'bgr8', 0), '0x6 pixels'),
    (RawImage(b'', 1, 1, 'bgr8', 3), 'image with 0 bytes, expected at least 3'),
    (RawImage(bytes(144), 6, 8, 'bgr8', 20), 'step 20 for 8 pixels of bgr8, expected at least 24'),
    (RawImage(bytes(100), 6, 8, 'bgr8', 24), '100 bytes, expected at least 144'),
    (RawImage(bytes(144), 6, 8, 'bgr9', 24), "encoding 'bgr9', expected one of bgr8"),
    (RawImage(bytes(144), 6, 8, '64FC1', 64), "encoding '64FC1', expected one of bgr8"),
    (RawImage(bytes(81), 2, 9, 'bayer_rggb8', 9), 'expected at least 3 pixels a side'),
    (RawImage(bytes(30), 3, 5, 'yuyv', 10), 'yuyv image of 5x3, expected an even width'),
    (RawImage(bytes(48), 5, 6, 'nv12', 6), 'nv12 image of 6x5, expected even sides'),
    (RawImage(bytes(48), 6, 8, 'nv12', 8), '48 bytes, expected at least 72'),
])
def test_a_bad_message_gets_one_sentence(image: RawImage, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decode(image)


@pytest.mark.parametrize('height, width, step', [
    (10**5, 10**4, 3 * 10**4), (1, 10**9, 3 * 10**9), (10**9, 1, 3), (2**32 - 1, 2**32 - 1, 2**34),
    (2**32 - 1, 1, 2**32 - 1)])
@pytest.mark.parametrize('encoding', EVERY)
def test_a_header_that_claims_more_than_there_is_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, encoding: str, height: int, width: int, step: int
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError('something was made of a header without pixels')

    for name in ('ascontiguousarray', 'asarray', 'repeat', 'rint'):
        monkeypatch.setattr(f'uncertainty_seg.core.image_codec.np.{name}', refuse)
    with pytest.raises(ImageError, match='image (with 10 bytes|step)'):
        decode(RawImage(bytes(10), height, width, encoding, step))


@pytest.mark.parametrize('value, words', [
    (np.nan, '1 values that are NaN'), (np.inf, 'NaN or infinite'), (7.0, 'from 0 to 7'),
    (-0.5, 'from -0.5')])
def test_a_float_image_with_strange_values_is_refused(value: float, words: str) -> None:
    pixels = np.zeros((4, 4, 1), np.float32)
    pixels[2, 1] = value
    with pytest.raises(ImageError, match=words):
        decode(raw(pixels, '32FC1'))


# To values without colours (8UC3, 32FC1) it gives none.
@pytest.mark.parametrize('encoding', [*MOSAICS, *PAIRS, *(n for n in PLAIN if n[0].islower())])
def test_rosbags_image_sees_the_same_where_it_can(encoding: str) -> None:
    """It knows no padding, no NV24, and scales 16 bits by 255/65535 instead of cutting them."""
    library = pytest.importorskip('rosbags.image', reason='rosbags-image is not installed')
    is_deep = encoding.endswith('16')
    pixel_bytes = {'mono8': 1, 'mono16': 2, **dict.fromkeys(PAIRS, 2),
                   **{name: bits // 8 for name, (bits, _) in MOSAICS.items()}}.get(
        encoding, (4 if 'a' in encoding else 3) * (2 if is_deep else 1))
    data = RNG.integers(0, 256, 6 * 8 * pixel_bytes, np.uint8)
    for big in (False, True) if is_deep else (False,):
        msg = SimpleNamespace(height=6, width=8, encoding=encoding, step=8 * pixel_bytes,
                              is_bigendian=big, data=data)
        other = library.image_to_cvimage(msg, 'bgr8')
        ours = decode(RawImage(data, 6, 8, encoding, msg.step, big))
        assert np.abs(ours.astype(int) - other).max() <= is_deep
