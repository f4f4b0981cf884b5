# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The verb `train`: what its options ask for, and what it refuses in a sentence."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import shlex
import shutil

import cv2
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from test_fit import toy  # noqa: E402
import test_members  # noqa: E402

from uncertainty_seg.backends.registry import open_pipeline  # noqa: E402
from uncertainty_seg.cli import train as train_model  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.core.settings import Settings  # noqa: E402
from uncertainty_seg.errors import ConfigError, DatasetError, UncertaintySegError  # noqa: E402
from uncertainty_seg.storage.folds import fold_of, read_folds  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402
from uncertainty_seg.training import recipes  # noqa: E402
from uncertainty_seg.training.encoders import ENCODERS  # noqa: E402
from uncertainty_seg.training.members import KINDS  # noqa: E402
from uncertainty_seg.training.networks import NO_DROPOUT  # noqa: E402
from uncertainty_seg.training.recipes import Recipe  # noqa: E402

pytestmark = pytest.mark.torch
tiny_recipe, without_imagenet = test_members.tiny_recipe, test_members.without_imagenet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images to train on and three more, as files."""
    data = toy(12, 6)
    for name in ('images', 'masks'):
        (tmp_path / 'data' / name).mkdir(parents=True)
    for stem, image, mask in zip(data.stems, data.images, data.masks, strict=True):
        image[0, 0] = int(stem)  # some of the toys are equal
        cv2.imwrite(str(tmp_path / 'data' / 'images' / f'{stem}.png'), image[..., ::-1])
        cv2.imwrite(str(tmp_path / 'data' / 'masks' / f'{stem}.png'), mask)
    splits = {'train': data.stems[:9], 'val': data.stems[9:]}
    (tmp_path / 'data' / 'splits.json').write_text(json.dumps(splits))
    (tmp_path / 'data' / 'classes.json').write_text(
        json.dumps({'classes': list(data.class_names)}))
    return tmp_path


def parsed(options: str = '', folder: Path = Path()) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train_model.add_arguments(parser)
    words = ['suim', '--data', str(folder / 'data'), '--imagenet', str(folder), '--weights',
             str(folder / 'net.pt'), '--out', str(folder / 'bundles' / 'one')]
    return parser.parse_args([*words, *shlex.split(options)])


def asked(options: str) -> Recipe:
    return train_model.plan_of(parsed(options))


def test_the_names_of_the_options_are_those_of_the_training() -> None:
    assert train_model.ENCODER_NAMES == tuple(ENCODERS)
    assert train_model.KINDS == KINDS


def test_options_become_the_recipe_that_they_say() -> None:
    plain = asked('')
    assert (plain.method, plain.passes, plain.run_dropout.sites) == ('mc_dropout', 20,
                                                                     {'head': 0.5})
    assert (plain.fit.epochs, plain.fit.small_epochs, plain.fit.seed) == (36, 26, 7)
    deep = asked('--dropout deep_encoder,head=0.4 --rate 0.2 --passes 8 --encoder lite2')
    assert deep.run_dropout.sites == {'head': 0.4, 'deep16': 0.2, 'deep32': 0.2}
    assert deep.train_dropout.sites == {**plain.train_dropout.sites, **deep.run_dropout.sites}
    assert (deep.passes, deep.encoder) == (8, 'lite2')
    less = asked('--rate 0.2')
    assert less.run_dropout.sites == {'head': 0.2} and less.train_dropout.sites['head'] == 0.2
    assert asked('--method error_propagation --rate 0.2').run_dropout.sites == {'head': 0.2}
    assert asked('--folds 3 --fold 2 --seed 10').fit.seed == 19
    assert (plain.fit.encoder_rate, plain.fit.iou_weight) == (0.4, 0)
    loss = asked('--encoder-rate 0.1 --iou-loss 1.5 --learning-rate 0.003').fit
    assert (loss.encoder_rate, loss.iou_weight, loss.learning_rate) == (0.1, 1.5, 0.003)
    bank = asked('--mask-bank 6')
    assert (bank.passes, bank.mask_bank) == (6, 6)
    single = asked('--method single')
    assert (single.method, single.passes, single.run_dropout) == ('single', 1, NO_DROPOUT)
    assert single.train_dropout == plain.train_dropout


def test_options_become_the_ensemble_that_they_say() -> None:
    plan = asked('--method deep_ensemble')
    assert (plan.ensemble.count, plan.passes, plan.run_dropout) == (4, 4, NO_DROPOUT)
    mixed = asked('--method deep_ensemble --members 3 --encoder lite0 mobilenet_v2 --bootstrap')
    assert mixed.ensemble.encoders == ('lite0', 'mobilenet_v2') and mixed.ensemble.has_bootstrap
    assert [mixed.ensemble.encoder(i, '') for i in range(3)] == ['lite0', 'mobilenet_v2', 'lite0']
    turns = asked('--method deep_ensemble --members 3 --encoder-rate 0.1 0.4 --iou-loss 0 1')
    fits = [turns.ensemble.fit(i, turns.fit) for i in range(3)]
    assert [(f.encoder_rate, f.iou_weight) for f in fits] == [(0.1, 0), (0.4, 1), (0.1, 0)]
    same = asked('--method deep_ensemble --encoder-rate 0.1 --iou-loss 1')
    assert same.ensemble.fit(1, same.fit) == same.fit and same.fit.iou_weight == 1
    both = asked('--method deep_ensemble --members 3 --kind decoders --dropout head')
    assert (both.passes, both.run_dropout.sites) == (21, {'head': 0.5})  # 20, rounded up
    assert asked('--method deep_ensemble --kind snapshots').fit.cycles == 4
    short = asked('--method deep_ensemble --kind decoders --member-epochs 5')
    assert (short.member_epochs, short.fit.epochs) == (5, 36)
    assert asked('--method deep_ensemble --encoder lite0').encoder == 'lite0'


@pytest.mark.parametrize('options, words', [
    ('--member-epochs 4', '--member-epochs with --method mc_dropout'),
    ('--method deep_ensemble --member-epochs 4', '--member-epochs for nets'),
    ('--members 3', '--members with --method mc_dropout'), ('--kind heads', '--kind with'),
    ('--bootstrap', '--bootstrap with'), ('--member 0', '--member with'),
    ('--encoder lite0 lite1', 'more than one --encoder with --method mc_dropout'),
    ('--encoder-rate 0.1 0.4', 'more than one --encoder-rate with --method mc_dropout'),
    ('--method single --iou-loss 0 1', 'more than one --iou-loss with --method single'),
    ('--method deep_ensemble --kind decoders --iou-loss 0 1', '2 weights of the IoU loss for '
     'decoders of one trunk'),
    ('--method deep_ensemble --members 2 --encoder-rate 0.1 0.2 0.4', '3 encoder rates for 2'),
    ('--method single --dropout head', '--dropout with --method single'),
    ('--method single --passes 3', '--passes with --method single'),
    ('--method deep_ensemble --passes 8', '--passes with --method deep_ensemble'),
    ('--method deep_ensemble --mask-bank 8', '--mask-bank with --method deep_ensemble'),
    ('--method deep_ensemble --dropout head --passes 9', '--passes 9 of 4 members'),
    ('--method deep_ensemble --members 1', 'an ensemble of 1, expected at least two'),
    ('--method deep_ensemble --kind snapshots --members 5', '36 epochs in 5 cycles'),
    ('--method deep_ensemble --kind decoders --dropout deep_encoder', 'dropout at deep16, deep32'),
    ('--mask-bank 8 --passes 9', '--passes 9 of 8 masks'),
    ('--dropout neck', "no place 'neck' for dropout"),
    *((f'--method {method} --rate 0.2', f'--rate without --dropout with --method {method}')
      for method in ('deep_ensemble', 'single', 'direct')),
])
def test_options_that_contradict_each_other_are_one_sentence(options: str, words: str) -> None:
    with pytest.raises(UncertaintySegError, match=words):
        asked(options)


def test_two_starts_are_refused_random_weights_among_them() -> None:
    with pytest.raises(ConfigError, match='--init and --imagenet, expected one of them'):
        train_model.start_of(parsed('--init none'))


@pytest.mark.parametrize('options', [
    '--encoder resnet', '--method packed', '--kind packed', '--rate 1', '--mask-bank 1',
    '--folds 1', '--members 0', '--split test'])
def test_values_that_are_none_end_with_misuse(options: str) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(options)
    assert caught.value.code == 2


def test_the_images_are_those_of_the_split_but_the_fold(folder: Path) -> None:
    assert train_model.training_images(parsed('', folder)).stems == [str(i) for i in range(9)]
    assert len(train_model.training_images(parsed('--split all', folder)).stems) == 12
    rule = fold_of([str(i) for i in range(12)], 3, 0)
    args = parsed('--split all --folds 3 --fold 1', folder)
    assert set(train_model.training_images(args).stems) == {s for s, k in rule.items() if k != 1}
    assert read_folds(folder / 'bundles' / 'folds.json') == rule
    with pytest.raises(DatasetError, match='folds.json divides the images in another way'):
        train_model.training_images(parsed('--split all --folds 4 --fold 1', folder))
    for options in ('--folds 3', '--fold 1'):
        with pytest.raises(ConfigError, match='one of --folds and --fold, expected both'):
            train_model.training_images(parsed(options, folder))


def test_folds_of_whole_dives_that_are_there_are_kept(folder: Path) -> None:
    """As crossfit writes them for a dataset, whose --train could not go on from there."""
    dives = {str(i): i // 4 for i in range(12)}
    place = folder / 'bundles' / 'folds.json'
    place.parent.mkdir()
    place.write_text(json.dumps(dives))
    args = parsed('--split all --folds 3 --fold 1', folder)
    rest, held = train_model.divided_images(args)
    assert held is not None and held.stems == ['4', '5', '6', '7']
    assert set(rest.stems) == {s for s, k in dives.items() if k != 1}
    assert read_folds(place) == dives
    for stems in ([*map(str, range(11)), 'x'], map(str, range(13))):  # others, and more
        place.write_text(json.dumps({stem: k % 3 for k, stem in enumerate(stems)}))
        with pytest.raises(DatasetError, match='folds.json divides the images in another way'):
            train_model.divided_images(args)


@pytest.mark.parametrize(('options', 'name', 'words'), [
    ('--folds 3 --fold 1', 'fold-2', 'fold-2 for the network without fold 1'),
    ('', 'fold-0', 'fold-0 for a network of all images'),
    ('--folds 3 --fold 1', 'fold-0-seed-4', 'fold-0 says which images the network never saw'),
    ('--folds 3 --fold 1', 'fold-1', ''), ('--folds 3 --fold 1', 'fold-1-seed-2', ''),
    ('', 'fold-like', ''),
])
def test_the_name_of_another_fold_is_refused(
    folder: Path, options: str, name: str, words: str
) -> None:
    args = parsed(f'--split all {options}', folder)
    args.out = folder / 'bundles' / name
    if words:
        with pytest.raises(ConfigError, match=words):
            train_model.divided_images(args)
    else:
        train_model.divided_images(args)


def test_an_image_of_the_fold_is_not_mixed_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network of the fold saw it, and calibrate judged it by that network."""
    monkeypatch.setattr(recipes, 'recipe', lambda name: tiny_recipe())
    held = min(stem for stem, k in fold_of([str(i) for i in range(12)], 3, 0).items() if k == 1)
    for name in ('images', 'masks'):
        (folder / 'more' / name).mkdir(parents=True)
        shutil.copy(folder / 'data' / name / f'{held}.png', folder / 'more' / name / 'twin.png')
    shutil.copy(folder / 'data' / 'classes.json', folder / 'more')
    assert main(['train', 'suim', '--data', str(folder / 'data'), '--imagenet', str(folder),
                 '--out', str(folder / 'bundles' / 'fold-1'), '--split', 'all', '--folds', '3',
                 '--fold', '1', '--mix', str(folder / 'more'), '--threads', '1']) == 2
    assert f"images of fold 1 are in the images to train on too, pixel for pixel ('{held}' is " \
        "'twin' there)" in capsys.readouterr().err


