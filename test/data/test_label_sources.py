# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The verb labels: export from logs and selections, import, and one sentence per error."""

import dataclasses
import json
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

from conftest import last_json
import cv2
from label_sample import CLASSES, corrected, read_back, write_log
import numpy as np
import pytest
from score_tables import write_rows

pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels as COCO')
pa = pytest.importorskip('pyarrow', reason='pyarrow is not installed: no selection')
pq = pytest.importorskip('pyarrow.parquet')

import uncertainty_seg as us  # noqa: E402
from uncertainty_seg.cli import labels as labels_verb  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.core.arrays import ImageU8  # noqa: E402
from uncertainty_seg.data.label_frames import encoded_png, read_table  # noqa: E402
from uncertainty_seg.storage.bags.writer import BagWriter  # noqa: E402
from uncertainty_seg.storage.frame_log import format as frame_log_format  # noqa: E402
from uncertainty_seg.storage.labelled_folder import (  # noqa: E402
    load_folder,
    load_splits,
    measured_split,
    read_mask,
)
from uncertainty_seg.storage.model_bundle import load_bundle, model_digest  # noqa: E402
from uncertainty_seg.storage.perceptual_hash import perceptual_hash  # noqa: E402
from uncertainty_seg.storage.score_rows import (  # noqa: E402
    read_rows,
    ScoreRow,
    short_digest,
    TableInfo,
)


