# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A mask lies on its image wherever it is opened, whatever orientation the camera wrote."""

from __future__ import annotations

from pathlib import Path
import struct
import zlib

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
from label_sample import corrected, turned, write_log
import numpy as np
import pytest

pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels as COCO')

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.core.arrays import ImageU8  # noqa: E402
from uncertainty_seg.core.image_codec import (  # noqa: E402
    decode,
    ImageFile,
)
from uncertainty_seg.data.labels.frames import read_table, without_orientation  # noqa: E402
from uncertainty_seg.storage.frame_log.format import iter_frames  # noqa: E402
from uncertainty_seg.storage.labelled_folder import load_folder  # noqa: E402

XMP = b'http://ns.adobe.com/xap/1.0/\0<rdf tiff:Orientation="6"/>'


def as_browsers_show(data: bytes) -> ImageU8:
    """Decode as a tool does that follows the orientation."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def jpeg_of(size: tuple[int, int]) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    return bytes(cv2.imencode('.jpg', pixels)[1].tobytes())


@pytest.mark.parametrize('size', [(24, 40), (32, 32)])
@pytest.mark.parametrize('orientation', [3, 6, 8])
@pytest.mark.parametrize('kind', ['folder', 'cvat', 'label-studio'])
def test_a_turned_image_goes_out_and_comes_back(
    kind: str, orientation: int, size: tuple[int, int], tmp_path: Path
) -> None:
    rng = np.random.default_rng(orientation)
    masks = [rng.integers(0, 3, size).astype(np.uint8) for _ in range(2)]
    log = write_log(tmp_path / 'log', masks, orientation=orientation)
    _, logged = iter_frames(log)
    received = logged.image_path.read_bytes()
    lying = logged.read_image()
    assert not np.array_equal(as_browsers_show(received), lying)  # the tag is there
    out = tmp_path / 'out'
    assert main(['export-labels', str(log), str(out), '--format', kind]) == 0
    table = read_table(out)
    _, row = table.rows.values()
    sent = table.image_file(row)
    assert sent == turned(jpeg_in(received), 1)
    np.testing.assert_array_equal(as_browsers_show(sent), lying)
    labels = corrected(out, kind)
    assert main(['import-labels', str(labels), str(tmp_path / 'train'), '--format', kind,
                 '--accept-unchanged']) == 0
    data = load_folder(tmp_path / 'train', 'train')
    assert data.stems[1] == row.stem
    np.testing.assert_array_equal(data.images[1][..., ::-1], lying)
    np.testing.assert_array_equal(data.masks[1], masks[1])


def jpeg_in(data: bytes) -> bytes:
    """Return a JPEG without the segment that `turned` put in."""
    return data[:2] + data[4 + int.from_bytes(data[4:6], 'big'):]


@pytest.mark.parametrize('orientation', [3, 6, 8])
def test_training_reads_pixels_as_the_node_does(orientation: int, tmp_path: Path) -> None:
    data = turned(jpeg_of((24, 40)), orientation)
    for name in ('images', 'masks'):
        (tmp_path / name).mkdir()
    (tmp_path / 'images' / 'a.jpg').write_bytes(data)
    cv2.imwrite(str(tmp_path / 'masks' / 'a.png'), np.zeros((24, 40), np.uint8))
    (tmp_path / 'classes.json').write_text('{"classes": ["sea", "pipe"]}')
    (image,) = load_folder(tmp_path, 'all').images
    np.testing.assert_array_equal(image[..., ::-1], decode(ImageFile(data)))


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('orientation', range(1, 9))
def test_the_tag_becomes_1_and_nothing_else_changes(orientation: int, order: str) -> None:
    data = turned(jpeg_of((24, 40)), orientation, order)
    found = without_orientation(data)
    assert found == turned(jpeg_of((24, 40)), 1, order)
    if orientation == 1:
        assert found == data
    np.testing.assert_array_equal(as_browsers_show(found), decode(ImageFile(data)))


def test_pillow_finds_no_orientation_in_exif_or_xmp() -> None:
    image_module = pytest.importorskip('PIL.Image', reason='Pillow is not installed')
    import io

    def orientation_of(data: bytes) -> int:
        with image_module.open(io.BytesIO(data)) as image:
            return int(image.getexif().get(0x0112, 1))

    jpeg, png = jpeg_of((24, 40)), cv2.imencode('.png', np.zeros((5, 7, 3), np.uint8))[1].tobytes()
    exif = turned(jpeg, 8)[12:12 + 38]
    files = [turned(jpeg, 6), turned(jpeg, 6, '>'),
             jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(XMP) + 2) + XMP + jpeg[2:],
             with_chunk(png, b'eXIf', exif),
             with_chunk(png, b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0' + XMP[29:]),
             with_chunk(png, b'zTXt', b'Raw profile type exif\0\0' + zlib.compress(
                 b'\nexif\n      44\n' + (b'Exif\0\0' + exif).hex().encode() + b'\n'))]
    assert [orientation_of(data) for data in files] == [6, 6, 6, 8, 6, 8]
    assert {orientation_of(without_orientation(data)) for data in files} == {1}
    for data in files:  # the check sums too
        np.testing.assert_array_equal(as_browsers_show(without_orientation(data)),
                                      decode(ImageFile(data)))


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """Put a chunk behind the header of a PNG."""
    chunk = struct.pack('>I', len(content)) + kind + content
    return png[:33] + chunk + struct.pack('>I', zlib.crc32(kind + content)) + png[33:]


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 400), junk=st.binary(max_size=24), is_png=st.booleans())
def test_damaged_files_pass_and_never_grow(at: int, junk: bytes, is_png: bool) -> None:
    data = turned(jpeg_of((4, 4)), 6)
    if is_png:
        data = with_chunk(cv2.imencode('.png', np.zeros((5, 7, 3), np.uint8))[1].tobytes(),
                          b'eXIf', data[12:50])
    broken = data[:at] + junk + data[at + len(junk):]
    assert len(without_orientation(broken)) <= len(broken)
    assert len(without_orientation(data[:at])) <= len(data[:at])
