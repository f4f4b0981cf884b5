# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""`evaluate` of several bundles: its report and JSON line, and wrong input."""

from dataclasses import replace
import json
from pathlib import Path
import shutil
from typing import Any

from calibration_helpers import call_json, RUN, write_folder
from conftest import make_tiny_bundle, tiny_card, tiny_files, tiny_head, tiny_trunk
import cv2
import numpy as np
import pytest
from some_maps import maps_from_logits

pytest.importorskip('matplotlib', reason='matplotlib is not installed: no page is written')

from uncertainty_seg.calibration import compare as it  # noqa: E402
from uncertainty_seg.calibration.api import compare, figures_file  # noqa: E402
from uncertainty_seg.calibration.compare import (  # noqa: E402
    Contender,
    contenders_of,
    measure_cost,
)
from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.core.calibration import image_digest  # noqa: E402
from uncertainty_seg.core.settings import Settings  # noqa: E402
from uncertainty_seg.storage.model_bundle import (  # noqa: E402
    load_bundle,
    write_bundle,
    write_calibration,
)
from uncertainty_seg.storage.review_record import (  # noqa: E402
    CONTROL,
    FrameReview,
    SELECTED,
    write_review,
)

SETTINGS = Settings(backend='onnxruntime', threads=1)
COST = 1.5, '30.0 ms against 20.0 ms'


def call(*words: str | Path) -> tuple[int, dict[str, Any], str]:
    return call_json('evaluate', *words)


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('compare')
    make_tiny_bundle(root / 'tiny')
    write_folder(root / 'val', 30, 2)
    write_folder(root / 'other', 8, 5)
    # The same network with much more dropout, whose passes differ more and predict worse.
    card = tiny_card(name='loud', passes=20)
    card = replace(card, dropout_sites=(replace(card.dropout_sites[0], p=0.7),))
    write_bundle(root / 'loud', card, tiny_files(tiny_trunk(), tiny_head()))
    return root


