# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The verb calibrate-passes: what it writes, what it prints, and what it refuses."""

import dataclasses
import json
from pathlib import Path

from conftest import calibrate_for, make_tiny_bundle, TINY_PASSES
import cv2
import numpy as np
import pytest

from uncertainty_seg.backends.opening import open_pipeline
from uncertainty_seg.cli.calibrate_passes import calibrate_passes
from uncertainty_seg.cli.main import main
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.plausibility import CheckedBackend
from uncertainty_seg.core.scores.pass_steps import OFFSET_SHARE
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.storage.model_bundle import load_bundle, write_calibration

BASE = {'backend': 'onnxruntime', 'threads': 1, 'reduction': 'coarse'}
PLAIN = ['--backend', 'onnxruntime', '--threads', '1']


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / 'pictures'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(40):
        blocks = rng.integers(0, 256, (3, 4, 3), np.uint8)
        image = cv2.resize(blocks, (64, 48), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f'{index:02d}.png'), image)
    return folder


def test_it_writes_steps_that_come_from_the_first_rows_of_the_masks(
    tiny_bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['calibrate-passes', str(tiny_bundle), str(pictures), '--error', '0.1',
                 *PLAIN]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    bundle = load_bundle(str(tiny_bundle))
    assert bundle.calibration is not None
    steps = bundle.calibration.pass_steps
    assert steps is not None
    assert steps.steps == (TINY_PASSES // 4, TINY_PASSES // 2) and steps.passes == TINY_PASSES
    assert (printed['checked'], printed['frames'], printed['skipped']) == (10, 30, 0)
    assert set(steps.limits) == {'entropy.mean'}
    # By another road: the backend with so many rows, on the frames that give the centres.
    moves = []
    with open_pipeline(bundle, backend='onnxruntime', threads=1, reduction='coarse') as pipeline:
        masks = pass_inputs(bundle.card, TINY_PASSES, 0)
        measured = [f for i, f in enumerate(sorted(pictures.iterdir())) if i % 4 != 3]
        for file in measured[::2]:
            few, every = (
                pipeline._backend.run(cv2.imread(str(file)), {
                    name: rows[:count] for name, rows in masks.items()}, 1.0).entropy.mean()
                for count in (TINY_PASSES // 4, TINY_PASSES))
            offset = OFFSET_SHARE * steps.limits['entropy.mean']
            moves.append(np.log(every + offset) - np.log(few + offset))
    assert steps.centres['entropy.mean'][0] == pytest.approx(np.median(moves), abs=1e-5)


def test_each_frame_has_the_first_of_its_own_masks_where_they_are_drawn_for_each(
    tiny_bundle: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate_for(tiny_bundle, mask_policy='per_frame')
    given: list[dict[str, np.ndarray]] = []
    run_and = CheckedBackend.run_and

    def noted(self: CheckedBackend, work: object, image: object, masks: dict, *more: object
              ) -> object:
        given.append({name: rows[:] for name, rows in masks.items()})
        return run_and(self, work, image, masks, *more)

    monkeypatch.setattr(CheckedBackend, 'run_and', noted)
    calibrate_passes(tiny_bundle, [pictures], error=0.1,
                     settings=Settings(mask_policy='per_frame', backend='onnxruntime'))
    frames = [given[at:at + 3] for at in range(len(given) - 3 * 40, len(given), 3)]
    name = next(iter(frames[0][0]))
    for quarter, half, every in frames:
        for few in (quarter, half):
            np.testing.assert_array_equal(few[name], every[name][:len(few[name])])
    assert len({every[name].tobytes() for _, _, every in frames}) > 30


def test_the_steps_are_measured_for_a_gate_that_rises_by_the_floors_of_the_calibration(
    tiny_bundle: Path, pictures: Path
) -> None:
    calibrate_for(tiny_bundle, floors={'entropy.mean': 0.6, 'entropy.top': 0.1})
    assert calibrate_passes(tiny_bundle, [pictures], error=0.1).steps.floors \
        == {'entropy.mean': 0.6}
    with open_pipeline(load_bundle(str(tiny_bundle)), pass_policy='auto', **BASE) as pipeline:
        assert pipeline.begin().steps is not None
    calibrate_for(tiny_bundle, floors={'entropy.mean': 0.5})
    with pytest.raises(ConfigError, match='measured for'):
        open_pipeline(load_bundle(str(tiny_bundle)), pass_policy='auto', **BASE)


@pytest.mark.slow
def test_the_frames_of_the_check_choose_nothing(tiny_bundle: Path, pictures: Path) -> None:
    one = calibrate_passes(tiny_bundle, [pictures], error=0.1)
    for index in range(3, 40, 4):
        cv2.imwrite(str(pictures / f'{index:02d}.png'), np.full((48, 64, 3), 120, np.uint8))
    two = calibrate_passes(tiny_bundle, [pictures], error=0.1)
    assert one.steps == two.steps and one.mean_passes != two.mean_passes


def test_unreadable_frames_are_counted(tiny_bundle: Path, pictures: Path) -> None:
    (pictures / '00.png').write_bytes(b'\x89PNG\r\n\x1a\n broken')
    assert calibrate_passes(tiny_bundle, [pictures], error=0.1).skipped == 1


@pytest.mark.parametrize(('words', 'sentence'), [
    (['--error', '0.01'], 'for an error of 0.01, expected at least 198'),
    (['--steps', '8', '--error', '0.1'], 'expected growing numbers from 1 to 7, below T'),
    (['--steps', '4', '2'], 'expected growing numbers from 1 to 7, below T'),
    (['--error', '1.5'], 'expected a rate between 0 and 1'),
])
def test_what_is_refused_in_one_sentence(
    tiny_bundle: Path, pictures: Path, words: list[str], sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (tiny_bundle / 'calibration.json').read_bytes()
    try:
        code = main(['calibrate-passes', str(tiny_bundle), str(pictures), *words, *PLAIN])
    except SystemExit as err:
        code = err.code
    assert code == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1
    assert (tiny_bundle / 'calibration.json').read_bytes() == before


def test_a_method_without_masks_is_not_sent_from_the_node_to_a_verb_that_refuses_it() -> None:
    with pytest.raises(ConfigError) as caught:
        open_pipeline(load_bundle('suim'), pass_policy='auto', **BASE)
    assert str(caught.value) == (
        "pass_policy is auto, and of 'suim' the method is deep_ensemble, expected mc_dropout, "
        'whose passes are draws of masks: set pass_policy to all.')


def test_limits_that_are_for_the_exact_reduction_only_are_refused(
    tiny_bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_bundle(str(tiny_bundle))
    assert bundle.calibration is not None
    write_calibration(bundle, dataclasses.replace(bundle.calibration, reductions=('exact',)))
    assert main(['calibrate-passes', str(tiny_bundle), str(pictures), '--error', '0.1',
                 *PLAIN]) == 2
    assert 'reduction is coarse, but' in capsys.readouterr().err


def test_no_frame_no_calibration_and_another_method_are_refused(
    tmp_path: Path, tiny_bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = make_tiny_bundle(tmp_path / 'bare', calibrated=False)
    assert main(['calibrate-passes', str(bare), str(pictures), *PLAIN]) == 2
    assert 'has no calibration.json' in capsys.readouterr().err
    (tmp_path / 'empty').mkdir()
    assert main(['calibrate-passes', str(tiny_bundle), str(tmp_path / 'empty'), *PLAIN]) == 2
    assert 'empty' in capsys.readouterr().err
