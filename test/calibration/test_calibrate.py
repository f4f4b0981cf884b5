# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""`calibrate` and `evaluate` from folder to flag, and what they say of wrong input."""

from collections.abc import Callable, Iterator
import json
from pathlib import Path
import shutil
from typing import Any

from calibration_helpers import COLORS_BGR, few_draws, write_folder
from conftest import make_single_bundle, make_tiny_bundle, write_key
import cv2
from fake_backend import FakeBackend
import numpy as np
import pytest

from uncertainty_seg.backends import registry
from uncertainty_seg.backends.cpu.openvino import core_of_process, has_bf16
from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.calibration import calibration_run
from uncertainty_seg.calibration.gate_choice import is_order
from uncertainty_seg.calibration.statistics.conformal import upper_bound
from uncertainty_seg.cli.main import main
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.errors import CalibrationError, ModelBundleError
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.storage.signatures import public_line, read_private_key

pytest.importorskip('sklearn', reason='scikit-learn fits the density')
pytest.importorskip('matplotlib', reason='matplotlib draws the report')
BASE = {'backend': 'onnxruntime', 'threads': 1}
RUN = ['--backend', 'onnxruntime', '--threads', '1']
RULE = 'accuracy<0.6'


@pytest.fixture(scope='module', autouse=True)
def _few_draws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        few_draws(patch)
        yield


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('data')
    write_folder(root / 'train', 120, 1)
    write_folder(root / 'val', 150, 2)
    write_folder(root / 'fresh', 150, 3)
    return root


@pytest.fixture(scope='module')
def calibrated(
    folders: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], Path]:
    """Return bundle, the line for scripts, and the report."""
    root = tmp_path_factory.mktemp('calibrated')
    bundle = make_tiny_bundle(root / 'tiny', calibrated=False)
    code, values = call_json([
        'calibrate', str(bundle), '--train', str(folders / 'train'), '--val',
        str(folders / 'val'), '--bad', RULE, '--report', str(root / 'report.html'), *RUN])
    assert code == 0
    return bundle, values, root / 'report.html'


