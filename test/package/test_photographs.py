# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What the shipped `suim` bundle is worth on real photographs, measured through the pipeline."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from uncertainty_seg.analysis.evaluation import evaluate, Evaluation
from uncertainty_seg.analysis.metrics import auroc
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.storage.labelled_folder import load_folder
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.tools.calibrate.labelled_pairs import bgr_pairs


@pytest.fixture(scope='module')
def suim() -> Pipeline:
    bundle = load_bundle('suim')
    return Pipeline(bundle, open_backend('onnxruntime', bundle, Settings()), Settings())


@pytest.fixture(scope='module')
def found(suim: Pipeline, shared_data: Path) -> Evaluation:
    data = load_folder(shared_data / 'suim_dev', 'val')
    return evaluate(suim, bgr_pairs(load_bundle('suim'), data), data.ignore_index)


def test_the_mask_reaches_the_promised_overlap(found: Evaluation) -> None:
    assert found.mean_iou >= 0.50


def test_confidence_means_what_it_says(found: Evaluation) -> None:
    assert found.ece <= 0.06


def test_entropy_ranks_wrong_pixels_above_right_ones(found: Evaluation) -> None:
    assert found.error_auroc['entropy'] >= 0.80


def test_the_card_states_what_is_measured(found: Evaluation) -> None:
    metrics = load_bundle('suim').card.metrics
    assert metrics['val_mean_iou'] == pytest.approx(found.mean_iou, abs=0.003)
    # The card's is measured on halves, each at the temperature of the other: it is the larger.
    assert found.ece <= metrics['val_ece'] + 0.005
    assert metrics['val_error_auroc_entropy'] == pytest.approx(
        found.error_auroc['entropy'], abs=0.003)


def test_half_of_the_validation_frames_and_no_turbid_ones_are_within_the_limits(
    suim: Pipeline, found: Evaluation, shared_data: Path
) -> None:
    """As docs/calibration.md says of alpha 0.05."""
    turbid = [cv2.imread(str(p)) for p in sorted((shared_data / 'ood_dev').rglob('*.jpg'))]
    scores = [suim.measure(image, 0).scores for image in turbid]
    limits = suim.thresholds

    def accepted(frames: list[Mapping[str, float]]) -> float:
        return float(np.mean([all(f[n] <= limit for n, limit in limits.items()) for f in frames]))

    known = [frame.scores for frame in found.frames]
    assert accepted(known) == pytest.approx(0.50, abs=0.04)
    assert accepted(scores) <= 0.02
    name = 'mutual_information.mean'
    strange = np.array([score[name] for score in scores])
    assert auroc(strange, np.array([frame[name] for frame in known])) > 0.65


def test_street_scenes_are_more_uncertain_than_the_sea(
    suim: Pipeline, found: Evaluation, shared_data: Path
) -> None:
    paths = sorted((shared_data / 'camvid' / 'images').glob('*'))[::14]
    strange = np.array([suim.measure(cv2.imread(str(p)), 0).scores['entropy.mean']
                        for p in paths])
    known = np.array([frame.scores['entropy.mean'] for frame in found.frames])
    assert auroc(strange, known) > 0.75
