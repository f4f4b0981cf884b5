# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Images and files in messages: correct pixels, and one sentence for invalid ones."""

import struct
from typing import Any

from bombs import black_jpeg, black_png, chunk, text_bomb
from cases import for_each
import cv2
from image_oracle import EVERY
import numpy as np
import pytest

from uncertainty_seg.core.image_codec import (
    check_file,
    decode,
    decode_unchanged,
    ImageFile,
    MAX_CHUNKS,
    MAX_SEGMENTS,
    RawImage,
)
from uncertainty_seg.core.settings import DecodeLimits, MAX_PIXELS
from uncertainty_seg.errors import ImageError

RNG = np.random.default_rng(0)
BGR = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def raw(pixels: np.ndarray, encoding: str, pad: int = 0, big: bool = False) -> RawImage:
    height, width = pixels.shape[:2]
    dtype = pixels.dtype.newbyteorder('>' if big else '<')
    rows = pixels.astype(dtype).reshape(height, -1).view(np.uint8)
    padded = np.hstack([rows, np.full((height, pad), 77, np.uint8)])
    return RawImage(padded.tobytes(), height, width, encoding, padded.shape[1], big)


@for_each('image, named', [
    (RawImage(b'', 0, 8, 'bgr8', 24), '8x0'), (RawImage(b'', 6, 0, 'bgr8', 0), '0x6'),
    (RawImage(b'', 1, 1, 'bgr8', 3), '0 bytes'), (RawImage(bytes(144), 6, 8, 'bgr8', 20), '24'),
    (RawImage(bytes(100), 6, 8, 'bgr8', 24), '144'),
    (RawImage(bytes(144), 6, 8, 'bgr9', 24), "'bgr9'"),
    (RawImage(bytes(144), 6, 8, '64FC1', 64), "'64FC1'"),
    (RawImage(bytes(48), 6, 8, 'nv12', 8), '72'),
])
def test_a_bad_message_is_refused_with_what_came(image: RawImage, named: str) -> None:
    with pytest.raises(ImageError, match=named):
        decode(image)


@for_each('height, width, step', [
    (10**5, 10**4, 3 * 10**4), (1, 10**9, 3 * 10**9), (10**9, 1, 3), (2**32 - 1, 2**32 - 1, 2**34),
    (2**32 - 1, 1, 2**32 - 1)])
@for_each('encoding', EVERY)
def test_a_header_that_claims_more_than_there_is_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, encoding: str, height: int, width: int, step: int
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError('something was made of a header without pixels')

    for name in ('ascontiguousarray', 'asarray', 'repeat', 'rint'):
        monkeypatch.setattr(f'uncertainty_seg.core.image_codec.np.{name}', refuse)
    with pytest.raises(ImageError, match='10 bytes|step'):
        decode(RawImage(bytes(10), height, width, encoding, step))


@for_each('value', [np.nan, np.inf, -np.inf, 7.0, -0.5])
def test_a_float_image_with_strange_values_is_refused(value: float) -> None:
    pixels = np.zeros((4, 4, 1), np.float32)
    pixels[2, 1] = value
    with pytest.raises(ImageError):
        decode(raw(pixels, '32FC1'))


# --- JPEG and PNG files --------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
# JPEG changes flat areas by one or two levels at most.
SMOOTH = np.full((40, 48, 3), (30, 90, 200), np.uint8)


def packed(pixels: Any, kind: str = '.png', *options: int) -> bytes:
    is_done, data = cv2.imencode(kind, pixels, options)
    assert is_done
    return bytes(data.tobytes())


def png_of(width: int, height: int, *chunks: bytes, depth: int = 8, color: int = 2) -> bytes:
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, color, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + b''.join((header, *chunks, chunk(b'IEND')))


def jpeg_header(width: int, height: int, kind: int = 0xC0) -> bytes:
    frame = struct.pack('>HBHHB', 17, 8, height, width, 3) + bytes(9)
    return (b'\xff\xd8\xff\xe0' + struct.pack('>H', 4) + b'xx' + bytes((0xFF, kind)) + frame
            + b'\xff\xda' + struct.pack('>H', 12) + bytes(10) + b'\x00' * 40 + b'\xff\xd9')


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError('the decoder was asked')

    monkeypatch.setattr(cv2, 'imdecode', refuse)


