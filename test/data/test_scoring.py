# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Score: rows equal to replay, a second run adds missing parts, one sentence per error."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
import errno
import json
import math
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, TypeAlias

from conftest import last_json, make_tiny_bundle
import cv2
import numpy as np
import pytest

from uncertainty_seg.cli.main import main
from uncertainty_seg.core.calibration import Calibration
from uncertainty_seg.core.image_damage import FIXED_LIMITS
from uncertainty_seg.data.scoring import locked_table
from uncertainty_seg.storage import frame_sources
from uncertainty_seg.storage.bags.reader import (
    BagMessage,
    BagReader,
    header_stamp_ns,
    IMAGE_TYPE,
)
from uncertainty_seg.storage.bags.writer import BagWriter, LATEST_NS
from uncertainty_seg.storage.model_bundle import load_bundle, model_digest, write_calibration
from uncertainty_seg.storage.perceptual_hash import perceptual_hash
from uncertainty_seg.storage.score_rows import (
    info_of,
    list_parts,
    read_rows,
)

pytest.importorskip('pyarrow', reason='pyarrow is not installed')

CAMERA = '/camera/image_raw'
START_NS, STEP_NS = 1_700_000_000_000_000_123, 10**8
ROOT = Path(__file__).resolve().parents[2]
RUN = ('--set', 'backend=onnxruntime', '--set')
Start: TypeAlias = Callable[..., 'subprocess.Popen[str]']
AtWork: TypeAlias = 'tuple[subprocess.Popen[str], Path]'


def solid(color: tuple[int, int, int], height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


BLUE, GREEN, RED, GREY = (solid(c) for c in (
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)))
HALVES = np.concatenate([solid((255, 0, 0), 30, 90), solid((0, 0, 255), 10, 90)])


