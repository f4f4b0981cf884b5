# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The shipped `suim` bundle on real photographs, through the pipeline.

Of `suim_dev` only the 360 photographs that its networks have not seen are used. Its thresholds
were fitted on 300 of them: the results show that the files are those that were measured.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.calibration.labelled_pairs import bgr_pairs
from uncertainty_seg.calibration.stats.evaluation import evaluate
from uncertainty_seg.core.calibration import image_digest
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.storage.labelled_folder import load_folder
from uncertainty_seg.storage.model_bundle import load_bundle


@pytest.fixture(scope='module')
def suim() -> Pipeline:
    bundle = load_bundle('suim')
    return Pipeline(bundle, open_backend('onnxruntime', bundle, Settings()), Settings())


@pytest.mark.release
def test_the_figures_of_the_card_hold_on_photographs_that_were_not_trained_on(
    suim: Pipeline, shared_data: Path
) -> None:
    card, splits = suim.card, (load_folder(shared_data / 'suim_dev', s) for s in ('train', 'val'))
    unseen = [pair for data in splits for pair in bgr_pairs(load_bundle('suim'), data)
              if image_digest(pair[0]) not in card.seen_images]
    assert len(unseen) == 360
    found, said = evaluate(suim, unseen), card.metrics
    assert found.mean_iou == pytest.approx(said['mean_iou'], abs=0.02)
    assert found.accuracy == pytest.approx(said['pixel_accuracy'], abs=0.01)
    assert found.ece <= 0.02
    assert found.error_auroc['entropy'] == pytest.approx(said['error_auroc_entropy'], abs=0.01)
    within = [found.scores[name] <= limit for name, limit in suim.thresholds.items()]
    calibration = load_bundle('suim').calibration
    assert calibration is not None
    accepted = calibration.promises[0].accepted
    assert np.all(within, axis=0).mean() == pytest.approx(accepted, abs=0.03)


def test_at_most_three_of_a_hundred_foreign_photographs_are_accepted(
    suim: Pipeline, shared_data: Path
) -> None:
    places = sorted((shared_data / 'ood_dev').rglob('*.jpg'))
    scores = [suim.measure(np.asarray(cv2.imread(str(place)), np.uint8), 0).scores
              for place in places]
    accepted = [all(one[name] <= limit for name, limit in suim.thresholds.items())
                for one in scores]
    assert len(places) >= 90 and sum(accepted) <= 0.03 * len(places)


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
