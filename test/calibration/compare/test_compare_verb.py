# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""`compare` from bundles to the line for scripts, stopped and resumed, and on wrong input."""

from __future__ import annotations

import contextlib
from dataclasses import replace
import io
import json
from pathlib import Path
import re
import shutil
from typing import Any

from calibration_helpers import CLASSES, write_folder
from comparison_sample import COST
from conftest import make_tiny_bundle, tiny_card, tiny_head, tiny_trunk
import cv2
import numpy as np
from onnx import helper, numpy_helper
import pytest

from uncertainty_seg.calibration.compare import run
from uncertainty_seg.calibration.compare.contenders import (
    as_given,
    Contender,
    contenders_of,
    GivenBundle,
)
from uncertainty_seg.calibration.compare.cost import measure_cost, MeasuredCost
from uncertainty_seg.calibration.compare.frames import load_frames, MeasuredFrames
from uncertainty_seg.calibration.labelled_pairs import data_digest
from uncertainty_seg.cli.main import main
from uncertainty_seg.core.calibration import image_digest
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import maps_from_logits
from uncertainty_seg.storage.folds import fold_of, write_folds
from uncertainty_seg.storage.labelled_folder import load_folder
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle, write_calibration
from uncertainty_seg.storage.review_record import CONTROL, FrameReview, SELECTED, write_review

SETTINGS = Settings(backend='onnxruntime', threads=1)
FAST = ['--backend', 'onnxruntime', '--threads', '1', '--folds', '3', '--draws', '20']


