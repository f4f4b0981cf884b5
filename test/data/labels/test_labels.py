# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""export-labels and import-labels from logs and selections; one sentence for what is wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
import re
import shutil
import subprocess
import sys
from typing import Any

from bombs import zip_bomb
import cv2
from label_sample import CLASSES, corrected, make_frame, messages_of, read_back, write_log
import numpy as np
import pytest
from score_tables import write_rows

pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels as COCO')

from uncertainty_seg.cli import export_labels, import_labels  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.core.arrays import ImageU8  # noqa: E402
from uncertainty_seg.data.labels import formats as label_formats  # noqa: E402
from uncertainty_seg.data.labels.bag import topic_of, UNCERTAINTY_TOPIC  # noqa: E402
from uncertainty_seg.data.labels.frames import read_mask, read_table  # noqa: E402
from uncertainty_seg.data.labels.regions import SHAPES  # noqa: E402
from uncertainty_seg.storage.bags.writer import BagWriter  # noqa: E402
from uncertainty_seg.storage.frame_log import format as frame_log_format  # noqa: E402
from uncertainty_seg.storage.labelled_folder import load_folder  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle, model_digest  # noqa: E402
from uncertainty_seg.storage.perceptual_hash import perceptual_hash  # noqa: E402
from uncertainty_seg.storage.score_rows import (  # noqa: E402
    read_rows,
    ScoreRow,
    short_digest,
    TableInfo,
)


def random_masks(count: int, seed: int = 0) -> list[ImageU8]:
    """Return masks of odd and mixed sizes; log masks have no pixel without a class."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 3, (9 + 4 * i, 23 - 2 * i)).astype(np.uint8) for i in range(count)]


@pytest.fixture
def masks() -> list[ImageU8]:
    return random_masks(4)


@pytest.fixture
def log(tmp_path: Path, masks: list[ImageU8]) -> Path:
    return write_log(tmp_path / 'log', masks)


def run(*words: object) -> int:
    return main([str(word) for word in words])


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Return the one sentence that a misuse is answered with."""
    capsys.readouterr()
    assert run(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].endswith('.')
    return lines[-1]


def test_the_verbs_name_the_formats_there_are() -> None:
    assert export_labels.FORMATS == tuple(label_formats.WRITERS)
    assert import_labels.FORMATS == tuple(label_formats.READERS)
    assert export_labels.REASONS == frame_log_format.REASONS
    assert export_labels.SHAPES == SHAPES
    assert export_labels.WITH_SHAPES == tuple(label_formats.WITH_SHAPES)


