# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""`calibrate` and `evaluate` from folder to flag, and their errors for wrong input."""

from collections.abc import Callable
from dataclasses import replace
import json
from pathlib import Path
import re
import shutil
from typing import Any

from calibration_helpers import (
    BASE,
    calibrate_on,
    call_json,
    COLORS_BGR,
    RULE,
    splits_of,
    write_folder,
    write_folders,
)
from conftest import make_single_bundle, make_tiny_bundle, write_key
import cv2
from fake_backend import FakeBackend
import numpy as np
import pytest

from uncertainty_seg.backends import registry
from uncertainty_seg.backends.cpu.openvino import core_of_process, has_bf16
from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.calibration import api
from uncertainty_seg.calibration.api import compare, evaluate
from uncertainty_seg.calibration.calibrate import held_out_scores
from uncertainty_seg.calibration.stats.conformal import upper_bound
from uncertainty_seg.calibration.stats.promise_verdict import KEPT, SEEN, TOO_FEW
from uncertainty_seg.core.scores.density import FeatureDensity
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.errors import CalibrationError, ModelBundleError
from uncertainty_seg.storage.model_bundle import load_bundle, write_calibration
from uncertainty_seg.storage.signatures import public_line, read_private_key

pytest.importorskip('scipy', reason='scipy computes the bounds')
pytest.importorskip('matplotlib', reason='matplotlib draws the report')


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def calibrated(
    folders: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], Path]:
    """Return the bundle, the JSON line, and the report."""
    root = tmp_path_factory.mktemp('calibrated')
    bundle, report = make_tiny_bundle(root / 'tiny', calibrated=False), root / 'report.html'
    return bundle, calibrate_on(bundle, folders, '--report', report), report


def test_the_promise_is_kept_on_frames_that_nothing_has_seen(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path
) -> None:
    bundle, values, _ = calibrated
    assert [p['alpha'] for p in values['promises']] == [0.05, 0.1]
    assert all(p['bound'] <= p['alpha'] and p['num_blocks'] == 100 for p in values['promises'])
    assert values['num_limits'] == 100 and values['num_train'] == 120
    for promise in values['promises']:
        code, found, _ = call_json('evaluate', bundle, folders / 'fresh', '--set',
                                   f'gate.alpha={promise["alpha"]}')
        assert code == 0
        gate = found['gate']
        # Hidden bad frames are 4 % of all, so that 0.05 is possible with most good ones accepted.
        assert gate['accepted_and_bad']['value'] <= promise['alpha'] + 0.02
        assert gate['accepted']['value'] > 0.5
        assert gate['limits'] == promise['limits']
        assert gate['promise_kept']['word'] in (KEPT, TOO_FEW)
        assert 0.0 < promise['spread'][0] < promise['alpha'] < promise['spread'][1]
        # The acceptance on the other half of the blocks predicts that on new frames.
        accepted, bad = (values[f'halves_{word}_{promise["alpha"]:g}']
                         for word in ('accepted', 'accepted_and_bad'))
        assert bad <= promise['alpha'] + 0.005 and 0.4 < accepted < promise['accepted'] + 0.05
    strict, loose = values['promises']
    assert all(strict['limits'][n] <= loose['limits'][n] for n in strict['limits'])


def test_the_temperature_is_that_of_val_and_of_no_other_split(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path, tmp_path: Path
) -> None:
    """Use a val whose masks are all right, which gives a lower temperature."""
    right = write_folder(tmp_path / 'right', 20, 9, bad_share=0.0, hidden_share=0.0)
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    found = calibrate_on(bundle, folders, '--val', right, '--scores', 'entropy.mean')
    assert found['temperature'] < calibrated[1]['temperature']
    assert found['mean_iou'] == pytest.approx(calibrated[1]['mean_iou'], abs=0.02)