def call(*words: str | Path) -> tuple[int, dict[str, Any], str]:
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        code = main(['compare', *map(str, words)])
    return code, json.loads(out.getvalue().splitlines()[-1]) if code == 0 else {}, said.getvalue()


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('compare')
    make_tiny_bundle(root / 'tiny')
    write_folder(root / 'val', 30, 2)
    write_folder(root / 'other', 8, 5)
    # The same network with far more dropout: passes that differ more and say less.
    card = tiny_card(name='loud', passes=20)
    card = replace(card, dropout_sites=(replace(card.dropout_sites[0], p=0.7),))
    write_bundle(root / 'loud', card, {'trunk.onnx': tiny_trunk().SerializeToString(),
                                       'head.onnx': tiny_head().SerializeToString()})
    return root


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be timed."""
    monkeypatch.setattr(run, 'measure_cost', lambda *_: COST)


def rows(found: dict[str, Any], figure: str) -> dict[str, Any]:
    return {row['bundle']: row for row in found['rows'] if row['figure'] == figure}


def test_passes_are_compared_with_none_of_the_same_network(
    place: Path, tmp_path: Path, free: None
) -> None:
    code, found, _ = call(place / 'tiny', place / 'loud', place / 'val', '--ood',
                          place / 'other', '--cache', tmp_path / 'c', '--html',
                          tmp_path / 'page.html', *FAST)
    assert code == 0
    assert found['baseline'] == 'single' and list(found['bundles']) == ['single', 'tiny', 'loud']
    assert found['bundles']['single'].startswith("the deterministic pass of 'tiny': every mask")
    iou = rows(found, 'mean_iou')
    # Without dropout the tiny network is right wherever colour says so; with seven in ten
    # dropped it is not.
    assert iou['loud']['gain_upper'] < 0
    assert iou['loud']['verdict'] == 'not better than single: worse'
    assert rows(found, 'ood_auroc other').keys() == {'single', 'tiny', 'loud'}
    assert any('loud has no calibration: its temperature is 1' in note for note in found['notes'])
    assert '<h1>Comparison with single</h1>' in (tmp_path / 'page.html').read_text()


def test_a_bundle_beside_its_own_copy_gains_exactly_nothing(
    place: Path, tmp_path: Path, free: None
) -> None:
    shutil.copytree(place / 'tiny', place / 'copy', dirs_exist_ok=True)
    code, found, _ = call(place / 'copy', place / 'val', '--baseline', place / 'tiny',
                          '--cache', tmp_path / 'c', *FAST)
    assert code == 0 and list(found['bundles']) == ['tiny', 'copy']
    judged = [row for row in found['rows'] if row['verdict']]
    assert len(judged) >= 5
    for row in judged:
        assert row['gain'] in (0, None)
        assert row['verdict'] in ('not better than tiny',
                                  'not known: too few frames of one kind'), row
    assert found['verdicts']['copy'] == 'not better than tiny in anything.'


def test_selected_frames_are_left_aside_where_others_were_drawn_by_chance(
    place: Path, tmp_path: Path, free: None, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = shutil.copytree(place / 'val', tmp_path / 'mixed')
    drawn = {path.stem for path in (mixed / 'images').iterdir()}
    write_folder(mixed, 20, 3, bad_share=0.9)
    stems = {path.stem for path in (mixed / 'images').iterdir()}
    write_review(mixed, {stem: FrameReview(True, 'corrected', CONTROL if stem in drawn else
                                           SELECTED) for stem in stems})
    words = ('--cache', tmp_path / 'c', *FAST)
    alone, both = (call(place / 'tiny', data, *words)[1] for data in (place / 'val', mixed))
    assert len(stems) == 50 and '20 of 50 frames of' in caplog.text
    assert both['facts']['frames'].startswith('30 in ') and both['rows'] == alone['rows']
    assert '20 of 50 frames of' in both['notes'][0]
    assert both['notes'][1:] == alone['notes']
    write_review(mixed, {stem: FrameReview(True, 'corrected', SELECTED) for stem in stems})
    caplog.clear()
    page = ('--html', tmp_path / 'page.html')
    assert call(place / 'tiny', mixed, *words, *page)[1]['facts']['frames'].startswith('50 in ')
    assert 'all 50 frames of' in caplog.text
    # Whoever gets the page alone reads it too, as a warning.
    assert re.search(r'<p class="warning">All 50 frames of [^<]* were selected by their scores: '
                     r'shares of them are not those of a dive\.</p>', page[1].read_text())


def test_a_bundle_that_was_calibrated_on_these_images_says_so(
    place: Path, tmp_path: Path, free: None
) -> None:
    fitted = shutil.copytree(place / 'tiny', tmp_path / 'fitted')
    bundle = load_bundle(fitted)
    assert bundle.calibration is not None
    digest = data_digest(load_folder(place / 'val', 'val'))
    write_calibration(bundle, replace(bundle.calibration, data_sha256=digest))
    sentence = 'tiny was calibrated on these images: its temperature'
    words, page = ('--cache', tmp_path / 'c', *FAST), tmp_path / 'page.html'
    found = call(fitted, place / 'val', *words, '--html', page)[1]
    assert sum(sentence in note for note in found['notes']) == 1 and sentence in page.read_text()
    write_folder(tmp_path / 'others', 30, 7)
    assert sentence not in str(call(fitted, tmp_path / 'others', *words)[1])
    # Of some it is known by their pixels.
    some = [image_digest(cv2.imread(str(path)))
            for path in sorted((tmp_path / 'others' / 'images').iterdir())[:4]]
    write_calibration(bundle, replace(bundle.calibration, seen_images=tuple(some)))
    assert 'tiny was calibrated on 4 of these images: its temperature' in str(
        call(fitted, tmp_path / 'others', *words)[1]['notes'])


def test_the_deterministic_pass_has_no_disagreement_and_the_masks_of_none(place: Path) -> None:
    bundle = load_bundle(str(place / 'tiny'))
    image = cv2.imread(str(next((place / 'val' / 'images').iterdir())))
    with Contender('single', bundle, is_still=True).opened(SETTINGS) as pipeline:
        still = pipeline.measure(image)
        assert not pipeline.thresholds
    assert still.passes == 1
    assert float(still.maps.mutual_information.max()) < 1e-5
    # The network by hand, with no dropout anywhere.
    logits = 8 * image.reshape(12, 4, 16, 4, 3).mean((1, 3)).transpose(2, 0, 1)[None] / 255
    np.testing.assert_allclose(still.maps.confidence, maps_from_logits(logits, 48, 64).confidence,
                               atol=1e-4)


def test_a_stopped_run_loses_one_bundle_and_goes_on(
    place: Path, tmp_path: Path, free: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (place / 'tiny', place / 'loud', place / 'val', '--cache', tmp_path / 'c', *FAST)
    measured, real = [], run.measure_frames

    def stops(pipeline: Any, frames: Any, title: str) -> Any:
        measured.append(title)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return real(pipeline, frames, title)

    monkeypatch.setattr(run, 'measure_frames', stops)
    assert call(*words)[0] == 130
    assert measured == ['single', 'tiny', 'loud']
    code, found, _ = call(*words)
    assert code == 0 and measured == ['single', 'tiny', 'loud', 'loud']
    assert call(*words)[1] == found
    assert len(measured) == 4
    # Half a file is measured again, and so are other frames.
    path = next((tmp_path / 'c').glob('frames-*.npz'))
    path.write_bytes(path.read_bytes()[:100])
    assert call(*words)[1] == found
    assert len(measured) == 5
    assert call(*words, '--frames', '20')[0] == 0
    assert len(measured) == 8


def test_unseen_classes_are_ranked_by_the_maps_and_count_as_no_error(
    place: Path, tmp_path: Path, free: None
) -> None:
    data = tmp_path / 'unseen'
    shutil.copytree(place / 'val', data)
    names = {'classes': [{'id': i, 'name': name, 'rgb': [0, 0, i]} for i, name in
                         enumerate([CLASSES[0], 'wreck', *CLASSES[1:]])], 'ignore_index': 255}
    (data / 'classes.json').write_text(json.dumps(names))
    for path in (data / 'masks').iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(str(data / 'images' / path.name))
        mask = np.array([0, 2, 3], np.uint8)[mask]
        # Grey, of which a network of three colours knows nothing.
        mask[16:32, 16:40], image[16:32, 16:40] = 1, 128
        cv2.imwrite(str(path), mask)
        cv2.imwrite(str(data / 'images' / path.name), image)
    code, found, _ = call(place / 'tiny', data, '--unknown-classes', 'wreck', '--cache',
                          tmp_path / 'c', *FAST)
    assert code == 0
    unseen = rows(found, 'unseen_auroc')
    assert unseen['single']['value'] > 0.9 and unseen['tiny']['value'] > 0.85
    code, masked, _ = call(place / 'tiny', place / 'val', '--unknown', _blots(place, tmp_path),
                           '--cache', tmp_path / 'c', *FAST)
    assert code == 0
    # A blot that was drawn by lot on nothing in particular.
    assert rows(masked, 'unseen_auroc')['single']['value'] == pytest.approx(0.5, abs=0.15)
    assert masked['facts']['frames with an unseen object'] == '30'


def _blots(place: Path, tmp_path: Path) -> Path:
    folder = tmp_path / 'blots'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for path in (place / 'val' / 'masks').iterdir():
        cv2.imwrite(str(folder / path.name), (rng.uniform(size=(48, 64)) < 0.2) * np.uint8(255))
    return folder


def test_the_baseline_is_named_or_single_or_the_first_without_its_passes(place: Path) -> None:
    tiny, loud = (as_given(place / name) for name in ('tiny', 'loud'))
    assert [(c.label, c.is_still) for c in contenders_of([tiny, loud], None)] == [
        ('single', True), ('tiny', False), ('loud', False)]
    assert [c.label for c in contenders_of([tiny], loud)] == ['loud', 'tiny']
    assert [c.label for c in contenders_of([tiny, loud], loud)] == ['loud', 'tiny']
    card = replace(tiny.bundle.card, name='single')
    named = replace(tiny, bundle=replace(tiny.bundle, card=card))
    assert [c.label for c in contenders_of([named], None)] == ['single single', 'single']
    twin = GivenBundle(tiny.bundle, place / 'twin')
    assert [c.label for c in contenders_of([tiny, twin], tiny)] == ['tiny', 'twin']


@pytest.fixture(scope='module')
def folds(place: Path) -> Path:
    """Two networks: that of fold 0 sees colours as they are, that of fold 1 red for blue."""
    folder = place / 'folds'
    make_tiny_bundle(folder / 'fold-0', calibrated=False)
    turned = tiny_card(input=replace(tiny_card().input, color_order='bgr'))
    trunk = tiny_trunk()
    channels = helper.make_node('Gather', ['image', 'turned'], ['swapped'], axis=3)
    trunk.graph.node.insert(0, channels)
    trunk.graph.node[1].input[0] = 'swapped'
    trunk.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), 'turned'))
    write_bundle(folder / 'fold-1', turned, {'trunk.onnx': trunk.SerializeToString(),
                                             'head.onnx': tiny_head().SerializeToString()})
    stems = sorted(path.stem for path in (place / 'val' / 'images').iterdir())
    write_folds(folder / 'folds.json', fold_of(stems, 2))
    return folder


def test_every_frame_of_a_cross_fitting_is_measured_by_the_network_that_never_saw_it(
    place: Path, folds: Path, tmp_path: Path, free: None
) -> None:
    code, found, said = call(folds, place / 'val', '--ood', place / 'other', '--cache',
                             tmp_path / 'c', '--json', tmp_path / 'all.json', *FAST)
    assert code == 0, said
    assert 'by 2 networks, each on the fold that it did not see' in found['bundles']['tiny']
    assert found['facts']['frames'] == '30 in 30 blocks'
    # By the other road: each half of the frames with its own network alone.
    read = json.loads((folds / 'folds.json').read_text())
    whole = measured(tmp_path / 'c', 30)
    names = sorted(path.name for path in (place / 'other' / 'images').iterdir())
    dealt = fold_of(names, 2)
    for fold in (0, 1):
        data = tmp_path / str(fold)
        shutil.copytree(place / 'val', data)
        stems = [stem for stem, own in read.items() if own == fold]
        (data / 'splits.json').write_text(json.dumps({'val': stems}))
        ours = [name for name in dealt if dealt[name] == fold]
        (data / 'other').mkdir()
        for name in ours:
            shutil.copy(place / 'other' / 'images' / name, data / 'other')
        assert call(folds / f'fold-{fold}', data, '--ood', data / 'other', '--cache', data / 'c',
                    *FAST)[0] == 0
        half = measured(data / 'c', 15)
        # Which of the joined rows they are: those of fold 0 come first, each in its own order.
        first = 4 * fold
        np.testing.assert_allclose(
            np.sort(whole.foreign['other']['entropy.mean'][first:first + 4]),
            np.sort(half.foreign['other']['entropy.mean']), atol=1e-6)
        assert half.is_bad.mean() > 0.9 if fold else half.is_bad.mean() < 0.5
        rows_of_fold = slice(15 * fold, 15 * fold + 15)
        np.testing.assert_array_equal(whole.totals[rows_of_fold], half.totals)
        for name, column in half.scores.items():
            np.testing.assert_array_equal(whole.scores[name][rows_of_fold], column, name)


def measured(cache: Path, count: int) -> MeasuredFrames:
    """Return what was kept of the contender whose passes say something."""
    kept = [load_frames(path) for path in cache.glob('frames-*.npz')]
    found = [one for one in kept if 'mutual_information' in one.maps()]
    assert len(found) == 1 and len(found[0].is_bad) == count
    return found[0]


def test_folds_that_do_not_belong_together_are_one_sentence(
    place: Path, folds: Path, tmp_path: Path, free: None
) -> None:
    other = tmp_path / 'other'
    shutil.copytree(folds, other)
    turned = {stem: 1 - fold for stem, fold in
              json.loads((folds / 'folds.json').read_text()).items()}
    (other / 'folds.json').write_text(json.dumps(turned))
    shutil.copytree(place / 'val', tmp_path / 'strange')
    first = sorted((tmp_path / 'strange' / 'images').iterdir())[0]
    for folder in ('images', 'masks'):
        (tmp_path / 'strange' / folder / first.name).rename(
            tmp_path / 'strange' / folder / 'new.png')
    for words, sentence in (
        ([folds, other, place / 'val'], 'has other folds than'),
        ([folds, place / 'tiny', place / 'val'], 'tiny has other folds than'),
        ([folds, place / 'val', '--baseline', place / 'tiny'], 'tiny has other folds than'),
        ([folds, tmp_path / 'strange'], "the photograph 'new' is in no fold"),
        ([folds, place / 'val', '--blocks', _one_block(place, tmp_path)], 'both in one fold'),
        ([folds, _with_a_twin(place, folds, tmp_path)], 'both in one fold'),
        ([folds, _of_one_fold(place, folds, tmp_path), '--split', 'val'], 'no frame of fold 0'),
    ):
        code, _, said = call(*words, '--cache', tmp_path / 'c', *FAST)
        assert code == 2 and sentence in said, said
    # By whatever path the same folder is named.
    near = folds.parent / '.' / '..' / folds.parent.name / folds.name
    assert call(folds, place / 'val', '--baseline', near, '--cache', tmp_path / 'c', *FAST)[0] == 0
    shutil.rmtree(other / 'fold-1')
    assert 'holds no network fold-1' in call(other, place / 'val', *FAST)[2]


def _one_block(place: Path, tmp_path: Path) -> Path:
    stems = [path.stem for path in (place / 'val' / 'images').iterdir()]
    (tmp_path / 'blocks.json').write_text(json.dumps({'dive': stems}))
    return tmp_path / 'blocks.json'


def _of_one_fold(place: Path, folds: Path, tmp_path: Path) -> Path:
    data = tmp_path / 'lonely'
    shutil.copytree(place / 'val', data)
    by_stem = json.loads((folds / 'folds.json').read_text())
    (data / 'splits.json').write_text(json.dumps({
        name: [stem for stem, own in by_stem.items() if own == fold]
        for fold, name in enumerate(('train', 'val'))}))
    return data


def _with_a_twin(place: Path, folds: Path, tmp_path: Path) -> Path:
    """Copy the frames, one of them also over a frame of the other fold."""
    twin = tmp_path / 'twin'
    shutil.copytree(place / 'val', twin)
    by_stem = json.loads((folds / 'folds.json').read_text())
    one, other = (next(stem for stem, own in by_stem.items() if own == fold) for fold in (0, 1))
    shutil.copy(twin / 'images' / f'{one}.png', twin / 'images' / f'{other}.png')
    return twin


def test_wrong_input_is_one_sentence_and_misuse(place: Path, tmp_path: Path, free: None) -> None:
    shutil.copytree(place / 'val', tmp_path / 'one')
    stem = sorted(path.stem for path in (place / 'val' / 'images').iterdir())[0]
    (tmp_path / 'one' / 'splits.json').write_text(json.dumps({'val': [stem], 'test': []}))
    other = tiny_card(name='other', class_names=('a', 'b', 'c'))
    write_bundle(tmp_path / 'other', other, {'trunk.onnx': tiny_trunk().SerializeToString(),
                                             'head.onnx': tiny_head().SerializeToString()})
    for name in ('none', 'small'):
        (tmp_path / name).mkdir()
    cv2.imwrite(str(tmp_path / 'small' / f'{stem}.png'), np.ones((4, 5), np.uint8))
    tiny, val = place / 'tiny', place / 'val'
    for words, sentence in (
        ((tiny, tmp_path / 'other', val), "'other' has the classes ('a', 'b', 'c')"),
        ((tiny, tiny, val), 'is given twice'),
        ((tiny, tmp_path / 'one'), '1 blocks of frames for 3 folds'),
        ((tiny, tmp_path / 'one', '--split', 'test'), "split 'test' of"),
        ((tiny, val, '--ood', tmp_path / 'none'), 'no image in'),
        ((tiny, val, '--ood', place / 'other', '--ood', val / '..' / 'other'), 'more than one'),
        ((tiny, val, '--unknown', tmp_path / 'none'), 'shows an unseen object'),
        ((tiny, val, '--unknown', tmp_path / 'small'),
         '.png is 5x4, expected 64x48 and one channel, as its image: save the mask in the size'),
        ((tiny, val, '--unknown-classes', 'wreck'), "no class 'wreck' in the folder"),
        ((tiny, val, '--unknown-classes', 'red'), 'the folder has the classes'),
        ((tiny, val, '--bad', 'sharpness<1'), 'the rule for bad frames'),
        ((tiny, val, '--html', tmp_path / 'no' / 'page.html'), 'page'),
    ):
        code, _, said = call(*words, '--cache', tmp_path / 'c', *FAST)
        assert code == 2 and sentence in said, (words, said)
        assert len(said.strip().splitlines()) == 1, said


def test_another_input_size_is_said_and_not_refused(place: Path) -> None:
    tiny, loud = (Contender(name, load_bundle(str(place / name))) for name in ('tiny', 'loud'))
    wide = replace(loud.bundle.card, input=replace(loud.bundle.card.input, width=128))
    loud = replace(loud, bundle=replace(loud.bundle, card=wide))
    found = type('Found', (), {'is_bad': np.array([True, False])})
    notes = run._notes(run.BadRule.parse('iou<0.5', tuple(CLASSES)), [tiny, loud],
                       {'tiny': found, 'loud': found},
                       {'tiny': COST, 'loud': replace(COST, load=3.0)})
    assert any('loud sees 128x48 and tiny 64x48' in note for note in notes)
    assert any('the machine was busy' in note.lower() for note in notes)


def test_time_and_memory_are_measured_in_pairs_and_apart(place: Path) -> None:
    bundle = load_bundle(str(place / 'tiny'))
    images = [cv2.imread(str(p)) for p in sorted((place / 'val' / 'images').iterdir())[:2]]
    still, passes = Contender('single', bundle, True), Contender('tiny', bundle)
    cost = measure_cost(still, passes, images, SETTINGS, rounds=2)
    assert cost.ratio > 0 and cost.least_ratio > 0 and cost.spread >= 1
    assert 20 < cost.memory_mb < 5000
    assert 'ratio' in cost.describe()


def test_a_machine_is_busy_by_its_load_or_by_what_equal_passes_take() -> None:
    calm = MeasuredCost(1.1, 1.1, 11.0, 10.0, 1.02, 0.5, 100.0)
    assert not calm.is_busy and calm.describe().startswith('The machine was calm')
    assert replace(calm, load=1.5).is_busy
    assert replace(calm, spread=1.6).describe().startswith('The machine was busy')


def test_what_was_measured_is_named_after_all_that_it_depends_on(place: Path) -> None:
    bundle = load_bundle(str(place / 'tiny'))
    assert bundle.calibration is not None
    warm = replace(bundle, calibration=replace(bundle.calibration, temperature=2.0))
    ways = [Contender('tiny', bundle), Contender('tiny', warm), Contender('tiny', bundle, True)]
    assert len({one.digest() for one in ways}) == 3
    image, mask, seen = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.eye(4) > 0
    rule = run.BadRule.parse('iou<0.5', tuple(CLASSES))
    facts: dict[str, Any] = {
        'pairs': [(image, mask)], 'unseen': [seen], 'foreign': {'other': {'a.png': image}},
        'blocks': np.array(['a']), 'ignore_index': 255, 'rule': rule, 'folds': np.array([0])}
    changes: list[dict[str, Any]] = [
        {}, {'pairs': [(image + 1, mask)]}, {'pairs': [(image, mask + 1)]}, {'unseen': [~seen]},
        {'unseen': None}, {'foreign': {'other': {'a.png': image + 1}}},
        {'foreign': {'more': {'a.png': image}}}, {'foreign': {'other': {'b.png': image}}},
        {'ignore_index': 254}, {'folds': np.array([1])},
        {'rule': run.BadRule.parse('iou<0.4', tuple(CLASSES))}]
    assert len({run.ComparedFrames(**{**facts, **change}).digest() for change in changes}) == 11
