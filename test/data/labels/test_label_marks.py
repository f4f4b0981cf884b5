# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Masks of a model that are known as such: copied out of an export, or made smaller by a tool."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
import shutil
import struct
import zlib

import cv2
from label_sample import CLASSES, make_frame
import numpy as np
import pytest

pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels as COCO')

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.core.arrays import LabelMap  # noqa: E402
from uncertainty_seg.data.labels.formats import BAGS, READERS, write_export, WRITERS  # noqa: E402
from uncertainty_seg.data.labels.frames import encoded_png, write_prediction  # noqa: E402
from uncertainty_seg.data.labels.review import is_redrawn  # noqa: E402
from uncertainty_seg.errors import DatasetError  # noqa: E402
from uncertainty_seg.sim.dive import Dive  # noqa: E402
from uncertainty_seg.storage.labelled_folder import load_folder  # noqa: E402
from uncertainty_seg.storage.review_record import (  # noqa: E402
    is_prediction,
    marked,
    mask_sha256,
)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Return an export of four frames of two dives, as plain files."""
    frames = [make_frame(i, (30, 40), f'dive {i % 2}') for i in range(4)]
    write_export(tmp_path / 'export', 'folder', frames, CLASSES)
    return tmp_path / 'export'


@pytest.fixture
def copied(export: Path, tmp_path: Path) -> Path:
    """Return a folder with what a labelled folder needs of an export, and nothing else."""
    folder = tmp_path / 'copied'
    for name in ('images', 'masks'):
        shutil.copytree(export / name, folder / name)
    shutil.copy(export / 'classes.json', folder)
    return folder


def repaint(file: Path) -> None:
    """Change a pixel, and keep what the file says beside its pixels, as some programs do."""
    from PIL import Image, PngImagePlugin

    with Image.open(file) as image:
        texts, pixels = dict(image.text), np.array(image)  # type: ignore[attr-defined]
    assert texts
    pixels[0, 0] = 2 if pixels[0, 0] != 2 else 1
    kept = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        kept.add_text(key, value)
    Image.fromarray(pixels).save(file, pnginfo=kept)


def test_masks_that_were_copied_out_of_an_export_are_refused(copied: Path) -> None:
    with pytest.raises(DatasetError, match='4 of 4 masks .* are as export-labels wrote them'):
        load_folder(copied, 'train')
    repaint(min((copied / 'masks').iterdir()))
    with pytest.raises(DatasetError, match='3 of 4 masks'):
        load_folder(copied, 'train')
    for file in sorted((copied / 'masks').iterdir())[1:]:
        repaint(file)
    assert len(load_folder(copied, 'train').masks) == 4


@pytest.mark.parametrize(('kind', 'images', 'masks'), [
    ('fiftyone', 'data', 'fields/prediction'), ('voc', 'JPEGImages', 'SegmentationClass'),
])
def test_masks_that_were_copied_out_of_other_layouts_are_refused_too(
    export: Path, tmp_path: Path, kind: str, images: str, masks: str
) -> None:
    frames = [make_frame(i, (30, 40), f'dive {i % 2}') for i in range(4)]
    write_export(tmp_path / kind, kind, frames, CLASSES)
    folder = tmp_path / 'copied'
    shutil.copytree(tmp_path / kind / images, folder / 'images')
    shutil.copytree(tmp_path / kind / masks, folder / 'masks')
    shutil.copy(export / 'classes.json', folder)
    assert len([*(folder / 'masks').iterdir()]) == 4
    assert all(is_prediction(file) for file in (folder / 'masks').iterdir())
    with pytest.raises(DatasetError, match='4 of 4 masks .* are as export-labels wrote them'):
        load_folder(folder, 'train')


def test_a_palette_and_a_mark_go_together(tmp_path: Path) -> None:
    """Of a mask with a palette other programs see the indices, and the mark ends with an edit."""
    Image = pytest.importorskip('PIL.Image')
    frame = make_frame(0, (30, 40))
    write_export(tmp_path / 'voc', 'voc', [frame], CLASSES)
    file = tmp_path / 'voc' / 'SegmentationClass' / f'{frame.stem}.png'
    with Image.open(file) as picture:
        assert np.array_equal(np.asarray(picture), frame.mask)
        palette, text = picture.getpalette(), dict(picture.text)
    pixels = frame.mask.copy()
    pixels[0, 0] = 1 if pixels[0, 0] != 1 else 2
    from PIL.PngImagePlugin import PngInfo

    kept = PngInfo()
    for key, value in text.items():
        kept.add_text(key, value)
    for values, is_mark in ((frame.mask, True), (pixels, False)):
        again = Image.fromarray(values, 'L')
        again.putpalette(palette)
        again.save(file, pnginfo=kept)
        assert is_prediction(file) == is_mark


@pytest.mark.parametrize('kind', sorted(set(WRITERS) - set(READERS) - set(BAGS)))
def test_what_comes_back_by_another_format_is_compared_too(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tool reads one layout and writes COCO: untouched masks are refused, others are taken."""
    # Blocks without unknown pixels inside, which an outline would fill.
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 3, (6, 8)).repeat(6, 0).repeat(6, 1).astype(np.uint8)
             for _ in range(4)]
    frames = [make_frame(i, masks[i].shape, mask=masks[i]) for i in range(4)]
    write_export(tmp_path / 'sent', kind, frames, CLASSES)
    masks[0][:12, :12] = (masks[0][0, 0] + 1) % 3
    write_export(tmp_path / 'back', 'coco',
                 [replace(frame, mask=mask) for frame, mask in zip(frames, masks, strict=True)],
                 CLASSES)
    words = ['import-labels', str(tmp_path / 'back'), str(tmp_path / 'out'), '--format', 'coco',
             '--frames', str(tmp_path / 'sent')]
    assert main(words) == 2
    assert '3 of 4 masks came back as they were exported' in capsys.readouterr().err
    assert main([*words, '--skip-unchanged', '--shares', 'train=1.0']) == 0
    (found,) = load_folder(tmp_path / 'out', 'train').masks
    assert np.array_equal(found, masks[0])