@pytest.mark.parametrize('text', ['png', 'bgr8; png compressed bgr8', 'rgb8; png compressed bgr8',
                                  'bgra8; png compressed bgr8', 'yuv422; png compressed bgr8',
                                  'jpeg', 'rgb8', '', 'anything'])
def test_a_png_comes_out_as_it_went_in_whatever_its_format_is_called(text: str) -> None:
    np.testing.assert_array_equal(decode(ImageFile(packed(PIXELS), text)), PIXELS)


def test_grey_alpha_and_sixteen_bits_are_reduced_as_in_messages() -> None:
    grey = np.repeat(PIXELS[..., :1], 3, 2)
    deep = (PIXELS.astype(np.uint16) << 8) + 200
    np.testing.assert_array_equal(decode(ImageFile(packed(PIXELS[..., 0]))), grey)
    np.testing.assert_array_equal(
        decode(ImageFile(packed(np.dstack([PIXELS, PIXELS[..., 0]])))), PIXELS)
    np.testing.assert_array_equal(
        decode(ImageFile(packed(deep), 'bgr16; png compressed bgr16')), PIXELS)
    np.testing.assert_array_equal(
        decode(ImageFile(packed(deep[..., 0]), '16UC1; png compressed ')), grey)


@pytest.mark.parametrize('options', [
    (), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)])
@pytest.mark.parametrize('text', ['jpeg', 'rgb8; jpeg compressed bgr8', 'bgr8; jpeg compressed ',
                                  'png', ''])
def test_a_jpeg_keeps_its_colours(text: str, options: tuple[int, ...]) -> None:
    image = decode(ImageFile(packed(SMOOTH, '.jpg', *options), text))
    assert np.abs(image.astype(int) - SMOOTH).max() <= 3


@pytest.mark.parametrize('kind', ['.png', '.jpg'])
def test_a_file_that_was_cut_anywhere_is_refused(kind: str) -> None:
    data = packed(RNG.integers(0, 256, (16, 16, 3), np.uint8), kind)
    for length in range(len(data)):
        with pytest.raises(ImageError):
            decode(ImageFile(data[:length], 'jpeg'))


@pytest.mark.usefixtures('no_decoder')
def test_a_jpeg_that_was_cut_does_not_reach_a_decoder_that_would_paint_the_rest_grey() -> None:
    with pytest.raises(ImageError):
        decode(ImageFile(packed(SMOOTH, '.jpg')[:-2]))


@for_each('data', [jpeg_header(8, 8), png_of(8, 8)])
def test_a_header_without_pixels_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode(ImageFile(data, 'jpeg'))


@pytest.mark.usefixtures('no_decoder')
@for_each('data, named', [
    (b'', "''"), (b'x', "'78'"), (b'II*\0' + bytes(90), "'49 49 2a 00'"),
    (b'\x89PNG\r\n\x1a\n', 'byte 8'), (b'\xff\xd8', 'byte 2'), (b'\xff\xd8\xff\xd9', 'byte 2'),
    (b'\xff\xd8\xff\xe0\0\0\xff\xd9', 'byte 2'), (b'\xff\xd8' + b'\xff' * 50, 'byte 49'),
    (jpeg_header(8, 8, 0xC9), 'SOF9'), (jpeg_header(8, 0), '8x0'), (png_of(0, 3), '0x3'),
    (png_of(8, 8)[:-1], 'byte 33'), (png_of(8, 8, chunk(b'IHDR')), 'byte 33'),
    (png_of(8, 8, chunk(b'acTL', bytes(8))), 'animated'),
    # Stated sizes beyond the data; OpenCV 4.14 would allocate the stated size of a chunk.
    (png_of(31623, 31623), '45 bytes'), (png_of(1000, 1000), '45 bytes'),
    (png_of(2**32 - 1, 2**32 - 1, depth=16, color=6), '45 bytes'),
    (png_of(8, 8, chunk(b'IDAT', bytes(9), claimed=2**31 - 1)), 'byte 33'),
    (png_of(8, 8, chunk(b'tEXt', bytes(9), claimed=2**32 - 1)), 'byte 33'),
    (jpeg_header(65535, 65535), '83 bytes'), (jpeg_header(1000, 1000), '83 bytes'),
    (png_of(8193, 8192, chunk(b'IDAT', bytes(10**6))), str(MAX_PIXELS)),
    (jpeg_header(8193, 8192) + bytes(10**6), str(MAX_PIXELS)),
])
def test_what_is_no_image_does_not_reach_the_decoder(data: bytes, named: str) -> None:
    with pytest.raises(ImageError, match=named):
        decode(ImageFile(data, 'png'))


