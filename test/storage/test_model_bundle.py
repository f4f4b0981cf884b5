# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Bundles: errors are reported before the first frame."""

import dataclasses
import json
from pathlib import Path

from conftest import make_tiny_bundle, tiny_card, tiny_head
import pytest

from uncertainty_seg.errors import CalibrationError, ModelBundleError, UnknownModelError
from uncertainty_seg.storage.model_bundle import (
    find_bundle,
    load_bundle,
    model_digest,
    shipped_bundles,
    write_bundle,
    write_calibration,
)


def changed_by_hand(folder: Path) -> Path:
    """Remove the list of hashes, as in older bundles, so that other checks are reached."""
    (folder / 'SHA256SUMS').unlink()
    return folder


def test_a_card_cannot_name_a_file_outside_its_folder(tmp_path: Path) -> None:
    bundle = changed_by_hand(make_tiny_bundle(tmp_path / 'tiny', calibrated=False))
    outside = tmp_path / 'outside.onnx'
    outside.write_bytes((bundle / 'trunk.onnx').read_bytes())
    card = json.loads((bundle / 'card.json').read_text())
    (bundle / 'inside').mkdir()
    (bundle / 'inside' / 'a.onnx').write_bytes(outside.read_bytes())
    for name in ('../outside.onnx', str(outside), 'inside/a.onnx', './trunk.onnx'):
        # The file exists and its hash is right; only its location is wrong.
        named = {**card, 'sha256': {**card['sha256'], name: card['sha256']['trunk.onnx']}}
        (bundle / 'card.json').write_text(json.dumps(named))
        with pytest.raises(ModelBundleError):
            load_bundle(str(bundle))


def test_no_bundle_at_all_names_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelBundleError, match='seabass'):
        find_bundle('seabass')
    with pytest.raises(ModelBundleError, match='card.json'):
        find_bundle(str(tmp_path))
    for name in ('~nobody_here/bundle', 'x' * 300):
        with pytest.raises(ModelBundleError, match=name[-9:]):
            find_bundle(name)
    trunk = make_tiny_bundle(tmp_path / 'tiny') / 'trunk.onnx'
    trunk.unlink()
    trunk.symlink_to('/proc/self/mem')  # which the system refuses to read
    with pytest.raises(ModelBundleError, match='cannot be read'):
        load_bundle(tmp_path / 'tiny')


def test_a_name_is_never_that_of_two_bundles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = shipped_bundles()['pipeline']
    assert find_bundle('pipeline') == shipped
    make_tiny_bundle(tmp_path / 'pipeline')
    with pytest.raises(UnknownModelError, match=str(tmp_path)):
        load_bundle('pipeline')
    for path in ('./pipeline', 'pipeline/', str(tmp_path / 'pipeline'), Path('pipeline')):
        assert load_bundle(path).card.name == 'tiny'
    assert load_bundle(str(shipped)).card.name == 'pipeline'
    # A folder without a card is not a bundle, and a shipped bundle does not conflict with itself.
    (tmp_path / 'suim').mkdir()
    assert find_bundle('suim') == shipped_bundles()['suim']
    monkeypatch.chdir(shipped.parent)
    assert load_bundle('pipeline').card.name == 'pipeline'


@pytest.mark.parametrize('change, words', [
    ({'schema': 99}, '99'), ({'palette': [[0, 0, 0]]}, '1'), ({'method': 'magic'}, 'magic'),
    ({'dropout_sites': []}, 'dropout'), ({'extra': 1}, 'card.json'),
])
def test_a_card_that_is_wrong_is_refused(
    tiny_bundle: Path, change: dict[str, object], words: str
) -> None:
    raw = json.loads((changed_by_hand(tiny_bundle) / 'card.json').read_text())
    (tiny_bundle / 'card.json').write_text(json.dumps({**raw, **change}))
    with pytest.raises(ModelBundleError, match=words):
        load_bundle(str(tiny_bundle))


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    files = {'trunk.onnx': b'hello', 'passes.onnx': tiny_head().SerializeToString()}
    write_bundle(tmp_path / 'b', tiny_card(), files)
    with pytest.raises(ModelBundleError):
        load_bundle(str(tmp_path / 'b'))


def test_a_calibration_made_for_other_graphs_is_refused(tiny_bundle: Path) -> None:
    bundle = load_bundle(str(tiny_bundle))
    assert bundle.calibration is not None
    write_calibration(bundle, dataclasses.replace(bundle.calibration, model_sha256='0' * 64))
    with pytest.raises(CalibrationError, match='000000000000'):
        load_bundle(str(tiny_bundle))


@pytest.mark.parametrize('change', [
    {'thresholds': {'entropy.mean': 0.99}}, {'temperature': 9.0}, {'passes': 4}])
def test_a_calibration_changed_by_hand_is_refused(
    tiny_bundle: Path, change: dict[str, object]
) -> None:
    path = changed_by_hand(tiny_bundle) / 'calibration.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CalibrationError):
        load_bundle(str(tiny_bundle))


@pytest.mark.parametrize('change', [
    {'dropout_sites': [{'name': 'drop', 'shape': [3, 1, 1], 'p': 0.001}]},
    {'class_names': ['blue', 'red', 'green']},
])
def test_a_card_changed_by_hand_no_longer_fits_its_calibration(
    tiny_bundle: Path, change: dict[str, object]
) -> None:
    path = changed_by_hand(tiny_bundle) / 'card.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CalibrationError):
        load_bundle(str(tiny_bundle))


def test_a_folder_that_is_no_bundle_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / 'thesis.txt').write_text('years of work')
    with pytest.raises(ModelBundleError, match='card.json'):
        write_bundle(tmp_path, tiny_card(), {})
    assert (tmp_path / 'thesis.txt').exists()


@pytest.mark.parametrize('changes', [
    {'feature_shape': (4, 6, 8)}, {'mask_draw': 'stratified'}])
def test_what_changes_a_score_is_in_the_digest(changes: dict[str, object]) -> None:
    assert model_digest(tiny_card(**changes)) != model_digest(tiny_card())
