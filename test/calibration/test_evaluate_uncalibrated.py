# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""`evaluate` of an uncalibrated bundle: it measures all but the flag, and reports that."""

import json
import logging
from pathlib import Path
import re
from typing import Any

from calibration_helpers import write_folder
from conftest import last_json, make_tiny_bundle
import cv2
import numpy as np
import pytest

pytest.importorskip('sklearn', reason='scikit-learn is the other road to AUROC')
pytest.importorskip('matplotlib', reason='matplotlib draws the report')

import sklearn.metrics  # noqa: E402

import uncertainty_seg as us  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402

RUN = ['--set', 'backend=onnxruntime', '--set', 'threads=1']
SAID = 'no promise: '
OF_THE_FLAG = ('gate', 'promise', 'no_promise')


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp('data') / 'labelled', 40, 3)


@pytest.fixture(scope='module')
def cold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp('cold') / 'tiny', calibrated=False)


def evaluated(
    capsys: pytest.CaptureFixture[str], bundle: Path, folder: Path, *words: str
) -> dict[str, Any]:
    """Run `evaluate`; return its JSON line."""
    assert main(['evaluate', str(bundle), str(folder), *words, *RUN]) == 0
    return last_json(capsys)


def test_all_but_the_flag_is_what_the_calibrated_bundle_has(
    cold: Path, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Compare with a calibration of temperature 1, for which the maps are equal."""
    warm = evaluated(capsys, make_tiny_bundle(tmp_path / 'tiny'), folder)
    assert warm['gate']['accepted']['value'] > 0.3 and warm['no_promise'] is None
    assert not caplog.records
    found = evaluated(capsys, cold, folder)
    assert found['gate'] is None and found['promise'] is None
    assert found['no_promise'].startswith(SAID)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert SAID in caplog.text
    for values in (warm, found):
        for name in ('bundle', *OF_THE_FLAG):
            del values[name]
    assert found == warm
    assert 0.3 < found['mean_iou'] < 0.9


def test_masks_and_maps_are_measured_as_numpy_and_scikit_learn_measure_them(
    cold: Path, folder: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    found = evaluated(capsys, cold, folder)
    labels, truths, entropies = [], [], []
    with us.open_pipeline(cold, uncalibrated='run', backend='onnxruntime', threads=1) as pipeline:
        for path in sorted((folder / 'images').iterdir()):
            result = pipeline.process(cv2.imread(str(path)), 0)
            assert not result.verdict.is_confident
            labels.append(result.label)
            entropies.append(result.map_at_source('entropy'))
            truths.append(cv2.imread(str(folder / 'masks' / path.name), cv2.IMREAD_UNCHANGED))
    label, truth, entropy = (np.stack(part).ravel() for part in (labels, truths, entropies))
    iou = [((label == i) & (truth == i)).sum() / ((label == i) | (truth == i)).sum()
           for i in range(3)]
    assert found['iou'] == pytest.approx(iou)
    assert found['mean_iou'] == pytest.approx(np.mean(iou))
    assert found['accuracy'] == pytest.approx((label == truth).mean())
    assert found['error_auroc']['entropy'] == pytest.approx(
        sklearn.metrics.roc_auc_score(label != truth, entropy), abs=0.003)


@pytest.mark.release
def test_the_report_says_that_there_is_no_promise_and_shows_no_gate(
    cold: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    report, twins = tmp_path / 'report.html', tmp_path / 'twins'
    twins.mkdir()
    for path in (folder / 'images').iterdir():  # near duplicates, which no score can separate
        image = cv2.imread(str(path))
        image[0, 0] ^= 1
        cv2.imwrite(str(twins / path.name), image)
    found = evaluated(capsys, cold, folder, '--ood', str(twins), '--report', str(report))
    scores = json.loads(Path(found['figures']).read_text())['scores']
    assert scores['entropy.mean']['ood_auroc']['value'] == pytest.approx(0.5, abs=0.02)
    page = report.read_text()
    assert re.search(f'<p class="warning">N{SAID[1:]}[^<]*uncertainty_seg calibrate', page)
    parts = re.findall('<section id="(.*?)">', page)
    assert parts == ['risk', 'classes', 'reliability', 'scores', 'bundle']
    assert 'temperature</dt><dd>1 (no calibration)' in page
    assert 'The gate uses' not in page and '<th scope="row">entropy.mean' in page


def test_the_function_has_no_flag(cold: Path, folder: Path) -> None:
    settings = us.Settings(backend='onnxruntime', threads=1)
    found = us.evaluate(cold, folder, settings=settings, bad='accuracy<0.6')
    assert found.flag is None and found.rule == 'accuracy<0.6'
    assert found.passes == 8 and found.precision == 'fp32'