@pytest.mark.parametrize('kind', import_labels.FORMATS)
def test_two_dives_go_out_and_come_back_to_training(
    kind: str, log: Path, masks: list[ImageU8], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = write_log(tmp_path / 'log_8', random_masks(2, seed=1), dive='dive 8')
    assert run('export-labels', log, other, tmp_path / 'out', '--format', kind) == 0
    said = last_line(capsys)
    assert said['frames'] == 6 and said['dives'] == {'dive_7': 4, 'dive 8': 2}
    assert run('import-labels', corrected(tmp_path / 'out', kind), tmp_path / 'train',
               '--format', kind, '--accept-unchanged') == 0
    assert last_line(capsys)['splits'] == {'train': 4, 'val': 2}
    data = load_folder(tmp_path / 'train', 'train')
    assert (data.class_names, data.palette) == (CLASSES.names, CLASSES.palette)
    assert data.stems == [f'dive_7_{10**18 + i}_front' for i in range(4)]
    for mask, found in zip(masks, data.masks, strict=True):
        np.testing.assert_array_equal(found, mask)
    assert load_folder(tmp_path / 'train', 'val').stems[0].startswith('dive_8_')
    received = (log / 'frames' / f'{10**18 + 1}_front' / 'image.jpg').read_bytes()
    assert (tmp_path / 'train' / 'images' / f'{data.stems[1]}.jpg').read_bytes() == received


def test_a_bag_has_the_uncertainty_of_the_log(log: Path, tmp_path: Path) -> None:
    assert run('export-labels', log, tmp_path / 'bag', '--format', 'mcap') == 0
    logged = next(frame_log_format.iter_frames(log)).read_uncertainty()
    message = messages_of(tmp_path / 'bag')[topic_of(UNCERTAINTY_TOPIC, 'front')][0]
    assert np.isnan(logged[0, 0])
    np.testing.assert_array_equal(message.data.view('<f4').reshape(logged.shape), logged)


def test_logs_that_mix_dives_become_a_bag_a_dive(
    log: Path, tmp_path: Path, masks: list[ImageU8], capsys: pytest.CaptureFixture[str]
) -> None:
    for place in list((log / 'frames').iterdir())[::2]:  # as after a new name without a restart
        text = (place / 'frame.json').read_text()
        (place / 'frame.json').write_text(
            text.replace('"dive_7"', '"dive_8"').replace('"camera": "front"', '"camera": ""'))
    assert run('export-labels', log, tmp_path / 'out', '--format', 'mcap') == 0
    assert last_line(capsys)['dives'] == {'dive_7': 2, 'dive_8': 2}
    assert len(messages_of(tmp_path / 'out' / 'dive_7')['/uncertainty_seg/front/mask']) == 2
    assert len(messages_of(tmp_path / 'out' / 'dive_8')['/uncertainty_seg/mask']) == 2


def test_only_the_reasons_that_are_asked_for(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run('export-labels', log, tmp_path / 'out', '--format', 'folder', '--reasons',
               'control') == 0
    (row,) = read_table(tmp_path / 'out').rows.values()
    assert (row.reason, row.score, row.origin) == ('control: within limits', 0.5, 'control')
    assert run('export-labels', log, tmp_path / 'all', '--format', 'folder') == 0
    assert [row.origin for row in read_table(tmp_path / 'all').rows.values()] == [
        'control', 'selected', 'selected', 'selected']
    assert 'kept as window' in refused(capsys, 'export-labels', log, tmp_path / 'no', '--format',
                                       'folder', '--reasons', 'window')


def test_what_is_damaged_or_not_finished_is_left_out_and_said(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = sorted((log / 'frames').iterdir())
    (folders[0] / 'mask.png').unlink()
    cv2.imwrite(str(folders[1] / 'mask.png'), np.zeros((3, 3), np.uint8))
    (folders[2] / 'frame.json').write_text('{"version": 1, "frame')
    shutil.copytree(folders[3], log / 'frames' / '.tmp_half')  # as while it is being written
    assert run('export-labels', log, tmp_path / 'out', '--format', 'coco') == 0
    output = capsys.readouterr()
    said = json.loads(output.out.splitlines()[-1])
    assert (said['frames'], said['left_out']) == (1, 3)
    for word in ('mask.png cannot be read', '3x3, expected the 21x13', 'frame.json is damaged'):
        assert word in output.err
    (folders[3] / 'mask.png').unlink()
    assert 'no frame to export' in refused(
        capsys, 'export-labels', log, tmp_path / 'no', '--format', 'coco')
    assert not (tmp_path / 'no').exists()


def test_misuse_is_one_sentence(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(*words: object) -> str:
        return refused(capsys, 'export-labels', *words, tmp_path / 'new', '--format', 'coco')

    empty = tmp_path / 'empty'
    (empty / 'frames').mkdir(parents=True)
    assert 'holds no frame' in export(empty)
    assert 'neither a frame log nor a selection' in export(tmp_path)
    assert 'is missing' in export(tmp_path / 'nowhere')
    squid = write_log(tmp_path / 'squid', random_masks(1), names=('a', 'b', 'squid'))
    assert 'has other classes than' in export(log, squid)
    assert 'each name once' in export(write_log(tmp_path / 'twins', random_masks(1),
                                                names=('a', 'b', 'a')))
    sidecar = next((squid / 'frames').iterdir()) / 'frame.json'
    for old, new, word in (('"id": 0', '"id": 5', 'class ids'), ('"name"', '"nom"', 'damaged')):
        whole = sidecar.read_text()
        sidecar.write_text(whole.replace(old, new))
        assert word in export(squid)
        sidecar.write_text(whole)
    assert 'exists and is not empty' in refused(
        capsys, 'export-labels', log, log, '--format', 'coco')
    assert '--image-prefix' in refused(capsys, 'export-labels', log, tmp_path / 'new', '--format',
                                       'coco', '--image-prefix', '/x/')
    for option, text in (('--model', 'pipeline'), ('--backend', 'openvino')):
        assert f'{option} with frame logs' in refused(
            capsys, 'export-labels', log, tmp_path / 'new', '--format', 'coco', option, text)
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('words, said', [
    (('export-labels', 'log', 'new', '--format', 'squid'), '--format squid, expected one of coco'),
    (('export-labels', 'log', 'new', '--format', 'coco', '--reasons', 'control', 'odd'),
     '--reasons odd, expected one of flagged'),
    (('export-labels', 'log', 'new', '--format', 'coco', '--shapes', 'boxes'),
     '--shapes boxes, expected one of masks'),
    (('export-labels', 'log', 'new', '--format', 'folder', '--shapes', 'polygons'),
     '--shapes polygons with the format folder, expected one of coco'),
    (('import-labels', 'out', 'new', '--format', 'mcap'), '--format mcap, expected one of coco'),
    (('import-labels', 'out', 'new', '--format', 'coco', '--shares', 'train'), '--shares train,'),
    (('import-labels', 'out', 'new', '--format', 'coco', '--shares', 'a=2'), '--shares a=2,'),
])
def test_a_word_that_is_not_known_is_one_sentence_and_nothing_else(
    words: tuple[str, ...], said: str, log: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'out').mkdir()
    assert run(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / 'new').exists()


def test_misuse_of_import_is_one_sentence(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    assert run('export-labels', log, out, '--format', 'folder') == 0

    def bring(labels: Path, *words: object) -> str:
        return refused(capsys, 'import-labels', labels, tmp_path / 'new', '--format', 'folder',
                       *words)

    assert 'no labels at' in bring(tmp_path / 'nowhere')
    assert 'has no frames.json' in bring(log)
    assert 'add up to 1' in bring(out, '--shares', 'train=0.5', 'val=0.2')
    assert 'twice' in bring(out, '--shares', 'a=0.5', 'a=0.5')
    (out / 'images' / sorted(p.name for p in (out / 'images').iterdir())[0]).unlink()
    assert 'cannot be read' in bring(out)
    for file in (out / 'masks').iterdir():
        mask = read_mask(file)
        cv2.imwrite(str(file), np.full(mask.shape, 255, np.uint8))
    assert 'none of the 4 frames' in bring(out)
    assert not (tmp_path / 'new').exists()


def test_labels_that_would_do_harm_are_one_sentence_and_leave_nothing(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    assert run('export-labels', log, out, '--format', 'cvat') == 0
    whole = json.loads((out / 'frames.json').read_text())

    def bring(**changes: Any) -> str:
        table = json.loads(json.dumps(whole))
        table['frames'][0].update(changes)
        (out / 'frames.json').write_text(json.dumps(table))
        return refused(capsys, 'import-labels', out, tmp_path / 'new', '--format', 'cvat')

    assert "'/etc/hostname.png' is not a plain file name" in bring(file='/etc/hostname.png')
    assert "'../../new' is not a plain file name" in bring(stem='../../new')
    assert 'pixels, at most 67108864 in all' in bring(height=10**9, width=10**9)
    (out / 'frames.json').write_text('[' * 10**6)
    assert 'it is nested too deeply' in refused(
        capsys, 'import-labels', out, tmp_path / 'new', '--format', 'cvat')
    (out / 'frames.json').write_text(json.dumps(whole))
    zip_bomb(out / 'cvat.zip', 'annotations.xml', 300 * 2**20)
    assert 'cvat.zip cannot be read (it expands to 314572800 bytes, at most' in refused(
        capsys, 'import-labels', out, tmp_path / 'new', '--format', 'cvat')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['log', 'out']


def test_one_dive_alone_is_all_training_and_a_warning(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run('export-labels', log, tmp_path / 'out', '--format', 'cvat') == 0
    assert run('import-labels', tmp_path / 'out' / 'cvat.zip', tmp_path / 'train', '--format',
               'cvat', '--accept-unchanged') == 0
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1])['splits'] == {'train': 4, 'val': 0}
    assert 'val is empty: label frames of another dive' in output.err


FULL_DISK = """
import sys
from pathlib import Path
from uncertainty_seg.cli.main import main
disk, log, export = map(Path, sys.argv[1:4])
for kind in sys.argv[4:]:
    print(kind, main(['export-labels', str(log), str(disk / 'out'), '--format', kind]),
          list(disk.iterdir()))
print('import', main(['import-labels', str(export), str(disk / 'out'), '--format', 'folder',
                      '--accept-unchanged']), list(disk.iterdir()))
"""


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    disk, export = tmp_path / 'disk', tmp_path / 'export'
    disk.mkdir()
    probe = ['unshare', '-m', 'mount', '-t', 'tmpfs', 'tmpfs', str(disk)]
    if shutil.which('unshare') is None or \
            subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip('may not mount a small disk here')
    log = write_log(tmp_path / 'log', [np.zeros((120, 160), np.uint8)] * 4)
    assert run('export-labels', log, export, '--format', 'folder') == 0
    shell = 'mount -t tmpfs -o size=64k tmpfs "$1" && shift && exec "$@"'
    kinds = export_labels.FORMATS
    done = subprocess.run(
        ['unshare', '-m', 'sh', '-c', shell, 'sh', disk, sys.executable, '-c', FULL_DISK, disk,
         log, export, *kinds], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        *(f'{kind} {1 if kind in label_formats.BAGS else 2} []' for kind in kinds), 'import 2 []']
    said = done.stderr.splitlines()
    assert len(said) == len(kinds) + 1
    for line in said:
        assert re.search(r'written \((No space left on device|database or disk is full)\), '
                         'expected a', line), line
        assert str(disk) in line


def test_a_disk_that_refuses_is_said_by_import_too(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run('export-labels', log, tmp_path / 'out', '--format', 'folder') == 0

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    line = refused(capsys, 'import-labels', tmp_path / 'out', tmp_path / 'train', '--format',
                   'folder', '--accept-unchanged')
    assert f'{tmp_path / "train"} cannot be written (No space left on device)' in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ['log', 'out']


# --- selections --------------------------------------------------------------------------------


def row_of(
    source: Path, kind: str, topic: str, index: int, image: ImageU8 | None = None, **facts: Any
) -> ScoreRow:
    """Return a row of a score table as `score` makes it of an image."""
    height, width = (48, 64) if image is None else image.shape[:2]
    phash = 0 if image is None else perceptual_hash(image)
    stamp_ns = 1000 + index if kind == 'bag' else index * 10**9
    row = ScoreRow('dive 9', str(source), kind, topic, index, stamp_ns, height, width, False,
                   'uncertain', 1.5, (0.9,), (1.0, 0.0, 0.0), phash,
                   np.array([0, 0.5], np.float32))
    return dataclasses.replace(row, **facts)


def make_selection(
    folder: Path, bundle: Path, rows: list[ScoreRow], strategy: str = 'top-k',
    num_embedding: int = 0,
) -> Path:
    """Write a selection, as `select` leaves it."""
    import pyarrow as pa
    from pyarrow import parquet

    card = load_bundle(str(bundle)).card
    info = TableInfo(str(bundle), model_digest(card), card.class_names, card.palette, 8, 3,
                     ('entropy.mean',), 2, {'model': str(bundle), 'passes': 8, 'seed': 3,
                                            'backend': 'onnxruntime'}, num_embedding)
    folder.mkdir()
    write_rows(folder / 'part.parquet', info, rows)
    chosen = read_rows(folder / 'part.parquet')
    chosen = chosen.append_column('reason', pa.array(['rank 1 of 9'] * len(rows), pa.string()))
    chosen = chosen.append_column('strategy', pa.array([strategy] * len(rows), pa.string()))
    origin = 'control' if strategy == 'random' else 'selected'
    chosen = chosen.append_column('origin', pa.array([origin] * len(rows), pa.string()))
    (folder / 'part.parquet').rename(folder / 'scores')
    parquet.write_table(chosen, folder / 'selection.parquet')
    return folder


def write_bag(bag: Path, images: list[ImageU8], *topics: str) -> Path:
    """Write each image on each topic, with the stamps 1000, 1001 and so on."""
    with BagWriter(bag) as writer:
        for index, image in enumerate(images):
            for topic in topics:
                writer.write_image(topic, 1000 + index, f'{topic[1:4]}_frame', image, 'bgr8')
    return bag


def random_images(count: int, seed: int = 0) -> list[ImageU8]:
    """Return images that look nothing like each other."""
    coarse = np.random.default_rng(seed).integers(0, 255, (count, 6, 8, 3), np.uint8)
    return [np.asarray(cv2.resize(image, (64, 48)), np.uint8) for image in coarse]


def test_a_selection_gets_the_masks_of_the_model_that_scored_it(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('pyarrow', reason='pyarrow is not installed: no selection')
    # The tiny network answers blue, green, red by colour.
    images = [make_frame(0, (48, 64)).image() for _ in range(3)]
    for index, image in enumerate(images):
        image[:] = 0
        image[:, :32, index] = 255
        image[:, 32:, (index + 1) % 3] = 255
    bag = write_bag(tmp_path / 'dive.bag', images, '/cam/image_raw')
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    cv2.imwrite(str(pictures / 'a.png'), images[0])
    where = [row_of(bag, 'bag', '/cam/image_raw', 2, images[2]),
             row_of(pictures, 'folder', '', 0, images[0], run=str(bag)),
             row_of(bag, 'bag', '/cam/image_raw', 1, images[1]),
             row_of(bag, 'bag', '/cam/image_raw', 7),
             *(row_of(tmp_path / 'gone', 'bag', '/x', index, run=str(bag)) for index in range(3))]
    selection = make_selection(tmp_path / 'selection', tiny_bundle, where)
    assert run('export-labels', selection, tmp_path / 'out', '--format', 'folder') == 0
    output = capsys.readouterr()
    said = json.loads(output.out.splitlines()[-1])
    assert (said['frames'], said['left_out']) == (3, 4)
    assert 'is not in its source any more' in output.err
    assert f'3 frames of {tmp_path / "gone"}' in output.err
    masks = read_back(tmp_path / 'out', 'folder')
    of_bag, of_pictures = (short_digest(str(place)) for place in (bag, pictures))
    expected = {f'dive_9_cam_image_raw_{of_bag}_000001': (1, 2),
                f'dive_9_cam_image_raw_{of_bag}_000002': (2, 0),
                f'dive_9_{of_pictures}_000000': (0, 1)}
    assert set(masks) == set(expected)
    for stem, mask in masks.items():
        assert (set(mask[:, :30].flat), set(mask[:, 34:].flat)) == tuple(
            {value} for value in expected[stem])
    row = read_table(tmp_path / 'out').rows[f'dive_9_cam_image_raw_{of_bag}_000002']
    assert (row.reason, row.dive, row.score) == ('rank 1 of 9', 'dive 9', 1.5)
    assert row.key == 'dive.bag#/cam/image_raw#2'


def test_pictures_of_a_selection_are_exported_by_their_names(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('pyarrow', reason='pyarrow is not installed: no selection')
    pictures, images = tmp_path / 'pictures', random_images(3)
    pictures.mkdir()
    rows = []
    for index, image in enumerate(images):
        cv2.imwrite(str(pictures / f'{index}.png'), image)
        rows.append(dataclasses.replace(row_of(pictures, 'folder', '', index, image),
                                        file=f'{index}.png'))
    (pictures / '1.png').unlink()
    cv2.imwrite(str(pictures / '00.png'), images[0])
    selection = make_selection(tmp_path / 'selection', tiny_bundle, rows)
    assert run('export-labels', selection, tmp_path / 'out', '--format', 'folder') == 0
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1])['frames'] == 2
    assert f'{pictures}##1.png is not in its source any more.' in output.err
    assert {row.key for row in read_table(tmp_path / 'out').rows.values()} == {
        'pictures##0.png', 'pictures##2.png'}


def test_an_image_that_is_not_the_one_that_was_scored_is_left_out(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('pyarrow', reason='pyarrow is not installed: no selection')
    images = random_images(5)
    bag = write_bag(tmp_path / 'bag', images, '/cam/image_raw')
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    for index, image in enumerate(images):
        cv2.imwrite(str(pictures / f'{index}.png'), image)
    rows = [row_of(bag, 'bag', '/cam/image_raw', index, image)
            for index, image in enumerate(images)]
    rows[1] = dataclasses.replace(rows[1], stamp_ns=rows[1].stamp_ns + 1)
    rows[2] = dataclasses.replace(rows[2], height=24, width=32)
    rows[3] = dataclasses.replace(rows[3], phash=rows[3].phash ^ 0b111)
    rows[4] = dataclasses.replace(rows[4], phash=rows[4].phash ^ 0b11)  # another JPEG decoder
    rows += [row_of(pictures, 'folder', '', index, image) for index, image in enumerate(images)]
    (pictures / '0.png').unlink()  # every index now names the next picture
    selection = make_selection(tmp_path / 'selection', tiny_bundle, rows)
    assert run('export-labels', selection, tmp_path / 'out', '--format', 'folder') == 0
    output = capsys.readouterr()
    said = json.loads(output.out.splitlines()[-1])
    assert (said['frames'], said['left_out']) == (2, 8)
    assert 'bag#/cam/image_raw#1: another image is in its place' in output.err
    assert 'score it again' in output.err
    assert {row.key for row in read_table(tmp_path / 'out').rows.values()} == {
        'bag#/cam/image_raw#0', 'bag#/cam/image_raw#4'}


@pytest.mark.parametrize('topics, names', [
    (('/cam/front/image_raw',), ('',)),
    (('/cam/front/image_raw', '/down/image_rect'), ('cam/front/', 'down/image_rect/')),
])
def test_a_bag_of_a_selection_has_each_camera_and_its_ros_frame(
    topics: tuple[str, ...], names: tuple[str, ...], tiny_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip('pyarrow', reason='pyarrow is not installed: no selection')
    images = random_images(2)
    bag = write_bag(tmp_path / 'dive', images, *topics)
    rows = [row_of(bag, 'bag', topic, index, image) for index, image in enumerate(images)
            for topic in topics]
    selection = make_selection(tmp_path / 'selection', tiny_bundle, rows)
    assert run('export-labels', selection, tmp_path / 'out', '--format', 'mcap') == 0
    found = messages_of(tmp_path / 'out')
    for topic, name in zip(topics, names, strict=True):
        sent = found[f'/{name or "camera/"}image_raw']
        assert [message.header.frame_id for message in sent] == [f'{topic[1:4]}_frame'] * 2
        for message, image in zip(sent, images, strict=True):
            np.testing.assert_array_equal(message.data.reshape(image.shape), image)
        assert len(found[f'/uncertainty_seg/{name}mask']) == 2


def test_a_selection_of_a_log_keeps_the_camera_and_the_ros_frame(
    log: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip('pyarrow', reason='pyarrow is not installed: no selection')
    logged = list(frame_log_format.iter_frames(log))[1]
    row = row_of(log, 'log', 'front', 1, logged.read_image(),
                 stamp_ns=int(logged.sidecar['stamp_ns']))
    selection = make_selection(tmp_path / 'selection', tiny_bundle, [row])
    assert run('export-labels', selection, tmp_path / 'out', '--format', 'mcap') == 0
    (message,) = messages_of(tmp_path / 'out')['/front/image_raw/compressed']
    assert message.header.frame_id == 'camera'
    assert bytes(message.data) == logged.image_path.read_bytes()


@pytest.mark.parametrize('strategy', ['random', 'uncertainty-diversity'])
def test_only_what_was_drawn_of_all_frames_is_a_control(
    strategy: str, log: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip('pyarrow', reason='pyarrow is not installed: no selection')
    images = random_images(2)
    bag = write_bag(tmp_path / 'dive', images, '/cam/image_raw')
    rows = [row_of(bag, 'bag', '/cam/image_raw', index, image)
            for index, image in enumerate(images)]
    # Of a log only what it drew itself: the other frames are there because of their scores.
    rows += [row_of(log, 'log', 'front', index, frame.read_image(), run=str(log),
                    stamp_ns=int(frame.sidecar['stamp_ns']))
             for index, frame in enumerate(frame_log_format.iter_frames(log))]
    selection = make_selection(tmp_path / 'selection', tiny_bundle, rows, strategy)
    assert run('export-labels', selection, tmp_path / 'out', '--format', 'folder') == 0
    found = {row.key: row.origin for row in read_table(tmp_path / 'out').rows.values()}
    drawn = {'dive#/cam/image_raw#0', 'dive#/cam/image_raw#1', 'log#front#0'}
    assert len(found) == 6
    assert {key for key, origin in found.items() if origin == 'control'} == (
        drawn if strategy == 'random' else set())
    assert run('export-labels', selection, tmp_path / 'seen', '--format', 'fiftyone') == 0
    for sample in json.loads((tmp_path / 'seen' / 'samples.json').read_text())['samples']:
        assert sample['features'] == [0.0, 0.5] and 'embedding' not in sample  # as the table
        assert (tmp_path / 'seen' / sample['uncertainty']['map_path']).is_file()


def test_fiftyone_gets_what_the_network_made_of_a_frame_where_that_is_known(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip('pyarrow', reason='pyarrow is not installed: no selection')
    images = random_images(2)
    bag = write_bag(tmp_path / 'dive', images, '/cam/image_raw')
    known, unknown = (row_of(bag, 'bag', '/cam/image_raw', index, image)
                      for index, image in enumerate(images))
    known = dataclasses.replace(known, embedding=np.array([0.6, 0.0, -0.8], np.float32))
    selection = make_selection(tmp_path / 'chosen', tiny_bundle, [known, unknown],
                               num_embedding=3)
    assert run('export-labels', selection, tmp_path / 'seen', '--format', 'fiftyone') == 0
    first, second = json.loads((tmp_path / 'seen' / 'samples.json').read_text())['samples']
    assert first['embedding'] == [0.6, 0.0, -0.8] and 'embedding' not in second
    assert first['features'] == second['features'] == [0.0, 0.5]


def test_a_selection_that_does_not_say_how_it_was_drawn_has_no_controls(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip('pyarrow', reason='pyarrow is not installed: no selection')
    from pyarrow import parquet

    images = random_images(2)
    bag = write_bag(tmp_path / 'dive', images, '/cam/image_raw')
    rows = [row_of(bag, 'bag', '/cam/image_raw', index, image)
            for index, image in enumerate(images)]
    file = make_selection(tmp_path / 'old', tiny_bundle, rows, 'random') / 'selection.parquet'
    parquet.write_table(parquet.read_table(file).drop_columns(['origin']), file)
    assert run('export-labels', file, tmp_path / 'out', '--format', 'folder') == 0
    assert {row.origin for row in read_table(tmp_path / 'out').rows.values()} == {'selected'}


def test_two_runs_of_one_name_are_two_dives_without_a_path_in_the_export(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('pyarrow', reason='pyarrow is not installed: no selection')
    images = random_images(4)
    topic = '/cam/image_raw'
    bags = [write_bag(tmp_path / place, [image], topic) for place, image in
            zip(('june/dive_a', 'may/rec_0', 'july/dive_a', 'may/rec_1'), images, strict=True)]
    runs = [str(bags[0]), str(tmp_path / 'may'), str(bags[2]), str(tmp_path / 'may')]
    names = ['dive_a', 'may', 'dive_a', 'may']
    rows = [row_of(bag, 'bag', topic, 0, image, dive=name, run=of)
            for bag, image, name, of in zip(bags, images, names, runs, strict=True)]
    selection = make_selection(tmp_path / 'selection', tiny_bundle, rows)
    out = tmp_path / 'out'
    assert run('export-labels', selection, out, '--format', 'label-studio') == 0
    dives = {f'dive_a_{short_digest(of)}': 1 for of in runs[::2]}
    assert last_line(capsys)['dives'] == {**dives, 'may': 2}
    stems = {f'{dive}_cam_image_raw_000000' for dive in dives} | {
        f'may_cam_image_raw_{short_digest(str(bag))}_000000' for bag in bags[1::2]}
    assert set(read_table(out).rows) == stems
    for file in out.glob('*.json'):
        assert str(tmp_path) not in file.read_text()
    assert run('export-labels', selection, tmp_path / 'bags', '--format', 'mcap') == 0
    assert {path.name for path in (tmp_path / 'bags').iterdir()} == {
        'frames.json', 'may', *dives}


def test_a_selection_is_exported_where_its_sources_are_now(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip('pyarrow', reason='pyarrow is not installed: no selection')
    images = random_images(2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'else').mkdir()
    for place, image in zip(('fleet/a/bag', 'fleet/b/bag'), images, strict=True):
        write_bag(Path(place), [image], '/cam/image_raw')
    relative = [row_of(Path(place), 'bag', '/cam/image_raw', 0, image, dive=place[6])
                for place, image in zip(('fleet/a/bag', 'fleet/b/bag'), images, strict=True)]
    make_selection(tmp_path / 'selection', tiny_bundle, relative)
    absolute = [dataclasses.replace(row, source=str(tmp_path / row.source)) for row in relative]
    make_selection(tmp_path / 'selection_2', tiny_bundle, absolute)
    monkeypatch.chdir(tmp_path / 'else')  # seen: every frame was left out
    selection, out = tmp_path / 'selection', tmp_path / 'out'

    def export(name: str, *words: object) -> dict[str, object]:
        assert run('export-labels', tmp_path / name, out, '--format', 'folder', *words) == 0
        said = last_line(capsys)
        shutil.rmtree(out)
        return said

    assert export('selection')['dives'] == {'a': 1, 'b': 1}
    (tmp_path / 'fleet').rename(tmp_path / 'disk')
    for name in ('selection', 'selection_2'):
        said = refused(capsys, 'export-labels', tmp_path / name, out, '--format', 'folder')
        assert 'no frame to export' in said
        assert export(name, '--root', tmp_path / 'disk')['dives'] == {'a': 1, 'b': 1}
    run('export-labels', selection, out, '--format', 'folder')
    assert 'it is not here; name the folder that holds it now with --root.' in \
        capsys.readouterr().err
    (tmp_path / 'disk' / 'a').rename(tmp_path / 'disk' / 'c')
    # A bag of the same name is not taken for it: its pictures are others.
    shutil.copytree(tmp_path / 'disk' / 'b' / 'bag', tmp_path / 'disk' / 'bag')
    said = export('selection', '--root', tmp_path / 'disk')
    assert (said['dives'], said['left_out']) == ({'b': 1}, 1)
    assert 'expected a folder that holds the sources' in refused(
        capsys, 'export-labels', selection, out, '--format', 'folder', '--root', 'nowhere')
    assert '--root with frame logs' in refused(
        capsys, 'export-labels', write_log(tmp_path / 'log', random_masks(1)), out, '--format',
        'folder', '--root', tmp_path)


def test_another_bundle_or_a_table_is_one_sentence(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('pyarrow', reason='pyarrow is not installed: no selection')
    selection = make_selection(tmp_path / 'selection', tiny_bundle,
                               [row_of(Path('x'), 'bag', '/x', 0)])
    words = ('export-labels', selection, tmp_path / 'out', '--format', 'folder')
    assert 'the one that scored the selection' in refused(capsys, *words, '--model', 'pipeline')
    assert '--reasons with the selection' in refused(capsys, *words, '--reasons', 'control')
    scores = tmp_path / 'scores.parquet'
    (selection / 'scores').rename(scores)
    assert 'is a score table' in refused(
        capsys, 'export-labels', scores, tmp_path / 'out', '--format', 'folder')
    scores.write_bytes(b'no table')
    assert 'cannot be read' in refused(
        capsys, 'export-labels', scores, tmp_path / 'out', '--format', 'folder')
    assert 'one selection alone' in refused(
        capsys, 'export-labels', scores, scores, tmp_path / 'out', '--format', 'folder')
