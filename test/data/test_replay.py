# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Replay: deterministic bytes, a verdict for every frame, one sentence for bad input."""

from collections.abc import Callable
import json
import os
from pathlib import Path
import re
from typing import Any

from conftest import last_json, make_tiny_bundle
import cv2
import numpy as np
import pytest

from uncertainty_seg.cli.main import main
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.data.replay import replay
from uncertainty_seg.storage.bags.reader import (
    BagMessage,
    BagReader,
    header_stamp_ns,
    IMAGE_TYPE,
    read_images,
    typestore,
)
from uncertainty_seg.storage.bags.writer import (
    BagWriter,
    image_message,
    LATEST_NS,
    STORAGES,
    value_message,
)

CAMERA = '/camera/image_raw'
START_NS, STEP_NS = 1_700_000_000_000_000_123, 10**8
ZSTD_MAGIC = re.escape(b'\x28\xb5\x2f\xfd')


def solid(color: tuple[int, int, int], height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


BLUE, GREEN, GREY = solid((255, 0, 0)), solid((0, 255, 0)), solid((128, 128, 128))
# The tiny network's scores of red are well below the limits, those of grey are not.
RED = solid((0, 0, 255))


def numbered(pixels: np.ndarray, number: int) -> np.ndarray:
    """Return a slightly different image for each number, so that the camera is not frozen."""
    return pixels ^ np.uint8(number)


def write_bag(path: Path, pictures: list[np.ndarray], storage: str = 'mcap') -> Path:
    with BagWriter(path, storage) as bag:
        for k, picture in enumerate(pictures):
            t, pixels = START_NS + k * STEP_NS, numbered(picture, k)
            bag.write_image(CAMERA, t, f'cam_{k}', pixels, 'bgr8', t + 7)
    return path


def cut_message() -> bytes:
    message = image_message(START_NS + STEP_NS, 'cam', GREEN, 'bgr8')
    message.data = np.zeros(99, np.uint8)
    return bytes(typestore().serialize_cdr(message, IMAGE_TYPE))


def nan_message() -> bytes:
    values = np.full((48, 64), 0.5, np.float32)
    values[3, 4] = np.nan
    message = image_message(START_NS + STEP_NS, 'cam', values, '32FC1')
    return bytes(typestore().serialize_cdr(message, IMAGE_TYPE))


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    'nan': (nan_message, 'float image'),
    'cut': (cut_message, 'image with 99 bytes'),
    'garbage': (lambda: b'\0\1\0\0\7\7\7', 'sensor_msgs/msg/Image of 7 bytes cannot be read'),
}


def setting(**values: object) -> list[str]:
    """Return --set arguments for parameters of the node; `__` stands for a dot."""
    return [word for name, value in values.items()
            for word in ('--set', f'{name.replace("__", ".")}={value}')]


def run_replay(in_bag: Path, out_bag: Path, bundle: Path, *words: str) -> int:
    return main(['replay', str(in_bag), str(out_bag), *setting(model=bundle), *words])


def messages(bag: Path, name: str) -> list[BagMessage]:
    with BagReader(bag) as reader:
        found = list(reader.messages(f'/uncertainty_seg/{name}'))
    assert all(isinstance(item, BagMessage) for item in found)
    return found


def flags(bag: Path) -> list[bool]:
    return [item.message.data for item in messages(bag, 'confident')]


def files_of(bag: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in bag.iterdir()}


@pytest.mark.parametrize('storage', STORAGES)
def test_twice_the_same_bytes(tmp_path: Path, tiny_bundle: Path, storage: str) -> None:
    in_bag = write_bag(tmp_path / 'in', [BLUE, GREEN, GREY, solid((7, 200, 99), 60, 90)])
    words = (*setting(backend='onnxruntime'), '--storage', storage, '--maps', '--views')
    for name in ('first', 'second'):
        assert run_replay(in_bag, tmp_path / name, tiny_bundle, *words) == 0
    first, second = files_of(tmp_path / 'first'), files_of(tmp_path / 'second')
    assert len(first) == 2
    assert first == second