@pytest.mark.release
def test_without_folds_too_a_guard_is_taken_that_refuses_foreign_frames_and_no_other(
    folders: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    (tmp_path / 'flat').mkdir()
    for index in range(40):
        # All of one clear colour: sure, and like no training frame.
        flat = np.full((48, 64, 3), COLORS_BGR[index % 3]) + rng.normal(0, 1.5, (48, 64, 3))
        cv2.imwrite(str(tmp_path / 'flat' / f'{index}.png'), flat.clip(0, 255).astype(np.uint8))
    # Of four seeds one or two get a guard by chance, whatever the reduction.
    write_folder(tmp_path / 'like', 150, 5)
    guards = {}
    for name, foreign in (('flat', tmp_path / 'flat'), ('like', tmp_path / 'like')):
        bundle = make_tiny_bundle(tmp_path / f'{name} bundle', calibrated=False)
        code, found = call_json([
            'calibrate', str(bundle), '--train', str(folders / 'train'), '--val',
            str(folders / 'val'), '--bad', RULE, '--ood', str(foreign), *RUN])
        assert code == 0
        guards[name] = [score for score in found['gate_scores'] if not is_order(score)]
        assert all(p['bound'] <= p['alpha'] for p in found['promises'])
    assert guards['flat'] and not guards['like']
    code, seen = call_json(['evaluate', str(tmp_path / 'flat bundle'), str(folders / 'fresh'),
                            '--ood', str(tmp_path / 'flat'), *RUN])
    assert code == 0 and seen['gate']['foreign_accepted'] == 0


def call_json(words: list[str]) -> tuple[int, dict[str, Any]]:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(words)
    return code, json.loads(out.getvalue().splitlines()[-1]) if code == 0 else {}


def test_the_promise_is_kept_on_frames_that_nothing_has_seen(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path
) -> None:
    bundle, values, _ = calibrated
    assert [p['alpha'] for p in values['promises']] == [0.05, 0.1]
    assert all(p['bound'] <= p['alpha'] and p['num_blocks'] == 100 for p in values['promises'])
    assert values['num_val'] == 100 and values['num_train'] == 120
    for promise in values['promises']:
        code, found = call_json(['evaluate', str(bundle), str(folders / 'fresh'),
                                 '--gate-alpha', str(promise['alpha']), *RUN])
        assert code == 0
        gate = found['gate']
        # Hidden bad frames are 4 % of all, so that 0.05 can be kept with most good ones in.
        assert gate['accepted_and_bad']['value'] <= promise['alpha'] + 0.02
        assert gate['accepted']['value'] > 0.5
        assert gate['limits'] == promise['limits']
    strict, loose = values['promises']
    assert all(strict['limits'][n] <= loose['limits'][n] for n in strict['limits'])


def test_floors_are_the_least_values_of_the_frames_that_the_limits_are_for(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path
) -> None:
    made = load_bundle(str(calibrated[0])).calibration
    assert made is not None and set(made.gate_scores) <= set(made.thresholds)
    settings = settings_from_dict(BASE)
    with open_pipeline(load_bundle(str(calibrated[0])), settings) as pipeline:
        rows = [pipeline.measure(cv2.imread(str(file))).scores
                for file in sorted((folders / 'val' / 'images').iterdir())]
    assert len(made.floors) > 20 and set(made.floors) <= set(made.thresholds)
    for name, floor in made.floors.items():
        values = np.sort([row[name] for row in rows])
        values = values[np.isfinite(values)]
        # A third of them fitted the temperature, and the least may be among these.
        assert floor in values and 0 < np.count_nonzero(values <= floor) <= 51
    for name in {*made.thresholds} - {*made.floors}:
        assert np.count_nonzero([row[name] == 0 for row in rows]) > 0


def test_a_gate_of_a_score_far_from_0_rises_on_frames_that_a_share_of_its_limit_refuses(
    folders: Path, tmp_path: Path
) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    code, _ = call_json(['calibrate', str(bundle), '--train', str(folders / 'train'), '--val',
                         str(folders / 'val'), '--bad', RULE, '--scores', 'energy.mean', *RUN])
    assert code == 0
    made = load_bundle(str(bundle)).calibration
    assert made is not None
    settings = settings_from_dict({**BASE, 'gate.rise_frames': 1})
    with open_pipeline(load_bundle(str(bundle)), settings) as pipeline:
        limit, floor = pipeline.thresholds['energy.mean'], made.floors['energy.mean']
        assert floor > 0.8 * limit
        rose = 0
        for file in sorted((folders / 'fresh' / 'images').iterdir()):
            pipeline.restart()
            result = pipeline.process(cv2.imread(str(file)))
            energy = result.scores['energy.mean']
            assert result.verdict.is_confident == (energy <= limit - 0.05 * (limit - floor))
            rose += result.verdict.is_confident and energy > 0.95 * limit
    assert rose >= 20


def test_the_node_judges_by_the_limits_that_were_written(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path
) -> None:
    bundle, values, _ = calibrated
    loaded = load_bundle(str(bundle))
    assert loaded.calibration is not None and loaded.calibration.family is not None
    assert loaded.calibration.density is not None
    assert loaded.calibration.reductions == ('coarse',)
    with pytest.raises(CalibrationError, match='reduction is exact, but .* with coarse'):
        open_pipeline(loaded, settings_from_dict({**BASE, 'reduction': 'exact'}))
    for alpha, promise in zip((0.0, 0.1), values['promises'], strict=True):
        settings = settings_from_dict({**BASE, 'gate.alpha': alpha})
        pipeline = open_pipeline(loaded, settings)
        assert pipeline.thresholds == promise['limits']
        image = cv2.imread(str(next((folders / 'fresh' / 'images').iterdir())))
        result = pipeline.process(image, 0)
        assert set(promise['limits']) <= set(result.scores)
        assert len(result.scores) < 12
    every = open_pipeline(loaded, settings_from_dict(BASE), all_scores=True)
    assert len(every.measure(image, 0).scores) > 40


def test_what_evaluate_counts_is_what_a_loop_over_the_pipeline_counts(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path
) -> None:
    bundle, values, _ = calibrated
    code, found = call_json(['evaluate', str(bundle), str(folders / 'fresh'), *RUN])
    pipeline = open_pipeline(load_bundle(str(bundle)), settings_from_dict(BASE))
    limits = values['promises'][0]['limits']
    accepted, bad = [], []
    for path in sorted((folders / 'fresh' / 'images').iterdir()):
        result = pipeline.measure(cv2.imread(str(path)), 0)
        truth = cv2.imread(str(folders / 'fresh' / 'masks' / path.name), cv2.IMREAD_UNCHANGED)
        accepted.append(all(result.scores[name] <= limit for name, limit in limits.items()))
        bad.append((result.label_at_source() == truth).mean() < 0.6)
    assert code == 0 and found['bad'] == RULE
    assert found['bad_share'] == pytest.approx(np.mean(bad))
    assert found['gate']['accepted']['value'] == pytest.approx(np.mean(accepted))
    assert found['gate']['accepted_and_bad']['value'] == pytest.approx(
        np.mean(np.array(accepted) & np.array(bad)))
    assert found['gate']['bad_if_accepted']['num_accepted'] == sum(accepted)
    for name, interval in found['intervals'].items():
        assert interval['value'] == pytest.approx(found[name])
        assert interval['lower'] < interval['value'] < interval['upper']
    curve = found['pavpu']
    assert {len(column) for column in curve.values()} == {34}
    assert [curve['limits'][0], curve['limits'][-1]] == [0, 1]
    # Above the largest entropy nothing is uncertain: what is left is the share of accurate ones.
    assert curve['pavpu'][-1] == pytest.approx(curve['accurate_if_certain'][-1])
    assert curve['uncertain_if_inaccurate'][-1] == 0


def test_foreign_frames_are_ranked_and_refused(
    calibrated: tuple[Path, dict[str, Any], Path], tmp_path: Path, folders: Path
) -> None:
    """Foreign frames: grey throughout, which is the tiny network's unknown."""
    foreign = write_folder(tmp_path / 'grey', 30, 5, bad_share=1.0)
    code, found = call_json(['evaluate', str(calibrated[0]), str(folders / 'fresh'), '--ood',
                             str(foreign), *RUN])
    assert code == 0
    assert found['gate']['foreign_accepted'] < 0.2 < found['gate']['accepted']['value']
    assert found['gate']['ood_auroc']['value'] > 0.7
    for ranking in (found['gate'], found['scores']['entropy.mean']):
        ood = ranking['ood_auroc']
        assert ood['lower'] <= ood['value'] <= ood['upper'] and ood['num_blocks'] == 180
    plain = found['scores']['mutual_information.mean']
    gain = found['gate']['gain_over_mutual_information.mean']
    for name, sign in (('ood_auroc', 1), ('excess_aurc', -1)):
        difference = sign * (found['gate'][name]['value'] - plain[name]['value'])
        assert gain[name]['value'] == pytest.approx(difference)


@pytest.mark.release
def test_rounding_between_equal_passes_is_on_no_card_and_in_no_table(
    folders: Path, tmp_path: Path
) -> None:
    bundle, grey = make_single_bundle(tmp_path / 'single'), tmp_path / 'grey'
    pages = [tmp_path / f'{verb}.html' for verb in ('calibrate', 'evaluate')]
    write_folder(grey, 5, 5, bad_share=1.0)
    code, fitted = call_json(['calibrate', str(bundle), '--train', str(folders / 'train'), '--val',
                              str(folders / 'val'), '--bad', RULE, '--report', str(pages[0]),
                              *RUN])
    assert code == 0
    metrics = load_bundle(str(bundle)).card.metrics
    assert metrics['val_error_auroc_entropy'] == fitted['val_error_auroc_entropy'] > 0.5
    code, found = call_json(['evaluate', str(bundle), str(folders / 'fresh'), '--ood', str(grey),
                             '--report', str(pages[1]), *RUN])
    assert code == 0
    assert {'entropy', 'aleatoric', 'max_logit'} <= set(found['maps'])
    assert {'entropy.mean', 'margin.class_mean', 'energy.mean'} <= set(found['scores'])
    # The gate has no disagreement to be compared with, but the one score that is always there.
    gain, plain = found['gate']['gain_over_entropy.mean'], found['scores']['entropy.mean']
    for key, sign in (('ood_auroc', 1), ('excess_aurc', -1)):
        assert gain[key]['value'] == pytest.approx(
            sign * (found['gate'][key]['value'] - plain[key]['value']))
    told = ' '.join([*metrics, *found['maps'], *found['scores'], *found['gate'],
                     *fitted['thresholds'], *(page.read_text() for page in pages)])
    for name in ('mutual_information', 'variation_ratio', 'total_variance'):
        assert name not in told


def test_the_ladder_begins_at_the_clear_image_and_has_every_kind(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path, tmp_path: Path
) -> None:
    bundle, _, _ = calibrated
    report = tmp_path / 'report.html'
    code, found = call_json([
        'evaluate', str(bundle), str(folders / 'fresh'), '--corrupt', '--corrupt-frames', '12',
        '--report', str(report), *RUN])
    assert code == 0
    ladders = found['corruption']
    assert {ladder['kind'] for ladder in ladders} == {
        'turbidity', 'darkness', 'blur', 'colour_cast', 'snow'}
    assert len({json.dumps(ladder['steps'][0]) for ladder in ladders}) == 1
    for ladder in ladders:
        assert [step['severity'] for step in ladder['steps']] == [0, 1, 2, 3, 4, 5]
        assert ladder['num_frames'] == 12
    dark = next(ladder for ladder in ladders if ladder['kind'] == 'darkness')['steps']
    assert dark[5]['accepted'] == 0 and dark[0]['accepted'] > 0.4
    assert 'id="ladders"' in report.read_text() and 'id="accepted"' in report.read_text()


def test_the_report_has_every_part_of_a_calibration(
    calibrated: tuple[Path, dict[str, Any], Path]
) -> None:
    page = calibrated[2].read_text()
    for part in ('promise', 'bundle', 'risk', 'scores', 'spreads', 'reliability', 'classes',
                 'accepted', 'refused', 'notes'):
        assert f'<section id="{part}">' in page
    assert 'accuracy&lt;0.6' in page


def test_blocks_count_and_not_frames(folders: Path, tmp_path: Path) -> None:
    from conftest import make_tiny_bundle

    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    stems = sorted(path.stem for path in (folders / 'val' / 'images').iterdir())
    blocks = tmp_path / 'blocks.csv'
    blocks.write_text(''.join(f'{stem},dive {i // 3}\n' for i, stem in enumerate(stems)))
    code, found = call_json([
        'calibrate', str(bundle), '--train', str(folders / 'train'), '--val',
        str(folders / 'val'), '--bad', RULE, '--alpha', '0.1', '--blocks', str(blocks), *RUN])
    assert code == 0
    assert found['promises'][0]['num_blocks'] == 33 and found['num_val'] == 99


@pytest.mark.release
def test_the_precision_that_was_computed_in_is_written(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from conftest import make_tiny_bundle

    # ONNX Runtime would refuse bf16, and not every processor has it for OpenVINO.
    monkeypatch.setitem(registry.OPENERS, 'onnxruntime',
                        lambda bundle, settings: FakeBackend(bundle.card))
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    words = ['calibrate', str(bundle), '--train', str(folders / 'train'), '--val',
             str(folders / 'val'), '--bad', RULE, *RUN, '--alpha', '0.1']
    for precision, written in (('bundle', 'fp32'), ('bf16', 'bf16')):
        assert main([*words, '--precision', precision]) == 0
        calibration = load_bundle(str(bundle)).calibration
        assert calibration is not None and calibration.precision == written
    assert main([*words, '--precision', 'int8']) == 2
    assert "precision is int8, but the graphs of 'tiny' are fp32" in capsys.readouterr().err


@pytest.mark.release
def test_every_block_counts_alike_where_the_promise_is_held_against_frames(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path, tmp_path: Path
) -> None:
    """One block has 100 of 150 frames; the others have one each."""
    bundle, _, _ = calibrated
    stems = sorted(path.stem for path in (folders / 'fresh' / 'images').iterdir())
    blocks = tmp_path / 'blocks.json'
    blocks.write_text(json.dumps({'long dive': stems[:100], **{s: [s] for s in stems[100:]}}))
    report = tmp_path / 'report.html'
    words = ['evaluate', str(bundle), str(folders / 'fresh'), *RUN]
    code, by_block = call_json([*words, '--blocks', str(blocks), '--report', str(report)])
    assert code == 0
    _, by_frame = call_json(words)
    pipeline = open_pipeline(load_bundle(str(bundle)), settings_from_dict(BASE))
    taken, lost = [], []
    for stem in stems:
        name = f'{stem}.png'
        result = pipeline.measure(cv2.imread(str(folders / 'fresh' / 'images' / name)), 0)
        truth = cv2.imread(str(folders / 'fresh' / 'masks' / name), cv2.IMREAD_UNCHANGED)
        taken.append(all(result.scores[n] <= v for n, v in pipeline.thresholds.items()))
        lost.append(taken[-1] and (result.label_at_source() == truth).mean() < 0.6)
    for key, column in (('accepted', taken), ('accepted_and_bad', lost)):
        alike = np.mean([np.mean(column[:100]), *column[100:]])
        assert by_block['gate'][key]['value'] == pytest.approx(alike)
        assert by_block['gate'][key]['num_blocks'] == 51
        assert by_frame['gate'][key]['value'] == pytest.approx(np.mean(column))
        assert alike != pytest.approx(np.mean(column))
    assert f'{100 * np.mean([np.mean(lost[:100]), *lost[100:]]):.1f}' in report.read_text()
    assert by_block['gate']['bad_if_accepted']['unit'] == 'block'
    assert by_block['gate']['bad_if_accepted']['num_accepted'] <= 51
    assert by_frame['gate']['bad_if_accepted']['unit'] == 'frame'


def test_frames_that_the_limits_were_fitted_on_are_called_so(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The bound is then that of calibrate, which shares its error among all limits."""
    said = 'the limits were fitted on these images'
    report = tmp_path / 'report.html'
    code, fresh = call_json(['evaluate', str(calibrated[0]), str(folders / 'fresh'), *RUN])
    assert code == 0 and fresh['is_fitted'] is False and said not in caplog.text
    code, fitted = call_json(['evaluate', str(calibrated[0]), str(folders / 'val'), '--report',
                              str(report), *RUN])
    assert code == 0 and fitted['is_fitted'] is True and said in caplog.text
    bound = fitted['gate']['bad_if_accepted']
    assert bound['upper'] == pytest.approx(
        upper_bound(bound['num_bad'], bound['num_accepted'], num_tries=150))
    assert bound['upper'] > upper_bound(bound['num_bad'], bound['num_accepted'])
    assert 'it proves nothing' in report.read_text()
    mixed = shutil.copytree(folders / 'fresh', tmp_path / 'mixed')
    for source, count in (('val', 3), ('train', 2)):
        for path in sorted((folders / source / 'images').iterdir())[:count]:
            for part in ('images', 'masks'):
                shutil.copy(folders / source / part / path.name, mixed / part / f'x_{path.name}')
    assert ' of these images' not in caplog.text
    code, fitted = call_json(['evaluate', str(calibrated[0]), str(mixed), *RUN])
    assert code == 0 and fitted['is_fitted'] is True
    assert 'fitted on 5 of these images: what is accepted' in caplog.text


@pytest.mark.release
def test_a_temperature_at_the_end_of_the_range_is_said(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within the range nothing is said; with a range that ends too early it is."""
    from conftest import make_tiny_bundle

    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    words = ['calibrate', str(bundle), '--train', str(folders / 'train'), '--val',
             str(folders / 'val'), '--bad', RULE, '--alpha', '0.1', *RUN]
    code, found = call_json(words)
    assert code == 0
    best = calibration_run.TEMPERATURES.index(found['temperature'])
    assert ('is the end of what is tried' in caplog.text) == (
        best in (0, len(calibration_run.TEMPERATURES) - 1))
    caplog.clear()
    monkeypatch.setattr(calibration_run, 'TEMPERATURES',
                        calibration_run.TEMPERATURES[max(best - 1, 0):best + 1])
    assert call_json(words)[1]['temperature'] == found['temperature']
    assert f"the temperature {found['temperature']:g} is the end of what is tried" in caplog.text


def rename_class(val: Path) -> None:
    table = json.loads((val / 'classes.json').read_text())
    table['classes'][0]['name'] = 'cyan'
    (val / 'classes.json').write_text(json.dumps(table))


def test_scores_that_are_named_are_not_chosen(folders: Path, tmp_path: Path) -> None:
    from conftest import make_tiny_bundle

    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    code, found = call_json([
        'calibrate', str(bundle), '--train', str(folders / 'train'), '--val',
        str(folders / 'val'), '--bad', RULE, '--scores', 'entropy.class.red', 'entropy.mean',
        *RUN])
    assert code == 0
    assert found['gate_scores'] == ['entropy.class.red', 'entropy.mean']


def spoil_mask(folder: Path, values: np.ndarray) -> None:
    path = sorted((folder / 'masks').iterdir())[3]
    cv2.imwrite(str(path), values)


WRONG: list[tuple[list[str], Callable[[Path], object], str]] = [
    (['--bad', 'iou>0.5'], lambda val: None, "has 'iou>0.5'"),
    (['--bad', 'iou[whale]<0.5'], lambda val: None, "names the class 'whale'"),
    (['--bad', 'iou<1.5'], lambda val: None, 'compares with 1.5'),
    (['--scores', 'entropy.median'], lambda val: None, "no score 'entropy.median'"),
    (['--alpha', '0.005'], lambda val: None, '20 blocks to promise alpha 0.005 on, expected at '
     'least 199'),
    (['--alpha', '0.005'], lambda val: None, '20 blocks promise alpha 0.0477 at best, if no bad '
     'frame is accepted; it takes 49 for 0.02'),
    (['--blocks', 'missing.csv'], lambda val: None, 'missing.csv gives no blocks'),
    (['--ignore-mask', 'missing.png'], lambda val: None, "ignore_mask 'missing.png' cannot"),
    ([], lambda val: spoil_mask(val, np.full((48, 64), 9, np.uint8)), 'has the class id 9'),
    ([], lambda val: spoil_mask(val, np.zeros((48, 65), np.uint8)),
     'is 64x48, its mask 65x48'),
    ([], lambda val: shutil.rmtree(val / 'masks'), "the mask of 'frame_7_000'"),
    ([], lambda val: (val / 'classes.json').unlink(), 'classes.json is missing'),
    ([], rename_class, 'has the classes cyan, green, red'),
    ([], shutil.rmtree, 'splits.json is missing'),
]


@pytest.mark.parametrize(('words', 'spoil', 'sentence'), WRONG)
def test_wrong_input_is_one_sentence_and_changes_nothing(
    tiny_bundle: Path, folders: Path, tmp_path: Path, words: list[str],
    spoil: Callable[[Path], object], sentence: str, capsys: pytest.CaptureFixture[str],
) -> None:
    before = (tiny_bundle / 'calibration.json').read_bytes()
    val = write_folder(tmp_path / 'val', 30, 7)
    spoil(val)
    code = main(['calibrate', str(tiny_bundle), '--train', str(folders / 'train'), '--val',
                 str(val), *words, *RUN])
    said = [line for line in capsys.readouterr().err.splitlines()
            if line.startswith('uncertainty_seg calibrate: ')]
    assert code == 2
    assert len(said) == 1 and sentence in said[0]
    assert (tiny_bundle / 'calibration.json').read_bytes() == before


@pytest.mark.parametrize(('bad_share', 'hidden', 'rule', 'sentence'), [
    (0.0, 0.0, 'accuracy<0.01', 'frames to choose scores on are good, expected some of each'),
    (0.0, 0.0, 'accuracy<1', 'frames to choose scores on are bad, expected some of each'),
])
def test_a_set_that_is_all_alike_promises_nothing(
    tiny_bundle: Path, tmp_path: Path, bad_share: float, hidden: float, rule: str, sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_folder(tmp_path / 'data', 130, 8, bad_share, hidden, splits=True)
    code = main(['calibrate', str(tiny_bundle), '--data', str(data), '--bad', rule, *RUN])
    assert code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(('words', 'sentence'), [
    (['--gate-alpha', '0.3'], 'gate.alpha is 0.3, expected 0 or one of [0.05, 0.1]'),
    (['--bad', 'nothing'], "has 'nothing'"),
    (['--ood', 'empty'], 'no image in'),
    (['--passes', '4'], 'passes is 4, but'),
    (['--precision', 'bf16', '--backend', 'openvino'], 'precision is bf16, but'),
])
def test_evaluate_says_what_it_cannot_do(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path, words: list[str],
    sentence: str, capsys: pytest.CaptureFixture[str],
) -> None:
    if 'openvino' in words:
        pytest.importorskip('openvino')
        if not has_bf16(core_of_process()):
            pytest.skip('this processor has no bf16, and OpenVINO refuses it there')
    code = main(['evaluate', str(calibrated[0]), str(folders / 'fresh'), *RUN, *words])
    assert code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.release
def test_calibrate_signs_what_it_wrote_or_leaves_it_unsigned(
    tiny_bundle: Path, folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    key = write_key(tmp_path)
    words = ['calibrate', str(tiny_bundle), '--train', str(folders / 'train'), '--val',
             str(folders / 'val'), '--bad', RULE, *RUN]
    trusted = (public_line(read_private_key(key)),)
    assert call_json([*words, '--sign', str(key)])[0] == 0
    assert load_bundle(tiny_bundle, trusted_keys=trusted).calibration is not None
    caplog.clear()
    assert call_json(words)[0] == 0
    assert 'is no longer signed' in caplog.text
    with pytest.raises(ModelBundleError, match='is not signed'):
        load_bundle(tiny_bundle, trusted_keys=trusted)
    # A key that cannot be read is refused before minutes of work.
    assert main([*words, '--sign', str(tmp_path / 'nowhere.pem')]) == 2
