# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A bundle in another precision runs, states its precision, and is uncalibrated; signing."""

import json
from pathlib import Path

from conftest import tiny_card, write_key
from graph_samples import net, SPEC
import numpy as np
import onnx
import pytest

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.cli.main import main
from uncertainty_seg.compiler.compile import compile_graph
from uncertainty_seg.compiler.request import convert
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import grid_maps, UncertaintyMaps
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle
from uncertainty_seg.storage.signatures import public_line, read_private_key

IMAGE = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)


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
    backend = OnnxRuntimeBackend(bundle, Settings(threads=1))
    try:
        return grid_maps(backend.run(IMAGE, make_masks(bundle.card.dropout_sites, 4, 0), 1.0))
    finally:
        backend.close()


def test_a_variant_runs_and_gives_nearly_the_same_maps(
    bundle: ModelBundle, tmp_path: Path
) -> None:
    convert(bundle, tmp_path / 'variant', 'fp16')
    found, right = maps(load_bundle(str(tmp_path / 'variant'))), maps(bundle)
    assert 0 < np.abs(found.entropy - right.entropy).mean() < 5e-3


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_both_graphs_are_of_sixteen_bits_and_claim_nothing(
    bundle: ModelBundle, tmp_path: Path, precision: str
) -> None:
    made = convert(bundle, tmp_path / 'variant', precision)
    assert load_bundle(str(tmp_path / 'variant')).card == made.card
    assert (made.card.name, made.card.precision, made.card.metrics) == ('variant', precision, {})
    assert made.calibration is None
    kind = {'fp16': onnx.TensorProto.FLOAT16, 'bf16': onnx.TensorProto.BFLOAT16}[precision]
    for name in ('trunk.onnx', 'passes.onnx'):
        graph = onnx.load(str(tmp_path / 'variant' / name)).graph
        assert kind in {tensor.data_type for tensor in graph.initializer}, name


def test_what_is_rounded_already_or_the_bundle_itself_is_refused(
    bundle: ModelBundle, tmp_path: Path
) -> None:
    half = convert(bundle, tmp_path / 'half', 'fp16')
    with pytest.raises(ConfigError, match="'half' are fp16"):
        convert(half, tmp_path / 'again', 'bf16')
    with pytest.raises(ConfigError, match='small'):
        convert(bundle, bundle.folder, 'fp16')
    assert not (tmp_path / 'again').exists() and load_bundle(bundle.folder).card == bundle.card


def test_the_verb_makes_a_signed_variant_and_says_what_to_do_next(
    bundle: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('cryptography')
    key = write_key(tmp_path)
    words = ['compile', str(bundle.folder), '--precision', 'fp16', '-o', str(tmp_path / 'half')]
    assert main([*words, '--sign', str(tmp_path / 'key.pem')]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said['precision'], said['bundle']) == ('fp16', str(tmp_path / 'half'))
    trusted = public_line(read_private_key(tmp_path / 'key.pem'))
    assert said['trusted_key'] == trusted and key
    assert load_bundle(str(tmp_path / 'half'), trusted_keys=[trusted]).card.precision == 'fp16'


def test_the_verb_signs_a_bundle_in_its_place(
    bundle: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('cryptography')
    write_key(tmp_path)
    assert main(['compile', str(bundle.folder), '--sign', str(tmp_path / 'key.pem')]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert load_bundle(bundle.folder, trusted_keys=[said['trusted_key']]).card == bundle.card


@pytest.mark.parametrize('words', [[], ['--precision', 'fp16'], ['other', '--sign', 'key.pem']])
def test_a_bundle_alone_is_nothing_to_compile(
    bundle: ModelBundle, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['compile', str(bundle.folder), *words]) == 2
    assert capsys.readouterr().err.startswith('uncertainty_seg compile: ')
