# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Labels that somebody made to do harm: too large, too deep, or with names outside the folder."""

from __future__ import annotations

import base64
from collections.abc import Callable
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
import zipfile

from bombs import black_png, zip_bomb
from label_sample import ACCEPT, CLASSES, corrected, labels_of, make_frame, read_back
import numpy as np
import pytest

pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels as COCO')

from uncertainty_seg.data.labels import cvat, regions  # noqa: E402
from uncertainty_seg.data.labels.coco import FILE as COCO_FILE  # noqa: E402
from uncertainty_seg.data.labels.formats import READERS, write_export  # noqa: E402
from uncertainty_seg.data.labels.frames import read_table  # noqa: E402
from uncertainty_seg.data.labels.training import write_training_folder  # noqa: E402
from uncertainty_seg.errors import DatasetError  # noqa: E402
from uncertainty_seg.storage import foreign_files  # noqa: E402

HEIGHT, WIDTH = 8, 10
PIPE = CLASSES.names[1]
FRAME = make_frame(0, (HEIGHT, WIDTH), mask=np.zeros((HEIGHT, WIDTH), np.uint8))
FAR = [[0, 0, 1e9, 0, 1e9, 1e9]]
Edit = Callable[[Path], None]


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


def shape(**values: Any) -> Edit:
    return json_edit(f'images/{FRAME.stem}.json', lambda c: c['shapes'][0].update(values))


def mask(**values: str) -> Edit:
    def edit(folder: Path) -> None:
        with zipfile.ZipFile(folder / 'cvat.zip') as archive:
            root = ElementTree.fromstring(archive.read('annotations.xml'))
        found = root.find('image/mask')
        assert found is not None
        found.attrib.update(values)
        ElementTree.ElementTree(root).write(folder / 'annotations.xml')
    return edit


def text(name: str, content: str) -> Edit:
    return lambda folder: (folder / name).write_text(content) and None


def xml(content: str) -> Edit:
    return text('annotations.xml', content)


def lying_zip(folder: Path) -> None:
    """Write an archive whose directory says 1000 bytes of an entry of 3 MB."""
    file = folder / 'cvat.zip'
    zip_bomb(file, 'annotations.xml', 3 * 2**20)
    data = bytearray(file.read_bytes())
    entry = data.rfind(b'PK\1\2')
    data[entry + 24:entry + 28] = (1000).to_bytes(4, 'little')
    file.write_bytes(data)


def locked_zip(folder: Path) -> None:
    data = (folder / 'cvat.zip').read_bytes()
    for start, offset in ((b'PK\1\2', 8), (b'PK\3\4', 6)):
        pieces = data.split(start)
        for k in range(1, len(pieces)):
            piece = pieces[k]
            at = offset - len(start)
            pieces[k] = piece[:at] + bytes((piece[at] | 1,)) + piece[at + 1:]
        data = start.join(pieces)
    (folder / 'cvat.zip').write_bytes(data)


