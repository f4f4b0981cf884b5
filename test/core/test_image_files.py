# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""JPEG and PNG files: pixels and colours come out right, damage and lies get one sentence."""

import struct
from typing import Any
import zlib

import cv2
import numpy as np
import pytest

from uncertainty_seg.core.image_codec import check_file, decode, ImageFile, MAX_PIXELS, RawImage
from uncertainty_seg.errors import ImageError

RNG = np.random.default_rng(0)
BGR = RNG.integers(0, 256, (7, 9, 3), np.uint8)
# Flat patches survive JPEG within a level or two.
SMOOTH = np.full((40, 48, 3), (30, 90, 200), np.uint8)


def packed(pixels: Any, kind: str = '.png', *options: int) -> bytes:
    is_done, data = cv2.imencode(kind, pixels, options)
    assert is_done
    return bytes(data.tobytes())


def chunk(kind: bytes, body: bytes = b'', claimed: int | None = None) -> bytes:
    length = len(body) if claimed is None else claimed
    return struct.pack('>I', length) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


def png_of(width: int, height: int, *chunks: bytes, depth: int = 8, color: int = 2) -> bytes:
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, color, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + b''.join((header, *chunks, chunk(b'IEND')))


def jpeg_header(width: int, height: int, kind: int = 0xC0) -> bytes:
    frame = struct.pack('>HBHHB', 17, 8, height, width, 3) + bytes(9)
    return (b'\xff\xd8\xff\xe0' + struct.pack('>H', 4) + b'xx' + bytes((0xFF, kind)) + frame
            + b'\xff\xda' + struct.pack('>H', 12) + bytes(10) + b'\x00' * 40 + b'\xff\xd9')


@pytest.mark.parametrize('text', ['png', 'bgr8; png compressed bgr8', 'rgb8; png compressed bgr8',
                                  'bgra8; png compressed bgr8', 'yuv422; png compressed bgr8',
                                  'jpeg', 'rgb8', '', 'anything'])
def test_a_png_comes_out_as_it_went_in_whatever_its_format_is_called(text: str) -> None:
    np.testing.assert_array_equal(decode(ImageFile(packed(BGR), text)), BGR)


@pytest.mark.parametrize('text', ['rgb8; png compressed rgb8', 'bgr8; png compressed rgb8',
                                  'rgb16; png compressed rgb16'])
def test_a_publisher_that_packed_red_first_is_understood(text: str) -> None:
    np.testing.assert_array_equal(decode(ImageFile(packed(BGR[..., ::-1]), text)), BGR)


def test_grey_alpha_and_sixteen_bits_are_reduced_as_in_messages() -> None:
    grey = np.repeat(BGR[..., :1], 3, 2)
    deep = (BGR.astype(np.uint16) << 8) + 200
    np.testing.assert_array_equal(decode(ImageFile(packed(BGR[..., 0]))), grey)
    np.testing.assert_array_equal(decode(ImageFile(packed(np.dstack([BGR, BGR[..., 0]])))), BGR)
    np.testing.assert_array_equal(
        decode(ImageFile(packed(deep), 'bgr16; png compressed bgr16')), BGR)
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


def test_padding_after_the_end_of_a_jpeg_is_no_damage() -> None:
    data = packed(SMOOTH, '.jpg')
    np.testing.assert_array_equal(
        decode(ImageFile(data + bytes(100))), decode(ImageFile(data)))


@pytest.mark.parametrize('text, is_mosaic', [
    ('bayer_grbg8; png compressed ', True), ('bayer_grbg8; png compressed bayer_grbg8', True),
    ('bayer_grbg8; jpeg compressed mono8', False), ('mono8; png compressed ', False),
    ('bayer_xxxx8; png compressed ', False)])
def test_a_mosaic_that_was_packed_as_it_is_gets_its_colours(text: str, is_mosaic: bool) -> None:
    mosaic = BGR[..., 0].copy()
    raw = RawImage(mosaic.tobytes(), 7, 9, 'bayer_grbg8' if is_mosaic else 'mono8', 9)
    np.testing.assert_array_equal(decode(ImageFile(packed(mosaic), text)), decode(raw))


def test_a_deep_mosaic_in_a_png_gets_its_colours() -> None:
    mosaic = RNG.integers(0, 2**16, (7, 9), np.uint16)
    raw = RawImage(mosaic.astype('<u2').tobytes(), 7, 9, 'bayer_rggb16', 18)
    np.testing.assert_array_equal(
        decode(ImageFile(packed(mosaic), 'bayer_rggb16; png compressed ')), decode(raw))


def test_an_orientation_in_the_metadata_does_not_turn_the_image() -> None:
    # TIFF block, one entry: tag 0x112 (orientation) = 6, a quarter turn.
    tiff = b'II*\0' + struct.pack('<IHHHIHHI', 8, 1, 0x112, 3, 1, 6, 0, 0)
    block = b'Exif\0\0' + tiff
    data = packed(SMOOTH, '.jpg')
    turned = data[:2] + b'\xff\xe1' + struct.pack('>H', len(block) + 2) + block + data[2:]
    by_default: Any = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)
    assert by_default.shape == (48, 40, 3)
    np.testing.assert_array_equal(decode(ImageFile(turned)), decode(ImageFile(data)))