def test_untouched_polygons_of_yolo_come_back_as_the_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a tool that knows YOLO writes them to COCO: the shares of its lines, in pixels."""
    frames = [make_frame(i, (30, 40), f'dive {i % 2}') for i in range(3)]
    sent, back = tmp_path / 'sent', tmp_path / 'back.json'
    write_export(sent, 'yolo', frames, CLASSES)
    size = np.array([40, 30])
    polygons = [
        {'image_id': i, 'category_id': int(line.split()[0]),
         'segmentation': [(np.array(line.split()[1:], float).reshape(-1, 2) * size).ravel()
                          .round(3).tolist()]}
        for i, frame in enumerate(frames)
        for line in (sent / 'labels' / f'{frame.stem}.txt').read_text().splitlines()]
    back.write_text(json.dumps({
        'images': [{'id': i, 'file_name': frame.file_name, 'height': 30, 'width': 40}
                   for i, frame in enumerate(frames)],
        'categories': [{'id': i, 'name': name} for i, name in enumerate(CLASSES.names)],
        'annotations': polygons}))
    assert main(['import-labels', str(back), str(tmp_path / 'out'), '--format', 'coco',
                 '--frames', str(sent)]) == 2
    assert '3 of 3 masks came back as they were exported' in capsys.readouterr().err
    assert '# The labels are what a model predicted' in (sent / 'data.yaml').read_text()


def moved(png: bytes, kind: bytes, text: bytes, is_last: bool) -> bytes:
    """Give the mark of a PNG another place or kind, as programs do that only save it again."""
    chunks, at = [], 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at:at + 4], 'big')
        chunks.append(png[at:end])
        at = end
    assert b'uncertainty_seg prediction' in chunks[1]
    body = kind + text
    mark = struct.pack('>I', len(text)) + body + struct.pack('>I', zlib.crc32(body))
    rest = [*chunks[2:-1], mark, chunks[-1]] if is_last else [mark, *chunks[2:]]
    return png[:8] + b''.join([chunks[0], *rest])


@pytest.mark.parametrize('kind', ['last', 'UTF-8', 'compressed', 'behind a profile'])
def test_a_program_that_moves_the_mark_does_not_make_labels_of_them(
    kind: str, tmp_path: Path
) -> None:
    # Of pixels that take many bytes, as masks of photographs do.
    mask = np.random.default_rng(0).integers(0, 6, (120, 160), np.uint8)
    write_prediction(tmp_path, 'one', mask)
    file = tmp_path / 'one.png'
    png, key, digest = file.read_bytes(), b'uncertainty_seg prediction\0', mask_sha256(mask)
    made = {
        'last': moved(png, b'tEXt', key + digest.encode(), True),
        'UTF-8': moved(png, b'iTXt', key + bytes(4) + digest.encode(), False),
        'compressed': moved(png, b'zTXt', key + b'\0' + zlib.compress(digest.encode()), False),
        'behind a profile': png[:33] + b'\0\0\x20\0prVt' + bytes(0x2000)
        + struct.pack('>I', zlib.crc32(b'prVt' + bytes(0x2000))) + png[33:],
    }[kind]
    assert made != png
    file.write_bytes(made)
    assert np.array_equal(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), mask)
    assert is_prediction(file)
    # A pixel of a person's, beside the text that the program kept.
    edited = mask.copy()
    edited[0, 0] ^= 1
    (tmp_path / 'two.png').write_bytes(marked(encoded_png(edited), mask))
    assert not is_prediction(tmp_path / 'two.png')


def test_the_mark_changes_no_pixel_for_other_programs(export: Path) -> None:
    image = pytest.importorskip('PIL.Image')
    for file in (export / 'masks').iterdir():
        ours = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        with image.open(file) as theirs:
            theirs.verify()  # every checksum
        with image.open(file) as theirs:
            assert np.array_equal(ours, np.array(theirs))


def test_no_verb_takes_them(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / 'data'
    assert main(['dataset', 'init', str(data)]) == 0
    capsys.readouterr()
    assert main(['dataset', 'add', str(data), str(copied)]) == 2
    said = capsys.readouterr()
    assert said.err.count('\n') == 1 and 'import-labels' in said.err
    assert not (data / 'images').exists() or not any((data / 'images').iterdir())


def test_what_is_imported_is_taken_until_a_prediction_is_copied_over_it(
    export: Path, tmp_path: Path
) -> None:
    train = tmp_path / 'train'
    assert main(['import-labels', str(export), str(train), '--format', 'folder',
                 '--accept-unchanged', '--shares', 'train=1.0']) == 0
    data = load_folder(train, 'train')
    assert len(data.masks) == 4
    shutil.copy(export / 'predictions' / f'{data.stems[0]}.png', train / 'masks')
    with pytest.raises(DatasetError, match='1 of 4 masks'):
        load_folder(train, 'train')


# --- masks that a tool edits at a smaller size -----------------------------------------------


@pytest.fixture(scope='module')
def seen() -> list[LabelMap]:
    """Masks of a made dive, with thin ropes and small anodes."""
    dive = Dive(7, duration_s=12.0, rate_hz=1.0, size=(160, 128))
    return [dive.frame(index).mask for index in range(12)]


def through(mask: LabelMap, part: int, how: int) -> LabelMap:
    height, width = mask.shape
    small = cv2.resize(mask, (round(width / part), round(height / part)), interpolation=how)
    return np.asarray(cv2.resize(small, (width, height), interpolation=how), np.uint8)


@pytest.mark.parametrize('how', [cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT])
@pytest.mark.parametrize('part', [2, 3, 4])
def test_a_mask_that_went_through_a_smaller_size_is_no_correction(
    part: int, how: int, seen: list[LabelMap]
) -> None:
    changed = [(mask, through(mask, part, how)) for mask in seen]
    assert sum(not np.array_equal(*pair) for pair in changed) > 8
    missed = [index for index, (mask, other) in enumerate(changed)
              if not is_redrawn(mask, other, 255)]
    assert not missed


@pytest.mark.parametrize('part', [1, 2, 3, 4])
def test_what_is_painted_at_a_smaller_size_is_a_correction(
    part: int, seen: list[LabelMap]
) -> None:
    missed = []
    for index, mask in enumerate(seen):
        other = through(mask, part, cv2.INTER_NEAREST)
        other[52:76, 60:84] = (mask[64, 64] + 1) % 6 if mask[64, 64] != 255 else 0
        if is_redrawn(mask, other, 255):
            missed.append(index)
    assert not missed
