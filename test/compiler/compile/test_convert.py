# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A bundle converted to another precision runs, says what it is, and comes uncalibrated."""

import argparse
import json
from pathlib import Path

from conftest import tiny_card
import cv2
from graph_samples import net, SPEC
import numpy as np
import onnx
import pytest

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.cli.convert import convert_bundle
from uncertainty_seg.cli.main import main
from uncertainty_seg.compiler.compile import compile_graph
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import ConfigError, DatasetError, GraphError
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (8, 16, 3), np.uint8) for _ in range(12)]


@pytest.fixture
def bundle(tmp_path: Path) -> ModelBundle:
    """Return a bundle of four classes with a convolution in trunk and head."""
    compiled = compile_graph(net('element'), SPEC)
    card = tiny_card(
        name='small', class_names=('a', 'b', 'c', 'd'), palette=((0, 0, 0),) * 4, input=SPEC,
        dropout_sites=compiled.sites, logits_shape=compiled.logits_shape,
        metrics={'val_mean_iou': 0.5})
    write_bundle(tmp_path / 'small', card, compiled.files)
    return load_bundle(str(tmp_path / 'small'))


def maps(bundle: ModelBundle) -> UncertaintyMaps:
    backend = OnnxRuntimeBackend(bundle, Settings(threads=1, reduction='exact'))
    try:
        return backend.run(IMAGES[0], make_masks(bundle.card.dropout_sites, 4, 0), 1.0)
    finally:
        backend.close()


@pytest.mark.parametrize('precision, tolerance', [('fp16', 5e-3), ('int8', 5e-2)])
def test_a_variant_runs_and_gives_nearly_the_same_maps(
    bundle: ModelBundle, tmp_path: Path, precision: str, tolerance: float
) -> None:
    convert_bundle(bundle, tmp_path / 'variant', precision, IMAGES)
    found, right = maps(load_bundle(str(tmp_path / 'variant'))), maps(bundle)
    difference = np.abs(found.entropy - right.entropy)
    assert 0 < difference.mean() < tolerance


def test_a_variant_says_what_it_is_and_claims_nothing(tiny_bundle: Path, tmp_path: Path) -> None:
    whole = load_bundle(str(tiny_bundle))
    card = convert_bundle(whole, tmp_path / 'variant', 'fp16')
    variant = load_bundle(str(tmp_path / 'variant'))
    assert variant.card == card
    assert (card.name, card.precision, card.metrics) == ('variant', 'fp16', {})
    assert whole.calibration is not None
    assert variant.calibration is None
    assert (card.class_names, card.dropout_sites, card.passes) == (
        whole.card.class_names, whole.card.dropout_sites, whole.card.passes)


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_sixteen_bits_are_for_all_three_graphs(
    bundle: ModelBundle, tmp_path: Path, precision: str
) -> None:
    card = convert_bundle(bundle, tmp_path / 'variant', precision)
    assert set(card.sha256) == {'trunk.onnx', 'head.onnx', 'head_stats.onnx'}
    kind = {'fp16': onnx.TensorProto.FLOAT16, 'bf16': onnx.TensorProto.BFLOAT16}[precision]
    for name in card.sha256:
        graph = onnx.load(str(tmp_path / 'variant' / name)).graph
        assert kind in {tensor.data_type for tensor in graph.initializer}


def test_eight_bits_are_for_the_trunk_alone(bundle: ModelBundle, tmp_path: Path) -> None:
    card = convert_bundle(bundle, tmp_path / 'variant', 'int8', IMAGES)
    changed = {name for name, digest in card.sha256.items() if digest != bundle.card.sha256[name]}
    assert changed == {'trunk.onnx'}
    assert (bundle.card.metrics, card.metrics) == ({'val_mean_iou': 0.5}, {})


def test_what_is_rounded_already_is_not_converted_again(
    bundle: ModelBundle, tmp_path: Path
) -> None:
    convert_bundle(bundle, tmp_path / 'half', 'fp16')
    with pytest.raises(ConfigError, match="of 'half' are fp16, expected a bundle in fp32"):
        convert_bundle(load_bundle(str(tmp_path / 'half')), tmp_path / 'byte', 'int8', IMAGES)
    assert not (tmp_path / 'byte').exists()


def test_a_bundle_is_not_overwritten_by_its_own_variant(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match='is the bundle itself, expected another folder'):
        convert_bundle(load_bundle(str(tiny_bundle)), tiny_bundle, 'fp16')
    assert load_bundle(str(tiny_bundle)).card.precision == 'fp32'


@pytest.mark.parametrize('images, error, words', [
    ([], DatasetError, 'no calibration image'),
    (IMAGES, GraphError, 'no convolution or matrix product'),
])
def test_nothing_is_written_if_the_trunk_cannot_be_quantised(
    tiny_bundle: Path, tmp_path: Path, images: list[np.ndarray], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        convert_bundle(load_bundle(str(tiny_bundle)), tmp_path / 'variant', 'int8', images)
    assert not (tmp_path / 'variant').exists()


def call(*words: object) -> int:
    from uncertainty_seg.cli import convert as verb

    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.run(parser.parse_args([str(word) for word in words]))


def test_the_verb_converts_with_a_folder_of_photographs(
    bundle: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'sea').mkdir()
    for index, image in enumerate(IMAGES):
        cv2.imwrite(str(tmp_path / 'sea' / f'{index}.png'), image)
    out = tmp_path / 'variant'
    assert call(bundle.folder, '-o', out, '--precision', 'int8', '--calibration-images',
                tmp_path / 'sea', '--limit', 6) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line['bundle'], line['precision']) == (str(out), 'int8')
    assert load_bundle(str(out)).card.precision == 'int8'


@pytest.mark.parametrize('options, words', [
    (('--precision', 'int8'),
     '^--precision int8, expected --calibration-images DIR with images of the sea it will work'),
    (('--precision', 'fp16', '--calibration-images', 'sea'),
     '^--calibration-images with --precision fp16, expected --precision int8 with it'),
])
def test_the_verb_wants_photographs_for_int8_only(
    bundle: ModelBundle, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        call(bundle.folder, '-o', tmp_path / 'variant', *options)


def test_the_verb_converts_and_says_what_to_do_next(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['convert', str(tiny_bundle), '-o', str(tmp_path / 'half'), '--precision', 'fp16']
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said['precision'] == 'fp16' and said['next'].startswith('uncertainty_seg calibrate ')
    assert load_bundle(str(tmp_path / 'half')).card.precision == 'fp16'
    # Of a variant there are no variants: misuse, and nothing written.
    again = ['convert', str(tmp_path / 'half'), '-o', str(tmp_path / 'b'), '--precision', 'bf16']
    assert main(again) == 2 and not (tmp_path / 'b').exists()