def textured(seed: int) -> np.ndarray:
    """Return an image that passes the damage checks."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    smooth = cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def write_bag(
    path: Path, pictures: list[np.ndarray | None], topic: str = CAMERA, start_ns: int = START_NS
) -> Path:
    """Write pictures, 0.1 s apart; None is a message that cannot be read."""
    with BagWriter(path) as bag:
        for k, picture in enumerate(pictures):
            if picture is None:
                bag.write_serialized(topic, IMAGE_TYPE, start_ns + k * STEP_NS, b'\0\1\0\0\7')
                continue
            # A repeated image is changed slightly, or the camera would count as frozen.
            is_again = any(np.array_equal(picture, before) for before in pictures[:k])
            pixels = picture ^ np.uint8(k * is_again)
            bag.write_image(topic, start_ns + k * STEP_NS, 'cam', pixels, 'bgr8')
    return path


def score(bundle: Path, table: Path, *words: object) -> int:
    return main(['score', *map(str, words), '--out', str(table), *RUN, f'model={bundle}'])


def parts_of(table: Path) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in list_parts(table)}


@pytest.mark.parametrize(('start_ns', 'timeout_s'), [
    (START_NS, 1.0), (LATEST_NS - 7 * STEP_NS, 1.0), (START_NS, 0.1)])
def test_rows_say_what_replay_says(
    tmp_path: Path, tiny_bundle: Path, start_ns: int, timeout_s: float
) -> None:
    pictures = [RED, GREY, RED, RED, RED, None, BLUE, HALVES]
    bag = write_bag(tmp_path / 'bag', pictures, start_ns=start_ns)
    timeout = '--set', f'stale_timeout_s={timeout_s}'
    assert score(tiny_bundle, tmp_path / 'table', bag, *timeout) == 0
    assert main(['replay', str(bag), str(tmp_path / 'out'), *RUN, f'model={tiny_bundle}',
                 *timeout]) == 0
    with BagReader(tmp_path / 'out') as reader:
        items = [i.message for i in reader.messages('/uncertainty_seg/status')
                 if isinstance(i, BagMessage)]
    assert items.pop(5).status[0].message.startswith('sensor_msgs/msg/Image of 5 bytes')
    rows = read_rows(tmp_path / 'table').to_pylist()
    assert [row['index'] for row in rows] == [0, 1, 2, 3, 4, 6, 7]
    for row, status in zip(rows, items, strict=True):
        assert row['stamp_ns'] == header_stamp_ns(status)
        said = {pair.key: pair.value for pair in status.status[0].values}
        assert (str(row['confident']).lower(), row['verdict']) == (said['confident'], said['kind'])
        assert f'{row["score_ratio"]:.4g}' == f'{float(said["score_ratio"]):.4g}'
        for name, text in said.items():
            if name.startswith('score.'):
                assert row[name] == pytest.approx(float(text), rel=1e-5, abs=1e-7)
    # Frames are 0.1 s apart: with a timeout of 0.1 s each comes after a gap.
    seen = {'uncertain', 'recovering', *(['confident'] if timeout_s > 0.1 else [])}
    assert {row['verdict'] for row in rows} == seen


def test_frames_that_are_left_out_on_purpose_are_no_gap(tmp_path: Path, tiny_bundle: Path) -> None:
    bag, words = write_bag(tmp_path / 'bag', [RED] * 6), ['--set', 'stale_timeout_s=0.15']
    assert score(tiny_bundle, tmp_path / 'table', bag, '--stride', 2, *words) == 0
    assert read_rows(tmp_path / 'table')['confident'].to_pylist() == [False, False, True]


def test_a_row_says_where_its_frame_is_and_what_is_in_it(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    bag = write_bag(tmp_path / 'dive_07', [RED, HALVES])
    assert score(tiny_bundle, tmp_path / 'table', bag) == 0
    table = read_rows(tmp_path / 'table')
    row = table.to_pylist()[1]
    expected = {
        'frame_key': f'{bag}#{CAMERA}#1', 'dive': 'dive_07', 'source': str(bag), 'kind': 'bag',
        'topic': CAMERA, 'index': 1, 'stamp_ns': START_NS + STEP_NS, 'height': 40, 'width': 90,
        'phash': perceptual_hash(HALVES)}
    assert {key: row[key] for key in expected} == expected
    # Three quarters are blue; the letterbox bars are not part of the mask.
    assert row['share.blue'] == pytest.approx(0.75, abs=0.05)
    assert row['share.blue'] + row['share.red'] == pytest.approx(1, abs=1e-6)
    assert row['share.green'] == 0
    assert np.linalg.norm(row['features']) == pytest.approx(1, abs=1e-5)
    info = info_of(table.schema)
    assert info.model_sha256 == model_digest(load_bundle(str(tiny_bundle)).card)
    assert (info.model, info.class_names, info.passes) == (
        str(tiny_bundle), ('blue', 'green', 'red'), 8)
    assert info.settings['backend'] == 'onnxruntime'
    assert {f'score.{name}' for name in info.score_names} <= set(table.schema.names)


def test_a_second_run_makes_only_what_is_missing_changed_or_damaged(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = [write_bag(tmp_path / 'fleet' / name, [RED, GREY]) for name in ('a', 'b')]
    table = tmp_path / 'table'

    def run() -> tuple[int, int, int]:
        assert score(tiny_bundle, table, tmp_path / 'fleet') == 0
        said = last_json(capsys)
        return said['num_kept'], said['num_scored'], said['num_frames']

    assert run() == (0, 4, 4)
    first, times = parts_of(table), [part.stat().st_mtime_ns for part in list_parts(table)]
    assert run() == (2, 0, 4)
    assert [part.stat().st_mtime_ns for part in list_parts(table)] == times
    os.truncate(list_parts(table)[1], 100)
    assert run() == (1, 2, 4) and parts_of(table) == first
    shutil.rmtree(bags[0])
    write_bag(bags[0], [RED, GREY, BLUE])
    assert run() == (1, 3, 5) and len(parts_of(table)) == 2


def calibrated_anew(folder: Path) -> list[str]:
    bundle = load_bundle(str(folder))
    limits = {'entropy.mean': 1e-6}
    write_calibration(bundle, Calibration(
        8, 0, 'fixed', 'fp32', 1.0, limits, ('entropy.mean',), 0.95, 10, 10,
        model_digest(bundle.card), 'none',
        damage_limits=bundle.calibration.damage_limits))
    return []


@pytest.mark.parametrize('change', [
    lambda _: ['--set', 'damage_scale=2'], lambda _: ['--stride', '2'], calibrated_anew])
def test_other_settings_or_limits_make_every_part_again(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], list[str]],
) -> None:
    bag = write_bag(tmp_path / 'bag', [RED, GREY])
    assert score(tiny_bundle, tmp_path / 'table', bag) == 0
    before = parts_of(tmp_path / 'table')
    capsys.readouterr()
    assert score(tiny_bundle, tmp_path / 'table', bag, *change(tiny_bundle)) == 0
    assert last_json(capsys)['num_kept'] == 0
    after = parts_of(tmp_path / 'table')
    assert after.keys() == before.keys() and after != before


def test_a_table_of_another_model_is_not_mixed_with(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (write_bag(tmp_path / name, [RED]) for name in ('a', 'b'))
    assert score(tiny_bundle, tmp_path / 'table', a) == 0
    assert score(tiny_bundle, tmp_path / 'table', b, '--set', 'damage_scale=2') == 2
    assert str(tmp_path / 'table') in capsys.readouterr().err
    assert score(tiny_bundle, tmp_path / 'table', a, b, '--set', 'damage_scale=2') == 0
    assert read_rows(tmp_path / 'table').num_rows == 2


def exif_turned(jpeg: bytes) -> bytes:
    """Add EXIF of a camera held upright: big-endian, one entry, orientation 6."""
    exif = b'Exif\0\0MM\0*\0\0\0\10\0\1\1\22\0\3\0\0\0\1\0\6\0\0\0\0\0\0'
    return jpeg[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + jpeg[2:]


def test_no_photograph_vanishes(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_bundle(str(tiny_bundle))
    assert bundle.calibration is not None
    write_calibration(bundle, replace(bundle.calibration, damage_limits=FIXED_LIMITS))
    reef = tmp_path / 'reef'
    reef.mkdir()
    for k in range(5):
        cv2.imwrite(str(reef / f'{k}.png'), textured(k))
    cv2.imwrite(str(reef / '1_grey.png'), GREY)
    jpeg = bytes(cv2.imencode('.jpg', textured(9))[1])
    (reef / '9_up.JPG').write_bytes(exif_turned(jpeg))
    (reef / 'cut.jpg').write_bytes(jpeg[:99])
    for name in ('old.tif', 'clip.MP4'):
        (reef / name).write_bytes(b'x')
    capsys.readouterr()
    assert score(tiny_bundle, tmp_path / 'after', reef) == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out.splitlines()[-1])
    assert (said['num_frames'], said['num_bad'], said['num_doubtful'], said['num_turned']) == (
        7, 1, 1, 1)
    for name in ('cut.jpg', 'clip.MP4', '.tif'):
        assert name in captured.err
    grey, = (row for row in read_rows(tmp_path / 'after').to_pylist()
             if row['file'] == '1_grey.png')
    assert not grey['confident'] and 'damaged' in grey['verdict_reason']
    assert math.isfinite(grey['score_ratio']) and math.isfinite(grey['score.entropy.mean'])


@pytest.mark.parametrize('words', [(), ('gate.hold_s=60',), (
    'gate.rise_frames=1', 'gate.fall_frames=2', 'gate.fall_window=4')])
def test_a_photograph_has_a_verdict_of_its_own(
    tmp_path: Path, tiny_bundle: Path, words: tuple[str, ...]
) -> None:
    settings = [word for setting in words for word in ('--set', setting)]
    pictures, found = [RED, GREY, BLUE, BLUE, HALVES, GREEN], []
    for order in (1, -1):
        reef = tmp_path / f'reef{order}'
        reef.mkdir()
        for k, picture in enumerate(pictures[::order]):
            cv2.imwrite(str(reef / f'{k}.png'), picture)
        table = tmp_path / f'table{order}'
        assert score(tiny_bundle, table, reef, *settings) == 0
        found.append([(row['confident'], row['verdict'], row['score_ratio'])
                      for row in read_rows(table).to_pylist()][::order])
    assert found[0] == found[1]
    assert [flag for flag, _, _ in found[0]] == [ratio <= 1 for _, _, ratio in found[0]]
    assert {kind for _, kind, _ in found[0]} == {'confident', 'uncertain'}
    assert main(['replay', str(reef), str(tmp_path / 'out'), *RUN, f'model={tiny_bundle}',
                 *settings]) == 0
    with BagReader(tmp_path / 'out') as bag:
        flags = [item.message.data for item in bag.messages('/uncertainty_seg/confident')]
    assert flags[::-1] == [flag for flag, _, _ in found[0]]


def test_a_large_folder_is_several_parts_and_a_lost_disk_is_read_again(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_sources, 'PICTURES_A_SHARD', 2)
    reef = tmp_path / 'reef'
    reef.mkdir()
    for k in range(5):
        cv2.imwrite(str(reef / f'{k}.png'), textured(k))
    read = frame_sources.read_image_file

    def lost(path: Path) -> Any:
        if path.name == '3.png':
            raise OSError(errno.ESTALE, 'Stale file handle')
        return read(path)

    monkeypatch.setattr(frame_sources, 'read_image_file', lost)
    assert score(tiny_bundle, tmp_path / 'table', reef) == 1
    rows = read_rows(tmp_path / 'table').to_pylist()
    assert sorted(row['file'] for row in rows) == ['0.png', '1.png', '2.png', '4.png']
    before = parts_of(tmp_path / 'table')
    monkeypatch.setattr(frame_sources, 'read_image_file', read)
    assert score(tiny_bundle, tmp_path / 'table', reef) == 0
    after, rows = parts_of(tmp_path / 'table'), read_rows(tmp_path / 'table').to_pylist()
    assert sorted((row['index'], row['file']) for row in rows) == [
        (k, f'{k}.png') for k in range(5)]
    assert len(after) == 3 and sum(after[name] != before[name] for name in after) == 1


def write_logged(log: Path, k: int, camera: str, dive: str, is_whole: bool = True) -> None:
    stamp = START_NS + k * STEP_NS
    frame = log / 'frames' / f'{stamp}_{camera}_{dive}'
    frame.mkdir(parents=True)
    data = bytes(cv2.imencode('.png', RED)[1])
    (frame / 'image.png').write_bytes(data if is_whole else data[:40])
    (frame / 'frame.json').write_text(json.dumps({
        'version': 1, 'frame_id': frame.name, 'stamp_ns': stamp, 'camera': camera, 'dive': dive,
        'image': {'file': 'image.png'}}))


def test_each_camera_and_dive_of_a_log_has_a_gate_of_its_own(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    for k in range(6):
        write_logged(tmp_path / 'log', k, 'front', 'monday')
        # A camera without readable frames, and another vehicle with frames at equal times.
        write_logged(tmp_path / 'log', k, 'side', 'monday', is_whole=False)
        write_logged(tmp_path / 'log', k, 'front', 'tuesday', is_whole=k % 2 == 0)
    write_bag(tmp_path / 'bag', [RED] * 6)
    assert score(tiny_bundle, tmp_path / 'table', tmp_path / 'log', tmp_path / 'bag') == 0
    rows = read_rows(tmp_path / 'table').to_pylist()
    seen = {name: [row['verdict'] for row in rows if row['dive'] == name]
            for name in ('bag', 'monday', 'tuesday')}
    assert seen['monday'] == seen['bag'] and seen['bag'][-1] == 'confident'
    assert len(seen['tuesday']) == 3 and 'confident' not in seen['tuesday']


def test_a_logged_frame_of_nobody_knows_which_camera_shuts_every_gate(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    for k in range(6):
        for camera in ('front', 'side'):
            write_logged(tmp_path / 'log', k, camera, 'monday')
    (sidecar,) = (tmp_path / 'log' / 'frames').glob(f'{START_NS + 4 * STEP_NS}_front_*/frame.json')
    sidecar.write_text('{')
    assert score(tiny_bundle, tmp_path / 'table', tmp_path / 'log') == 0
    rows = read_rows(tmp_path / 'table').to_pylist()
    for camera in ('front', 'side'):
        flags = {(row['stamp_ns'] - START_NS) // STEP_NS: row['confident']
                 for row in rows if row['topic'] == camera}
        assert flags[3] and not flags[5]


def test_an_image_above_the_limit_is_bad_as_in_the_node(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'in').mkdir()
    cv2.imwrite(str(tmp_path / 'in' / '1.png'), solid((0, 0, 255)))
    cv2.imwrite(str(tmp_path / 'in' / '2.jpg'), solid((0, 0, 255))[::2, ::2])
    assert score(tiny_bundle, tmp_path / 'table', tmp_path / 'in', '--set',
                 'max_image_px=3000') == 0
    said = capsys.readouterr().err
    assert '64x48' in said and '3000' in said
    (found,) = read_rows(tmp_path / 'table').to_pylist()
    assert (found['index'], found['height'], found['width']) == (1, 24, 32)


def test_a_source_that_breaks_off_keeps_its_rows_and_is_told(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 480, 640, 3), np.uint8)
    bag = write_bag(tmp_path / 'fleet' / 'cut', list(noise))
    write_bag(tmp_path / 'fleet' / 'whole', [RED])
    (file,) = bag.glob('*.mcap')
    os.truncate(file, file.stat().st_size * 2 // 3)
    assert score(tiny_bundle, tmp_path / 'table', tmp_path / 'fleet') == 1
    captured = capsys.readouterr()
    summary = json.loads(captured.out.splitlines()[-1])
    assert 'breaks off' in captured.err and str(tmp_path / 'table') in captured.err
    assert captured.err.strip().count('\n') == 0
    assert 1 < summary['num_frames'] < 41
    # Nothing has changed, so no part is scored again; the error is reported again.
    assert score(tiny_bundle, tmp_path / 'table', tmp_path / 'fleet') == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])['num_kept'] == 2
    assert 'breaks off' in captured.err


def bag_of_garbage(path: Path) -> None:
    with BagWriter(path) as bag:
        bag.write_serialized(CAMERA, IMAGE_TYPE, START_NS, b'\0\1\0\0\7')


MISTAKES: dict[str, tuple[Callable[[Path], object], list[str], int, str]] = {
    'no input': (lambda _: None, [], 1, 'input'),
    'missing topic': (lambda p: write_bag(p, [RED]), ['--topic', '/rear'], 1, '/rear'),
    'zero frames': (bag_of_garbage, [], 1, 'input'),
    'no model': (lambda p: write_bag(p, [RED]), ['--set', 'model=nosuch'], 2, "'nosuch'"),
    'wrong passes': (lambda p: write_bag(p, [RED]), ['--set', 'passes=3'], 2, '8'),
    'zero passes': (lambda p: write_bag(p, [RED]), ['--set', 'passes=0'], 2, 'passes is 0'),
}


@pytest.mark.parametrize('what', MISTAKES)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    make, words, code, expected = MISTAKES[what]
    make(tmp_path / 'input')
    assert main(['score', str(tmp_path / 'input'), '--out', str(tmp_path / 'table'), *RUN,
                 f'model={tiny_bundle}', *words]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert expected in lines[-1] and lines[-1].startswith('uncertainty_seg score: ')
    assert [line for line in lines[:-1] if not line.startswith('bad ')] == []


def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / 'bag', [RED])
    (tmp_path / 'thesis').mkdir()
    (tmp_path / 'thesis' / 'thesis.tex').write_text('ten years of work')
    assert score(tiny_bundle, tmp_path / 'thesis', bag) == 2
    assert 'thesis.tex' in capsys.readouterr().err
    assert os.listdir(tmp_path / 'thesis') == ['thesis.tex']
    (tmp_path / 'file').write_text('')
    assert score(tiny_bundle, tmp_path / 'file', bag) == 2


def test_two_runs_do_not_write_to_one_table(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / 'bag', [RED])
    with locked_table(tmp_path / 'table'):
        assert score(tiny_bundle, tmp_path / 'table', bag) == 2
    assert str(tmp_path / 'table') in capsys.readouterr().err
    assert score(tiny_bundle, tmp_path / 'table', bag) == 0


def fleet_of(path: Path) -> Path:
    """Write two bags, and so many photographs that these take longest."""
    for k in range(2):
        write_bag(path / f'dive_{k}', [np.roll(HALVES, k + n, 1) for n in range(5)])
    photos = path / 'photos'
    photos.mkdir()
    (photos / '1.png').write_bytes(bytes(cv2.imencode('.png', HALVES)[1]))
    for k in range(2, 400):
        os.link(photos / '1.png', photos / f'{k}.png')
    return path


def mend(fleet: Path) -> None:
    """Remove all but two of the photographs."""
    for k in range(3, 400):
        (fleet / 'photos' / f'{k}.png').unlink()


def heed_interrupts() -> None:
    """Stop ignoring SIGINT, which processes inherit from a command that a shell runs with `&`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def started() -> Iterator[Start]:
    """Yield a function that starts a run in a new process group, ended after the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: object, waits_for: Callable[[], bool]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, '-m', 'uncertainty_seg', 'score', *map(str, arguments)], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, 'PYTHONPATH': str(ROOT)}, preexec_fn=heed_interrupts)
        processes.append(process)
        while process.poll() is None and not waits_for():
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def require_nobody_left(process: subprocess.Popen[str]) -> None:
    """Wait until no process of a group is left."""
    for _ in range(1000):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail('a process outlived its run by 20 s')


def has_parts(table: Path, count: int) -> bool:
    return table.is_dir() and len(list_parts(table)) >= count and bool(
        list(table.glob('.photos*.tmp')))


@pytest.mark.parametrize('workers', [1, pytest.param(2, marks=pytest.mark.release)])
def test_a_run_that_is_killed_loses_one_shard_and_another_goes_on(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str], workers: int,
    started: Start,
) -> None:
    fleet, table = fleet_of(tmp_path / 'fleet'), tmp_path / 'table'
    process = started(
        fleet, '--out', table, *RUN, f'model={tiny_bundle}', '--workers', workers,
        waits_for=lambda: has_parts(table, 2))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = {part: part.stat().st_mtime_ns for part in list_parts(table)}
    assert len(kept) == 2 and read_rows(table).num_rows == 10
    mend(fleet)
    assert score(tiny_bundle, table, fleet) == 0
    assert last_json(capsys)['num_kept'] == 2
    assert {part: part.stat().st_mtime_ns for part in kept} == kept
    assert [path.name for path in table.glob('.*')] == ['.lock']
    assert score(tiny_bundle, tmp_path / 'whole', fleet) == 0
    assert parts_of(table) == parts_of(tmp_path / 'whole')


@pytest.fixture
def at_work(tmp_path: Path, tiny_bundle: Path, started: Start) -> AtWork:
    """Return a run with two workers, one busy with the photographs, and its table."""
    fleet, table = fleet_of(tmp_path / 'fleet'), tmp_path / 'table'
    return started(
        fleet, '--out', table, *RUN, f'model={tiny_bundle}', '--workers', 2,
        waits_for=lambda: has_parts(table, 2)), table


@pytest.mark.release
def test_a_worker_that_dies_is_one_sentence_and_costs_its_shard_only(at_work: AtWork) -> None:
    process, table = at_work
    (draft,) = table.glob('.photos*.tmp')
    os.kill(int(draft.name.split('.')[-2]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert '2 of 3' in err
    assert len(list_parts(table)) == 2


@pytest.mark.release
def test_an_interrupt_stops_the_workers_too(at_work: AtWork) -> None:
    process, _ = at_work
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith('stopped') and err.count('\n') == 1
    require_nobody_left(process)


@pytest.mark.release
def test_workers_end_with_a_run_that_is_killed_alone(at_work: AtWork) -> None:
    process, _ = at_work
    process.kill()  # not its group: a worker waits for the next shard
    process.wait()
    require_nobody_left(process)


def test_processes_give_the_bytes_of_one(tmp_path: Path, tiny_bundle: Path) -> None:
    fleet = fleet_of(tmp_path / 'fleet')
    mend(fleet)
    assert score(tiny_bundle, tmp_path / 'one', fleet) == 0
    assert score(tiny_bundle, tmp_path / 'two', fleet, '--workers', 2) == 0
    assert parts_of(tmp_path / 'one') == parts_of(tmp_path / 'two')


def test_a_bundle_that_nobody_calibrated_ranks_frames_and_none_is_confident(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cold = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    bag = write_bag(tmp_path / 'bag', [textured(k) for k in range(6)])
    assert score(cold, tmp_path / 'table', bag) == 0
    assert 'no calibration' in caplog.text
    rows = read_rows(tmp_path / 'table').to_pylist()
    assert [(row['confident'], row['verdict']) for row in rows] == [(False, 'unknown')] * 6
    # The scores equal those of the same network calibrated at temperature 1.
    warm = make_tiny_bundle(tmp_path / 'warm')
    assert score(warm, tmp_path / 'other', bag) == 0
    for row, other in zip(rows, read_rows(tmp_path / 'other').to_pylist(), strict=True):
        for name in ('score.entropy.mean', 'score.mutual_information.mean'):
            assert row[name] == other[name] > 0
    capsys.readouterr()
    words = ['select', str(tmp_path / 'table'), '-n', '3', '--strategy', 'top-k',
             '--min-distance', '0', '-o', str(tmp_path / 'out')]
    assert main(words) == 0
    said = capsys.readouterr()
    assert 'calibration' in said.err
    assert json.loads(said.out.splitlines()[-1])['score_name'] == 'entropy.mean'
    expected = sorted(rows, key=lambda row: -row['score.entropy.mean'])[:3]
    assert read_rows(tmp_path / 'out').column('index').to_pylist() == [
        row['index'] for row in expected]