@pytest.fixture(autouse=True)
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set limits that a test can exceed in no time."""
    monkeypatch.setattr(foreign_files, 'MAX_ZIP_BYTES', 4 * 2**20)
    monkeypatch.setattr(foreign_files, 'MAX_XML_ITEMS', 1000)
    monkeypatch.setattr(cvat, 'MAX_XML_BYTES', 2**20)


ENTITIES = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
ATTACKS: dict[str, tuple[Edit, str]] = {
    'cvat mask of 1e18 pixels': (
        mask(width='1000000000', height='1000000000', rle=str(10**18)),
        r'region of .* is 1000000000x1000000000 at 0,0, expected a part of the 10x8'),
    'cvat negative mask': (mask(width='-10', height='-8'), 'is -10x-8 at 0,0, expected a part'),
    'cvat many digits': (mask(width='9' * 5000), 'is no "CVAT for images'),
    'cvat archive': (lambda f: zip_bomb(f / 'cvat.zip', 'annotations.xml', 5 * 2**20),
                     r'cvat.zip cannot be read \(it expands to 5242880 bytes, at most'),
    'cvat archive that lies': (lying_zip, r'cvat.zip cannot be read \(Bad CRC'),
    'cvat entry': (lambda f: zip_bomb(f / 'cvat.zip', 'annotations.xml', 2**20 + 1),
                   r'annotations.xml has more than 1048576 bytes'),
    'cvat other packing': (
        lambda f: zip_bomb(f / 'cvat.zip', 'annotations.xml', 9, zipfile.ZIP_BZIP2),
        'compressed in another way than deflate'),
    'cvat locked': (locked_zip, 'cvat.zip cannot be read .*encrypted'),
    'cvat entities': (xml(ENTITIES + '<annotations><image name="&b;"/></annotations>'),
                      'it defines a document type'),
    'cvat file of another': (xml('<!DOCTYPE a SYSTEM "file:///etc/hostname"><annotations/>'),
                             'it defines a document type'),
    'cvat elements': (xml(f'<annotations>{"<a/>" * 1000}</annotations>'),
                      'it has more than 1000 elements'),
    'coco deep': (text(COCO_FILE, '[' * 10**6), 'it is nested too deeply'),
    'coco size': (coco(segmentation={'size': [10**9, 10**9], 'counts': [10**18]}),
                  'labels of .* are 1000000000x1000000000, expected the 10x8'),
    'coco infinite': (json_edit(COCO_FILE, lambda c: c['images'][0].update(width=1e999)),
                      'is no COCO file'),
    'coco too many runs': (coco(segmentation={'size': [8, 10], 'counts': [0, 4 * 10**9]}),
                           'is no COCO file'),
    'coco runs that wrap': (coco(segmentation={'size': [8, 10], 'counts': [2**32, 80]}),
                            'is no COCO file'),
    'coco far corner': (coco(segmentation=FAR), r'has a corner at 1e\+09,0, expected corners in'),
    'coco outline': (coco(segmentation=[[0, 0, 9, 7] * 60_000]),
                     'outline of [0-9]* pixels, expected at most 1048576: export it as a mask'),
    'coco polygons': (coco(segmentation=[[0, 0, 0, 0, 0, 0]] * 10_001),
                      'has 10001 polygons, expected at most 10000'),
    'label-studio number': (brush(value={'rle': 10**10, 'brushlabels': [PIPE]}),
                            'an rle that is no list'),
    'label-studio size': (brush(original_width=10**9, original_height=10**9),
                          'are 1000000000x1000000000'),
    'labelme png': (shape(mask=base64.b64encode(black_png(9, 2000)).decode()),
                    'is 2000x9 at 0,0, expected a part'),
    'labelme outside': (shape(points=[[-2, 0]]), 'is 10x8 at -2,0, expected a part'),
    'labelme no points': (shape(points=[]), 'is no file of LabelMe'),
    'labelme infinite': (shape(points=[[1e999, 0]]), 'is no file of LabelMe'),
    'folder png': (lambda f: (f / 'masks' / f'{FRAME.stem}.png').write_bytes(
        black_png(9, 9, 16, 6)) and None, 'has 16 bits, expected a PNG of one channel of 8 bits'),
    'folder colours': (lambda f: (f / 'masks' / f'{FRAME.stem}.png').write_bytes(
        black_png(9, 9, 8, 2)) and None, 'has 3 channels, .*: save the ids themselves, not their'),
    'folder webp': (lambda f: (f / 'masks' / f'{FRAME.stem}.png').write_bytes(
        b'RIFF' + bytes(90)) and None, 'expected a jpeg or png file.*a PNG of one channel'),
}


@pytest.mark.parametrize('case', ATTACKS)
def test_labels_that_would_do_harm_are_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    kind, (edit, words) = case.split()[0], ATTACKS[case]
    write_export(tmp_path / 'out', kind, [FRAME], CLASSES)
    place = corrected(tmp_path / 'out', kind)
    edit(place)
    with pytest.raises(DatasetError, match=words) as caught:
        list(READERS[kind](place, read_table(tmp_path / 'out')))
    sentence = str(caught.value)
    assert sentence.endswith('.') and '\n' not in sentence and len(sentence) < 1000


def test_more_regions_than_a_frame_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, 'MAX_REGIONS', 3)
    write_export(tmp_path / 'out', 'coco', [FRAME], CLASSES)
    for count in (3, 4):
        json_edit(COCO_FILE, lambda c, count=count: c.update(  # type: ignore[misc]
            annotations=c['annotations'][:1] * count))(tmp_path / 'out')
        if count == 3:
            read_back(tmp_path / 'out', 'coco')
    with pytest.raises(DatasetError, match='has more than 3 regions'):
        read_back(tmp_path / 'out', 'coco')


TABLES: dict[str, tuple[dict[str, Any], str]] = {
    'absolute file': ({'file': '/etc/hostname.png'}, "'/etc/hostname.png' is not a plain file"),
    'file above': ({'file': '../../x.png'}, "'../../x.png' is not a plain file name"),
    'file of Windows': ({'file': 'C:\\x.png'}, 'is not a plain file name'),
    'file with a zero': ({'file': 'x\0.png'}, 'is not a plain file name'),
    'file that is no image': ({'file': 'x.sh'}, "'x.sh' ends with none of .jpg"),
    'stem above': ({'stem': '../../x'}, "'../../x' is not a plain file name"),
    'stem that is a folder': ({'stem': '..'}, "'..' is not a plain file name"),
    'stem that is a number': ({'stem': 5}, 'is not a plain file name'),
    'size': ({'height': 10**9, 'width': 10**9}, 'is 1000000000x1000000000 pixels, at most'),
    'size of a fraction': ({'height': 8.5}, 'is 10x8.5 pixels'),
    'size of a truth': ({'height': True}, 'is 10xTrue pixels'),
    'size below nothing': ({'height': -8, 'width': -10}, 'is -10x-8 pixels'),
    'dive of lists': ({'dive': ['x']}, 'the dive of .* is no text'),
    'key that is a number': ({'key': 7}, '"key" is 7, which is no text'),
    'reason of lists': ({'reason': ['x']}, '"reason" is .* which is no text'),
    'score of words': ({'score': 'high'}, 'the stamp or score of .* is no number'),
    'stamp of words': ({'stamp_ns': 'now'}, 'the stamp or score of .* is no number'),
}


@pytest.mark.parametrize('case', TABLES)
def test_a_table_that_leads_out_of_its_folder_is_refused(case: str, tmp_path: Path) -> None:
    values, words = TABLES[case]
    write_export(tmp_path / 'out', 'folder', [FRAME], CLASSES)
    json_edit('frames.json', lambda c: c['frames'][0].update(values))(tmp_path / 'out')
    with pytest.raises(DatasetError, match=f'frames.json is damaged .*{words}'):
        read_table(tmp_path / 'out')


@pytest.mark.parametrize('change, words', [
    (lambda c: c.update(classes=[str(k) for k in range(256)]), '256 classes, at most 255'),
    (lambda c: c['classes'][0].update(rgb=[0, 0, 300]), 'has another form'),
    (lambda c: c['classes'][0].update(rgb=[1e999, 0, 0]), 'has another form'),
    (lambda c: c['classes'][0].update(name=['x']), 'a name that is no text'),
])
def test_classes_that_no_mask_can_have_are_refused(
    change: Callable[[Any], object], words: str, tmp_path: Path
) -> None:
    write_export(tmp_path / 'out', 'folder', [FRAME], CLASSES)
    json_edit('frames.json', change)(tmp_path / 'out')
    with pytest.raises(DatasetError, match=words):
        read_table(tmp_path / 'out')


@pytest.mark.parametrize('image', [FRAME.image_file + bytes(6 * 2**20), b'x'],
                         ids=['expands', 'none'])
def test_an_image_in_an_archive_that_expands_or_is_none_is_refused(
    image: bytes, tmp_path: Path
) -> None:
    write_export(tmp_path / 'out', 'cvat', [FRAME], CLASSES)
    table = read_table(tmp_path / 'out')
    labels = list(labels_of(tmp_path / 'out', 'cvat'))
    with zipfile.ZipFile(tmp_path / 'out' / 'cvat.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f'images/{FRAME.file_name}', image)
    (tmp_path / 'train').mkdir()
    with pytest.raises(DatasetError, match='it expands to|is no image that can be read'):
        write_training_folder(tmp_path / 'train', table, labels, {'train': 1.0}, 0)
    assert not list((tmp_path / 'train' / 'images').iterdir())


def test_names_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    write_export(tmp_path / 'out', 'cvat', [FRAME], CLASSES)
    with zipfile.ZipFile(tmp_path / 'out' / 'cvat.zip', 'a') as archive:
        for name in ('../above.txt', str(tmp_path / 'absolute.txt'), 'images/../../x.png'):
            archive.writestr(name, 'x')
    table = read_table(tmp_path / 'out')
    (tmp_path / 'train').mkdir()
    write_training_folder(tmp_path / 'train', table, labels_of(tmp_path / 'out', 'cvat'),
                          {'train': 1.0}, 0, ACCEPT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out', 'train']
