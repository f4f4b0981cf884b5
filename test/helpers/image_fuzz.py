# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Random image messages: valid ones, and every kind of malformed message that we know."""

import struct
from typing import Any

import cv2
from image_oracle import answer, EVERY, MOSAICS, PLAIN, PLANES
import numpy as np

from uncertainty_seg.core.image_codec import decode, ImageFile, RawImage
from uncertainty_seg.errors import ImageError

STRANGE = ('', 'rgb', 'BGR8', 'bgr8 ', 'bgr8\0', '8UC2', '8SC1', '16SC1', '32SC1', '32FC2',
           '64FC1', 'bayer_rggb', 'jpeg', 'ü' * 9, 'nv42', '8UC99999999999', 'x' * 10000)
# Values of CompressedImage.format; none of them changes the meaning of the pixels.
FORMATS = ('jpeg', 'png', '', 'rgb8; jpeg compressed bgr8', 'mono8; png compressed ', 'x' * 1000,
           ';;;', 'bgr8;', 'ü; png compressed bgr8')
HUGE = (2**15, 2**16, 10**9, 2**31 - 1, 2**31, 2**32 - 1)
MAX_BYTES = 4096
# Largest ratio of decoded to encoded size: deflate's 1032, times 8 for a PNG of 1 bit a pixel.
MAX_GROWTH = 8 * 1032


def row_bytes(encoding: str, width: int) -> int:
    """Return the bytes of a row without padding; any number for an unknown encoding."""
    if encoding in PLAIN:
        bits, colors = PLAIN[encoding]
        return width * bits // 8 * len(colors)
    if encoding in MOSAICS:
        return width * MOSAICS[encoding][0] // 8
    return width if encoding in PLANES else 2 * width


class Fuzzer:
    """A generator of random messages; equal seeds give equal messages."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        noise = self._rng.integers(0, 256, (12, 15, 3), np.uint8)
        self._files = [self._packed(noise, '.png'), self._packed(noise[..., 0], '.png'),
                       self._packed(noise.astype(np.uint16) << 8, '.png'),
                       self._packed(noise, '.jpg'), self._packed(noise[..., 0], '.jpg'),
                       self._packed(noise, '.jpg', cv2.IMWRITE_JPEG_PROGRESSIVE, 1)]
        self.originals = {data: decode(ImageFile(data)) for data in self._files}

    @staticmethod
    def _packed(pixels: Any, kind: str, *options: int) -> bytes:
        return bytes(cv2.imencode(kind, pixels, options)[1].tobytes())

    def chance(self, share: float) -> bool:
        return bool(self._rng.random() < share)

    def pick(self, items: Any) -> Any:
        return items[int(self._rng.integers(len(items)))]

    def number(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high))

    def noise(self, length: int) -> bytes:
        return bytes(self._rng.bytes(length))

    def raw(self) -> RawImage:
        """Return a raw image; about half of them are valid."""
        encoding = self.pick(STRANGE) if self.chance(0.08) else self.pick(EVERY)
        height, width = (self.pick(HUGE) if self.chance(0.03) else self.number(1, 9)
                         for _ in range(2))
        if self.chance(0.02):
            height = 0
        if self.chance(0.02):
            width = 0
        step = row_bytes(encoding, width) + (self.number(0, 9) if self.chance(0.5) else 0)
        if self.chance(0.08):
            step = self.pick((0, 1, max(step - 1, 0), *HUGE))
        step = min(step, 2**32 - 1)
        return RawImage(self._data(encoding, height * step), height, width, encoding, step,
                        self.chance(0.4))

    def _data(self, encoding: str, length: int) -> bytes:
        # Y and chroma planes together need up to three times the bytes of Y alone.
        length = min(length * 3 if encoding in PLANES else length, MAX_BYTES)
        if self.chance(0.15):
            length = self.pick((0, 1, length // 2, max(length - 1, 0), length + 5))
        if encoding.startswith('32F') and self.chance(0.8):
            kind = self.pick(('<f4', '>f4'))
            return bytes(self._rng.random(length // 4 + 1).astype(kind).tobytes()[:length])
        return self.noise(length)

    def file(self) -> tuple[ImageFile, Any]:
        """Return a file, and the pixels it must have if accepted; None if they are unknown."""
        original = self.pick(self._files)
        data = self.damaged(original) if self.chance(0.8) else original
        is_whole = data == original or data.startswith(b'\x89PNG\r\n\x1a\n')
        if data[:1] == b'\x89' and self.chance(0.1):  # a wrong size with a valid checksum
            size = struct.pack('>II', *(self.pick((*HUGE, 0, 1)) for _ in range(2)))
            data, is_whole = self._with_size(data, size), False
        return ImageFile(data, self.pick(FORMATS)), self.originals[original] if is_whole else None

    @staticmethod
    def _with_size(data: bytes, size: bytes) -> bytes:
        from zlib import crc32

        body = data[12:16] + size + data[24:29]
        return data[:12] + body + struct.pack('>I', crc32(body)) + data[33:]

    def damaged(self, data: bytes) -> bytes:
        """Return the data with bytes changed, removed or inserted."""
        new = bytearray(data)
        for _ in range(self.number(1, 5) if self.chance(0.7) else 0):
            new[self.number(0, len(new))] = self.number(0, 256)
        if self.chance(0.3):
            at = self.number(0, len(new))
            new[at:at + self.number(0, 40)] = self.noise(self.number(0, 40))
        if self.chance(0.2):
            del new[self.number(0, len(new)):]
        return bytes(new)


def sentence_or_image(image: RawImage | ImageFile) -> Any:
    """Return the pixels, or None if decoding raises an error of one sentence."""
    try:
        return decode(image)
    except ImageError as err:
        text = str(err)
        assert text.endswith('.') and '\n' not in text and 'image' in text, text
        return None


def check_raw(raw: RawImage) -> bool:
    """Check that a message is decoded or refused as by the oracle; returns whether decoded."""
    right, image = answer(raw), sentence_or_image(raw)
    assert (image is None) is (right is None), raw
    if right is not None:
        right.check(image)
    return image is not None


def check_file_message(file: ImageFile, right: Any) -> bool:
    """Check that a file is decoded correctly or refused; returns whether decoded."""
    image = sentence_or_image(file)
    if image is None:
        return False
    assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
    assert image.size <= 3 * MAX_GROWTH * len(file.data)
    # A PNG has checksums, so an accepted PNG must have the original pixels.
    if right is not None:
        np.testing.assert_array_equal(image, right)
    return True