def random_masks(count: int, seed: int = 0) -> list[ImageU8]:
    """Return masks of various sizes; masks of logs have no pixels without a class."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 3, (9 + 4 * i, 23 - 2 * i)).astype(np.uint8) for i in range(count)]


@pytest.fixture
def masks() -> list[ImageU8]:
    return random_masks(4)


@pytest.fixture
def log(tmp_path: Path, masks: list[ImageU8]) -> Path:
    return write_log(tmp_path / 'log', masks)


def export(*words: object, kind: str = 'folder') -> int:
    return main(['labels', 'export', *map(str, words), '--format', kind])


def bring(*words: object, kind: str = 'folder') -> int:
    return main(['labels', 'import', *map(str, words), '--format', kind])


def refused(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """Return the sentence of a refusal, the last line on stderr."""
    assert code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].endswith('.')
    return lines[-1]


@pytest.mark.parametrize('kind', labels_verb.FORMATS)
def test_two_dives_go_out_and_come_back_to_training(
    kind: str, log: Path, masks: list[ImageU8], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = write_log(tmp_path / 'log_8', random_masks(2, seed=1), dive='dive 8')
    assert export(log, other, tmp_path / 'out', kind=kind) == 0
    said = last_json(capsys)
    assert said['frames'] == 6 and said['dives'] == 2
    assert bring(corrected(tmp_path / 'out', kind), tmp_path / 'train', '--accept-unchanged',
                 kind=kind) == 0
    assert last_json(capsys)['splits'] == {'train': 4, 'val': 2}
    data = load_folder(tmp_path / 'train', 'train')
    assert (data.class_names, data.palette) == (CLASSES.names, CLASSES.palette)
    assert data.stems == [f'dive_7_{10**18 + i}_front' for i in range(4)]
    for mask, found in zip(masks, data.masks, strict=True):
        np.testing.assert_array_equal(found, mask)
    assert load_folder(tmp_path / 'train', 'val').stems[0].startswith('dive_8_')
    received = (log / 'frames' / f'{10**18 + 1}_front' / 'image.jpg').read_bytes()
    assert (tmp_path / 'train' / 'images' / f'{data.stems[1]}.jpg').read_bytes() == received


def test_only_the_reasons_that_are_asked_for(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(log, tmp_path / 'out', '--reasons', 'control') == 0
    (row,) = read_table(tmp_path / 'out').rows.values()
    assert row.reason.startswith('control: ') and (row.score, row.origin) == (0.5, 'control')
    assert export(log, tmp_path / 'all') == 0
    assert [row.origin for row in read_table(tmp_path / 'all').rows.values()] == [
        'control', 'selected', 'selected', 'selected']
    assert 'window' in refused(capsys, export(log, tmp_path / 'no', '--reasons', 'window'))


def test_what_is_damaged_or_not_finished_is_left_out_and_said(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = sorted((log / 'frames').iterdir())
    (folders[0] / 'mask.png').unlink()
    cv2.imwrite(str(folders[1] / 'mask.png'), np.zeros((3, 3), np.uint8))
    (folders[2] / 'frame.json').write_text('{"version": 1, "frame')
    shutil.copytree(folders[3], log / 'frames' / '.tmp_half')  # as while a frame is written
    assert export(log, tmp_path / 'out', kind='coco') == 0
    output = capsys.readouterr()
    said = json.loads(output.out.splitlines()[-1])
    assert (said['frames'], said['left_out']) == (1, 3)
    for word in ('mask.png', '3x3', 'frame.json'):
        assert word in output.err
    (folders[3] / 'mask.png').unlink()
    assert 'no frame' in refused(capsys, export(log, tmp_path / 'no'))
    assert not (tmp_path / 'no').exists()


def test_misuse_is_one_sentence(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    new = tmp_path / 'new'
    (tmp_path / 'empty' / 'frames').mkdir(parents=True)
    squid = write_log(tmp_path / 'squid', random_masks(1), names=('a', 'b', 'squid'))
    twins = write_log(tmp_path / 'twins', random_masks(1), names=('a', 'b', 'a'))
    for inputs, options, named in (
            (['empty'], [], 'no frame'), ([tmp_path], [], 'neither'), (['nowhere'], [], 'nowhere'),
            ([log, squid], [], 'other classes'), ([twins], [], "'a'"),
            ([log], ['--image-prefix', '/x/'], 'label-studio'),
            ([log], ['--root', tmp_path], 'selection'), ([log], ['--reasons', 'odd'], "'odd'")):
        assert named in refused(capsys, export(*inputs, new, *options, kind='coco'))
    sidecar = next((squid / 'frames').iterdir()) / 'frame.json'
    for old, new_text in (('"id": 0', '"id": 5'), ('"name"', '"nom"')):
        whole = sidecar.read_text()
        sidecar.write_text(whole.replace(old, new_text))
        refused(capsys, export(squid, new))
        sidecar.write_text(whole)
    assert 'not empty' in refused(capsys, export(log, log))
    assert "'squid'" in refused(capsys, export(log, new, kind='squid'))
    assert not new.exists()


def test_misuse_of_import_is_one_sentence(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, new = tmp_path / 'out', tmp_path / 'new'
    assert export(log, out) == 0
    assert "'mcap'" in refused(capsys, bring(out, new, kind='mcap'))
    assert 'nowhere' in refused(capsys, bring(tmp_path / 'nowhere', new))
    assert 'frames.json' in refused(capsys, bring(log, new))
    for shares in (('train=0.5', 'val=0.2'), ('a=0.5', 'a=0.5'), ('train',), ('a=2',)):
        refused(capsys, bring(out, new, '--shares', *shares))
    first = min((out / 'images').iterdir())
    content = first.read_bytes()
    cv2.imwrite(str(first), np.zeros((9, 10, 3), np.uint8))
    assert first.name in refused(capsys, bring(out, new))
    first.unlink()
    assert first.name in refused(capsys, bring(out, new))
    first.write_bytes(content)
    for file in (out / 'masks').iterdir():
        cv2.imwrite(str(file), np.full(read_mask(file).shape, 255, np.uint8))
    assert 'none of the 4' in refused(capsys, bring(out, new))
    assert not new.exists()


FULL_DISK = """
import sys
from pathlib import Path
from uncertainty_seg.cli.main import main
disk, log, export = map(Path, sys.argv[1:4])
for kind in sys.argv[4:]:
    print(kind, main(['labels', 'export', str(log), str(disk / 'out'), '--format', kind]),
          list(disk.iterdir()))
print('import', main(['labels', 'import', str(export), str(disk / 'out'), '--format', 'folder',
                      '--accept-unchanged']), list(disk.iterdir()))