@pytest.mark.parametrize('kind', ['.png', '.jpg'])
def test_a_file_that_was_cut_anywhere_is_refused(kind: str) -> None:
    data = packed(RNG.integers(0, 256, (16, 16, 3), np.uint8), kind)
    for length in range(len(data)):
        with pytest.raises(ImageError, match='breaks off|without its end|pixels in|begins with'):
            decode(ImageFile(data[:length], 'jpeg'))


def test_a_jpeg_that_was_cut_does_not_reach_a_decoder_that_would_paint_the_rest_grey(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: np.full((40, 48, 3), 128, np.uint8))
    data = packed(SMOOTH, '.jpg')
    with pytest.raises(ImageError, match='without its end, expected a whole file'):
        decode(ImageFile(data[:-2]))


def test_a_bit_that_was_flipped_in_a_png_is_noticed() -> None:
    data = bytearray(packed(BGR))
    data[len(data) // 2] ^= 4
    with pytest.raises(ImageError, match='cannot be decoded'):
        decode(ImageFile(bytes(data)))


@pytest.mark.parametrize('data, words', [
    (b'', "begins with ''"), (b'x', "begins with '78'"),
    (b'II*\0' + bytes(90), "begins with '49 49 2a 00', expected a jpeg or png file"),
    (b'RIFF' + bytes(90), 'set the format of the camera to jpeg or png'),
    (b'\x89PNG\r\n\x1a\n', 'png image of 8 bytes that breaks off at byte 8'),
    (b'\xff\xd8', 'header breaks off at byte 2'),
    (b'\xff\xd8\xff\xd9', 'header breaks off'),
    (b'\xff\xd8\xff\xe0\0\0\xff\xd9', 'header breaks off'),
    (b'\xff\xd8' + b'\xff' * 50, 'header breaks off at byte 49'),
    (jpeg_header(8, 8, 0xC9), 'kind SOF9, expected baseline or progressive'),
    (jpeg_header(8, 8), 'cannot be decoded'),
    (jpeg_header(8, 0), '8x0 pixels, expected at least 1x1'),
    (png_of(0, 3), '0x3 pixels'),
    (png_of(8, 8), 'cannot be decoded'),
    (png_of(8, 8)[:-1], 'breaks off at byte 33'),
    (png_of(8, 8, chunk(b'IHDR')), 'breaks off at byte 33'),
    (png_of(8, 8, chunk(b'acTL', bytes(8))), 'animated png image, expected one of a single'),
], ids=lambda value: value if isinstance(value, str) else 'file')
def test_what_is_no_image_gets_one_sentence(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decode(ImageFile(data, 'jpeg'))


@pytest.mark.parametrize('text', ['16UC1; compressedDepth png', '32FC1; compressedDepth rvl',
                                  '16UC1; compressedDepth'])
def test_depth_is_no_picture(text: str) -> None:
    with pytest.raises(ImageError, match='depth is no picture'):
        decode(ImageFile(bytes(12) + packed(BGR), text))


@pytest.mark.parametrize('data, words', [
    (png_of(31623, 31623), 'in 45 bytes'),
    (png_of(2**32 - 1, 2**32 - 1, depth=16, color=6), 'in 45 bytes'),
    # OpenCV 4.14 would allocate what a chunk claims.
    (png_of(8, 8, chunk(b'IDAT', bytes(9), claimed=2**31 - 1)), 'breaks off at byte 33'),
    (png_of(8, 8, chunk(b'tEXt', bytes(9), claimed=2**32 - 1)), 'breaks off at byte 33'),
    (jpeg_header(65535, 65535), 'in 83 bytes'),
    (jpeg_header(1000, 1000), 'in 83 bytes'),
    (png_of(1000, 1000), 'in 45 bytes'),
    (png_of(8193, 8192, chunk(b'IDAT', bytes(10**6))), f'at most {MAX_PIXELS} pixels'),
    (jpeg_header(8193, 8192) + bytes(10**6), f'at most {MAX_PIXELS} pixels'),
], ids=lambda value: value if isinstance(value, str) else 'file')
def test_a_file_that_claims_more_than_there_is_does_not_reach_the_decoder(
    monkeypatch: pytest.MonkeyPatch, data: bytes, words: str
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError('the decoder was asked')

    monkeypatch.setattr(cv2, 'imdecode', refuse)
    with pytest.raises(ImageError, match=words):
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
    assert check_file(ImageFile(data)) == (2000, 3000)


def test_a_decoder_that_throws_or_disagrees_with_the_header_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    def throw(*_: Any) -> Any:
        raise cv2.error('out of memory')

    monkeypatch.setattr(cv2, 'imdecode', throw)
    with pytest.raises(ImageError, match='cannot be decoded'):
        decode(ImageFile(packed(BGR)))
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: BGR.transpose(1, 0, 2))
    with pytest.raises(ImageError, match='cannot be decoded'):
        decode(ImageFile(packed(BGR)))
