# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Initial weights of a training: from a bundle, a file, or ImageNet."""

import dataclasses
from pathlib import Path
import re

import cv2
import numpy as np
import onnx
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from test_fit import TinyNet, toy  # noqa: E402
from test_train import DATA, place, sets, start, tiny, weights_of  # noqa: E402, F401

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.compiler.head_graphs import add_sums, logits_of  # noqa: E402
from uncertainty_seg.core.bundle import PASSES_FILE, TRUNK_FILE  # noqa: E402
from uncertainty_seg.errors import ConfigError, TrainingError  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle  # noqa: E402
from uncertainty_seg.training import encoders  # noqa: E402
from uncertainty_seg.training.batches import normalise  # noqa: E402
from uncertainty_seg.training.encoders import ENCODERS  # noqa: E402
from uncertainty_seg.training.init_weights import (  # noqa: E402
    load_what_fits,
    measure_norms,
    read_bundle,
    read_start,
    read_weights,
    Taken,
)
from uncertainty_seg.training.networks import PyramidNet  # noqa: E402
from uncertainty_seg.training.recipes import DropoutPlan, NO_DROPOUT, TrainRecipe  # noqa: E402
from uncertainty_seg.training.train import load_net, make_bundle, train_weights  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(scope='module')
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PyramidNet]:
    """Return a bundle trained for a few steps, and its network."""
    folder = tmp_path_factory.mktemp('finished')
    recipe = tiny(epochs=2, name='suim')
    train_weights(recipe, DATA, folder / 'net.pt', (start(),), 1)
    make_bundle(recipe, DATA.train, folder / 'net.pt', folder / 'bundle')
    return folder / 'bundle', load_net(folder / 'net.pt', 3, NO_DROPOUT, 'lite0')


def test_what_samples_the_logits_beside_their_centres_is_no_layer(
    finished: tuple[Path, PyramidNet], tmp_path: Path
) -> None:
    """Ignore the additional convolution after the logits of a bundle with element masks."""
    bundle = load_bundle(str(finished[0]))
    offset = (0.22, 0.22)
    head = logits_of(onnx.load(bundle.passes_path))
    head.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(
        'logits', onnx.TensorProto.FLOAT, ('T', *bundle.card.logits_shape)))
    write_bundle(tmp_path / 'beside', dataclasses.replace(bundle.card, grid_offset=offset), {
        TRUNK_FILE: bundle.trunk_path.read_bytes(),
        PASSES_FILE: add_sums(head, offset).SerializeToString()})
    read, plain = (read_bundle(load_bundle(str(folder)))
                   for folder in (tmp_path / 'beside', finished[0]))
    assert all(torch.equal(value, plain.state[name]) for name, value in read.state.items())


def smooth_images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (64, 64),
                       interpolation=cv2.INTER_CUBIC) for _ in range(count)]


def test_weights_are_read_back_from_a_bundle_as_the_same_function_in_eval_and_in_training(
    finished: tuple[Path, PyramidNet]
) -> None:
    bundle, net = finished
    taken = read_bundle(load_bundle(str(bundle)))
    assert (taken.encoder, taken.class_names) == ('lite0', ('dark', 'bright', 'red'))
    mine = PyramidNet(3, NO_DROPOUT, 'lite0')
    assert load_what_fits(mine, taken, taken.class_names)[0] == len(mine.state_dict())
    images = smooth_images(16)
    batch = normalise(np.stack(images))
    with torch.no_grad():
        expected = net.eval()(batch)
        spread = float(expected.std())
        assert float((mine.eval()(batch) - expected).abs().max()) < 0.02 * spread
        folded = mine.train()(batch)
        measure_norms(mine, images, (64, 64))
        assert not mine.eval().training
        assert float((mine(batch) - expected).abs().max()) < 0.03 * spread
        trained = mine.train()(batch)
    # In training mode norms use batch statistics, so folded norms must first be restored.
    assert float((trained - expected).abs().mean()) < 0.1 * spread
    assert float((folded - expected).abs().mean()) > 0.3 * spread


