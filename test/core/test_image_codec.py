# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Images and files in messages: pixels come out right, damage and lies get one sentence."""

import struct
from typing import Any

from bombs import black_jpeg, black_png, chunk, text_bomb
from cases import for_each
import cv2
from image_oracle import answer, EVERY, MOSAICS, PAIRS
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


@for_each('big', [False, True])
@for_each('size', [(6, 8), (5, 6), (4, 7), (3, 3), (1, 2), (1, 1)])
@for_each('encoding', EVERY)
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
@pytest.mark.parametrize('encoding', ['mono16', '16UC1'])
def test_sixteen_bits_keep_their_upper_byte_in_both_byte_orders(encoding: str, big: bool) -> None:
    values = (BGR[..., 0].astype(np.uint16) << 8) + 200
    image = decode(raw(values[..., None], encoding, 4, big))
    np.testing.assert_array_equal(image, np.repeat(BGR[..., :1], 3, 2))


@pytest.mark.parametrize('big', [False, True])
def test_float_images_are_zero_to_one(big: bool) -> None:
    np.testing.assert_array_equal(
        decode(raw((BGR / 255).astype(np.float32), '32FC3', 0, big)), BGR)


@for_each('encoding', MOSAICS)
def test_a_mosaic_equals_opencv_border_included(encoding: str) -> None:
    bits = 8 if encoding.endswith('8') else 16
    code = {'rggb': cv2.COLOR_BayerRGGB2BGR, 'bggr': cv2.COLOR_BayerBGGR2BGR,
            'gbrg': cv2.COLOR_BayerGBRG2BGR, 'grbg': cv2.COLOR_BayerGRBG2BGR}[encoding[6:10]]
    mosaic = RNG.integers(0, 2**bits, (9, 11), np.uint8 if bits == 8 else np.uint16)
    want = cv2.cvtColor(mosaic, code) >> (bits - 8)
    np.testing.assert_array_equal(decode(raw(mosaic[..., None], encoding, 3)), want)


@for_each('height', [6, 5])
@for_each('encoding', PAIRS)
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


# --- JPEG and PNG files --------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
# Flat patches survive JPEG within a level or two.
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
    data = bytearray(packed(PIXELS))
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
    assert check_file(ImageFile(data)).size == (2000, 3000)


def test_a_decoder_that_throws_or_disagrees_with_the_header_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    def throw(*_: Any) -> Any:
        raise cv2.error('out of memory')

    monkeypatch.setattr(cv2, 'imdecode', throw)
    with pytest.raises(ImageError, match='cannot be decoded'):
        decode(ImageFile(packed(PIXELS)))
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: PIXELS.transpose(1, 0, 2))
    with pytest.raises(ImageError, match='cannot be decoded'):
        decode(ImageFile(packed(PIXELS)))


# --- What a file may cost ------------------------------------------------------------------------

# As many bytes as zeros of 8192x8192 pixels of 8 bytes take.
DEEP = chunk(b'IDAT', bytes(600_000))
REDUCE = DecodeLimits(1000, is_reducing=True)
# A seventh of 40 rows of 48 pixels is left of it.
FEW = DecodeLimits(300, is_reducing=True)


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError('the decoder was asked')

    monkeypatch.setattr(cv2, 'imdecode', refuse)


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize('make, words', [
    # 120 s, and 1.3 GB, before there were limits.
    (lambda: black_jpeg(64, 64, 3000), '64x64 pixels in 3000 scans, expected at most 16 scans: '
     'set the camera to baseline jpeg'),
    (lambda: png_of(8192, 8192, DEEP, depth=16, color=6),
     '8192x8192 pixels of 8 bytes, expected at most '
     f'{MAX_PIXELS} pixels of 4 bytes'),
    (lambda: b'\xff\xd8' + b'\xff' * (MAX_SEGMENTS + 9), 'more than 1000 segments'),
    (lambda: b'\xff\xd8' + b'\xff\xfe\0\2' * (MAX_SEGMENTS + 1), 'more than 1000 segments'),
    (lambda: png_of(8, 8, chunk(b'tEXt') * MAX_CHUNKS), 'more than 65536 chunks'),
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
    with pytest.raises(ImageError, match='cannot be decoded'):
        decode(ImageFile(black_png(6, 8, extra=critical)))


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize('image, words', [
    (ImageFile(black_png(40, 48)), 'png image of 48x40 pixels, expected at most 1000 pixels '
     '.max_image_px.: set the camera to a smaller image, max_image_px higher\\.'),
    (ImageFile(packed(SMOOTH, '.jpg')), 'jpeg image of 48x40 pixels, expected at most 1000 pixels '
     '.max_image_px.: .* max_image_px higher or oversized_images to reduce'),
    (RawImage(bytes(48 * 40), 40, 48, 'mono8', 48),
     'image of 48x40 pixels, expected at most 1000'),
    (ImageFile(black_png(30, 30, 16, 6)), '30x30 pixels of 8 bytes, expected at most 1000 pixels'),
])
def test_what_is_larger_than_the_settings_allow_is_refused_by_name(
    image: RawImage | ImageFile, words: str
) -> None:
    with pytest.raises(ImageError, match=words):
        decode(image, DecodeLimits(1000))


@pytest.mark.parametrize('limits, size', [
    (DecodeLimits(41 * 49, True), (41, 49)), (REDUCE, (21, 25)), (FEW, (11, 13)),
    (DecodeLimits(42, True), (6, 7))])
@pytest.mark.parametrize('pixels', [(30, 90, 200), 90])
def test_a_large_jpeg_is_decoded_at_the_first_size_that_fits(
    limits: DecodeLimits, size: tuple[int, int], pixels: Any
) -> None:
    shape = (41, 49) if isinstance(pixels, int) else (41, 49, 3)
    image = decode(ImageFile(packed(np.full(shape, pixels, np.uint8), '.jpg')), limits)
    assert image.shape == (*size, 3)
    assert np.abs(image.astype(int) - pixels).max() <= 3


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize('image', [
    ImageFile(black_png(40, 48)), ImageFile(black_jpeg(40, 48, 8)),
    ImageFile(packed(SMOOTH[..., 0], '.jpg'), 'bayer_grbg8; jpeg compressed '),
    RawImage(bytes(48 * 40), 40, 48, 'mono8', 48),
    ImageFile(packed(np.zeros((400, 480), np.uint8), '.jpg')),
], ids=['png', 'scans', 'mosaic', 'raw', 'an eighth is too large'])
def test_where_reducing_saves_nothing_or_spoils_the_picture_it_is_refused(
    image: RawImage | ImageFile
) -> None:
    with pytest.raises(ImageError, match='at most 1000 pixels .max_image_px.: [^;]*higher[.]'):
        decode(image, REDUCE)


def test_values_that_are_no_colours_come_out_unchanged() -> None:
    deep = RNG.integers(0, 2**16, (5, 6), np.uint16)
    for values in (deep, PIXELS[..., 0], PIXELS):
        np.testing.assert_array_equal(decode_unchanged(ImageFile(packed(values))), values)
    with pytest.raises(ImageError, match='of 8 bytes, expected at most'):
        decode_unchanged(ImageFile(png_of(8192, 8192, DEEP, depth=16, color=6)))