def test_a_comparison_judges_the_promises_as_an_evaluation_does(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path, tmp_path: Path
) -> None:
    """Judge equally, including the allowed error of thresholds that were carried over."""
    bundle = load_bundle(str(shutil.copytree(calibrated[0], tmp_path / 'tiny')))
    assert bundle.calibration is not None
    for error in (0.0, 0.3):
        write_calibration(bundle, replace(bundle.calibration, carried_error=error))
        alone = [evaluate(bundle.folder, folders / 'fresh', settings=settings_from_dict(
            {**BASE, 'gate.alpha': alpha})).flag for alpha in (0.05, 0.1)]
        assert [flag and flag.verdict and flag.verdict.alpha for flag in alone] == [
            pytest.approx(alpha + error) for alpha in (0.05, 0.1)]
        found = compare([bundle.folder], folders / 'fresh', settings=settings_from_dict(BASE))
        assert found.promises == {'tiny': tuple(flag and flag.verdict for flag in alone)}


def test_floors_are_the_least_values_of_the_frames_that_the_thresholds_are_for(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path
) -> None:
    made = load_bundle(str(calibrated[0])).calibration
    assert made is not None and set(made.gate_scores) <= set(made.thresholds)
    with open_pipeline(load_bundle(str(calibrated[0])), settings_from_dict(BASE)) as pipeline:
        rows = [pipeline.measure(cv2.imread(str(file))).scores
                for file in sorted((folders / 'limits' / 'images').iterdir())]
    known = [name for name in made.floors if name in rows[0]]
    assert set(made.floors) <= set(made.thresholds) and len(known) > 4
    for name in known:
        values = np.sort([row[name] for row in rows])
        values = values[np.isfinite(values)]
        assert made.floors[name] == values[0]


def test_the_node_judges_by_the_thresholds_that_were_written(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path
) -> None:
    bundle, values, _ = calibrated
    loaded = load_bundle(str(bundle))
    assert loaded.calibration is not None
    for alpha, promise in zip((0.0, 0.1), values['promises'], strict=True):
        pipeline = open_pipeline(loaded, settings_from_dict({**BASE, 'gate.alpha': alpha}))
        assert pipeline.thresholds == promise['limits']
        image = cv2.imread(str(next((folders / 'fresh' / 'images').iterdir())))
        result = pipeline.process(image, 0)
        assert set(promise['limits']) <= set(result.scores)
        assert len(result.scores) < 12


def test_what_evaluate_counts_is_what_a_loop_over_the_pipeline_counts(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path
) -> None:
    bundle, values, _ = calibrated
    code, found, _ = call_json('evaluate', bundle, folders / 'fresh')
    pipeline = open_pipeline(load_bundle(str(bundle)), settings_from_dict(BASE))
    limits = values['promises'][0]['limits']
    accepted, bad = [], []
    for path in sorted((folders / 'fresh' / 'images').iterdir()):
        result = pipeline.measure(cv2.imread(str(path)), 0)
        truth = cv2.imread(str(folders / 'fresh' / 'masks' / path.name), cv2.IMREAD_UNCHANGED)
        accepted.append(all(result.scores[name] <= limit for name, limit in limits.items()))
        bad.append((result.label == truth).mean() < 0.6)
    assert code == 0 and found['bad'] == RULE
    assert found['bad_share'] == pytest.approx(np.mean(bad))
    assert found['gate']['accepted']['value'] == pytest.approx(np.mean(accepted))
    assert found['gate']['accepted_and_bad']['value'] == pytest.approx(
        np.mean(np.array(accepted) & np.array(bad)))
    assert found['gate']['bad_if_accepted']['num_accepted'] == sum(accepted)
    # A stricter gate keeps the promise, too; for a looser one there is none.
    for scale, is_judged in (0.9, True), (1.1, False):
        gate = call_json('evaluate', bundle, folders / 'fresh', '--set',
                         f'gate.threshold_scale={scale}')[1]['gate']
        assert (gate['promise_kept'] is not None) is is_judged
    for name, interval in found['intervals'].items():
        assert interval['value'] == pytest.approx(found[name])
        assert interval['lower'] < interval['value'] < interval['upper']


