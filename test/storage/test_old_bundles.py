# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A bundle in the layout before passes.onnx, or partly so, is refused with one sentence."""

from collections.abc import Callable
from pathlib import Path

from conftest import make_tiny_bundle, tiny_head
from old_bundles import old_bundle, rewrite
import pytest

from uncertainty_seg.errors import CalibrationError, ModelBundleError
from uncertainty_seg.storage.model_bundle import load_bundle


def test_an_old_bundle_is_to_be_compiled_or_trained_again(tmp_path: Path) -> None:
    for has_calibration in (True, False):
        with pytest.raises(ModelBundleError, match='schema 1.*2.*compile or train') as raised:
            load_bundle(str(old_bundle(tmp_path / f'old{has_calibration}')), has_calibration)
        assert not isinstance(raised.value, CalibrationError)


def _old_head(folder: Path) -> None:
    """Write a new card with the old head.onnx instead of passes.onnx."""
    (folder / 'passes.onnx').rename(folder / 'head.onnx')
    rewrite(folder, 'trunk.onnx', 'head.onnx')


def _lost_passes(folder: Path) -> None:
    """Write a new card that names passes.onnx, but with head.onnx in its place."""
    (folder / 'head.onnx').write_bytes(tiny_head().SerializeToString())
    rewrite(folder, 'trunk.onnx', 'passes.onnx')
    (folder / 'passes.onnx').unlink()


def _old_card(folder: Path) -> None:
    """Write the new graphs with a card of the old schema."""
    rewrite(folder, 'trunk.onnx', 'passes.onnx', schema=1)


def _old_key(folder: Path) -> None:
    """Write a new card with a key of the old schema."""
    rewrite(folder, 'trunk.onnx', 'passes.onnx', reduction='coarse')


@pytest.mark.parametrize(('change', 'named'), [
    (_old_head, 'passes.onnx'), (_lost_passes, 'passes.onnx'), (_old_card, 'schema 1'),
    (_old_key, 'reduction')])
def test_half_of_a_new_bundle_is_refused(
    tmp_path: Path, change: Callable[[Path], None], named: str
) -> None:
    folder = make_tiny_bundle(tmp_path / 'tiny')
    change(folder)
    with pytest.raises(ModelBundleError, match=named):
        load_bundle(str(folder))
