# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The shipped `suim` bundle on real photographs, through the pipeline.

It was trained on all of these photographs, while its published figures are cross-validated on
three folds. Results here must not be worse; they only show that the files are intact.

"""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.calibration.labelled_pairs import bgr_pairs
from uncertainty_seg.calibration.stats.evaluation import evaluate, Evaluation
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.storage.labelled_folder import load_folder
from uncertainty_seg.storage.model_bundle import load_bundle


@pytest.fixture(scope='module')
def suim() -> Pipeline:
    bundle = load_bundle('suim')
    return Pipeline(bundle, open_backend('onnxruntime', bundle, Settings()), Settings())


@pytest.fixture(scope='module')
def found(suim: Pipeline, shared_data: Path) -> Evaluation:
    data = load_folder(shared_data / 'suim_dev', 'val')
    return evaluate(suim, bgr_pairs(load_bundle('suim'), data))


@pytest.mark.release
def test_known_photographs_are_segmented_better_than_unseen_ones(found: Evaluation) -> None:
    metrics = load_bundle('suim').card.metrics
    assert found.mean_iou > metrics['mean_iou'] >= 0.5
    assert found.accuracy > metrics['pixel_accuracy']
    assert found.ece <= 0.06
    assert found.error_auroc['entropy'] >= metrics['error_auroc_entropy'] - 0.02


def test_known_photographs_are_within_the_limits_and_foreign_ones_are_not(
    suim: Pipeline, found: Evaluation, shared_data: Path
) -> None:
    """Test at alpha 0.05; the feature layer was chosen with half of these images."""
    foreign = [cv2.imread(str(p)) for p in sorted((shared_data / 'ood_dev').rglob('*.jpg'))]
    scores = [suim.measure(image, 0).scores for image in foreign]
    limits, metrics = suim.thresholds, load_bundle('suim').card.metrics

    def accepted(by_name: Mapping[str, NDArray[np.float64]]) -> float:
        return float(np.all([by_name[n] <= limit for n, limit in limits.items()], axis=0).mean())

    strange = {name: np.array([one[name] for one in scores]) for name in limits}
    assert accepted(found.scores) >= metrics['halves_accepted_0.05'] - 0.05
    assert accepted(strange) <= 0.03


@pytest.mark.release
def test_at_most_one_of_a_hundred_street_scenes_is_accepted(
    suim: Pipeline, shared_data: Path
) -> None:
    """Test at the strictest alpha; these images were not used to choose any score or limit."""
    places = sorted((shared_data / 'camvid' / 'images').glob('*.jpg'))
    accepted = []
    for place in places:
        image = np.asarray(cv2.imread(str(place)), np.uint8)
        scores = {} if suim.damage(image) else suim.measure(image).scores
        if scores and all(scores[name] <= limit for name, limit in suim.thresholds.items()):
            accepted.append(place.name)
    assert len(places) == 701
    assert len(accepted) <= 7, accepted
