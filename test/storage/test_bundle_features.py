# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A bundle with a feature output, from `calibrate` to the gate, and changed files."""

import contextlib
import dataclasses
import hashlib
import io
import json
from pathlib import Path
import shutil
from typing import Any

from calibration_helpers import splits_of, write_folder
from conftest import tiny_card, tiny_files, tiny_head, tiny_trunk
import cv2
import numpy as np
from onnx import helper, TensorProto
import pytest

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.cli.main import main
from uncertainty_seg.core.bundle import FEATURES_FILE
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.errors import CalibrationError, ModelBundleError
from uncertainty_seg.storage.foreign_files import read_arrays, ZIP_ERRORS
from uncertainty_seg.storage.model_bundle import (
    features_file,
    load_bundle,
    write_bundle,
    write_calibration,
)

pytest.importorskip('scipy', reason='scipy computes the bounds')
SCORES = ['entropy.mean', 'features.knn']
RUN = ['--set', 'backend=onnxruntime', '--set', 'threads=1']
SETTINGS = settings_from_dict({'backend': 'onnxruntime', 'threads': 1})


@pytest.fixture(scope='module')
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Return the bundle, its training images, and the JSON line of `calibrate`."""
    root = tmp_path_factory.mktemp('features')
    write_folder(root / 'train', 60, 1)
    write_folder(root / 'val', 20, 3)
    write_folder(root / 'limits', 40, 2)
    trunk = tiny_trunk()
    trunk.graph.node.append(helper.make_node('Identity', ['features'], ['feature_map']))
    trunk.graph.output.append(helper.make_tensor_value_info(
        'feature_map', TensorProto.FLOAT, [1, 3, 12, 16]))
    write_bundle(root / 'tiny', tiny_card(feature_shape=(3, 12, 16)),
                 tiny_files(trunk, tiny_head()))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(['calibrate', str(root / 'tiny'), *splits_of(root), '--bad', 'accuracy<0.6',
                     '--alpha', '0.1', '--scores', *SCORES, *RUN])
    assert code == 0
    return root / 'tiny', root / 'train' / 'images', json.loads(out.getvalue().splitlines()[-1])


def test_a_changed_missing_or_foreign_file_is_refused(
    calibrated: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    source, _, _ = calibrated

    def copy(name: str) -> Path:
        return Path(shutil.copytree(source, tmp_path / name))

    changed = copy('changed')
    content = bytearray((changed / FEATURES_FILE).read_bytes())
    content[500] ^= 1
    (changed / FEATURES_FILE).write_bytes(bytes(content))
    for name in ('SHA256SUMS', 'calibration.json'):  # with the list of hashes, then without it
        with pytest.raises(ModelBundleError, match=name):
            load_bundle(str(changed))
        (changed / 'SHA256SUMS').unlink(missing_ok=True)
    missing = copy('missing')
    (missing / FEATURES_FILE).unlink()
    with pytest.raises(ModelBundleError, match='features.npz'):
        load_bundle(str(missing))
    bundle = load_bundle(str(source))
    assert bundle.features is not None and bundle.calibration is not None
    known = bundle.features
    wrong = dataclasses.replace(known, bank=known.bank[:, :4], centre=known.centre[:2],
                                axes=known.axes[:2])
    other = copy('other')
    write_calibration(load_bundle(str(other)), dataclasses.replace(
        bundle.calibration, features_sha256=hashlib.sha256(
            features_file(wrong)).hexdigest()), wrong)
    with pytest.raises(CalibrationError, match='2'):
        load_bundle(str(other))
    write_calibration(load_bundle(str(other), has_calibration=False),
                      dataclasses.replace(bundle.calibration, features_sha256=''))
    assert not (other / FEATURES_FILE).exists()


def test_unknown_lights_up_where_a_patch_is_unlike_the_training_images(
    calibrated: tuple[Path, Path, dict[str, Any]]
) -> None:
    bundle, images = load_bundle(str(calibrated[0])), sorted(calibrated[1].iterdir())
    assert bundle.calibration is not None and 'unknown.top' in bundle.calibration.thresholds

    def strangeness(image: np.ndarray) -> np.ndarray:
        maps = pipeline.measure(image).at_grid
        return maps.unknown / (1 - maps.unknown) / (maps.energy / (1 - maps.energy))

    with open_pipeline(bundle, SETTINGS) as pipeline:
        usual = [strangeness(cv2.imread(str(path))) for path in images]
        # The middle columns alone get letterbox bars, which must not affect the result.
        middle = strangeness(cv2.imread(str(images[0]))[:, 16:48])[:, 5:11]
        np.testing.assert_allclose(middle, usual[0][:, 5:11], rtol=1e-4)
        image = cv2.imread(str(images[0]))
        height, width = image.shape[:2]
        image[:height // 2, :width // 2] = 255
        found = strangeness(image)
    rows, columns = (size // 3 for size in found.shape)
    assert np.mean(usual) == pytest.approx(1, abs=0.1)
    assert found[:rows, :columns].min() > np.max(usual)
    np.testing.assert_allclose(found[-rows:, -columns:], usual[0][-rows:, -columns:], rtol=1e-4)


def test_arrays_of_python_objects_or_of_another_size_than_said_are_not_read() -> None:
    def file_of(**arrays: np.ndarray) -> bytes:
        out = io.BytesIO()
        np.savez(out, **arrays)
        return out.getvalue()

    good = file_of(a=np.arange(6, dtype=np.uint8).reshape(2, 3))
    np.testing.assert_array_equal(read_arrays(good, {'a': 'uint8'}, 1000)['a'],
                                  [[0, 1, 2], [3, 4, 5]])
    for content, words in (
        (file_of(a=np.array([{}], object)), ''), (b'no archive', ''),
        (good.replace(b'(2, 3)', b'(9, 3)'), ''), (file_of(a=np.ones(3)), 'a is float64'),
        (file_of(b=np.ones(3)), 'a'),
    ):
        with pytest.raises(ZIP_ERRORS, match=words):
            read_arrays(content, {'a': 'uint8'}, 1000)
    with pytest.raises(ValueError, match='100'):
        read_arrays(good, {'a': 'uint8'}, 100)