def test_of_an_ensemble_the_first_member_is_read_back(
    finished: tuple[Path, PyramidNet], tmp_path: Path
) -> None:
    bundle, net = finished
    recipe = tiny(method='deep_ensemble', members=2, name='pair')
    for index in range(2):
        torch.save({name: value + 0.01 * index * name.endswith('classifier.bias')
                    for name, value in weights_of(bundle.parent / 'net.pt').items()},
                   tmp_path / f'm.{index}.pt')
    make_bundle(recipe, DATA.train, tmp_path / 'm.pt', tmp_path / 'both')
    taken = read_bundle(load_bundle(str(tmp_path / 'both')))
    assert taken.encoder == 'lite0' and 'pair' in taken.source
    mine = PyramidNet(3, NO_DROPOUT, 'lite0')
    load_what_fits(mine, taken, taken.class_names)
    batch = normalise(np.stack(smooth_images(4)))
    with torch.no_grad():
        expected = net.eval()(batch)
        assert float((mine.eval()(batch) - expected).abs().max()) < 0.02 * float(expected.std())


def test_rows_of_a_classifier_go_to_the_classes_of_the_same_name(
    finished: tuple[Path, PyramidNet]
) -> None:
    taken = read_bundle(load_bundle(str(finished[0])))
    net = PyramidNet(4, DropoutPlan(), 'lite0')
    fresh = net.decoder.classifier.weight.clone()
    load_what_fits(net, taken, ('red', 'robot', 'dark', 'bright'))
    rows = net.decoder.classifier.weight
    given = taken.state['decoder.classifier.weight']
    assert torch.equal(rows[[0, 2, 3]], given[[2, 0, 1]]) and torch.equal(rows[1], fresh[1])


@pytest.mark.release
def test_a_training_goes_on_from_a_bundle_and_the_card_says_so(
    finished: tuple[Path, PyramidNet], place: Path  # noqa: F811
) -> None:
    command = ['train', 'own', '--data', str(place / 'reef'), '--threads', '1',
               *sets('size=64x64', 'epochs=1', 'learning_rate=1.0e-9')]
    out = ['--out', str(place / 'more')]
    assert main([*command, *out, '--init', str(finished[0])]) == 0
    card = load_bundle(str(place / 'more')).card
    assert 'EfficientNet-Lite0, started from the bundle suim' in card.training
    # Barely trained, so almost unchanged.
    made = load_net(place / 'more.pt', 3, NO_DROPOUT, 'lite0')
    batch = normalise(np.stack(toy(16, 6).images)[:12, :32, :32].repeat(2, 1).repeat(2, 2))
    with torch.no_grad():
        expected, found = finished[1].eval()(batch), made(batch)
    apart = (found - found.mean(1, keepdim=True)) - (expected - expected.mean(1, keepdim=True))
    assert float(apart.abs().mean()) < 0.3 * float(expected.std())


@pytest.mark.parametrize('is_folder', [False, True])
def test_imagenet_weights_are_known_by_their_file_and_refused_if_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool
) -> None:
    kind = ENCODERS['mobilenet_v2']
    path, net = tmp_path / kind.file, encoders.new_encoder('mobilenet_v2')
    torch.save({f'features.{name}': value for name, value in net.state_dict().items()}, path)
    text = str(tmp_path if is_folder else path)
    with pytest.raises(TrainingError, match=kind.sha256_prefix):
        read_start(text, TrainRecipe())
    digest = encoders.hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(ENCODERS, 'mobilenet_v2', dataclasses.replace(kind, sha256_prefix=digest))
    taken = read_start(text, TrainRecipe())
    assert taken is not None and taken.encoder == 'mobilenet_v2'
    mine = PyramidNet(3, NO_DROPOUT)
    load_what_fits(mine, taken, ())
    for name, value in net.state_dict().items():
        assert torch.equal(mine.encoder.state_dict()[name], value)