@pytest.mark.parametrize('is_all', [True, False])
def test_what_no_image_shows_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture, is_all: bool,
) -> None:
    """Of masks without a class it made a network, with a loss of 0.000."""
    monkeypatch.setattr(recipes, 'recipe', lambda name: tiny_recipe())
    for path in (folder / 'data' / 'masks').iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        mask[(mask == 1) | is_all] = 255
        cv2.imwrite(str(path), mask)
    words = ['train', 'suim', '--data', str(folder / 'data'), '--imagenet', str(folder),
             '--out', str(folder / 'made'), '--threads', '1']
    code, said = main(words), capsys.readouterr().err
    if is_all:
        assert code == 2 and 'no pixel of the 9 masks in' in said
    else:
        assert code == 0
        named = json.loads((folder / 'data' / 'classes.json').read_text())['classes'][1]
        assert f'no image to train on shows {named}: the network will not know it' in caplog.text


def test_one_command_makes_the_bundle_of_a_fold(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(recipes, 'recipe', lambda name: tiny_recipe())
    words = ['train', 'suim', '--data', str(folder / 'data'), '--imagenet', str(folder),
             '--weights', str(folder / 'net.pt'), '--out', str(folder / 'bundles' / 'f1'),
             '--split', 'all', '--folds', '3', '--fold', '1', '--threads', '1']
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told['images'], told['method'], told['passes']) == (8, 'mc_dropout', 4)
    card = load_bundle(str(folder / 'bundles' / 'f1')).card
    assert card.training.startswith('8 labelled images of data, 1 epochs of EfficientNet-Lite0')
    assert len(read_folds(folder / 'bundles' / 'folds.json')) == 12