def test_foreign_frames_are_ranked_and_refused(
    calibrated: tuple[Path, dict[str, Any], Path], tmp_path: Path, folders: Path
) -> None:
    """Use grey foreign frames, of which the tiny network is uncertain."""
    foreign = write_folder(tmp_path / 'grey', 30, 5, bad_share=1.0)
    code, found, _ = call_json('evaluate', calibrated[0], folders / 'fresh', '--ood', foreign)
    assert code == 0
    assert found['gate']['foreign_accepted'] < 0.2 < found['gate']['accepted']['value']
    assert found['gate']['ood_auroc']['value'] > 0.7
    auroc = found['gate']['ood_auroc']
    assert auroc['lower'] <= auroc['value'] <= auroc['upper']


@pytest.mark.release
def test_rounding_between_equal_passes_is_on_no_card_and_in_no_table(
    folders: Path, tmp_path: Path
) -> None:
    bundle, grey = make_single_bundle(tmp_path / 'single'), tmp_path / 'grey'
    pages = [tmp_path / f'{verb}.html' for verb in ('calibrate', 'evaluate')]
    write_folder(grey, 5, 5, bad_share=1.0)
    fitted = calibrate_on(bundle, folders, '--report', pages[0])
    metrics = load_bundle(str(bundle)).card.metrics
    assert metrics['error_auroc_entropy'] == fitted['error_auroc_entropy'] > 0.5
    code, found, _ = call_json('evaluate', bundle, folders / 'fresh', '--ood', grey, '--report',
                               pages[1])
    assert code == 0
    assert {'entropy', 'aleatoric'} <= set(found['error_auroc'])
    scores = json.loads(Path(found['figures']).read_text())['scores']
    assert {'entropy.mean', 'margin.class_mean', 'energy.mean'} <= set(scores)
    told = ' '.join([*metrics, *found['error_auroc'], *scores, *found['gate'],
                     *load_bundle(str(bundle)).calibration.thresholds,
                     *(page.read_text() for page in pages)])
    for name in ('mutual_information', 'variation_ratio', 'total_variance'):
        assert name not in told


def test_the_report_has_every_part_of_a_calibration(
    calibrated: tuple[Path, dict[str, Any], Path]
) -> None:
    page, promise = calibrated[2].read_text(), calibrated[1]['promises'][0]
    assert re.findall('<section id="(.*?)">', page) == [
        'risk', 'classes', 'accepted', 'refused', 'promise', 'reliability', 'scores', 'bundle',
        'notes']
    assert 'accuracy&lt;0.6' in page
    for share in ('accepted', 'accepted_and_bad'):
        assert f'<strong>{100 * promise[share]:.1f}\N{NO-BREAK SPACE}%</strong>' in page
    bound = f'{100 * promise["bad_if_accepted_upper"]:.1f}\N{NO-BREAK SPACE}% of the frames'
    assert bound in page
    # Accepted bad frames are shown, with masks and heatmap.
    assert page.count('<figure class="frame">') >= 4
    assert page.count('data:image/png') >= 2 * page.count('<figure class="frame">')
    marked = re.findall(r'<tr class="marked"><th scope="row">(.*?)</th>', page)
    assert set(marked) == set(promise['limits'])


