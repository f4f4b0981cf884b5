# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Limits carried over to another precision accept only frames that the original bundle accepts."""

from dataclasses import replace
import json
from pathlib import Path
import shutil

from calibration_helpers import BASE, calibrate_on, RUN, write_folders
from conftest import make_tiny_bundle
import cv2
import numpy as np
import onnx
from onnx import helper, numpy_helper
import pytest

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.calibration.carried_over import carry_over, margins_of
from uncertainty_seg.calibration.stats.evaluation import accepted_by
from uncertainty_seg.cli.main import main
from uncertainty_seg.compiler.request import convert
from uncertainty_seg.core.calibration import (
    CarriedFrom,
)
from uncertainty_seg.core.model_card import card_from_json
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.errors import BackendUnavailableError, CalibrationError, ConfigError
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle

pytest.importorskip('scipy', reason='scipy computes the bounds')
# Of 40 frames.
SAME = np.zeros(40, np.bool_)


def test_a_score_that_does_not_differ_keeps_its_limit_and_lets_nothing_pass() -> None:
    # At the limit by the changed score, above it by the original, so only 'b' can refuse it.
    count = 40
    original = {'a': np.full(count, 0.5), 'b': np.full(count, 0.1)}
    changed = {'a': np.full(count, 0.5), 'b': np.full(count, 0.1)}
    original['a'][1::2] = 0.6
    found = margins_of({'a': 0.5, 'b': 0.4}, original, changed, 0.1, SAME)
    assert found == {'a': np.inf, 'b': np.inf}


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a calibrated bundle, its variant in fp16, and images of both kinds."""
    root = tmp_path_factory.mktemp('like')
    bundle = make_tiny_bundle(root / 'tiny', calibrated=False)
    calibrate_on(bundle, write_folders(root))
    convert(bundle, root / 'half', 'fp16')
    return root


def test_a_limit_falls_until_one_frame_less_than_stated_passes_alone() -> None:
    # Even frames: 'a' differs by 0.1, 'b' does not. First four odd frames: original above the
    # limit 0.5 of 'a', changed below it by 0.04, 0.03, 0.02, 0.01. Both accept the rest.
    count = 40
    original = {'a': np.full(count, 0.3), 'b': np.full(count, 0.2)}
    changed = {'a': np.full(count, 0.3), 'b': np.full(count, 0.2)}
    changed['a'][::2] -= 0.1
    original['a'][1:8:2] = 0.6
    changed['a'][1:8:2] = (0.46, 0.47, 0.48, 0.49)
    limits = {'a': 0.5, 'b': 0.4}
    # (1 + 1) / (20 + 1) <= 0.1: one frame may pass, and the second sets the margin.
    for error, margin in ((0.1, 0.03), (1 / 21, 0.04), (5 / 21, 0.0)):
        assert margins_of(limits, original, changed, error, SAME) == {
            'a': pytest.approx(margin), 'b': 0.0}
    with pytest.raises(CalibrationError, match='at least 48'):
        margins_of(limits, original, changed, 0.04, SAME)


def test_a_frame_with_another_mask_counts_as_one_that_must_not_pass() -> None:
    # All are accepted by both; the scores of even frames differ, and three odd frames' masks.
    count = 40
    original, changed = {'a': np.full(count, 0.3)}, {'a': np.full(count, 0.3)}
    changed['a'][::2] -= 0.1
    changed['a'][1:6:2] = (0.46, 0.47, 0.48)
    is_other = np.zeros(count, np.bool_)
    is_other[1:6:2] = True
    limits = {'a': 0.5}
    assert margins_of(limits, original, changed, 1 / 21, SAME) == {'a': 0.0}
    assert margins_of(limits, original, changed, 1 / 21, is_other) == {'a': pytest.approx(0.04)}


def test_a_further_frame_passes_alone_as_often_as_stated_at_most() -> None:
    rng, alone, tries, count, error = np.random.default_rng(0), 0, 4000, 60, 0.1
    limits = {'a': 0.5, 'b': 0.5}
    for _ in range(tries):
        # Heavy tails and dependent scores, since the bound is distribution-free.
        both = rng.random((count + 1, 2)) * 0.7
        moved = 0.05 * (rng.standard_t(2, (count + 1, 1)) + rng.standard_t(2, (count + 1, 2)))
        columns = [{'a': of[:, 0], 'b': of[:, 1]} for of in (both, both - moved)]
        first, last = ([{n: v[part] for n, v in of.items()} for of in columns]
                       for part in (slice(count), slice(count, None)))
        margins = margins_of(limits, *first, error, np.zeros(count, np.bool_))
        lowered = {name: limit - margins[name] for name, limit in limits.items()}
        passes = accepted_by(first[1], lowered) & ~accepted_by(first[0], limits)
        assert passes[1::2].sum() <= 2  # (2 + 1) / (30 + 1) <= 0.1
        alone += bool(accepted_by(last[1], lowered) & ~accepted_by(last[0], limits))
    assert 0.03 < alone / tries < error + 0.014  # three standard deviations


@pytest.mark.release
def test_the_variant_accepts_only_what_the_bundle_accepts_and_says_what_it_promises(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(['calibrate', str(made / 'half'), '--like', str(made / 'tiny'), '--data',
                 str(made / 'fresh'), '--error', '0.02', *RUN]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line['images'] == 150 and line['labels_differ'] < 0.01 and line['more_bad'] == 0.02
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
    assert ' 0.02 ' in promise
    assert sum(accepted['half'])
    assert not any(new and not old for old, new in zip(accepted['tiny'], accepted['half'],
                                                       strict=True))
    for old, new in zip(before.promises, after.promises, strict=True):
        assert all(new.limits[name] <= limit for name, limit in old.limits.items())
        # Figures that were not measured for the variant are omitted.
        assert (new.accepted, new.accepted_and_bad, new.bad_if_accepted_upper) == (None,) * 3
        assert isinstance(old.accepted, float) and isinstance(old.bad_if_accepted_upper, float)
    source = after.carried_from
    assert source == CarriedFrom('tiny', 'fp32', before.model_sha256, 150, source.accepted)
    assert {alpha: [round(share, 4) for share in of] for alpha, of in source.accepted.items()} \
        == {alpha: [of['bundle'], of['variant']] for alpha, of in line['accepted'].items()}
    page = tmp_path / 'page.html'
    assert main(['evaluate', str(made / 'half'), str(made / 'fresh'), '--report',
                 str(page), *RUN]) == 0
    assert all(named in page.read_text() for named in ('tiny in fp32', ' 0.02 '))


def test_a_network_with_other_labels_and_images_of_other_water_are_refused(
    made: Path, tmp_path: Path
) -> None:
    tiny = load_bundle(str(made / 'tiny'))
    shutil.copytree(made / 'half', tmp_path / 'rolled')
    card = card_from_json((tmp_path / 'rolled/card.json').read_bytes())
    graph = onnx.load(str(made / 'half/passes.onnx'))
    made_by, = (node for node in graph.graph.node if 'logits' in node.output)
    made_by.output[0] = 'before'
    nodes = list(graph.graph.node)
    nodes.insert(nodes.index(made_by) + 1,
                 helper.make_node('Gather', ['before', 'order'], ['logits'], axis=1))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 0]), 'order'))
    files = {name: (tmp_path / 'rolled' / name).read_bytes() for name in card.sha256}
    files['passes.onnx'] = graph.SerializeToString()
    write_bundle(tmp_path / 'rolled', card, files)
    with pytest.raises(CalibrationError, match='rolled|tiny'):
        carry_over(load_bundle(str(tmp_path / 'rolled')), tiny, made / 'fresh',
                   settings_from_dict(BASE), 0.02)
    grey = tmp_path / 'grey'
    grey.mkdir()
    rng = np.random.default_rng(0)
    for index in range(120):
        cv2.imwrite(str(grey / f'{index}.png'),
                    rng.integers(120, 136, (48, 64, 3)).astype(np.uint8))
    with pytest.raises(CalibrationError, match='0.0%'):
        carry_over(load_bundle(str(made / 'half')), tiny, grey, settings_from_dict(BASE), 0.02)


def test_what_was_carried_over_twice_adds_up(made: Path, tmp_path: Path) -> None:
    tiny, half = load_bundle(str(made / 'tiny')), load_bundle(str(made / 'half'))
    settings = settings_from_dict(BASE)
    once = carry_over(half, tiny, made / 'fresh', settings, 0.05).calibration
    twice = carry_over(half, replace(half, calibration=once, features=tiny.features),
                       made / 'fresh', settings, 0.02).calibration
    assert (once.carried_error, twice.carried_error) == (0.05, pytest.approx(0.07))
    assert twice.carried_from and twice.carried_from.bundle == 'half'
    with pytest.raises(BackendUnavailableError, match='fp16'):
        carry_over(half, tiny, made / 'fresh', settings_from_dict({**BASE, 'backend': 'openvino'}))


def test_another_network_one_without_a_promise_and_one_too_far_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_tiny_bundle(tmp_path / 'other')
    with pytest.raises(CalibrationError, match='tiny'):
        carry_over(load_bundle(str(made / 'half')), load_bundle(str(other)), made / 'fresh',
                   settings_from_dict(BASE))
    tiny = load_bundle(str(made / 'tiny'))
    shutil.copytree(made / 'half', tmp_path / 'half')
    card = json.loads((tmp_path / 'half/card.json').read_text())
    card['class_names'] = ['x', *card['class_names'][1:]]
    (tmp_path / 'half/card.json').write_text(json.dumps(card))
    (tmp_path / 'half/calibration.json').unlink(missing_ok=True)
    (tmp_path / 'half/SHA256SUMS').unlink()
    with pytest.raises(ConfigError, match='class_names'):
        carry_over(load_bundle(str(tmp_path / 'half')), tiny, made / 'fresh',
                   settings_from_dict(BASE))
    assert main(['calibrate', str(made / 'half'), '--like', str(made / 'tiny'), *RUN]) == 2
    said = capsys.readouterr().err
    assert '--like' in said and '--data' in said