def test_the_weights_of_mobile_sam_are_those_of_the_encoder_of_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('timm')
    net = encoders.new_encoder('tinyvit')
    # Its names in MobileSAM, whose stages end with the downsampling to the next one.
    theirs = {}
    for name, value in net.state_dict().items():
        stage, _, rest = name.partition('.')
        rest = re.sub(r'\bconv\b', 'c', rest)
        if stage == '0':
            rest = rest.replace('conv1', 'seq.0').replace('conv2', 'seq.2')
        of = 'patch_embed' if stage == '0' else \
            f'layers.{int(stage) - 1 - rest.startswith("down")}'
        theirs[f'image_encoder.{of}.{rest}'] = value + 1
    kind = ENCODERS['tinyvit']
    path = tmp_path / kind.file
    torch.save({**theirs, 'mask_decoder.x': torch.zeros(1)}, path)
    digest = encoders.hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(ENCODERS, 'tinyvit', dataclasses.replace(kind, sha256_prefix=digest))
    taken = read_start(str(path), TrainRecipe(encoder='tinyvit'))
    assert taken is not None and len(theirs) == len(taken.state) == 292
    mine = PyramidNet(3, NO_DROPOUT, 'tinyvit')
    load_what_fits(mine, taken, ())
    for name, value in net.state_dict().items():
        assert torch.equal(mine.encoder.state_dict()[name], value + 1)
    torch.save(mine.state_dict(), tmp_path / 'a.pt')
    assert read_weights(tmp_path / 'a.pt').encoder == 'tinyvit'
    assert [tuple(tap.shape[1:]) for tap in mine.eval().features(torch.zeros(1, 3, 96, 160))] == [
        (64, 24, 40), (128, 12, 20), (320, 6, 10), (320, 3, 5)]


def test_of_a_folder_of_other_weights_the_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ENCODERS['lite2'].file).write_bytes(b'')
    with pytest.raises(TrainingError, match=ENCODERS['lite0'].file):
        read_start(str(tmp_path), TrainRecipe(encoder='lite0'))


def test_without_a_start_nothing_is_guessed() -> None:
    with pytest.raises(ConfigError, match='start'):
        read_start('', TrainRecipe())
    assert read_start('none', TrainRecipe()) is None
    assert read_start('', TrainRecipe(net='a:b')) is None


def test_a_file_of_weights_names_its_encoder(tmp_path: Path) -> None:
    torch.save(PyramidNet(3, NO_DROPOUT, 'lite1').state_dict(), tmp_path / 'a.pt')
    assert read_weights(tmp_path / 'a.pt').encoder == 'lite1'


def test_weights_of_another_network_are_refused_in_a_sentence(tmp_path: Path) -> None:
    torch.save({'layer.weight': torch.zeros(3)}, tmp_path / 'other.pt')
    with pytest.raises(TrainingError, match='other.pt'):
        load_what_fits(TinyNet(), read_weights(tmp_path / 'other.pt'), ())
    with pytest.raises(TrainingError, match='nothing'):
        load_what_fits(TinyNet(), Taken({}, source='nothing'), ())


def test_a_bundle_of_another_architecture_is_refused_with_what_to_do(tmp_path: Path) -> None:
    from conftest import make_tiny_bundle

    with pytest.raises(TrainingError, match='tiny.*file of weights'):
        read_bundle(load_bundle(str(make_tiny_bundle(tmp_path / 'tiny'))))


def test_of_a_converted_bundle_the_reason_is_the_true_one() -> None:
    with pytest.raises(TrainingError, match='suim_fp16.*fp16'):
        read_bundle(load_bundle('suim_fp16'))


@pytest.mark.parametrize('name, encoder', [('suim', 'lite2'), ('pipeline', 'mobilenet_v2')])
def test_the_included_bundles_can_be_gone_on_from(name: str, encoder: str) -> None:
    taken = read_bundle(load_bundle(name))
    assert taken.encoder == encoder and taken.class_names == load_bundle(name).card.class_names
    # A 16-bit zero may have a sign, by which weights shared bit for bit must not differ.
    assert not any((value.signbit() & (value == 0)).any() for value in taken.state.values())
