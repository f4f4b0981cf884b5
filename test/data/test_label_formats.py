# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Label formats: export and import keep every pixel; damaged files are refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace
import json
from pathlib import Path
import struct
import tempfile
from typing import Any
from xml.etree import ElementTree
import zlib

from bombs import black_png
import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
from label_sample import CLASSES, corrected, make_frame, read_back, REASON, turned
import numpy as np
import pytest

pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels as COCO')

from uncertainty_seg.core.image_codec import decode, ImageFile  # noqa: E402
from uncertainty_seg.data import label_frames  # noqa: E402
from uncertainty_seg.data.label_formats import (  # noqa: E402
    COCO_FILE,
    decode_brush,
    encode_brush,
    find_table,
    READERS,
    write_export,
    WRITERS,
)
from uncertainty_seg.data.label_frames import (  # noqa: E402
    LabelFrame,
    read_table,
    without_metadata,
)
from uncertainty_seg.errors import DatasetError  # noqa: E402
from uncertainty_seg.storage.labelled_folder import ClassTable  # noqa: E402

HEIGHT, WIDTH = 8, 10
PIPE = CLASSES.names[1]
FRAME = make_frame(0, (HEIGHT, WIDTH), mask=np.zeros((HEIGHT, WIDTH), np.uint8))
STEM = FRAME.row.stem
# A change to the files of an export.
Edit = Callable[[Path], object]


@pytest.fixture
def frames() -> list[LabelFrame]:
    return [make_frame(0, (7, 9)), make_frame(1, (33, 20)),
            make_frame(2, (1, 1), 'dive 2', np.ones((1, 1), np.uint8))]


def json_edit(name: str, change: Callable[[Any], object]) -> Edit:
    def edit(place: Path) -> None:
        file = place / name if place.is_dir() else place
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
    return edit


def coco(**values: Any) -> Edit:
    return json_edit(COCO_FILE, lambda c: c['annotations'][0].update(values))


def brush(**values: Any) -> Edit:
    return json_edit('', lambda tasks: tasks[0]['annotations'][0]['result'][0].update(values))


def sample(**values: Any) -> Edit:
    return json_edit('samples.json', lambda c: c['samples'][0].update(values))


def new_mask(content: bytes | np.ndarray) -> Edit:
    data = content if isinstance(content, bytes) else cv2.imencode('.png', content)[1].tobytes()
    return lambda folder: (folder / 'masks' / f'{STEM}.png').write_bytes(data)


def edited(folder: Path, kind: str, edit: Edit) -> np.ndarray:
    """Return the mask of an export after an edit."""
    write_export(folder, kind, [FRAME], CLASSES)
    place = corrected(folder, kind)
    edit(place)
    (one,) = READERS[kind](place, read_table(folder))
    return one.mask


@settings(max_examples=12, deadline=None)
@given(height=st.integers(1, 24), width=st.integers(1, 24), num_classes=st.integers(2, 200),
       seed=st.integers(0, 2**32 - 1), is_blocky=st.booleans())
