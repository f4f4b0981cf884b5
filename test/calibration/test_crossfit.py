# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Folds are trained as tasks that survive a kill, and a bundle is calibrated by them."""

from collections.abc import Callable, Iterator
import contextlib
from dataclasses import replace
import importlib.util
import io
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from calibration_helpers import COLORS_BGR, few_draws, write_folder
from conftest import (
    make_single_bundle,
    make_tiny_bundle,
    TEST,
    tiny_card,
    tiny_head,
    tiny_trunk,
)
import cv2
import numpy as np
from onnx import helper, numpy_helper, TensorProto
import pytest

from uncertainty_seg.calibration import cross_fitted
from uncertainty_seg.cli.calibrate import calibrate_on_folds
from uncertainty_seg.cli.main import main
from uncertainty_seg.core.calibration import calibration_from_json, calibration_to_json
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.storage.folds import fold_of, read_folds
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle
from uncertainty_seg.storage.review_record import FrameReview, write_review

pytest.importorskip('sklearn', reason='scikit-learn fits the density')
pytest.importorskip('matplotlib', reason='matplotlib draws the report')
RUN = ['--backend', 'onnxruntime', '--threads', '1']
RULE = 'accuracy<0.6'
TRAINER = f'{sys.executable} {TEST / "rigs" / "fold_trainer.py"} {{out}} {{fold}} '


@pytest.fixture(scope='module', autouse=True)
def _few_draws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        few_draws(patch)
        yield


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp('data') / 'all', 180, 1, splits=True)


@pytest.fixture(scope='module')
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Foreign frames: grey throughout, which is the tiny network's unknown."""
    return write_folder(tmp_path_factory.mktemp('ood') / 'grey', 30, 5, bad_share=1.0)


@pytest.fixture(scope='module')
def fitted(
    data: Path, grey: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], Path]:
    """Return bundle, the line for scripts, and the folder of the folds."""
    root = tmp_path_factory.mktemp('fitted')
    bundle = make_tiny_bundle(root / 'tiny', calibrated=False)
    code, values = call_json([
        'crossfit', str(bundle), '--data', str(data), '--out', str(root / 'folds'), '--num-folds',
        '3', '--command', TRAINER + '0', '--bad', RULE, '--ood', str(grey), '--report',
        str(root / 'report.html'), *RUN])
    assert code == 0
    return bundle, values, root / 'folds'


