# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Take the orientation out of the metadata of an image file, without touching its pixels.

The live node, the log and every reader here leave pixels as they lie in the file, as CameraInfo
has them. Labelling tools and browsers turn them by the orientation of EXIF (tag 0x0112) or XMP,
and the mask would no longer lie on its image. The tag is set to 1, "as it lies", where it is
another value; nothing is decoded.

"""

from __future__ import annotations

import re
import struct
import zlib

_EXIF, _XMP = b'Exif\0\0', b'http://ns.adobe.com/xap/1.0/\0'
_TAG, _SHORT, _LONG = 0x0112, 3, 4
_PNG_START = b'\x89PNG\r\n\x1a\n'
# Older ways to put EXIF and XMP into a PNG; they are packed, and no pixel needs them.
_PNG_TEXTS = (b'Raw profile type exif\0', b'Raw profile type APP1\0', b'XML:com.adobe.xmp\0')
_XMP_ORIENTATION = re.compile(rb'(tiff:Orientation\s*(?:=\s*["\']|>\s*))[2-8]')


def without_orientation(data: bytes) -> bytes:
    """
    Return an image file that nobody turns.

    Parameters
    ----------
    data : bytes
        A JPEG or PNG.

    Returns
    -------
    bytes
        The same pixels. Equal to `data` if it has no orientation but 1; a PNG loses XMP and EXIF
        that are kept as text. Damaged metadata stay as they are.

    """
    if data.startswith(_PNG_START):
        return _png(data)
    return _jpeg(data) if data.startswith(b'\xff\xd8') else data


def _jpeg(data: bytes) -> bytes:
    """Walk from marker to marker to the pixels."""
    found, at = bytearray(data), 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # filling
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2:at + 4], 'big')
        body = data[at + 4:end]
        if data[at + 1] == 0xE1 and body.startswith(_EXIF):
            found[at + 4:end] = _EXIF + _tiff(body[len(_EXIF):])
        elif data[at + 1] == 0xE1 and body.startswith(_XMP):
            found[at + 4:end] = _XMP_ORIENTATION.sub(rb'\g<1>1', body)
        at = end
    return bytes(found)


def _png(data: bytes) -> bytes:
    found, at = bytearray(_PNG_START), len(_PNG_START)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at:at + 4], 'big'), data[at + 4:at + 8]
        chunk, at = data[at:at + 12 + length], at + 12 + length
        if kind == b'eXIf':
            content = kind + _tiff(chunk[8:-4])
            chunk = chunk[:4] + content + struct.pack('>I', zlib.crc32(content))
        if kind not in (b'tEXt', b'zTXt', b'iTXt') or not chunk[8:].startswith(_PNG_TEXTS):
            found += chunk
    return bytes(found + data[at:])


def _tiff(block: bytes) -> bytes:
    """Set the orientation in the first directory of a TIFF header to 1; its length stays."""
    order = {b'II*\0': '<', b'MM\0*': '>'}.get(block[:4])
    if order is None or len(block) < 10:
        return block
    found = bytearray(block)
    start = struct.unpack_from(f'{order}I', block, 4)[0]
    if start + 2 > len(block):
        return block
    count = struct.unpack_from(f'{order}H', block, start)[0]
    for at in range(start + 2, min(start + 2 + 12 * count, len(block) - 11), 12):
        tag, kind = struct.unpack_from(f'{order}HH', block, at)
        if tag == _TAG and kind in (_SHORT, _LONG):
            struct.pack_into(f'{order}{"H" if kind == _SHORT else "I"}', found, at + 8, 1)
    return bytes(found)