def test_a_round_trip_keeps_every_pixel(
    height: int, width: int, num_classes: int, seed: int, is_blocky: bool
) -> None:
    rng = np.random.default_rng(seed)
    names = tuple(f'class {i}' for i in range(num_classes))
    classes = ClassTable(names, tuple((i, 255 - i, i // 2) for i in range(num_classes)), 255)
    mask = rng.choice(np.array([*range(num_classes), 255], np.uint8), (height, width))
    if is_blocky:
        mask = mask[np.arange(height)[:, None] // 5, np.arange(width) // 5]
    frame = make_frame(seed % 1000, (height, width), mask=mask)
    with tempfile.TemporaryDirectory() as folder:
        for kind in READERS:
            out = Path(folder) / kind
            write_export(out, kind, [frame], classes)
            masks = read_back(out, kind)
            if (mask == 255).all():
                assert masks == {}
            else:
                np.testing.assert_array_equal(masks[frame.row.stem], mask, kind)


@pytest.mark.parametrize('kind', READERS)
def test_images_and_facts_go_along(kind: str, tmp_path: Path, frames: list[LabelFrame]) -> None:
    write_export(tmp_path / 'out', kind, frames, CLASSES)
    table = read_table(tmp_path / 'out')
    assert (table.classes, table.kind) == (CLASSES, kind)
    assert list(table.rows) == [frame.row.stem for frame in frames]
    for frame in frames:
        row = table.rows[frame.row.stem]
        assert table.image_file(row) == frame.image_file
        assert row.facts() == frame.row.facts()
    seen = {'label-studio': ('tasks.json', lambda c: c[0]['data']),
            'fiftyone': ('samples.json', lambda c: c['samples'][0]),
            'coco': (COCO_FILE, lambda c: c['images'][0])}.get(kind)
    if seen:
        facts = seen[1](json.loads((tmp_path / 'out' / seen[0]).read_text()))
        assert frames[0].row.facts().items() <= facts.items() and facts['reason'] == REASON


def test_coco_reads_by_its_own_reader(tmp_path: Path, frames: list[LabelFrame]) -> None:
    from pycocotools.coco import COCO

    write_export(tmp_path / 'out', 'coco', frames, CLASSES)
    found = COCO(str(tmp_path / 'out' / COCO_FILE))
    assert [c['name'] for c in found.loadCats(sorted(found.getCatIds()))] == list(CLASSES.names)
    assert len(set(found.getAnnIds())) == len(found.dataset['annotations'])
    for frame, image in zip(frames, found.loadImgs(found.getImgIds()), strict=True):
        drawn = np.full(frame.mask.shape, 255, np.uint8)
        for item in found.loadAnns(found.getAnnIds(imgIds=image['id'])):
            pixels = found.annToMask(item).astype(bool)
            drawn[pixels] = item['category_id'] - 1
            rows, columns = np.nonzero(pixels)
            assert item['area'] == pixels.sum()
            assert item['bbox'] == [columns.min(), rows.min(), np.ptp(columns) + 1,
                                    np.ptp(rows) + 1]
        np.testing.assert_array_equal(drawn, frame.mask)


def test_tasks_carry_their_images_or_where_they_are(
    tmp_path: Path, frames: list[LabelFrame]
) -> None:
    write_export(tmp_path / 'inside', 'label-studio', frames, CLASSES)
    write_export(tmp_path / 'served', 'label-studio', frames, CLASSES, '/data/?d=dive/')
    inside, served = (json.loads((tmp_path / name / 'tasks.json').read_text())
                      for name in ('inside', 'served'))
    assert inside[1]['data']['image'].startswith('data:image/jpeg;base64,')
    assert served[1]['data']['image'] == f'/data/?d=dive/{frames[1].row.file}'
    config = ElementTree.parse(tmp_path / 'inside' / 'config.xml').getroot()
    labels = [(item.get('value'), item.get('background')) for item in config.iter('Label')]
    assert labels == list(zip(CLASSES.names, ('#000000', '#ff0000', '#00c864'), strict=True))


@pytest.mark.parametrize('kind', WRITERS)
def test_nothing_is_left_of_an_export_that_fails(kind: str, tmp_path: Path) -> None:
    for failing in ([FRAME, FRAME], []):
        with pytest.raises(DatasetError):
            write_export(tmp_path / 'out', kind, failing, CLASSES)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'mine').write_text('x')
    with pytest.raises(DatasetError, match='not empty'):
        write_export(tmp_path / 'out', kind, [FRAME], CLASSES)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['mine']


def test_of_two_exports_the_one_that_ends_later_replaces_nothing(tmp_path: Path) -> None:
    def meanwhile() -> Iterator[LabelFrame]:
        write_export(tmp_path / 'out', 'folder', [FRAME], CLASSES)
        (tmp_path / 'out' / 'mine').write_text('x')
        yield FRAME

    with pytest.raises(DatasetError, match='cannot be written'):
        write_export(tmp_path / 'out', 'folder', meanwhile(), CLASSES)
    assert (tmp_path / 'out' / 'mine').exists() and len(list(tmp_path.iterdir())) == 1


# --- annotations drawn in a tool -----------------------------------------------------------------

# x from 2 to 5 and y from 1 to 4 in a tool's coordinates are pixels 2..4 and 1..3.
DRAWN = {
    'polygon': {'iscrowd': 0, 'segmentation': [[2, 1, 5, 1, 5, 4, 2, 4]]},
    'crowd': {'iscrowd': 1, 'segmentation': {'size': [HEIGHT, WIDTH], 'counts': [
        2 * HEIGHT + 1, 3, 5, 3, 5, 3, 5 * HEIGHT + 4]}},
}


@pytest.mark.parametrize('case', DRAWN)
def test_what_is_drawn_anew_lies_on_top(case: str, tmp_path: Path) -> None:
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[1:4, 2:5] = 1
    mask = edited(tmp_path / 'out', 'coco', json_edit(COCO_FILE, lambda c: c[
        'annotations'].append({'id': 99, 'image_id': 1, 'category_id': 2, 'area': 9,
                               'bbox': [2, 1, 3, 3], **DRAWN[case]})))
    np.testing.assert_array_equal(mask, expected)


def test_the_newest_annotation_that_was_not_cancelled_counts(tmp_path: Path) -> None:
    write_export(tmp_path / 'out', 'label-studio', [FRAME], CLASSES)
    task = json.loads((tmp_path / 'out' / 'tasks.json').read_text())[0]

    def annotation(name: str, when: str, **more: Any) -> dict[str, Any]:
        region = {**task['predictions'][0]['result'][0]}
        region['value'] = {'format': 'rle', 'brushlabels': [name],
                           'rle': encode_brush(np.ones((HEIGHT, WIDTH), bool))}
        return {'id': 1, 'updated_at': when, 'result': [region], **more}

    task['annotations'] = [annotation(PIPE, '2026-01-02T00:00:00Z'),
                           annotation(CLASSES.names[0], '2026-01-01T00:00:00Z'),
                           annotation(CLASSES.names[2], '2026-01-03T00:00:00Z',
                                      was_cancelled=True)]
    file = tmp_path / 'export.json'
    file.write_text(json.dumps([task, {**task, 'annotations': []}]))
    (one,) = READERS['label-studio'](file, read_table(tmp_path / 'out'))
    assert one.stem == STEM and (one.mask == 1).all()


# --- the brush of Label Studio, bit by bit; test_label_tools compares it with the SDK ------------

# 4 values of 8 bits; run sizes 3, 4, 8, 16, stored minus one.
HEADER = '00000000000000000000000000000100' '00111' '0010' '0011' '0111' '1111'


def packed(bits: str) -> list[int]:
    bits += '0' * (-len(bits) % 8)
    return [int(bits[i:i + 8], 2) for i in range(0, len(bits), 8)]


def test_a_brush_by_hand() -> None:
    painted = packed(HEADER + '1' '11' + f'{3:016b}' + '11111111')
    assert encode_brush(np.ones((1, 1), bool)) == painted
    assert decode_brush(painted, 1, 1).all()
    assert decode_brush(packed(HEADER + '1' '00' '011' '11111111'), 1, 1).all()
    # No run: 4 single values, the last of them alpha; a pixel counts as painted from 128 on.
    for alpha, is_painted in ((127, False), (128, True)):
        bits = HEADER + '0' '00' '011' + '00000000' * 3 + f'{alpha:08b}'
        assert decode_brush(packed(bits), 1, 1).tolist() == [[is_painted]]
    for count in (16_383, 16_384, 16_385, 40_000):  # longer than one 16-bit run
        mask = np.arange(50_000).reshape(200, 250) < count
        np.testing.assert_array_equal(decode_brush(encode_brush(mask), 200, 250), mask)
    for data in ([], [1, 2, 3], [300], packed(HEADER), ['x'],
                 packed(HEADER + '1' '10' '11111111' '11111111')):
        with pytest.raises(DatasetError):
            decode_brush(data, 1, 1)


# --- refused files -------------------------------------------------------------------------------

BAD: dict[str, Edit] = {
    'coco class': json_edit(COCO_FILE, lambda c: c['categories'][0].update(name='squid')),
    'coco width': json_edit(COCO_FILE, lambda c: c['images'][0].update(width=WIDTH + 1)),
    'coco infinite': json_edit(COCO_FILE, lambda c: c['images'][0].update(width=1e999)),
    'coco size': coco(segmentation={'size': [HEIGHT, WIDTH + 1], 'counts': [0, 88]}),
    'coco huge': coco(segmentation={'size': [10**9, 10**9], 'counts': [10**18]}),
    'coco short': coco(segmentation={'size': [HEIGHT, WIDTH], 'counts': [0, 9]}),
    'coco long': coco(segmentation={'size': [HEIGHT, WIDTH], 'counts': [0, 4 * 10**9]}),
    'coco wraps': coco(segmentation={'size': [HEIGHT, WIDTH], 'counts': [2**32, 80]}),
    'coco text': coco(segmentation={'size': [HEIGHT, WIDTH], 'counts': 'zz~~'}),
    'coco none': coco(segmentation=None),
    'coco corner': coco(segmentation=[[0, 0, 1e9, 0, 1e9, 1e9]]),
    'coco outline': coco(segmentation=[[0, 0, 9, 7] * 60_000]),
    'coco two corners': coco(segmentation=[[0, 0, 9, 7]]),
    'coco part': json_edit(COCO_FILE, lambda c: c.pop('categories')),
    'coco deep': lambda f: (f / COCO_FILE).write_text('[' * 10**6),
    'coco list': lambda f: (f / COCO_FILE).write_text('[1]'),
    'label-studio class': brush(value={'rle': [], 'brushlabels': ['squid']}),
    'label-studio width': brush(original_width=WIDTH + 1),
    'label-studio huge': brush(original_width=10**9, original_height=10**9),
    'label-studio rle': brush(value={'rle': [0, 0, 1, 64, 57], 'brushlabels': [PIPE]}),
    'label-studio number': brush(value={'rle': 10**10, 'brushlabels': [PIPE]}),
    'label-studio kind': brush(type='rectanglelabels'),
    'label-studio min': lambda f: f.write_text('[{"id": 1, "image": "x.png", "mask": []}]'),
    'label-studio csv': lambda f: f.write_text('id,image'),
    'fiftyone path': sample(prediction={'mask_path': '/etc/..'}),
    'fiftyone packed': sample(ground_truth={'mask': {'$binary': {'base64': 'eJwDAAAAAAE='}}}),
    'fiftyone frame': sample(filepath='elsewhere.png'),
    'fiftyone tags': sample(tags=None),
    'fiftyone samples': json_edit('samples.json', lambda c: c.pop('samples')),
    'fiftyone classes': json_edit('metadata.json', lambda c: c['info'][
        'default_mask_targets'].update({'1': 'cable'})),
    'fiftyone info': json_edit('metadata.json', lambda c: c.update(info=[1])),
    'folder size': new_mask(np.zeros((HEIGHT, WIDTH + 1), np.uint8)),
    'folder id': new_mask(np.full((HEIGHT, WIDTH), 3, np.uint8)),
    'folder bytes': new_mask(b'x'), 'folder webp': new_mask(b'RIFF' + bytes(90)),
    'folder colours': new_mask(black_png(9, 9, 8, 2)),
    'folder stranger': lambda f: (f / 'masks' / f'{STEM}.png').rename(f / 'masks' / 'other.png'),
    'folder link': lambda f: (f / 'masks' / 'far.png').symlink_to(f / 'masks' / f'{STEM}.png'),
    'folder classes': json_edit('classes.json', lambda c: c['classes'][1].update(name='cable')),
}
# Fragments of Python's messages, which do not help the author of a file.
OF_PYTHON = ('__init__', 'Error(', 'NoneType', 'argument', 'indices', 'Expecting', 'codec')


@pytest.mark.parametrize('case', BAD)
def test_what_is_damaged_of_another_export_or_made_to_do_harm_is_one_sentence(
    case: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError) as caught:
        edited(tmp_path / 'out', case.split()[0], BAD[case])
    sentence = str(caught.value)
    assert sentence.endswith('.') and '\n' not in sentence and len(sentence) < 1000
    assert not any(word in sentence for word in OF_PYTHON)


@pytest.mark.parametrize('kind', READERS)
def test_what_is_no_export_is_one_sentence(kind: str, tmp_path: Path) -> None:
    write_export(tmp_path / 'out', 'folder', [FRAME], CLASSES)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DatasetError):
        list(READERS[kind](tmp_path / 'empty', read_table(tmp_path / 'out')))
    with pytest.raises(DatasetError, match='empty'):
        read_table(find_table(tmp_path / 'empty', str(tmp_path / 'empty')))


def test_more_regions_than_a_frame_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_frames, 'MAX_REGIONS', 3)
    for count in (3, 4):
        edit = json_edit(COCO_FILE, lambda c, count=count: c.update(
            annotations=c['annotations'][:1] * count))
        if count == 3:
            edited(tmp_path / '3', 'coco', edit)
    with pytest.raises(DatasetError, match='3'):
        edited(tmp_path / '4', 'coco', edit)
    monkeypatch.setattr(label_frames, 'MAX_REGIONS', 10)
    monkeypatch.setattr(label_frames, 'MAX_PAINTED_PX', 3 * HEIGHT * WIDTH)
    with pytest.raises(DatasetError, match='3'):
        edited(tmp_path / 'large', 'coco', edit)


TABLES: dict[str, dict[str, Any]] = {
    'absolute file': {'file': '/etc/hostname.png'}, 'file above': {'file': '../../x.png'},
    'file of Windows': {'file': 'C:\\x.png'}, 'file with a zero': {'file': 'x\0.png'},
    'file that is no image': {'file': 'x.sh'}, 'stem above': {'stem': '../../x'},
    'stem that is a folder': {'stem': '..'}, 'stem that is a number': {'stem': 5},
    'size': {'height': 10**9, 'width': 10**9}, 'size of a fraction': {'height': 8.5},
    'size of a truth': {'height': True}, 'size below nothing': {'height': -8, 'width': -10},
    'dive of lists': {'dive': ['x']}, 'key that is a number': {'key': 7},
    'reason of lists': {'reason': ['x']}, 'score of words': {'score': 'high'},
    'stamp of words': {'stamp_ns': 'now'}, 'origin': {'origin': 'luck'}, 'more': {'more': 1},
}


@pytest.mark.parametrize('case', TABLES)
def test_a_table_that_leads_out_of_its_folder_is_refused(case: str, tmp_path: Path) -> None:
    write_export(tmp_path / 'out', 'folder', [FRAME], CLASSES)
    json_edit('frames.json', lambda c: c['frames'][0].update(TABLES[case]))(tmp_path / 'out')
    with pytest.raises(DatasetError, match='damaged'):
        read_table(tmp_path / 'out')


@pytest.mark.parametrize('change', [
    lambda c: c.update(version=9), lambda c: c['frames'][0].pop('dive'),
    lambda c: c.update(frames=None), lambda c: c.update(frames=[None]),
    lambda c: c['classes'].append(c['classes'][0]),
    lambda c: c.update(classes=[str(k) for k in range(256)]),
    lambda c: c['classes'][0].update(rgb=[0, 0, 300]), lambda c: c['classes'][0].update(name=[1]),
])
def test_a_damaged_table_is_refused(change: Callable[[Any], object], tmp_path: Path) -> None:
    write_export(tmp_path / 'out', 'folder', [FRAME], CLASSES)
    json_edit('frames.json', change)(tmp_path / 'out')
    with pytest.raises(DatasetError):
        read_table(tmp_path / 'out')


# --- a mask fits its image in any program, whatever EXIF orientation the camera wrote ------------

XMP = b'http://ns.adobe.com/xap/1.0/\0<rdf tiff:Orientation="6"/>'


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """Insert a chunk after the header of a PNG."""
    chunk = struct.pack('>I', len(content)) + kind + content
    return png[:33] + chunk + struct.pack('>I', zlib.crc32(kind + content)) + png[33:]


def turned_files() -> list[bytes]:
    """Return image files with an orientation in EXIF or XMP, as from cameras and programs."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 40, 3), np.uint8)
    jpeg, png = (cv2.imencode(ending, pixels)[1].tobytes() for ending in ('.jpg', '.png'))
    exif = turned(jpeg, 8)[12:12 + 38]
    return [turned(jpeg, 6), turned(jpeg, 6, '>'),
            jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(XMP) + 2) + XMP + jpeg[2:],
            with_chunk(png, b'eXIf', exif),
            with_chunk(png, b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0' + XMP[29:]),
            with_chunk(png, b'zTXt', b'Raw profile type exif\0\0' + zlib.compress(
                b'\nexif\n      44\n' + (b'Exif\0\0' + exif).hex().encode() + b'\n'))]


def test_no_orientation_is_left_and_the_pixels_are_those_of_the_node() -> None:
    import io

    image_module = pytest.importorskip('PIL.Image', reason='Pillow is not installed')
    for data in turned_files():
        found = without_metadata(data)
        for version, is_turned in ((data, True), (found, False)):
            with image_module.open(io.BytesIO(version)) as image:
                assert (int(image.getexif().get(0x0112, 1)) != 1) == is_turned
        shown = cv2.imdecode(np.frombuffer(found, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(shown, decode(ImageFile(data)))
        assert without_metadata(found) == found


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 400), junk=st.binary(max_size=24))
def test_damaged_files_pass_and_never_grow(at: int, junk: bytes) -> None:
    data = turned_files()[0]
    broken = data[:2] + data[2:at] + junk + data[at + len(junk):]
    assert len(without_metadata(broken)) <= len(broken)


def test_an_export_has_no_metadata_in_its_images(tmp_path: Path) -> None:
    frame = replace(FRAME, image_file=turned_files()[0])
    write_export(tmp_path / 'out', 'folder', [frame], CLASSES)
    assert (tmp_path / 'out' / 'images' / FRAME.row.file).read_bytes() == \
        without_metadata(frame.image_file)