"""


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    disk, sent = tmp_path / 'disk', tmp_path / 'export'
    disk.mkdir()
    probe = ['unshare', '-m', 'mount', '-t', 'tmpfs', 'tmpfs', str(disk)]
    if shutil.which('unshare') is None or \
            subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip('may not mount a small disk here')
    log = write_log(tmp_path / 'log', [np.zeros((120, 160), np.uint8)] * 4)
    assert export(log, sent) == 0
    shell = 'mount -t tmpfs -o size=64k tmpfs "$1" && shift && exec "$@"'
    kinds = labels_verb.FORMATS
    done = subprocess.run(
        ['unshare', '-m', 'sh', '-c', shell, 'sh', disk, sys.executable, '-c', FULL_DISK, disk,
         log, sent, *kinds], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [*(f'{kind} 2 []' for kind in kinds), 'import 2 []']
    said = done.stderr.splitlines()
    assert len(said) == len(kinds) + 1
    assert all('No space left' in line and str(disk) in line for line in said)


# --- selections --------------------------------------------------------------------------------


def row_of(
    source: Path, kind: str, topic: str, index: int, image: ImageU8 | None = None, **facts: Any
) -> ScoreRow:
    """Return a row of a score table for an image, as `score` writes it."""
    height, width = (48, 64) if image is None else image.shape[:2]
    phash = 0 if image is None else perceptual_hash(image)
    stamp_ns = 1000 + index if kind == 'bag' else index * 10**9
    row = ScoreRow('dive 9', str(source), kind, topic, index, stamp_ns, height, width, False,
                   'uncertain', 1.5, (0.9,), (1.0, 0.0, 0.0), phash,
                   np.array([0, 0.5], np.float32))
    return dataclasses.replace(row, **facts)


def make_selection(
    folder: Path, bundle: Path, rows: list[ScoreRow], strategy: str = 'top-k'
) -> Path:
    """Write a selection in the form that `select` writes."""
    card = load_bundle(str(bundle)).card
    info = TableInfo(str(bundle), model_digest(card), card.class_names, card.palette, 8, 3,
                     ('entropy.mean',), 2, {'passes': 8, 'seed': 3, 'backend': 'onnxruntime'})
    folder.mkdir()
    write_rows(folder / 'part.parquet', info, rows)
    chosen = read_rows(folder / 'part.parquet')
    origin = 'control' if strategy == 'random' else 'selected'
    for name, text in (('reason', 'rank 1 of 9'), ('strategy', strategy), ('origin', origin)):
        chosen = chosen.append_column(name, pa.array([text] * len(rows), pa.string()))
    (folder / 'part.parquet').rename(folder / 'scores')
    pq.write_table(chosen, folder / 'selection.parquet')
    return folder


def write_bag(bag: Path, images: list[ImageU8], topic: str = '/cam/image_raw') -> Path:
    """Write a bag of images with stamps 1000, 1001 and so on."""
    with BagWriter(bag) as writer:
        for index, image in enumerate(images):
            writer.write_image(topic, 1000 + index, 'cam', image, 'bgr8')
    return bag


def random_images(count: int, seed: int = 0) -> list[ImageU8]:
    """Return images that are all unlike each other."""
    coarse = np.random.default_rng(seed).integers(0, 255, (count, 6, 8, 3), np.uint8)
    return [np.asarray(cv2.resize(image, (64, 48)), np.uint8) for image in coarse]


def bag_rows(bag: Path, images: list[ImageU8], **facts: Any) -> list[ScoreRow]:
    return [row_of(bag, 'bag', '/cam/image_raw', index, image, **facts)
            for index, image in enumerate(images)]


def test_a_selection_gets_the_masks_of_the_model_that_scored_it(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The tiny network labels blue, green and red by their colour.
    images = [np.zeros((48, 64, 3), np.uint8) for _ in range(3)]
    for index, image in enumerate(images):
        image[:, :32, index] = 255
        image[:, 32:, (index + 1) % 3] = 255
    bag = write_bag(tmp_path / 'dive.bag', images)
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    cv2.imwrite(str(pictures / 'a.png'), images[0])
    where = [row_of(bag, 'bag', '/cam/image_raw', 2, images[2]),
             row_of(pictures, 'folder', '', 0, images[0], run=str(bag), file='a.png'),
             row_of(bag, 'bag', '/cam/image_raw', 1, images[1]),
             row_of(bag, 'bag', '/cam/image_raw', 7),
             *(row_of(tmp_path / 'gone', 'bag', '/x', index, run=str(bag)) for index in range(3))]
    selection = make_selection(tmp_path / 'selection', tiny_bundle, where)
    assert export(selection, tmp_path / 'out') == 0
    output = capsys.readouterr()
    said = json.loads(output.out.splitlines()[-1])
    assert (said['frames'], said['left_out']) == (3, 4)
    assert '#7 ' in output.err and f'{tmp_path / "gone"}' in output.err
    found = read_back(tmp_path / 'out', 'folder')
    of_bag = short_digest(str(bag))
    expected = {f'dive_9_cam_image_raw_{of_bag}_000001': (1, 2),
                f'dive_9_cam_image_raw_{of_bag}_000002': (2, 0),
                'a': (0, 1)}
    assert set(found) == set(expected)
    for stem, mask in found.items():
        assert (set(mask[:, :30].flat), set(mask[:, 34:].flat)) == tuple(
            {value} for value in expected[stem])
    row = read_table(tmp_path / 'out').rows[f'dive_9_cam_image_raw_{of_bag}_000002']
    assert (row.reason, row.dive, row.score) == ('rank 1 of 9', 'dive 9', 1.5)
    assert row.key == 'dive.bag#/cam/image_raw#2'
    for file in (tmp_path / 'out').glob('*.json'):  # no path of this machine is exported
        assert str(tmp_path) not in file.read_text()


def test_no_photograph_takes_the_labels_of_another_whatever_their_names(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    names = ('a.jpg', 'a.jpg.png', 'a.png.jpg', 'b c.png', 'b.c.png')
    images, pictures = random_images(len(names)), tmp_path / 'pictures'
    pictures.mkdir()
    for name, image in zip(names, images, strict=True):
        (pictures / name).write_bytes(encoded_png(image))
    rows = [row_of(pictures, 'folder', '', k, images[k], file=names[k]) for k in range(len(names))]
    make_selection(tmp_path / 'selection', tiny_bundle, rows)
    for kind in labels_verb.FORMATS:
        assert export(tmp_path / 'selection', tmp_path / kind, kind=kind) == 0
        found = read_back(tmp_path / kind, kind)
        assert set(found) == {'a', 'a_jpg', 'a_png', 'b_c', 'b.c'}
        for stem, mask in found.items():
            sent = read_mask(tmp_path / kind / 'predictions' / f'{stem}.png')
            np.testing.assert_array_equal(mask, sent)


def test_an_image_that_is_not_the_one_that_was_scored_is_left_out(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = random_images(5)
    bag = write_bag(tmp_path / 'bag', images)
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    rows = bag_rows(bag, images)
    rows[1] = dataclasses.replace(rows[1], stamp_ns=rows[1].stamp_ns + 1)
    rows[2] = dataclasses.replace(rows[2], height=24, width=32)
    rows[3] = dataclasses.replace(rows[3], phash=rows[3].phash ^ 0b111)
    rows[4] = dataclasses.replace(rows[4], phash=rows[4].phash ^ 0b11)  # another JPEG decoder
    for index, image in enumerate(images):
        cv2.imwrite(str(pictures / f'{index}.png'), image)
        rows.append(row_of(pictures, 'folder', '', index, image, file=f'{index}.png'))
    # One file is gone, one sorts before all others, one has another image now.
    (pictures / '1.png').unlink()
    cv2.imwrite(str(pictures / '00.png'), images[0])
    cv2.imwrite(str(pictures / '3.png'), images[0])
    selection = make_selection(tmp_path / 'selection', tiny_bundle, rows)
    assert export(selection, tmp_path / 'out') == 0
    output = capsys.readouterr()
    said = json.loads(output.out.splitlines()[-1])
    assert (said['frames'], said['left_out']) == (5, 5)
    assert 'bag#/cam/image_raw#1' in output.err and '##1.png' in output.err
    assert {row.key for row in read_table(tmp_path / 'out').rows.values()} == {
        'bag#/cam/image_raw#0', 'bag#/cam/image_raw#4', 'pictures##0.png', 'pictures##2.png',
        'pictures##4.png'}


@pytest.mark.parametrize('strategy', ['random', 'uncertainty-diversity'])
def test_only_what_was_drawn_of_all_frames_is_a_control(
    strategy: str, log: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    images = random_images(2)
    bag = write_bag(tmp_path / 'dive', images)
    rows = bag_rows(bag, images)
    # From a log only its own control frames: it kept the others because of their scores.
    rows += [row_of(log, 'log', 'front', index, frame.read_image(), run=str(log),
                    stamp_ns=int(frame.sidecar['stamp_ns']))
             for index, frame in enumerate(frame_log_format.iter_frames(log))]
    selection = make_selection(tmp_path / 'selection', tiny_bundle, rows, strategy)
    assert export(selection, tmp_path / 'out') == 0
    found = {row.key: row.origin for row in read_table(tmp_path / 'out').rows.values()}
    drawn = {'dive#/cam/image_raw#0', 'dive#/cam/image_raw#1', 'log#front#0'}
    assert len(found) == 6
    assert {key for key, origin in found.items() if origin == 'control'} == (
        drawn if strategy == 'random' else set())


def test_a_selection_is_exported_where_its_sources_are_now(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = random_images(2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'else').mkdir()
    rows = []
    for name, image in zip('ab', images, strict=True):
        bag = write_bag(Path('fleet') / name / 'bag', [image])
        rows += bag_rows(bag, [image], dive=name)
    make_selection(tmp_path / 'selection', tiny_bundle, rows)
    absolute = [dataclasses.replace(row, source=str(tmp_path / row.source)) for row in rows]
    make_selection(tmp_path / 'selection_2', tiny_bundle, absolute)
    monkeypatch.chdir(tmp_path / 'else')
    out = tmp_path / 'out'

    def sent(name: str, *words: object) -> dict[str, Any]:
        assert export(tmp_path / name, out, *words) == 0
        said = last_json(capsys)
        shutil.rmtree(out)
        return said

    assert sent('selection')['dives'] == 2
    (tmp_path / 'fleet').rename(tmp_path / 'disk')
    for name in ('selection', 'selection_2'):
        assert 'no frame' in refused(capsys, export(tmp_path / name, out))
        assert sent(name, '--root', tmp_path / 'disk')['dives'] == 2
    (tmp_path / 'disk' / 'a').rename(tmp_path / 'disk' / 'c')
    # A bag of the same name is not mistaken for it, since its images differ.
    shutil.copytree(tmp_path / 'disk' / 'b' / 'bag', tmp_path / 'disk' / 'bag')
    said = sent('selection', '--root', tmp_path / 'disk')
    assert (said['dives'], said['left_out']) == (1, 1)
    assert len(us.labels_export('../selection', out, 'coco', root=str(tmp_path / 'disk'))) == 1
    assert 'nowhere' in refused(capsys, export(tmp_path / 'selection', out, '--root', 'nowhere'))


def test_one_export_serves_training_and_honest_measuring(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reef, names = tmp_path / 'reef', [f'f_r_{k:02}_' for k in range(12)]
    reef.mkdir()
    for name, image in zip(names, random_images(12), strict=True):
        cv2.imwrite(str(reef / f'{name}.png'), image)
    assert main(['score', str(reef), '--out', str(tmp_path / 'table'), '--set',
                 f'model={tiny_bundle}', '--set', 'backend=onnxruntime']) == 0
    picks = tmp_path / 'picks'
    assert main(['select', str(tmp_path / 'table'), '-n', '4', '--control', '3', '--min-distance',
                 '0', '-o', str(picks)]) == 0
    assert last_json(capsys)['control_split'] == 3
    drawn = {name for name, split in zip(*(pq.read_table(picks / 'selection.parquet').column(one)
                                           .to_pylist() for one in ('file', 'split')), strict=True)
             if split == 'control'}
    assert export(picks, tmp_path / 'sent') == 0
    stems = {path.stem for path in (tmp_path / 'sent' / 'images').iterdir()}
    assert len(stems) == 7 and stems <= set(names)
    assert bring(tmp_path / 'sent', tmp_path / 'back', '--accept-unchanged') == 0
    data = tmp_path / 'data'
    assert main(['dataset', 'add', str(data), str(tmp_path / 'back'), '--split', 'train']) == 0
    for folder in (tmp_path / 'back', data):
        splits = json.loads((folder / 'splits.json').read_text())
        assert {f'{stem}.png' for stem in splits['control']} == drawn
        assert measured_split(folder) == 'control'
        trained = load_splits(folder, ('train', 'val')).stems
        assert len(trained) == 4 and not set(trained) & set(splits['control'])
    # The frames of a partly labelled table do not all have the same probability.
    again = ['select', str(tmp_path / 'table'), '-n', '1', '--control', '1', '--labelled',
             str(picks), '-o', str(tmp_path / 'again')]
    assert main(again) == 2