@pytest.fixture(autouse=True)
def _free(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the timing, except in tests of it."""
    if 'time' not in request.node.name:
        monkeypatch.setattr(it, 'measure_cost', lambda *_: COST)


def rows(page: Path, figure: str) -> dict[str, Any]:
    found = json.loads(figures_file(page).read_text())
    return {row['bundle']: row for row in found['rows'] if row['figure'] == figure}


def test_the_first_of_several_is_the_old_one_and_one_pass_a_row(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / 'page.html'
    assert main(['evaluate', str(place / 'tiny'), str(place / 'loud'), str(place / 'val'),
                 '--ood', str(place / 'other'), '--report', str(page), *RUN]) == 0
    out = capsys.readouterr().out
    last = out.splitlines()[-1]
    found = json.loads(last)
    assert len(last) < 2000 and found['figures'] == str(figures_file(page))
    # The tiny network labels clear colours correctly, but not with a dropout rate of 0.7.
    first, (gain, lower, upper) = out.splitlines()[0], found['gains']['loud']['mean_iou']
    assert lower < gain < upper < 0 and found['baseline'] == 'tiny'
    assert all(named in first for named in ('loud', 'tiny', f'{gain:+.3f}'))
    assert 'mean_iou' not in found['better']['loud'] and found['bad'] in out
    iou = rows(page, 'mean_iou')
    assert list(iou) == ['tiny', 'loud', 'single']
    assert [iou['loud']['gain'][name] for name in ('value', 'lower', 'upper')] == [
        gain, lower, upper]
    assert rows(page, 'ood_auroc').keys() == iou.keys()
    assert rows(page, 'cost_ratio')['loud']['value']['value'] == 1.5
    assert 'loud has no calibration' in out
    assert '<h1>Comparison with tiny</h1>' in page.read_text()


def test_a_bundle_beside_its_own_copy_gains_exactly_nothing(place: Path) -> None:
    shutil.copytree(place / 'tiny', place / 'copy', dirs_exist_ok=True)
    found = compare([place / 'tiny', place / 'copy'], place / 'val', settings=SETTINGS,
                    alphas=(0.2,))
    assert list(found.contenders) == [str(place / 'tiny'), str(place / 'copy'), 'single']
    judged = [row for row in found.rows if row.gain and row.label != 'single']
    assert len(judged) >= 5
    for row in judged:
        assert row.gain is not None and (row.gain.value == 0 or np.isnan(row.gain.value))
    assert not any(row.gain.lower > 0 for row in judged if row.gain)


def test_selected_frames_are_left_aside_where_others_were_drawn_by_chance(
    place: Path, tmp_path: Path
) -> None:
    mixed = shutil.copytree(place / 'val', tmp_path / 'mixed')
    drawn = {path.stem for path in (mixed / 'images').iterdir()}
    write_folder(mixed, 20, 3, bad_share=0.9)
    stems = {path.stem for path in (mixed / 'images').iterdir()}
    write_review(mixed, {stem: FrameReview(True, 'corrected', CONTROL if stem in drawn else
                                           SELECTED) for stem in stems})
    alone, both = (compare([place / 'tiny'], data, settings=SETTINGS).summary()
                   for data in (place / 'val', mixed))
    assert json.dumps(both['rows']) == json.dumps(alone['rows'])
    assert '20 of 50' in both['notes'][0] and both['notes'][1:] == alone['notes']
    # The page has the warning too, for readers who get only the page.
    write_review(mixed, {stem: FrameReview(True, 'corrected', SELECTED) for stem in stems})
    page = tmp_path / 'page.html'
    every = compare([place / 'tiny'], mixed, settings=SETTINGS, report=page)
    assert every.frames.startswith('50 ')
    assert '<p class="warning">All 50 ' in page.read_text()


def test_a_bundle_that_was_calibrated_on_these_images_says_so(
    place: Path, tmp_path: Path
) -> None:
    fitted = shutil.copytree(place / 'tiny', tmp_path / 'fitted')
    bundle = load_bundle(fitted)
    assert bundle.calibration is not None
    write_folder(tmp_path / 'others', 30, 7)

    def seen(data: Path, most: int) -> None:
        found = [image_digest(cv2.imread(str(path)))
                 for path in sorted((data / 'images').iterdir())[:most]]
        write_calibration(bundle, replace(
            bundle.calibration, seen_images=tuple(sorted(found))))

    def notes(data: Path) -> list[str]:
        found = compare([fitted], data, settings=SETTINGS)
        return [note for note in found.notes if 'calibrated on' in note]

    seen(place / 'val', 30)
    assert len(notes(place / 'val')) == 2 and notes(tmp_path / 'others') == []
    seen(tmp_path / 'others', 4)
    assert all(' 4 ' in note for note in notes(tmp_path / 'others'))


def test_the_deterministic_pass_has_no_disagreement_and_the_masks_of_none(place: Path) -> None:
    bundle = load_bundle(str(place / 'tiny'))
    image = cv2.imread(str(next((place / 'val' / 'images').iterdir())))
    with Contender('single', bundle, is_still=True).opened(SETTINGS) as pipeline:
        still = pipeline.measure(image)
        assert not pipeline.thresholds
    assert still.passes == 1
    assert float(still.maps.mutual_information.max()) < 1e-5
    # The network's logits by hand, without dropout.
    logits = 8 * image.reshape(12, 4, 16, 4, 3).mean((1, 3)).transpose(2, 0, 1)[None] / 255
    np.testing.assert_allclose(
        still.maps.confidence, maps_from_logits(logits, still.grid).confidence, atol=1e-4)


def test_the_baseline_is_the_first_or_one_pass_of_it(place: Path) -> None:
    tiny, loud = (load_bundle(str(place / name)) for name in ('tiny', 'loud'))
    assert [(c.label, c.is_still) for c in contenders_of([tiny, loud])] == [
        ('tiny', False), ('loud', False), ('single', True)]
    assert [(c.label, c.is_still) for c in contenders_of([tiny])] == [
        ('single', True), ('tiny', False)]
    named = replace(tiny, card=replace(tiny.card, name='single'))
    assert [c.label for c in contenders_of([named])] == ['single single', 'single']
    twin = replace(tiny, folder=place / 'twin')
    assert [c.label for c in contenders_of([tiny, twin])] == [
        str(place / 'tiny'), str(place / 'twin'), 'single']


def test_wrong_input_is_one_sentence_and_misuse(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / 'val', tmp_path / 'one')
    stem = sorted(path.stem for path in (place / 'val' / 'images').iterdir())[0]
    (tmp_path / 'one' / 'splits.json').write_text(json.dumps({'val': [stem], 'test': []}))
    other = tiny_card(name='other', class_names=('a', 'b', 'c'))
    write_bundle(tmp_path / 'other', other, tiny_files(tiny_trunk(), tiny_head()))
    (tmp_path / 'none').mkdir()
    tiny, loud, val = place / 'tiny', place / 'loud', place / 'val'
    for words, named in (
        ((tiny, tmp_path / 'other', val), "'other'"), ((tiny, tiny, val), 'given twice'),
        ((tiny, loud, tmp_path / 'one'), '1 blocks'),
        ((tiny, loud, tmp_path / 'one', '--split', 'test'), 'test'),
        ((tiny, loud, val, '--ood', tmp_path / 'none'), 'no image in'),
        ((tiny, loud, val, '--bad', 'sharpness<1'), 'sharpness<1'),
        ((tiny, loud, val, '--report', tmp_path / 'no' / 'page.html'), 'no such folder'),
    ):
        code, _, said = call(*words)
        assert code == 2 and named in said, (words, said)
        assert len(said.strip().splitlines()) == 1, said


def test_the_input_size_of_each_is_said(place: Path) -> None:
    loud = load_bundle(str(place / 'loud'))
    wide = replace(loud.card, input=replace(loud.card.input, width=128))
    told = [Contender('loud', replace(loud, card=card)).describe() for card in (loud.card, wide)]
    assert '64x48' in told[0] and '128x48' in told[1]


def test_time_is_measured_in_pairs(place: Path) -> None:
    bundle = load_bundle(str(place / 'tiny'))
    images = [cv2.imread(str(p)) for p in sorted((place / 'val' / 'images').iterdir())[:2]]
    still, passes = Contender('single', bundle, True), Contender('tiny', bundle)
    ratio, words = measure_cost(still, passes, images, SETTINGS, rounds=2)
    assert ratio > 0 and f'{ratio:.2f}' in words