def test_a_bundle_that_nobody_calibrated_is_replayed_without_a_promise(tmp_path: Path) -> None:
    in_bag = write_bag(tmp_path / 'in', [RED] * 5)
    cold = make_tiny_bundle(tmp_path / 'cold', calibrated=False)
    warm = make_tiny_bundle(tmp_path / 'warm')
    for name, bundle in (('out', cold), ('other', warm)):
        assert run_replay(in_bag, tmp_path / name, bundle,
                          *setting(damage_scale=0)) == 0
    assert flags(tmp_path / 'out') == [False] * 5 and any(flags(tmp_path / 'other'))
    said, other = ([{pair.key: pair.value for pair in item.message.status[0].values}
                    for item in messages(tmp_path / name, 'status')] for name in ('out', 'other'))
    for one, two in zip(said, other, strict=True):
        assert 'no calibration' in one['promise']
        assert (one['kind'], one['score.entropy.mean']) == ('unknown', two['score.entropy.mean'])


def test_outputs_carry_stamp_frame_and_time_of_their_image(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    in_bag = write_bag(tmp_path / 'in', [BLUE, GREEN, GREY])
    assert run_replay(in_bag, tmp_path / 'out', tiny_bundle, '--maps', '--views') == 0
    stamps = [START_NS + k * STEP_NS for k in range(3)]
    kinds = {'mask': 'mono8', 'uncertainty': '32FC1', 'unknown': '32FC1', 'confidence': 'mono8',
             'heatmap': 'bgr8', 'overlay': 'bgr8'}
    for name, encoding in kinds.items():
        images = list(read_images(tmp_path / 'out', f'/uncertainty_seg/{name}'))
        assert [i.stamp_ns for i in images] == stamps
        assert [i.received_ns for i in images] == [t + 7 for t in stamps]
        assert [i.frame_id for i in images] == ['cam_0', 'cam_1', 'cam_2']
        assert {(i.raw.encoding, i.raw.height, i.raw.width) for i in images} == {
            (encoding, 48, 64)
        }
    for name in ('confident', 'score', 'status', 'verdict'):
        assert [i.received_ns for i in messages(tmp_path / 'out', name)] == [t + 7 for t in stamps]
    status = messages(tmp_path / 'out', 'status')
    for headed in (status, messages(tmp_path / 'out', 'verdict')):
        assert [header_stamp_ns(i.message) for i in headed] == stamps
        assert [i.message.header.frame_id for i in headed] == ['cam_0', 'cam_1', 'cam_2']
    assert not any('latency' in v.key for i in status for v in i.message.status[0].values)


def test_masks_alone_unless_more_is_asked(tmp_path: Path, tiny_bundle: Path) -> None:
    assert run_replay(write_bag(tmp_path / 'in', [BLUE]), tmp_path / 'out', tiny_bundle) == 0
    with BagReader(tmp_path / 'out') as bag:
        assert [t.rpartition('/')[2] for t in bag.topics()] == [
            'confident', 'mask', 'score', 'status', 'verdict'
        ]


def test_flag_rises_on_red_and_falls_on_grey(tmp_path: Path, tiny_bundle: Path) -> None:
    in_bag = write_bag(tmp_path / 'in', [RED] * 4 + [GREY] + [RED] * 4)
    assert run_replay(in_bag, tmp_path / 'out', tiny_bundle) == 0
    assert flags(tmp_path / 'out') == [False, False, True, True, False, False, False, True, True]
    words = [i.message.status[0].message for i in messages(tmp_path / 'out', 'status')]
    assert words[4].startswith('entropy.mean') and ' over 0.7' in words[4]
    assert words[2] == words[3] and 'entropy' not in words[2]


def numbers_of(message: Any) -> dict[str, float]:
    return dict(zip(message.name, message.position.tolist(), strict=True))


def test_numbers_rise_after_the_flag_and_fall_before_it(tmp_path: Path, tiny_bundle: Path) -> None:
    in_bag = write_bag(tmp_path / 'in', [RED] * 4 + [GREY])
    assert run_replay(in_bag, tmp_path / 'out', tiny_bundle) == 0
    names = ('/uncertainty_seg/confident', '/uncertainty_seg/verdict')
    said = []
    with BagReader(tmp_path / 'out') as reader:
        for item in reader.messages(*names):
            assert isinstance(item, BagMessage)
            said.append((names.index(item.topic), item.received_ns))
    assert len(said) == 10
    first = [said[2 * k][0] for k in range(5)]
    assert first == [1, 1, 0, 0, 1]  # as the flag: false, false, true, true, false


@pytest.mark.parametrize('kind', BROKEN)
def test_bad_frame_is_counted_and_published_as_false(
    tmp_path: Path, tiny_bundle: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, reason = BROKEN[kind]
    with BagWriter(tmp_path / 'in') as bag:
        for k in range(8):
            t = START_NS + k * STEP_NS
            if k == 4:
                bag.write_serialized(CAMERA, IMAGE_TYPE, t, make())
            else:
                bag.write_image(CAMERA, t, 'cam', numbered(RED, k), 'bgr8')
    assert run_replay(tmp_path / 'in', tmp_path / 'out', tiny_bundle) == 0
    said = capsys.readouterr()
    facts = json.loads(said.out.splitlines()[-1])
    assert (facts['num_frames'], facts['num_bad']) == (8, 1)
    assert f'bad frame 5: {reason}' in said.err
    assert flags(tmp_path / 'out') == [False, False, True, True, False, False, False, True]
    scores = [i.message.data for i in messages(tmp_path / 'out', 'score')]
    assert np.isinf(scores[4]) and np.isfinite(scores[3])
    status = messages(tmp_path / 'out', 'status')[4].message.status[0]
    assert status.level == 2 and status.message.startswith(reason)
    numbers = numbers_of(messages(tmp_path / 'out', 'verdict')[4].message)
    assert (numbers['confident'], numbers['kind'], numbers['score_ratio']) == (0, 3, np.inf)
    # An unreadable message has no header.
    assert numbers['of_frame'] == (kind != 'garbage') and np.isnan(numbers['age_s'])
    assert len(messages(tmp_path / 'out', 'mask')) == 7


def test_input_that_breaks_off_keeps_the_frames_before(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Noise does not compress, so that each chunk of the file has one frame.
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    in_bag = write_bag(tmp_path / 'in', [noise] * 6)
    data = bytearray((in_bag / 'bag_0.mcap').read_bytes())
    fourth_chunk = [m.start() for m in re.finditer(ZSTD_MAGIC, data)][3]
    data[fourth_chunk:fourth_chunk + 4] = bytes(4)
    (in_bag / 'bag_0.mcap').write_bytes(data)
    assert run_replay(in_bag, tmp_path / 'out', tiny_bundle) == 1
    said = capsys.readouterr()
    facts = json.loads(said.out.splitlines()[-1])
    assert facts['num_frames'] == 3
    assert len(flags(tmp_path / 'out')) == facts['num_frames']
    assert f' {facts["num_frames"]} ' in said.err and f'{tmp_path / "out"}' in said.err


@pytest.mark.parametrize(('words', 'code', 'said'), [
    ((), 1, '/flag (std_msgs/msg/Bool)'), (('--topic', '/flag'), 1, '/flag'),
    (('--set', 'passes=0'), 2, 'passes is 0'),
])
def test_bag_without_images(
    tmp_path: Path, tiny_bundle: Path, words: tuple[str, ...], code: int, said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with BagWriter(tmp_path / 'in') as bag:
        bag.write('/flag', value_message(True), START_NS)
    assert run_replay(tmp_path / 'in', tmp_path / 'out', tiny_bundle, *words) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_folder_of_photographs_gets_the_verdicts_of_score_under_their_names(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reef = tmp_path / 'reef'
    reef.mkdir()
    for k in range(5):
        cv2.imwrite(str(reef / f'f_r_{k}_.png'), numbered(RED, k))
    (reef / 'f_r_2_.png').write_bytes(b'no image')
    assert run_replay(reef, tmp_path / 'out', tiny_bundle) == 0
    said = last_json(capsys)
    assert (said['num_frames'], said['num_bad']) == (5, 1)
    masks = [item.message.header for item in messages(tmp_path / 'out', 'mask')]
    assert [header.frame_id for header in masks] == [f'f_r_{k}_' for k in (0, 1, 3, 4)]
    assert [header_stamp_ns(item.message) for item in messages(tmp_path / 'out', 'mask')] == [
        k * 10**9 for k in (0, 1, 3, 4)]


def test_existing_output_stays_unless_forced(tmp_path: Path, tiny_bundle: Path) -> None:
    in_bag, out = write_bag(tmp_path / 'in', [BLUE]), write_bag(tmp_path / 'out', [GREY])
    before = files_of(out)
    assert run_replay(in_bag, out, tiny_bundle) == 1
    assert files_of(out) == before
    assert run_replay(in_bag, out, tiny_bundle, '--force') == 0
    assert len(flags(out)) == 1


def test_input_is_never_the_output(tmp_path: Path, tiny_bundle: Path) -> None:
    in_bag = write_bag(tmp_path / 'in', [BLUE])
    before = files_of(in_bag)
    os.symlink(in_bag, tmp_path / 'link')
    for source, out in ((in_bag, 'link'), (in_bag / 'bag_0.mcap', 'in')):
        assert run_replay(source, tmp_path / out, tiny_bundle, '--force') == 1
    assert files_of(in_bag) == before


# --- stamps and pixels, checked with the bag's times of receipt ----------------------------------


def write_timed_bag(path: Path, times: list[tuple[int, int]], pictures: Any = None) -> Path:
    """Write red frames with stamps and receipt times in ns after `START_NS`; stamp 0 stays 0."""
    with BagWriter(path) as bag:
        for k, (stamp_ns, received_ns) in enumerate(times):
            pixels = numbered(RED, k) if pictures is None else pictures[k]
            bag.write_image(CAMERA, stamp_ns and START_NS + stamp_ns, 'cam', pixels, 'bgr8',
                            START_NS + received_ns)
    return path


def judged(tmp_path: Path, bundle: Path, bag: Path, *words: str) -> tuple[list[bool], list[str]]:
    assert run_replay(bag, tmp_path / 'out', bundle, '--force', *words) == 0
    told = [i.message.status[0].message for i in messages(tmp_path / 'out', 'status')]
    return flags(tmp_path / 'out'), told


STEPS = [(k + 1) * STEP_NS for k in range(6)]
# Fault of the stamps from the fourth frame on -> stamp of a frame, words of the reason.
BAD_STAMPS: dict[str, tuple[Callable[[int], int], str]] = {
    'an hour old': (lambda t: t - 3600 * 10**9, 'the image is 3600.0 s old'),
    'a day ahead': (lambda t: t + 86400 * 10**9, 'stamped 86400.0 s in the future'),
    'none': (lambda _: 0, 'the stamp of the image is 0'),
    'before 1970': (lambda t: t - 2 * START_NS, 'the stamp of the image is -1.7'),
    'overflown': (lambda t: t - START_NS - 2**31 * 10**9, 'the stamp of the image is -2.1'),
    'the same': (lambda _: STEPS[2], 'occurred before'),
}


@pytest.mark.parametrize('kind', BAD_STAMPS)
def test_replay_judges_stamps_by_the_time_of_the_bag(
    tmp_path: Path, tiny_bundle: Path, kind: str
) -> None:
    change, words = BAD_STAMPS[kind]
    times = [(t, t) for t in STEPS[:3]] + [(change(t), t) for t in STEPS[3:]]
    seen, told = judged(tmp_path, tiny_bundle, write_timed_bag(tmp_path / 'in', times))
    assert seen == [False, False, True, False, False, False]
    assert all(words in text for text in told[3:])


def test_the_last_stamps_that_ros_has_are_stamps_and_damage_may_come_after_them(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    stamps = [LATEST_NS - 5 + k for k in range(6)]
    with BagWriter(tmp_path / 'in') as bag:
        for k, stamp_ns in enumerate(stamps):
            bag.write_image(CAMERA, stamp_ns, 'cam', numbered(RED, k), 'bgr8')
        bag.write_serialized(CAMERA, IMAGE_TYPE, 2**64 - 1, b'')
    seen, _ = judged(tmp_path, tiny_bundle, tmp_path / 'in')
    assert seen == [False] * 2 + [True] * 4 + [False]
    told = [header_stamp_ns(item.message) for item in messages(tmp_path / 'out', 'verdict')]
    assert told == [*stamps, LATEST_NS]


def test_the_time_of_receipt_counts_where_the_driver_sends_none(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    bag = write_timed_bag(tmp_path / 'in', [(0, t) for t in STEPS])
    assert judged(tmp_path, tiny_bundle, bag)[0] == [False] * 6
    seen, _ = judged(tmp_path, tiny_bundle, bag, *setting(stamps='receipt'))
    assert seen == [False] * 2 + [True] * 4


def test_the_flag_falls_over_a_gap_of_the_timeout_as_in_the_node(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    times = [*STEPS[:3], *(t + 10**9 for t in STEPS[3:])]
    bag = write_timed_bag(tmp_path / 'in', [(t, t) for t in times])
    assert judged(tmp_path, tiny_bundle, bag)[0] == [False, False, True, False, False, True]


def test_a_bag_of_a_frozen_camera_is_not_confident_and_counted(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_timed_bag(tmp_path / 'in', [(t, t) for t in STEPS], [RED] * 6)
    seen, told = judged(tmp_path, tiny_bundle, bag)
    assert not any(seen)
    assert 'frozen' in told[5]
    assert last_json(capsys)['num_bad'] == 5
    seen, _ = judged(tmp_path, tiny_bundle, bag, *setting(max_repeats=-1))
    assert seen == [False] * 2 + [True] * 4


PARAMETERS = """\
/**:
  ros__parameters:
    model: {model}
    backend: onnxruntime
    use_sim_time: true
    qos_overrides./image.subscription.depth: 1
    cameras: ['']
    gate:
      threshold_scale: 1
      hold_s: 1.5e-1
    gate.rise_frames: 1
/auv/uncertainty_seg:
  ros__parameters:
    gate.rise_frames: 4
"""


def parameters_of(folder: Path, model: object, name: str = 'p.yaml') -> str:
    (folder / name).write_text(PARAMETERS.format(model=model))
    return str(folder / name)


def test_replay_takes_the_parameters_of_the_node_from_its_file_or_one_by_one(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    in_bag = write_bag(tmp_path / 'in', [RED] * 4 + [GREY] + [RED] * 5)
    given = {'model': str(tiny_bundle), 'backend': 'onnxruntime', 'gate.hold_s': 0.15}
    file = ['--params-file', parameters_of(tmp_path, tiny_bundle)]
    one_by_one = [word for name, value in {**given, 'gate.rise_frames': 1}.items()
                  for word in ('--set', f'{name}={value}')]
    later = setting(gate__rise_frames=4)
    for words, rise_frames in ((file, 1), (one_by_one, 1), ([*later, *file], 4)):
        out, wanted = tmp_path / f'{len(words)}', tmp_path / f'wanted_{rise_frames}'
        assert main(['replay', str(in_bag), str(out), '--force', *words]) == 0
        replay(in_bag, wanted, force=True,
               settings=settings_from_dict({**given, 'gate.rise_frames': rise_frames}))
        assert files_of(out) == files_of(wanted)
    rose = [flags(tmp_path / f'wanted_{count}') for count in (1, 4)]
    # Held for 0.15 s after the first frame, which may be of a frozen camera, and after grey.
    assert rose[0] == [False, False, False, True, False, False, True, True, True, True]
    assert rose[1] == [False] * 3 + [True] + [False] * 4 + [True] * 2


@pytest.mark.parametrize(('words', 'named'), [
    (['--set', 'gate.alhpa=0.1'], 'gate.alpha'), (['--set', 'gate.alpha=much'], "'much'"),
    (['--set', 'gate.alpha'], "'gate.alpha'"), (['--set', 'gate.scores=[a'], 'gate.scores'),
    (['--set', 'gate.alpha=0.2'], '0.2'), (['--params-file', 'absent.yaml'], 'absent.yaml'),
    (['--params-file', 'typo.yaml'], "'treads'"), (['--params-file', 'other.yaml'], "'/other'"),
])
def test_parameters_that_the_node_would_not_take_are_refused_in_a_sentence(
    tmp_path: Path, tiny_bundle: Path, words: list[str], named: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    in_bag = write_bag(tmp_path / 'in', [RED])
    monkeypatch.chdir(tmp_path)
    Path('typo.yaml').write_text('/**:\n  ros__parameters:\n    treads: 1\n')
    Path('other.yaml').write_text('/other:\n  ros__parameters:\n    threads: 1\n')
    assert run_replay(in_bag, tmp_path / 'out', tiny_bundle, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
    assert not (tmp_path / 'out').exists()
