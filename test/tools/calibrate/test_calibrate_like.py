# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Limits carried over to another precision accept no frame that the bundle would not accept."""

import json
from pathlib import Path
import shutil

from calibration_helpers import write_folder
from conftest import make_tiny_bundle
import cv2
import numpy as np
import pytest

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.errors import CalibrationError, ConfigError
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.tools.calibrate.carried_over import carry_over, margins_of
from uncertainty_seg.tools.convert_bundle import convert
from uncertainty_seg.tools.main import main

pytest.importorskip('sklearn', reason='scikit-learn fits the density')
BASE = {'backend': 'onnxruntime', 'threads': 1}
RUN = ['--backend', 'onnxruntime', '--threads', '1']


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a calibrated bundle, its variant in fp16, and images of both kinds."""
    root = tmp_path_factory.mktemp('like')
    write_folder(root / 'train', 120, 1)
    write_folder(root / 'val', 150, 2)
    write_folder(root / 'fresh', 60, 3)
    bundle = make_tiny_bundle(root / 'tiny', calibrated=False)
    assert main(['calibrate', str(bundle), '--train', str(root / 'train'), '--val',
                 str(root / 'val'), '--bad', 'accuracy<0.6', *RUN]) == 0
    convert(bundle, root / 'half', 'fp16')
    return root


def test_a_limit_falls_by_what_the_scores_lie_apart_and_by_nothing_where_they_rise() -> None:
    original = {'a': np.array([0.5, 0.2, 0.3]), 'b': np.array([0.1, 0.4, 0.2])}
    changed = {'a': np.array([0.4, 0.2, 0.3]), 'b': np.array([0.2, 0.5, 0.2])}
    # Only the first image is lower in 'a': 0.1, in units of 'a' sqrt(3), in 'b' -sqrt(1.5).
    margins = margins_of(original, changed)
    assert margins['a'] == pytest.approx(0.1)
    assert margins['b'] == pytest.approx(0.1 * np.sqrt(3) * np.sqrt(2 / 3))
    assert margins_of(original, original) == {'a': 0.0, 'b': 0.0}


def test_one_image_of_n_plus_one_exceeds_the_margins_at_most() -> None:
    rng, exceeded, tries, count = np.random.default_rng(0), 0, 4000, 19
    for _ in range(tries):
        # Heavy tails and dependent scores: the bound needs no distribution.
        apart = rng.standard_t(2, (count + 1, 1)) * [1, 3] + rng.standard_t(2, (count + 1, 2))
        zeros = np.zeros(count)
        margins = margins_of({'a': apart[:-1, 0], 'b': apart[:-1, 1]}, {'a': zeros, 'b': zeros})
        exceeded += apart[-1, 0] > margins['a'] or apart[-1, 1] > margins['b']
    assert 0.02 < exceeded / tries < 1 / (count + 1) + 0.011  # three standard deviations


def test_the_variant_accepts_only_what_the_bundle_accepts_and_says_what_it_promises(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(['calibrate', str(made / 'half'), '--like', str(made / 'tiny'), '--data',
                 str(made / 'val'), *RUN]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line['images'] == 150 and line['more_bad'] == pytest.approx(1 / 151)
    bundle, variant = (load_bundle(str(made / name)) for name in ('tiny', 'half'))
    before, after = bundle.calibration, variant.calibration
    assert before and after and after.precision == 'fp16'
    accepted = {}
    for name, opened in (('tiny', bundle), ('half', variant)):
        with open_pipeline(opened, settings_from_dict(BASE), None, None) as pipeline:
            scores = [pipeline.measure(cv2.imread(str(path)), index).scores
                      for index, path in enumerate(sorted((made / 'fresh/images').iterdir()))]
            accepted[name] = [all(row[score] <= limit for score, limit
                                  in pipeline.thresholds.items()) for row in scores]
            promise = pipeline.promise
    assert 'and 0.0066 more by limits carried over' in promise
    assert sum(accepted['half'])
    assert not any(new and not old for old, new in zip(accepted['tiny'], accepted['half'],
                                                       strict=True))
    for old, new in zip(before.promises, after.promises, strict=True):
        assert all(new.limits[name] < limit for name, limit in old.limits.items())


def test_another_network_one_without_a_promise_and_one_too_far_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_tiny_bundle(tmp_path / 'other')
    with pytest.raises(CalibrationError, match='promises nothing'):
        carry_over(load_bundle(str(made / 'half')), load_bundle(str(other)), made / 'val',
                   settings_from_dict(BASE))
    tiny = load_bundle(str(made / 'tiny'))
    shutil.copytree(made / 'half', tmp_path / 'half')
    card = json.loads((tmp_path / 'half/card.json').read_text())
    card['class_names'] = ['x', *card['class_names'][1:]]
    (tmp_path / 'half/card.json').write_text(json.dumps(card))
    (tmp_path / 'half/calibration.json').unlink(missing_ok=True)
    (tmp_path / 'half/SHA256SUMS').unlink()
    with pytest.raises(ConfigError, match='class_names of'):
        carry_over(load_bundle(str(tmp_path / 'half')), tiny, made / 'val',
                   settings_from_dict(BASE))
    assert main(['calibrate', str(made / 'half'), '--like', str(made / 'tiny'), *RUN]) == 2
    assert '--like without --data' in capsys.readouterr().err
    assert main(['calibrate', str(made / 'half'), '--like', str(made / 'tiny'), '--data',
                 str(made / 'val'), '--blocks', 'b.csv', *RUN]) == 2
    assert '--like with --blocks' in capsys.readouterr().err
