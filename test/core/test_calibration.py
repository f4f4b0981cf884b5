# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Thresholds: their values, and calibrations that are refused."""

import dataclasses
import hashlib
import json
from typing import Any

from cases import for_each
import numpy as np
import pytest

from uncertainty_seg.core.calibration import (
    Calibration,
    calibration_from_json,
    calibration_to_json,
    image_digest,
    Promise,
)
from uncertainty_seg.errors import CalibrationError

GOOD = Calibration(20, 0, 'fixed', 'fp32', 0.9, {'entropy.mean': 0.2},
                   ('entropy.mean',), 0.95, 200, 100, 'aa', 'bb')


def signed(facts: dict[str, Any]) -> str:
    """Return facts as JSON with a correct digest, as after a deliberate change of the file."""
    facts = {name: value for name, value in facts.items() if name != 'sha256'}
    facts['sha256'] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return json.dumps(facts)


def test_a_calibration_makes_the_round_trip() -> None:
    other = dataclasses.replace(GOOD, mask_draw='stratified', floors={'entropy.mean': 0.1},
                                carried_error=0.005)
    for made in (GOOD, other):
        assert calibration_from_json(calibration_to_json(made)) == made


def test_a_calibration_of_an_older_release_is_to_be_made_again() -> None:
    facts = json.loads(calibration_to_json(GOOD))
    assert facts.pop('schema') == 5
    for old in (facts, {**facts, 'pass_steps': None, 'num_folds': 3}, {**facts, 'schema': 1}):
        with pytest.raises(CalibrationError, match='schema 1'):
            calibration_from_json(signed(old))
    # With the command that makes it again, even if all else of it could be read.
    for schema in (3, 4, 6, '5'):
        with pytest.raises(CalibrationError, match=f'schema {schema}.*uncertainty_seg calibrate'):
            calibration_from_json(signed({**facts, 'schema': schema}))


def test_a_file_that_is_damaged_changed_or_has_an_unknown_key_is_refused() -> None:
    facts = json.loads(calibration_to_json(GOOD))
    for text in (json.dumps({**facts, 'temperature': 2.0}), signed({**facts, 'bonus': 1}),
                 '', '{}', '[1]', '{"passes": 20}', '{"schema": 5}'):
        with pytest.raises(CalibrationError, match=r'calibration\.json'):
            calibration_from_json(text)


def test_the_images_that_were_calibrated_on_are_known_again_by_their_pixels() -> None:
    rng = np.random.default_rng(0)
    seen = [rng.integers(0, 256, (6, 8, 3), np.uint8) for _ in range(3)]
    made = dataclasses.replace(GOOD, seen_images=tuple(map(image_digest, seen)))
    read = calibration_from_json(calibration_to_json(made))
    assert read == made
    other = seen[0].copy()
    other[5, 7, 2] ^= 1
    strided = np.asfortranarray(seen[1])
    assert [image_digest(image) in read.seen_images for image in (
        other, seen[2].reshape(8, 6, 3), strided)] == [False, False, True]


@pytest.mark.parametrize('text', ['a' * 17, 'g' * 16, 'ab ' * 16])
def test_what_is_no_digest_of_images_is_refused(text: str) -> None:
    facts = json.loads(calibration_to_json(dataclasses.replace(GOOD, seen_images=('a' * 16,))))
    with pytest.raises(CalibrationError, match='calibration.json'):
        calibration_from_json(signed({**facts, 'seen_images': text}))


NAN, INF = float('nan'), float('inf')


@for_each('name, values', [
    ('floors', [{'entropy.mean': value} for value in (NAN, -0.1, 1.1)]),
    ('gate_scores', [(), ('entropy.top',)]), ('temperature', [NAN, 0.0, 100.0]),
    ('thresholds', [{'entropy.mean': value} for value in (NAN, 0.0, 1.0)]),
    ('carried_error', [NAN, -0.1, 1.0]), ('num_train', [{}, -1, 1.5, None]), ('passes', ['8']),
    ('damage_limits', [{'bogus': 1.0}, *({'row_seam': value} for value in (0.0, NAN, INF))]),
])
def test_limits_that_cannot_judge_are_refused(name: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(CalibrationError):
            dataclasses.replace(GOOD, **{name: value})


PROMISE = Promise(0.05, {'entropy.mean': 0.1}, 'iou<0.5', 60, 70, 12, 0.04, 0.7, 0.03, 0.1)


def test_promises_and_what_they_rest_on_come_back_from_the_file() -> None:
    basis = {'splits': {'limits': {'frames': 70, 'bad': 12, 'blocks': None}}}
    full = dataclasses.replace(GOOD, promises=(PROMISE,), floors={'entropy.mean': 0.25},
                               basis=basis)
    assert calibration_from_json(calibration_to_json(full)) == full


@pytest.mark.parametrize(('num_bad', 'word'), [(0, 'empty'), (1, 'weak'), (9, 'weak'), (10, '')])
def test_a_promise_on_few_bad_frames_says_that_it_is_empty_or_weak(
    num_bad: int, word: str
) -> None:
    said = dataclasses.replace(PROMISE, num_bad=num_bad).weakness
    assert bool(said) == bool(word) and word in said


@pytest.mark.parametrize('changes', [
    {'bound': 0.06}, {'bound': 0.0}, {'num_bad': 71}, {'num_bad': -1}, {'alpha': 1.0},
    {'limits': {}}, {'limits': {'entropy.mean': 1.0}}, {'limits': {'entropy.mean': 0.0}},
])
def test_a_promise_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CalibrationError, match='promise'):
        dataclasses.replace(PROMISE, **changes)


def test_a_promise_for_other_scores_than_the_gates_is_refused() -> None:
    other = dataclasses.replace(PROMISE, limits={'entropy.top': 0.1})
    with pytest.raises(CalibrationError, match='0.05'):
        dataclasses.replace(GOOD, promises=(other,))