def call_json(words: list[str]) -> tuple[int, dict[str, Any]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(words)
    return code, json.loads(out.getvalue().splitlines()[-1]) if code == 0 else {}


@pytest.mark.slow
def test_every_photograph_is_used_and_the_figures_are_of_frames_that_chose_nothing(
    fitted: tuple[Path, dict[str, Any], Path], data: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle, values, folder = fitted
    assert values['networks'] == ['fold-0', 'fold-1', 'fold-2']
    assert values['num_val'] == 180 and values['nested']['num_folds'] == 3
    stems = sorted(path.stem for path in (data / 'images').iterdir())
    assert read_folds(folder / 'folds.json') == fold_of(stems, 3)
    for promise, nested in zip(values['promises'], values['nested']['promises'], strict=True):
        assert promise['bound'] <= promise['alpha'] and promise['num_blocks'] == 180
        assert promise['accepted'] == nested['accepted']['value'] > 0.4
        assert promise['accepted_and_bad'] == nested['accepted_and_bad']['value']
        assert nested['accepted_and_bad']['value'] == pytest.approx(
            np.mean(nested['accepted_and_bad_of_folds']))
    made, card = load_bundle(bundle).calibration, load_bundle(bundle).card
    assert made is not None and made.num_folds == 3
    assert card.metrics['nested_accepted_at_0.05'] == pytest.approx(
        values['promises'][0]['accepted'], abs=1e-4)
    fresh = write_folder(tmp_path / 'fresh', 150, 3)
    for promise in values['promises']:
        code, found = call_json(['evaluate', str(bundle), str(fresh), '--gate-alpha',
                                 str(promise['alpha']), *RUN])
        assert code == 0
        assert 'the limits were fitted' not in caplog.text and not found['is_fitted']
        # Hidden bad frames are 4 % of all, so that 0.05 can be kept with most good ones in.
        assert found['gate']['accepted_and_bad']['value'] <= promise['alpha'] + 0.03
        assert found['gate']['accepted']['value'] == pytest.approx(promise['accepted'], abs=0.15)
    for path in [*(data / 'images').iterdir()][:7]:
        shutil.copy(path, fresh / 'images' / f'other_name_{path.name}')
        shutil.copy(data / 'masks' / path.name, fresh / 'masks' / f'other_name_{path.name}')
    assert call_json(['evaluate', str(bundle), str(fresh), *RUN])[1]['is_fitted']
    assert ('the limits were fitted on 7 of these images, and the network was trained on them: '
            in caplog.text)


@pytest.mark.slow
def test_nothing_of_a_fold_is_fitted_to_its_own_photographs(
    fitted: tuple[Path, dict[str, Any], Path], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, _, folder = fitted
    fold_by_image = {cv2.imread(str(path)).tobytes(): fold
                     for stem, fold in read_folds(folder / 'folds.json').items()
                     for path in (data / 'images').glob(f'{stem}.*')}
    seen: dict[str, set[int]] = {}
    left_out = []
    fit, best = cross_fitted._fitted, cross_fitted._best

    def spied_fit(request: Any, one: Any, temperature: float, trained: Any) -> Any:
        seen.setdefault(one.folder.name, set()).update(
            fold_by_image[image.tobytes()] for image, _ in trained)
        return fit(request, one, temperature, trained)

    def spied_best(chance: Any, without: int | None = None) -> float:
        left_out.append(without)
        return best(chance, without)

    monkeypatch.setattr(cross_fitted, '_fitted', spied_fit)
    monkeypatch.setattr(cross_fitted, '_best', spied_best)
    calibrate_on_folds(bundle, data, folder, settings=Settings(backend='onnxruntime'), bad=RULE)
    assert {name: folds for name, folds in seen.items() if name.startswith('fold-')} == {
        'fold-0': {1, 2}, 'fold-1': {0, 2}, 'fold-2': {0, 1}}
    assert seen[bundle.name] == {0, 1, 2}  # what is deployed
    assert sorted(left_out, key=str) == [0, 1, 2, None]


def test_the_report_says_folds_and_frames(fitted: tuple[Path, dict[str, Any], Path]) -> None:
    page = (fitted[0].parent / 'report.html').read_text()
    for words in ('frames that chose nothing of the limits that judged them', 'Folds', '180',
                  'Scores chosen without each fold', 'of 30 foreign frames'):
        assert words in page


def test_a_calibration_of_before_folds_still_loads(
    fitted: tuple[Path, dict[str, Any], Path], tmp_path: Path
) -> None:
    made = load_bundle(make_tiny_bundle(tmp_path / 'old')).calibration
    assert made is not None and made.num_folds == 0
    facts = json.loads(calibration_to_json(made))
    assert facts.pop('num_folds') == 0
    facts.pop('sha256')
    import hashlib

    facts['sha256'] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    assert calibration_from_json(json.dumps(facts)) == made


def forgetful(folder: Path, weak: int | None, gain: float = 8) -> None:
    """Write the tiny network, less sure where the image has the colour of a number."""
    trunk, head = tiny_trunk(), tiny_head()
    trunk.doc_string = folder.name
    trunk.graph.node.append(helper.make_node('Identity', ['features'], ['feature_map']))
    trunk.graph.output.append(helper.make_tensor_value_info(
        'feature_map', TensorProto.FLOAT, [1, 3, 12, 16]))
    gains = np.full((1, 3, 1, 1), gain, np.float32)
    if weak is not None:
        gains[0, weak] = 1
    head.graph.initializer[0].CopyFrom(numpy_helper.from_array(gains, 'gain'))
    write_bundle(folder, tiny_card(feature_shape=(3, 12, 16)), {
        'trunk.onnx': trunk.SerializeToString(), 'head.onnx': head.SerializeToString()})


@pytest.mark.parametrize('saw', [(), (1,), (0, 1, 2)])
def test_networks_that_saw_the_folds_they_judge_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, saw: tuple[int, ...]
) -> None:
    """
    Images of fold k are of colour k most of all, which the network of fold k knows worst.

    One network is better than another besides, that which saw its fold the worst of them.
    """
    data, rng = write_folder(tmp_path / 'data', 60, 3, bad_share=0), np.random.default_rng(5)
    folds = {f'frame_3_{i:03}': i % 3 for i in range(60)}
    for stem, fold in folds.items():
        labels = rng.choice([fold] * 7 + [0, 1, 2], (4, 5)).repeat(12, 0).repeat(13, 1)[:48, :64]
        image = COLORS_BGR[labels] + rng.normal(0, 10, (48, 64, 3))
        cv2.imwrite(str(data / 'images' / f'{stem}.png'), np.clip(image, 0, 255).astype(np.uint8))
        cv2.imwrite(str(data / 'masks' / f'{stem}.png'), labels.astype(np.uint8))
    for fold in range(3):
        forgetful(tmp_path / 'folds' / f'fold-{fold}', None if fold in saw else fold,
                  8 if len(saw) == 3 else 1 if fold in saw else 9 - fold)
    forgetful(tmp_path / 'all', None)
    (tmp_path / 'folds' / 'folds.json').write_text(json.dumps(folds))
    code, values = call_json(['calibrate', str(tmp_path / 'all'), '--data', str(data), '--folds',
                              str(tmp_path / 'folds'), '--bad', RULE, '--scores', 'entropy.mean',
                              '--report', str(tmp_path / 'report.html'),
                              '--frames', '20', '--neighbours', '2', *RUN])
    assert code == 0
    said = [r.message for r in caplog.records if 'nothing is promised' in r.message]
    start = {0: '', 1: 'fold-1 fits the labels of its own fold nearly as well',
             3: 'the networks of the folds fit the labels of their own folds'}[len(saw)]
    assert len(said) == bool(saw) and ''.join(said).startswith(start)
    assert values['nested_bad_auroc'] is None and values['nested']['num_frames'] == 60
    made = load_bundle(tmp_path / 'all')
    assert 'nested_bad_auroc' not in made.card.metrics  # none was bad
    assert made.features is not None and made.features.neighbours == 2


@pytest.mark.slow
def test_two_networks_of_a_fold_count_as_one_photograph(
    fitted: tuple[Path, dict[str, Any], Path], data: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(fitted[0], tmp_path / 'tiny'))
    code, values = call_json([
        'crossfit', str(bundle), '--data', str(data), '--out', str(tmp_path / 'folds'),
        '--num-folds', '2', '--seeds', '4', '5', '--command', TRAINER + '0', '--bad', RULE,
        '--alpha', '0.1', '--frames', '70', *RUN])
    assert code == 0
    assert values['networks'] == ['fold-0', 'fold-1', 'fold-0-seed-5', 'fold-1-seed-5']
    assert values['num_val'] == 360
    assert values['promises'][0]['num_blocks'] == 180
    assert values['promises'][0]['num_frames'] == 360


@pytest.mark.slow
def test_rounding_between_equal_passes_is_no_score_of_a_gate(data: Path, tmp_path: Path) -> None:
    bundle, folder = make_single_bundle(tmp_path / 'single'), tmp_path / 'folds'
    for fold in range(2):
        make_single_bundle(folder / f'fold-{fold}', f'{fold}')
    (folder / 'folds.json').write_text(json.dumps(fold_of(
        sorted(path.stem for path in (data / 'images').iterdir()), 2)))
    found = calibrate_on_folds(
        bundle, data, folder, bad=RULE, alphas=(0.1,), max_train=60,
        report=tmp_path / 'report.html', settings=Settings(backend='onnxruntime', threads=1))
    rooms = {name.split('.')[0] for name in found.val.scores}
    assert {'entropy', 'density'} <= rooms and 'mutual_information' not in rooms
    # Nor by name, with folds or without them.
    for more in (['--folds', str(folder)], []):
        code, said = call_errors(['calibrate', str(bundle), '--data', str(data), *more,
                                  '--scores', 'entropy.mean', 'mutual_information.mean'])
        assert code == 2
        assert "'mutual_information.mean' of a bundle whose passes are all equal" in said


def call_errors(words: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        return main(words), said.getvalue()


def calls(folder: Path) -> list[str]:
    place = folder / 'calls.txt'
    return place.read_text().split() if place.exists() else []


@pytest.mark.slow
def test_a_kill_loses_at_most_the_task_that_ran(data: Path, tmp_path: Path) -> None:
    """The whole group dies by SIGKILL in the second of three tasks; the same command goes on."""
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    folder = tmp_path / 'folds'
    words = ['crossfit', str(bundle), '--data', str(data), '--out', str(folder), '--num-folds',
             '3', '--command', TRAINER + '1.5', '--train-only']
    process = subprocess.Popen([sys.executable, '-m', 'uncertainty_seg', *words],
                               start_new_session=True, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while calls(folder) != ['0', '1']:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [p.name for p in folder.glob('*.done')] == ['fold-0.done']
    done_ns = (folder / 'fold-0' / 'card.json').stat().st_mtime_ns
    code, values = call_json(words)
    assert code == 0 and values['networks'] == ['fold-0', 'fold-1', 'fold-2']
    assert calls(folder) == ['0', '1', '1', '2']
    assert (folder / 'fold-0' / 'card.json').stat().st_mtime_ns == done_ns
    assert call_json(words)[0] == 0 and calls(folder) == ['0', '1', '1', '2']


def test_while_a_command_lives_on_no_other_run_begins(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the process that asked dies: what it started still writes into the folder."""
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    folder = tmp_path / 'folds'
    words = ['crossfit', str(bundle), '--data', str(data), '--out', str(folder), '--num-folds',
             '2', '--command', TRAINER + '30', '--train-only']
    process = subprocess.Popen([sys.executable, '-m', 'uncertainty_seg', *words],
                               start_new_session=True, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not calls(folder):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    try:
        process.kill()
        process.wait()
        assert main(words) == 2
        assert 'another run, or a command it left behind, works in' in capsys.readouterr().err
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_finished_bundle_that_was_damaged_is_made_again(data: Path, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    folder = tmp_path / 'folds'
    words = ['crossfit', str(bundle), '--data', str(data), '--out', str(folder), '--num-folds',
             '2', '--command', TRAINER + '0', '--train-only', '--jobs', '2']
    assert call_json(words)[0] == 0 and sorted(calls(folder)) == ['0', '1']
    (folder / 'fold-1' / 'trunk.onnx').write_bytes(b'')
    assert call_json(words)[0] == 0 and sorted(calls(folder)) == ['0', '1', '1']
    # A whole bundle, but of another network than the one that the marker is of.
    shutil.copytree(folder / 'fold-1', folder / 'fold-0', dirs_exist_ok=True)
    assert call_json(words)[0] == 0 and sorted(calls(folder)) == ['0', '0', '1', '1']


@pytest.mark.parametrize(('command', 'sentence', 'code'), [
    ('train {fold}', 'has no {out}', 2), ('train {out}', 'has no {fold}', 2),
    ('train {out} {fold} {gpu}', 'has {gpu}, expected fields among', 2),
    ("train '{out} {fold}", 'cannot be read', 2),
    ('no-such-program {out} {fold}', 'the command of fold-0 cannot be run', 1),
    (TRAINER.replace('{fold}', '1{fold}3').replace('1{fold}3', '13 {fold}'),
     'the command of fold-0 ended with code 1 (unlucky)', 1),
    ('true {out} {fold}', 'the command of fold-0 left no bundle', 1),
])
def test_a_command_that_does_not_do_is_one_sentence(
    data: Path, tmp_path: Path, command: str, sentence: str, code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    assert main(['crossfit', str(bundle), '--data', str(data), '--out', str(tmp_path / 'folds'),
                 '--num-folds', '2', '--command', command]) == code
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith('uncertainty_seg crossfit: ') and sentence in said
    assert not list((tmp_path / 'folds').glob('*.done'))


@pytest.mark.parametrize(('words', 'sentence'), [
    (['--scores', 'margin.clas_mean'], "no score 'margin.clas_mean'"),
    (['--bad', 'iou<'], "'iou<'"), (['--sign', 'no-key.pem'], 'no-key.pem'),
    (['--report', 'no-such-folder/report.html'], 'no such folder'),
])
def test_what_could_not_be_calibrated_is_said_before_networks_are_trained(
    data: Path, tmp_path: Path, words: list[str], sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    assert main(['crossfit', str(bundle), '--data', str(data), '--out', str(tmp_path / 'folds'),
                 '--num-folds', '2', '--command', TRAINER + '0', *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / 'folds').exists()


def test_another_command_or_division_does_not_pass_for_the_same(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    words = ['crossfit', str(bundle), '--data', str(data), '--out', str(tmp_path / 'folds'),
             '--train-only', '--num-folds']
    assert call_json([*words, '2', '--command', TRAINER + '0'])[0] == 0
    assert main([*words, '2', '--command', TRAINER + '0.0']) == 2
    assert 'fold-0 was trained by' in capsys.readouterr().err
    assert main([*words, '3', '--command', TRAINER + '0']) == 2
    assert 'divides the images in another way' in capsys.readouterr().err


def test_no_block_is_divided(data: Path, tmp_path: Path) -> None:
    stems = sorted(path.stem for path in (data / 'images').iterdir())
    (tmp_path / 'blocks.csv').write_text(
        ''.join(f'{stem},dive {i // 9}\n' for i, stem in enumerate(stems)))
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    assert call_json(['crossfit', str(bundle), '--data', str(data), '--out',
                      str(tmp_path / 'folds'), '--num-folds', '3', '--blocks',
                      str(tmp_path / 'blocks.csv'), '--command', TRAINER + '0',
                      '--train-only'])[0] == 0
    fold = read_folds(tmp_path / 'folds' / 'folds.json')
    assert all(len({fold[s] for s in stems[i:i + 9]}) == 1 for i in range(0, 180, 9))
    assert sorted(set(fold.values())) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('ray') is None, reason='ray is not installed')
def test_a_cluster_trains_the_same_folds_and_says_what_failed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    folder = tmp_path / 'folds'
    words = ['crossfit', str(bundle), '--data', str(data), '--out', str(folder), '--train-only',
             '--ray', 'local', '--num-folds', '2', '--command']
    assert main([*words, 'false {out} {fold}']) == 1
    assert 'ended with code 1' in capsys.readouterr().err
    assert call_json([*words, TRAINER + '0'])[0] == 0
    assert sorted(calls(folder)) == ['0', '1']
    assert sorted(path.name for path in folder.glob('*.done')) == ['fold-0.done', 'fold-1.done']


# --- what is refused before anything is measured -------------------------------------------------


def other_card(folder: Path, **changes: Any) -> None:
    shutil.rmtree(folder)
    write_bundle(folder, replace(tiny_card(), **changes),
                 {'trunk.onnx': tiny_trunk().SerializeToString(),
                  'head.onnx': tiny_head().SerializeToString()})


def change_folds(folder: Path, change: Callable[[dict[str, int]], dict[str, int]]) -> None:
    place = folder / 'folds.json'
    place.write_text(json.dumps(change(json.loads(place.read_text()))))


def divide_a_twin(data: Path, folder: Path) -> None:
    """Make two images of different folds the same."""
    fold = read_folds(folder / 'folds.json')
    one, other = (min(stem for stem, k in fold.items() if k == number) for number in (0, 1))
    shutil.copy(data / 'images' / f'{one}.png', data / 'images' / f'{other}.png')


def divide_a_selected_twin(data: Path, folder: Path) -> None:
    """Make two images of different folds the same; the second one was selected by its score."""
    divide_a_twin(data, folder)
    fold = read_folds(folder / 'folds.json')
    selected = min(stem for stem, k in fold.items() if k == 1)
    write_review(data, {stem: FrameReview(True, 'corrected', 'selected' if stem == selected else
                                          'control') for stem in fold})


def class_in_one_fold(data: Path, folder: Path) -> None:
    fold = read_folds(folder / 'folds.json')
    for stem, k in fold.items():
        path = data / 'masks' / f'{stem}.png'
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), mask if k == 0 else np.where(mask == 2, 0, mask).astype(np.uint8))


WRONG: list[tuple[Callable[[Path, Path], object], list[str], str]] = [
    (lambda data, folder: (folder / 'folds.json').unlink(), [], 'folds.json cannot be read'),
    (lambda data, folder: shutil.rmtree(folder / 'fold-1'), [], 'holds no network fold-1'),
    (lambda data, folder: other_card(folder / 'fold-1', passes=9), [], 'the passes of fold-1 is '
     '9, expected 8'),
    (lambda data, folder: other_card(folder / 'fold-1', class_names=('a', 'green', 'red')), [],
     "the class_names of fold-1 is ('a', 'green', 'red')"),
    (lambda data, folder: make_tiny_bundle(folder / 'fold-1', False, words='0'), [],
     'fold-1 and fold-0 are the same network'),
    (lambda data, folder: make_tiny_bundle(folder / 'fold-0', False), [],
     'fold-0 and tiny are the same network'),
    (lambda data, folder: other_card(folder / 'fold-1', mask_seed=7), [],
     'the mask_seed of fold-1 is 7, expected None'),
    (lambda data, folder: other_card(folder / 'fold-1', mask_draw='stratified'), [],
     'the mask_draw of fold-1 is stratified, expected independent'),
    (lambda data, folder: change_folds(folder, lambda f: dict.fromkeys(f, 0)), [],
     'has 1 fold, expected at least 2'),
    (lambda data, folder: change_folds(folder, lambda f: dict(list(f.items())[2:])), [],
     'is in no fold, and so are 1 more'),
    (divide_a_twin, [], 'both in one fold, since a network saw the other'),
    (divide_a_selected_twin, [], 'both in one fold, since a network saw the other'),
    (class_in_one_fold, [], "hold no pixel of 'red'"),
    (lambda data, folder: None, ['--alpha', '0.01'], 'blocks outside of a fold to promise alpha '
     '0.01 on, expected at least 99'),
    (lambda data, folder: None, ['--scores', 'entropy.median'], "no score 'entropy.median'"),
    (lambda data, folder: None, ['--neighbours', '90'], '90 neighbours of '),
    (lambda data, folder: None, ['--frames', '9', '--neighbours', '9'], '9 neighbours of 9 '
     'training frames, expected at least 1, and fewer than there are frames'),
    (lambda data, folder: None, ['--bad', 'iou>1'], "has 'iou>1'"),
    (lambda data, folder: None, ['--train', 'x'], '--folds without --data, or with --train'),
]


@pytest.mark.parametrize(('spoil', 'words', 'sentence'), WRONG)
def test_folds_that_do_not_fit_are_one_sentence_and_change_nothing(
    tmp_path: Path, spoil: Callable[[Path, Path], object], words: list[str], sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_folder(tmp_path / 'data', 40, 7)
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    before = (bundle / 'calibration.json').read_bytes()
    folder = tmp_path / 'folds'
    for fold in range(2):
        make_tiny_bundle(folder / f'fold-{fold}', False, words=f'{fold}')
    stems = sorted(path.stem for path in (data / 'images').iterdir())
    (folder / 'folds.json').write_text(json.dumps(fold_of(stems, 2)))
    spoil(data, folder)
    assert main(['calibrate', str(bundle), '--data', str(data), '--folds', str(folder), *words,
                 *RUN]) == 2
    said = [line for line in capsys.readouterr().err.splitlines()
            if line.startswith('uncertainty_seg calibrate: ')]
    assert len(said) == 1 and sentence in said[0]
    assert (bundle / 'calibration.json').read_bytes() == before
