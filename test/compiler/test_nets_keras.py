# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What Keras's own ONNX export writes is compiled, or refused with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from uncertainty_seg.cli.main import EXIT_MISUSE, main
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import make_masks, ones_masks
from uncertainty_seg.core.uncertainty import upsample_bilinear
from uncertainty_seg.storage.model_bundle import load_bundle

GOLDEN = Path(__file__).resolve().parents[1] / 'golden'
WIDTH, HEIGHT, CLASSES, PASSES = 64, 48, 4, 3


def arguments(tmp_path: Path, net: str) -> list[str]:
    classes = tmp_path / 'classes.json'
    classes.write_text(json.dumps({'classes': [
        {'id': i, 'name': str(i), 'rgb': [i, i, i]} for i in range(CLASSES)]}))
    return ['compile', str(GOLDEN / net), '--input', f'{WIDTH}x{HEIGHT}', '--classes',
            str(classes), '-o', str(tmp_path / 'bundle'), '--full-weights',
            '--mean', '0', '0', '0', '--std', '1', '1', '1']


@pytest.fixture
def bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> ModelBundle:
    words = arguments(tmp_path, 'keras_segmenter.onnx')
    assert main([*words, '--inject-dropout', '0.3', '--at', 'decoder']) == 0
    assert 'not trained with the dropout' in capsys.readouterr().err
    return load_bundle(str(tmp_path / 'bundle'))


def probabilities(bundle: ModelBundle, masks: dict[str, np.ndarray]) -> np.ndarray:
    """Run both graphs on the golden image; return (T, C, h, w)."""
    image = np.load(GOLDEN / 'keras_segmenter.npz')['image']
    trunk, head = (onnxruntime.InferenceSession(str(p))
                   for p in (bundle.trunk_path, bundle.head_path))
    names = [o.name for o in trunk.get_outputs()]
    tensors = dict(zip(names, trunk.run(None, {'image': image}), strict=True))
    z = head.run(None, {**tensors, **masks})[0]
    z = np.exp(upsample_bilinear(z, HEIGHT, WIDTH, bundle.card.upsampling))
    return z / z.sum(1, keepdims=True)


def test_masks_of_ones_give_the_probabilities_that_keras_computed(bundle: ModelBundle) -> None:
    wanted = np.load(GOLDEN / 'keras_segmenter.npz')['probabilities'].transpose(0, 3, 1, 2)
    found = probabilities(bundle, ones_masks(bundle.card.dropout_sites, 2))
    np.testing.assert_allclose(found, np.repeat(wanted, 2, 0), atol=3e-5)
    assert set(np.unique(wanted.argmax(1))) == {0, 1, 2, 3}  # else equality would prove little


def test_passes_differ_under_different_masks(bundle: ModelBundle) -> None:
    passes = probabilities(bundle, make_masks(bundle.card.dropout_sites, PASSES, 0))
    assert np.abs(passes[0] - passes[1]).max() > 1e-2
    assert len(bundle.card.dropout_sites) >= 1


def test_without_injection_keras_has_lost_its_dropout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, 'keras_segmenter.onnx')) == EXIT_MISUSE
    said = capsys.readouterr().err
    assert 'no dropout' in said
    assert '--inject-dropout' in said
    assert not (tmp_path / 'bundle').exists()


def test_dropout_left_on_in_keras_is_refused_by_the_name_of_its_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = next(n for n in onnx.load(GOLDEN / 'keras_live_dropout.onnx').graph.node
                  if n.op_type.startswith('Stateless'))
    assert main(arguments(tmp_path, 'keras_live_dropout.onnx')) == EXIT_MISUSE
    said = capsys.readouterr().err
    assert random.name in said
    assert 'StatelessRandomUniformV2' in said
    assert not (tmp_path / 'bundle').exists()