@pytest.mark.parametrize('kind, options', [
    ('.png', (cv2.IMWRITE_PNG_COMPRESSION, 9)),
    ('.jpg', (cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_QUALITY, 1)),
    ('.jpg', (cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, 1))])
@pytest.mark.parametrize('shape', [(2000, 3000), (2000, 3000, 3)])
def test_the_emptiest_honest_image_is_not_taken_for_a_lie(
    shape: tuple[int, ...], kind: str, options: tuple[int, ...]
) -> None:
    data = packed(np.zeros(shape, np.uint8), kind, *options)
    assert check_file(ImageFile(data)).size == (2000, 3000)


def test_a_decoder_that_throws_or_disagrees_with_the_header_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    def throw(*_: Any) -> Any:
        raise cv2.error('out of memory')

    monkeypatch.setattr(cv2, 'imdecode', throw)
    with pytest.raises(ImageError):
        decode(ImageFile(packed(PIXELS)))
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: PIXELS.transpose(1, 0, 2))
    with pytest.raises(ImageError):
        decode(ImageFile(packed(PIXELS)))


# --- The cost of decoding a file -----------------------------------------------------------------

# The compressed size of 8192x8192 zero pixels of 8 bytes.
DEEP = chunk(b'IDAT', bytes(600_000))


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize('make, words', [
    # These took 120 s and 1.3 GB before there were limits.
    (lambda: black_jpeg(64, 64, 3000), '3000'),
    (lambda: png_of(8192, 8192, DEEP, depth=16, color=6), str(MAX_PIXELS)),
    (lambda: b'\xff\xd8' + b'\xff' * (MAX_SEGMENTS + 9), '1000'),
    (lambda: b'\xff\xd8' + b'\xff\xfe\0\2' * (MAX_SEGMENTS + 1), '1000'),
    (lambda: png_of(8, 8, chunk(b'tEXt') * MAX_CHUNKS), '65536'),
], ids=['scans', 'deep pixels', 'filling', 'segments', 'chunks'])
def test_a_file_that_is_expensive_does_not_reach_the_decoder(make: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decode(ImageFile(make(), 'jpeg'))


def test_only_what_makes_the_pixels_of_a_png_reaches_the_decoder(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    imdecode = cv2.imdecode

    def spy(data: Any, flags: int) -> Any:
        seen.append(bytes(data))
        return imdecode(data, flags)

    monkeypatch.setattr(cv2, 'imdecode', spy)
    plain = black_png(6, 8)
    extra = text_bomb(3) + chunk(b'eXIf', bytes(99)) + chunk(b'iCCP', b'a\0\0' + bytes(99))
    np.testing.assert_array_equal(decode(ImageFile(black_png(6, 8, extra=extra))),
                                  np.zeros((6, 8, 3)))
    assert seen == [plain]
    critical = chunk(b'ABCD', b'nobody knows this one')
    with pytest.raises(ImageError):
        decode(ImageFile(black_png(6, 8, extra=critical)))


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize('image, words', [
    (ImageFile(black_png(40, 48)), '48x40.*max_image_px'),
    (ImageFile(packed(SMOOTH, '.jpg')), '48x40.*max_image_px'),
    (RawImage(bytes(48 * 40), 40, 48, 'mono8', 48), '48x40.*max_image_px'),
    (ImageFile(black_png(30, 30, 16, 6)), '30x30.*8 bytes.*max_image_px'),
])
def test_what_is_larger_than_the_settings_allow_is_refused_by_name(
    image: RawImage | ImageFile, words: str
) -> None:
    with pytest.raises(ImageError, match=words):
        decode(image, DecodeLimits(1000))


def test_values_that_are_no_colours_come_out_unchanged() -> None:
    deep = RNG.integers(0, 2**16, (5, 6), np.uint16)
    for values in (deep, PIXELS[..., 0], PIXELS):
        np.testing.assert_array_equal(decode_unchanged(ImageFile(packed(values))), values)
    with pytest.raises(ImageError, match=str(MAX_PIXELS)):
        decode_unchanged(ImageFile(png_of(8192, 8192, DEEP, depth=16, color=6)))