def test_blocks_count_and_not_frames(folders: Path, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    stems = sorted(path.stem for path in (folders / 'limits' / 'images').iterdir())
    blocks = tmp_path / 'blocks.csv'
    blocks.write_text(''.join(f'{stem},dive {i // 3}\n' for i, stem in enumerate(stems)))
    found = calibrate_on(bundle, folders, '--alpha', '0.1', '--blocks', blocks)
    assert found['promises'][0]['num_blocks'] == 34 and found['num_limits'] == 100


@pytest.mark.release
def test_the_precision_that_was_computed_in_is_written(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ONNX Runtime refuses bf16, and OpenVINO has it on some CPUs only.
    monkeypatch.setitem(registry.OPENERS, 'onnxruntime',
                        lambda bundle, settings: FakeBackend(bundle.card))
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    for precision, written in (('bundle', 'fp32'), ('bf16', 'bf16')):
        calibrate_on(bundle, folders, '--alpha', '0.1', '--set', f'precision={precision}')
        calibration = load_bundle(str(bundle)).calibration
        assert calibration is not None and calibration.precision == written


@pytest.mark.release
def test_every_block_counts_alike_where_the_promise_is_held_against_frames(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path, tmp_path: Path
) -> None:
    """Use one block with 100 of 150 frames, and one block for each other frame."""
    stems = sorted(path.stem for path in (folders / 'fresh' / 'images').iterdir())
    blocks = tmp_path / 'blocks.json'
    blocks.write_text(json.dumps({s: s for s in stems} | dict.fromkeys(stems[:100], 'long dive')))
    by_block, by_frame = (
        call_json('evaluate', calibrated[0], folders / 'fresh', *words)[1]['gate']
        for words in (('--blocks', blocks), ()))
    for gate, count, unit in (by_block, 51, 'block'), (by_frame, 150, 'frame'):
        assert gate['accepted']['num_blocks'] == gate['accepted_and_bad']['num_blocks'] == count
        assert gate['bad_if_accepted']['unit'] == unit
    assert by_block['accepted']['value'] != pytest.approx(by_frame['accepted']['value'])


def test_frames_that_the_thresholds_were_fitted_on_are_called_so(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Check the bound too, which is then calibrate's, with its error shared among thresholds."""
    mixed = shutil.copytree(folders / 'fresh', tmp_path / 'mixed')
    for source, count in (('limits', 3), ('train', 2)):
        for path in sorted((folders / source / 'images').iterdir())[:count]:
            for part in ('images', 'masks'):
                shutil.copy(folders / source / part / path.name, mixed / part / f'x_{path.name}')
    said = {}
    for name, data in (('fresh', folders / 'fresh'), ('limits', folders / 'limits'),
                       ('mixed', mixed)):
        caplog.clear()
        code, found, _ = call_json('evaluate', calibrated[0], data)
        assert code == 0 and found['is_fitted'] is (name != 'fresh')
        said[name] = caplog.text
        assert (found['gate']['promise_kept']['word'] == SEEN) == found['is_fitted']
        if name == 'limits':
            bound = found['gate']['bad_if_accepted']
            assert bound['upper'] == pytest.approx(
                upper_bound(bound['num_bad'], bound['num_accepted'], num_tries=100))
            assert bound['upper'] > upper_bound(bound['num_bad'], bound['num_accepted'])
    # The first warning is of images without blocks.
    assert [said[name].count('WARNING') for name in said] == [1, 2, 2] and ' 5 ' in said['mixed']


def test_the_least_share_of_a_class_is_that_of_the_calibration(
    folders: Path, tmp_path: Path
) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    found = calibrate_on(bundle, folders, '--set', 'smallest_class=0.1', '--scores',
                         'entropy.mean')
    image = COLORS_BGR[np.zeros((48, 64), int)].astype(np.uint8)
    image[:12, :16] = COLORS_BGR[2]  # a sixteenth
    loaded, labels = load_bundle(str(bundle)), {}
    for name, of in (('as calibrated', loaded), ('plain', load_bundle(str(bundle), False))):
        with open_pipeline(of, settings_from_dict({**BASE, 'uncalibrated': 'run'})) as pipeline:
            labels[name] = {*np.unique(pipeline.measure(image).label).tolist()}
    assert labels == {'as calibrated': {0}, 'plain': {0, 2}}
    with pytest.raises(CalibrationError, match=r'smallest_class is 0.*0\.1'):
        open_pipeline(loaded, settings_from_dict({**BASE, 'smallest_class': 0.0}))
    assert found['gate_scores'] == ['entropy.mean']


@pytest.mark.release
def test_calibrate_signs_what_it_wrote_or_leaves_it_unsigned(
    tiny_bundle: Path, folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    key = write_key(tmp_path)
    trusted = (public_line(read_private_key(key)),)
    calibrate_on(tiny_bundle, folders, '--sign', key)
    assert load_bundle(tiny_bundle, trusted_keys=trusted).calibration is not None
    caplog.clear()
    calibrate_on(tiny_bundle, folders)
    assert 'signed' in caplog.text
    with pytest.raises(ModelBundleError, match='signed'):
        load_bundle(tiny_bundle, trusted_keys=trusted)
    # An unreadable key is refused before minutes of work.
    assert call_json('calibrate', tiny_bundle, '--data', folders, '--sign',
                     tmp_path / 'nowhere.pem')[0] == 2


@pytest.mark.parametrize(('num_bad', 'word'), [(0, 'empty'), (3, 'weak')])
def test_a_promise_on_few_bad_frames_is_called_empty_or_weak_wherever_it_is_shown(
    folders: Path, tmp_path: Path, num_bad: int, word: str
) -> None:
    limits = write_folder(tmp_path / 'good', 60, 8, bad_share=0.0, hidden_share=0.0)
    for file in sorted((limits / 'masks').iterdir())[:num_bad]:
        cv2.imwrite(str(file), (cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) + 1) % 3)
    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    found = api.calibrate(bundle, folders / 'train', folders / 'val', limits, bad=RULE,
                          settings=settings_from_dict(BASE))
    told = ' '.join(found.sentences())
    assert word in told and re.search("the rule 'iou<0[.][0-9]+' would make a tenth", told)
    assert found.calibration.basis['splits']['limits'] == {
        'frames': 60, 'bad': num_bad, 'blocks': None}
    loaded = load_bundle(str(bundle))
    assert word in loaded.card.promise
    with open_pipeline(loaded, settings_from_dict(BASE)) as pipeline:
        assert word in pipeline.promise
    measured = evaluate(bundle, folders / 'fresh', settings=settings_from_dict(BASE))
    assert word in measured.sentence()


def test_frames_that_are_all_bad_are_refused_with_a_rule_that_would_do(
    tiny_bundle: Path, folders: Path, tmp_path: Path
) -> None:
    limits = write_folder(tmp_path / 'bad', 30, 8, bad_share=1.0)
    before = (tiny_bundle / 'calibration.json').read_bytes()
    code, _, said = call_json('calibrate', tiny_bundle, *splits_of(folders, str(limits)), '--bad',
                              'iou<0.99')
    assert code == 2 and re.search(r"all 30 frames.*'iou<0[.]\d+' would make a tenth", said)
    assert (tiny_bundle / 'calibration.json').read_bytes() == before


def test_a_frame_is_not_compared_with_its_own_dive() -> None:
    # Two dives of equal directions each: a frame of a new dive has no neighbour in the bank.
    bank = np.repeat([[1.0, 0, 0, 0], [0, 1.0, 0, 0]], 30, 0).astype(np.float16)
    features = FeatureDensity(bank, np.zeros(2, np.float32), np.ones((2, 1), np.float32))
    stems = [f'{index:02}' for index in range(60)]
    dives = np.repeat(['a', 'b'], 30)
    assert held_out_scores(features, stems, dives) == pytest.approx(np.full(60, 0.5))
    # Without blocks it is at least not compared with frames of neighbouring names: the second dive
    # is shorter than that.
    short = np.array([[1.0, 0, 0, 0]] * 58 + [[0, 1.0, 0, 0]] * 2).astype(np.float16)
    found = held_out_scores(replace(features, bank=short), stems, np.array(stems))
    assert found == pytest.approx([0.0] * 58 + [0.5] * 2)
    # In one block each is compared with all others.
    assert held_out_scores(features, stems, np.full(60, 'a')).max() == 0


# -------------------------------------------------------------------------------------------------
# Wrong input gives one sentence that names it, and changes nothing.


def rename_class(val: Path) -> None:
    table = json.loads((val / 'classes.json').read_text())
    table['classes'][0]['name'] = 'cyan'
    (val / 'classes.json').write_text(json.dumps(table))


def spoil_mask(folder: Path, values: np.ndarray) -> None:
    path = sorted((folder / 'masks').iterdir())[3]
    cv2.imwrite(str(path), values)


def without_red(val: Path) -> None:
    for file in (val / 'masks').iterdir():
        cv2.imwrite(str(file), np.minimum(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), 1))


def leave(val: Path) -> None:
    """Change nothing."""


WRONG: list[tuple[list[str], Callable[[Path], object], str]] = [
    (['--bad', 'iou>0.5'], leave, 'iou>0.5'),
    (['--bad', 'iou[whale]<0.5'], leave, 'whale'),
    (['--bad', 'iou[red]<0.5'], without_red, 'one of blue, green'),
    (['--alpha', '0.005'], leave, 'at least 199'),
    (['--blocks', 'missing.csv'], leave, 'missing.csv'),
    (['--set', 'ignore_mask=missing.png'], leave, 'missing.png'),
    ([], lambda val: spoil_mask(val, np.full((48, 64), 9, np.uint8)), 'class id 9'),
    ([], lambda val: spoil_mask(val, np.zeros((48, 65), np.uint8)), '65x48'),
    ([], lambda val: shutil.rmtree(val / 'masks'), 'frame_7_000'),
    ([], lambda val: (val / 'classes.json').unlink(), 'classes.json'),
    ([], rename_class, 'cyan'),
    ([], shutil.rmtree, 'splits.json'),
]


@pytest.mark.parametrize(('words', 'spoil', 'named'), WRONG)
def test_wrong_input_is_one_sentence_and_changes_nothing(
    tiny_bundle: Path, folders: Path, tmp_path: Path, words: list[str],
    spoil: Callable[[Path], object], named: str,
) -> None:
    before = (tiny_bundle / 'calibration.json').read_bytes()
    spoil(write_folder(tmp_path / 'wrong', 20, 7))
    code, _, said = call_json('calibrate', tiny_bundle,
                              *splits_of(folders, str(tmp_path / 'wrong')), *words)
    told = [line for line in said.splitlines() if line.startswith('uncertainty_seg calibrate: ')]
    assert code == 2 and len(told) == 1 and named in told[0]
    assert (tiny_bundle / 'calibration.json').read_bytes() == before


@pytest.mark.parametrize(('words', 'named'), [
    (['--set', 'gate.alpha=0.3'], '0.3'), (['--bad', 'nothing'], 'nothing'),
    (['--ood', 'empty'], 'empty'), (['--set', 'passes=4'], 'passes is 4'),
    (['--alpha', '0.1'], '--alpha'),
    (['--set', 'precision=bf16', '--set', 'backend=openvino'], 'bf16'),
])
def test_evaluate_says_what_it_cannot_do(
    calibrated: tuple[Path, dict[str, Any], Path], folders: Path, words: list[str], named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if 'backend=openvino' in words:
        pytest.importorskip('openvino')
        if not has_bf16(core_of_process()):
            pytest.skip('this processor has no bf16, and OpenVINO refuses it there')
    try:
        # The last setting wins.
        code, _, said = call_json('evaluate', calibrated[0], folders / 'fresh', *words)
    except SystemExit as stop:
        code, said = stop.code, named
    assert code == 2 and named in said