@pytest.mark.release
@pytest.mark.parametrize(('options', 'passes', 'sites'), [
    ('single', 1, {}), ('direct', 1, {'noise': 'noise'}),
    ('direct --dropout head=0.5', 4, {'noise': 'noise', 'mask_decoder_drop_head': 'mask'}),
    ('error_propagation', 4, {'noise': 'noise'}),
])
def test_one_command_trains_each_method_of_one_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: str, passes: int,
    sites: dict[str, str],
) -> None:
    monkeypatch.setattr(recipes, 'recipe', lambda name: tiny_recipe())
    words = ['train', 'suim', '--data', str(folder / 'data'), '--imagenet', str(folder),
             '--weights', str(folder / 'net.pt'), '--out', str(folder / 'bundle'), '--threads',
             '1', '--method', *options.split()]
    assert main(words) == 0
    card = load_bundle(str(folder / 'bundle')).card
    assert (card.method, card.passes) == (options.split()[0], passes)
    assert {site.name: site.kind for site in card.dropout_sites} == sites
    assert card.feature_shape is not None
    with open_pipeline(load_bundle(str(folder / 'bundle')), Settings(backend='onnxruntime'),
                       temperature=1.0) as pipeline:
        image = cv2.imread(str(folder / 'data' / 'images' / '0.png'))
        maps = pipeline.measure(image).maps
    # Only dropout and propagated moments make passes that differ.
    assert (float(maps.mutual_information.max()) > 1e-6) == (passes > 1)


def test_a_member_alone_is_trained_and_makes_no_bundle(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(recipes, 'recipe', lambda name: tiny_recipe())
    words = ['train', 'suim', '--data', str(folder / 'data'), '--imagenet', str(folder),
             '--weights', str(folder / 'net.pt'), '--out', str(folder / 'bundle'), '--method',
             'deep_ensemble', '--members', '2', '--member', '1', '--threads', '1']
    assert main(words) == 0
    assert 'bundle' not in json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [p.name for p in folder.glob('*.pt')] == ['net.1.pt']
    assert not (folder / 'bundle').exists()
    assert main([*words[:-4], '--compile-only']) != 0
    assert 'no weights at' in capsys.readouterr().err
