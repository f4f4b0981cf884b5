# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Training from folders of images: results, resumed runs, and refusals."""

from collections.abc import Callable
from contextlib import closing
import dataclasses
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any
from unittest import mock
import zlib

from conftest import last_json
import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from test_fit import TinyNet, toy  # noqa: E402

from uncertainty_seg.backends.opening import open_pipeline  # noqa: E402
from uncertainty_seg.backends.registry import open_backend  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.core.calibration import image_digest  # noqa: E402
from uncertainty_seg.core.dropout_masks import pass_inputs  # noqa: E402
from uncertainty_seg.core.settings import Settings  # noqa: E402
from uncertainty_seg.errors import TrainingError  # noqa: E402
from uncertainty_seg.storage.labelled_folder import LabelledFolder, load_folder  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402
from uncertainty_seg.storage.review_record import FrameReview, write_review  # noqa: E402
from uncertainty_seg.training import train as train_module  # noqa: E402
from uncertainty_seg.training.batches import normalise  # noqa: E402
from uncertainty_seg.training.encoders import ENCODERS  # noqa: E402
from uncertainty_seg.training.init_weights import Taken  # noqa: E402
from uncertainty_seg.training.networks import (  # noqa: E402
    find_classifier,
    new_encoder,
    PyramidNet,
)
from uncertainty_seg.training.recipes import (  # noqa: E402
    NO_DROPOUT,
    read_recipe,
    TrainRecipe,
)
from uncertainty_seg.training.run_facts import Held  # noqa: E402
from uncertainty_seg.training.train import (  # noqa: E402
    fit_settings_of,
    free_threads,
    input_of,
    load_net,
    make_bundle,
    run_dropout_of,
    train_weights,
    TrainingImages,
    weights_files,
)

pytestmark = pytest.mark.torch
ROOT = Path(__file__).resolve().parents[2]
NET = """
import torch


class Own(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, stride=2, padding=1), torch.nn.ReLU())
        self.drop = torch.nn.Dropout2d(0.3)
        self.last = torch.nn.Conv2d(8, classes, 1)

    def forward(self, image):
        return self.last(self.drop(self.body(image)))


def build():
    return Own(3)


def build_two():
    return Own(2)


def build_wide():
    net = Own(3)
    net.more = torch.nn.Linear(2, 2)
    return net
"""


def write_data(folder: Path, data: LabelledFolder, **splits: slice) -> Path:
    for name in ('images', 'masks'):
        (folder / name).mkdir(parents=True)
    for number, (stem, image, mask) in enumerate(
            zip(data.stems, data.images, data.masks, strict=True)):
        image[0, 0] = (number, zlib.crc32(folder.name.encode()) % 256, 0)  # makes each unique
        cv2.imwrite(str(folder / 'images' / f'{stem}.png'), image[..., ::-1])
        cv2.imwrite(str(folder / 'masks' / f'{stem}.png'), mask)
    if splits:
        (folder / 'splits.json').write_text(json.dumps(
            {name: data.stems[part] for name, part in splits.items()}))
    (folder / 'classes.json').write_text(json.dumps({'classes': list(data.class_names)}))
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with twelve training images, four others, and a network's module."""
    write_data(tmp_path / 'reef', toy(16, 6), train=slice(0, 12), val=slice(12, 16))
    (tmp_path / 'own_net.py').write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def words(place: Path, *keys: str, out: str = 'made', data: str = 'reef') -> list[str]:
    return ['train', 'own', '--data', str(place / data), '--out', str(place / out), '--threads',
            '1', *sets('net=own_net:build', 'size=64x64', 'epochs=1', *keys)]


def sets(*keys: str) -> list[str]:
    return [word for key in keys for word in ('--set', key)]


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def test_a_network_of_ones_own_becomes_a_bundle_and_the_card_says_what_it_saw(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(place, 'epochs=3', 'note=Toys.', 'passes=5')) == 0
    said = last_json(capsys)
    assert (said['images'], said['epochs'], said['passes']) == (12, 3, 5)
    card = load_bundle(str(place / 'made')).card
    iou = said['val_mean_iou']
    for part in ('12 labelled images of reef, 3 epochs of own_net:build', f'{iou:.3f} on 4 others',
                 'Toys.'):
        assert part in card.training
    assert (card.name, card.class_names) == ('made', ('dark', 'bright', 'red'))
    ran = read_recipe(TrainRecipe, str(place / 'made.recipe.yaml'))
    assert (ran.epochs, ran.note, ran.size, ran.name) == (3, 'Toys.', (64, 64), 'made')
    # The IoU on the split val, computed independently with dropout off.
    from own_net import build

    net = build().eval()
    net.load_state_dict(weights_of(place / 'made.pt'))
    table = np.zeros((3, 3))
    with torch.no_grad():
        for stem in range(12, 16):
            image = cv2.imread(str(place / 'reef' / 'images' / f'{stem}.png'))
            mask = cv2.imread(str(place / 'reef' / 'masks' / f'{stem}.png'), 0)
            fitted = np.full((64, 64, 3), 114, np.uint8)
            fitted[10:53] = cv2.resize(image, (64, 43))[..., ::-1]
            logits = torch.nn.functional.interpolate(
                net(normalise(fitted[None])), (64, 64), mode='bilinear')
            label = logits[0, :, 10:53].argmax(0).byte().numpy()
            label = cv2.resize(label, (60, 40), interpolation=cv2.INTER_NEAREST_EXACT)
            np.add.at(table, (mask, label), 1)
    union = table.sum(0) + table.sum(1) - np.diag(table)
    known = union > 0
    assert iou == pytest.approx(float((np.diag(table)[known] / union[known]).mean()), abs=0.02)


def test_torch_waits_without_spinning_unless_a_user_wants_it() -> None:
    for given, does_spin in ({}, False), ({'OMP_WAIT_POLICY': 'ACTIVE'}, True):
        clean = {name: value for name, value in os.environ.items() if 'OMP_' not in name}
        done = subprocess.run(
            [sys.executable, '-c', 'import uncertainty_seg.training.train'], check=True,
            env={**clean, **given, 'OMP_DISPLAY_ENV': 'VERBOSE'}, capture_output=True, text=True)
        assert ("GOMP_SPINCOUNT = '0'" in done.stderr) != does_spin


@pytest.mark.parametrize(('cores', 'load', 'threads'), [
    (2, 0.1, 2), (2, 0.6, 1), (2, 3.0, 1), (16, 0.1, 2), (16, 14.2, 2), (16, 15.0, 1), (1, 0, 1)])
def test_threads_are_those_that_other_programs_leave(
    monkeypatch: pytest.MonkeyPatch, cores: int, load: float, threads: int
) -> None:
    monkeypatch.setattr(os, 'cpu_count', lambda: cores)
    monkeypatch.setattr(os, 'getloadavg', lambda: (load, 0.0, 0.0))
    assert free_threads() == threads


def test_a_stopped_run_says_that_the_same_command_goes_on_and_keeps_its_threads(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    command = [word for word in words(place, 'epochs=3') if word not in ('--threads', '1')]
    monkeypatch.setattr(train_module, 'free_threads', lambda: 1)
    stop = mock.Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(train_module, 'write_facts', stop)
    assert main(command) == 130 and 'from the beginning' in caplog.text
    stop.side_effect = [None, KeyboardInterrupt]
    assert main(command) == 130 and 'made.progress' in caplog.text
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(train_module, 'free_threads', lambda: 2)
    assert main(command) == 0
    assert torch.get_num_threads() == 1
    rows = (place / 'made.curves.csv').read_text().splitlines()
    assert [row.partition(',')[0] for row in rows] == ['epoch', '1', '2', '3']


def test_five_images_are_enough_and_a_warning_says_how_often_they_are_taken(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_data(place / 'five', toy(5, 2))
    assert main(words(place, data='five')) == 0
    assert '13 times' in caplog.text
    assert '5 labelled images of five' in load_bundle(str(place / 'made')).card.training


def test_several_folders_are_one_data_set_and_each_keeps_its_split(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(place / 'wreck', toy(7, 3))  # without splits.json all images are trained on
    both = ['--data', str(place / 'reef'), str(place / 'wreck')]
    assert main([*words(place), *both]) == 0
    assert last_json(capsys)['images'] == 19
    card = load_bundle(str(place / 'made')).card
    assert '19 labelled images of reef, wreck' in card.training and 'on 4 others' in card.training
    assert main([*words(place, 'split=all', out='all'), *both]) == 0
    assert last_json(capsys)['images'] == 23


def test_images_mixed_in_have_their_share_of_each_batch_and_the_card_says_so(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(place / 'wreck', toy(3, 3))
    more = ['--mix', str(place / 'wreck')]
    assert main([*words(place, 'batch=4', 'mix_share=0.25', out='mixed'), *more]) == 0
    assert last_json(capsys)['images'] == 15
    assert '1 of 4 images are of 3 labelled images of wreck' in \
        load_bundle(str(place / 'mixed')).card.training
    both = ['--data', str(place / 'reef'), str(place / 'wreck')]
    assert main([*words(place, 'batch=4', out='joined'), *both]) == 0
    assert not torch.equal(weights_of(place / 'mixed.pt')['last.weight'],
                           weights_of(place / 'joined.pt')['last.weight'])


def test_what_no_image_shows_is_said(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (place / 'reef' / 'masks').iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        mask[mask == 1] = 255
        cv2.imwrite(str(path), mask)
    assert main(words(place)) == 0
    assert 'bright' in caplog.text


def other_classes(place: Path) -> list[str]:
    data = dataclasses.replace(toy(4), class_names=('dark', 'bright', 'blue'))
    write_data(place / 'other', data)
    return ['--data', str(place / 'reef'), str(place / 'other')]


def mixed_classes(place: Path) -> list[str]:
    return ['--mix', *other_classes(place)[2:]]


def strange_id(place: Path) -> list[str]:
    cv2.imwrite(str(place / 'reef' / 'masks' / '3.png'), np.full((40, 60), 7, np.uint8))
    return []


def unknown_pixels(place: Path) -> list[str]:
    for path in (place / 'reef' / 'masks').iterdir():
        cv2.imwrite(str(path), np.full((40, 60), 255, np.uint8))
    return []


def in_both(place: Path) -> list[str]:
    """Write an image of val with the same pixels as a training image, in another encoding."""
    image = cv2.imread(str(place / 'reef' / 'images' / '3.png'))
    cv2.imwrite(str(place / 'reef' / 'images' / '13.png'), image,
                [cv2.IMWRITE_PNG_COMPRESSION, 0])
    return []


def no_val(place: Path) -> list[str]:
    (place / 'reef' / 'splits.json').unlink()
    return sets('patience=2')


def damaged_progress(place: Path) -> list[str]:
    (place / 'made.progress').write_bytes(b'PK\3\4 cut short')
    return []


def unreviewed(place: Path) -> list[str]:
    write_review(place / 'reef', {str(k): FrameReview(k > 6, 'corrected', 'control')
                                  for k in range(16)})
    return []


def given(*more: str) -> Callable[[Path], list[str]]:
    return lambda place: [word.format(place=place) for word in more]


@pytest.mark.parametrize(('spoil', 'named'), [
    (other_classes, 'blue'), (mixed_classes, 'blue'), (strange_id, '7'), (in_both, "'13'"),
    (unknown_pixels, '12 masks'), (unreviewed, '7 of 12'), (no_val, 'patience 2'),
    (damaged_progress, 'made.progress'),
    (given('--out', '{place}/reef'), 'reef'), (given('--init', '{place}/own_net.py'), 'own_net'),
    (given('--init', 'pipeline'), 'pipeline'), (given('--data', '{place}/nothing'), 'nothing'),
    (given(*sets('net=own_net:build_two')), '2 channels'),
    (given(*sets('net=own_net:nothing')), "'nothing'"),
    (given(*sets('method=error_propagation')), 'error_propagation'),
    (given(*sets('epoch=1')), 'epochs'), (given(*sets('net=')), 'start'),
])
def test_what_cannot_be_trained_is_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], spoil: Any, named: str
) -> None:
    more = spoil(place)
    assert main([*words(place), *more]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert named in said and 'Traceback' not in said
    assert not (place / 'made').exists()
    assert not list(place.glob('*.pt'))


def test_the_card_names_the_images_trained_on_and_those_that_chose_the_epoch(
    place: Path
) -> None:
    for patience in (0, 5):
        assert main(words(place, f'patience={patience}', out=str(patience))) == 0
        card = load_bundle(str(place / str(patience))).card
        parts = [load_folder(place / 'reef', split) for split in ('train', 'val')]
        train, val = ({image_digest(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
                       for image in data.images} for data in parts)
        assert {*card.seen_images} == (train | val if patience else train)


def test_images_that_come_again_count_once(
    place: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    reef = place / 'reef'
    assert main(words(place, out='once')) == 0
    assert main([*words(place, out='twice'), '--data', str(reef), f'{reef}/../reef']) == 0
    listed = json.loads((reef / 'splits.json').read_text())
    for name in ('images', 'masks'):
        shutil.copy(reef / name / '3.png', reef / name / 'three.png')
        shutil.copy(reef / name / '14.png', reef / name / 'more.png')
    again = {'train': [*listed['train'], '3', 'three'], 'val': [*listed['val'], '14', 'more']}
    (reef / 'splits.json').write_text(json.dumps(again))
    assert main(words(place, out='thrice')) == 0
    assert 'three' in caplog.text
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith('{')]
    assert [json.loads(line)['images'] for line in said] == [12] * 3
    for name in ('twice', 'thrice'):
        assert_same(weights_of(place / f'{name}.pt'), weights_of(place / 'once.pt'))


# --- resumed runs ---------------------------------------------------------------------------


def other_image(place: Path) -> list[str]:
    image = cv2.imread(str(place / 'reef' / 'images' / '3.png'))
    image[7, 7, 1] ^= 1
    cv2.imwrite(str(place / 'reef' / 'images' / '3.png'), image)
    return []


def other_mask(place: Path) -> list[str]:
    mask = cv2.imread(str(place / 'reef' / 'masks' / '3.png'), 0)
    mask[0, 0] = 2
    cv2.imwrite(str(place / 'reef' / 'masks' / '3.png'), mask)
    return []


def other_val(place: Path) -> list[str]:
    splits = json.loads((place / 'reef' / 'splits.json').read_text())
    (place / 'reef' / 'splits.json').write_text(json.dumps({**splits, 'val': splits['val'][1:]}))
    return []


def own_start(place: Path) -> list[str]:
    torch.save(weights_of(place / 'made.pt'), place / 'start.pt')
    return ['--init', str(place / 'start.pt')]


def changed_net(place: Path) -> list[str]:
    """Replace the network by another one of the same name."""
    sys.modules['own_net'].build = sys.modules['own_net'].build_wide
    return []


def junk(content: object) -> Callable[[Path], list[str]]:
    def write(place: Path) -> list[str]:
        torch.save(content, place / 'made.progress')
        return []
    return write


@pytest.mark.parametrize(('change', 'named'), [
    (other_image, 'images'), (other_mask, 'images'), (other_val, 'val'), (own_start, 'start'),
    (given(*sets('net=own_net:build_wide')), 'network'), (changed_net, 'weights'),
    (given(*sets('size=96x64')), 'recipe'), (given(*sets('learning_rate=0.5')), 'recipe'),
    (given(*sets('iou_loss=1')), 'recipe'), (junk({}), 'progress'), (junk({'epochs': 1}), 'prog'),
])
def test_what_is_another_run_does_not_go_on_from_the_file_of_the_first(
    place: Path, capsys: pytest.CaptureFixture[str], change: Any, named: str
) -> None:
    assert main(words(place)) == 0
    kept = {path.name: path.read_bytes() for path in place.glob('made.*')
            if path.suffix not in ('.progress', '.yaml')}
    more = change(place)
    assert main([*words(place), *more]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert 'made.progress' in said and named in said
    assert {name: (place / name).read_bytes() for name in kept} == kept


def test_the_same_run_goes_on_and_trains_nothing_again(place: Path) -> None:
    torch.save(__import__('own_net').build().state_dict(), place / 'start.pt')
    command = [*words(place), '--init', str(place / 'start.pt')]
    assert main(command) == 0
    written = (place / 'made.pt').stat().st_mtime_ns
    assert main(command) == 0
    assert (place / 'made.pt').stat().st_mtime_ns == written
    assert 'weights start.pt' in load_bundle(str(place / 'made')).card.training


@pytest.mark.parametrize('content', ['[1]', '"all"', '{}', '{"images": 1'])
def test_facts_that_are_none_are_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    assert main(words(place)) == 0
    (place / 'made.facts.json').write_text(content)
    assert main([*words(place), '--compile-only']) == 2
    assert 'made.facts.json' in capsys.readouterr().err.splitlines()[-1]
    (place / 'made.facts.json').unlink()
    assert main([*words(place), '--compile-only']) == 0
    assert 'not known' in load_bundle(str(place / 'made')).card.training


def test_the_classifier_is_the_layer_whose_bias_moves_the_logits() -> None:
    spec = input_of(TrainRecipe(size=(64, 64)))
    assert find_classifier(TinyNet(), 3, spec) == 'classifier'

    class Squashed(TinyNet):

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image).softmax(1)

    assert find_classifier(Squashed(), 3, spec) == ''
    net = TinyNet()
    before = net.classifier.bias.clone()
    find_classifier(net, 3, spec)
    torch.testing.assert_close(net.classifier.bias, before)


def test_held_out_images_without_a_known_pixel_give_no_iou() -> None:
    data = toy(2)
    blank = dataclasses.replace(data, masks=[np.full_like(m, 255) for m in data.masks])
    held = Held(blank, input_of(TrainRecipe(size=(64, 64))))
    assert np.isnan(held.mean_iou(TinyNet().eval()))


# --- the included architecture --------------------------------------------------------------

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
DATA = TrainingImages(toy(8))


def tiny(**keys: Any) -> TrainRecipe:
    """Return a recipe for small images and two steps per epoch."""
    return TrainRecipe(**{'encoder': 'lite0', 'frozen_layers': 6, 'size': (64, 64), 'epochs': 1,
                          'crop': (64, 64), 'batch': 4, 'colour': 0.0, 'paste_share': 0.0, **keys})


def start(encoder: str = 'lite0') -> Taken:
    """Return a randomly initialized encoder instead of ImageNet's."""
    torch.manual_seed(99)
    net = new_encoder(encoder)
    for weights in net.parameters():
        if weights.dim() == 4:
            torch.nn.init.kaiming_normal_(weights, mode='fan_out')
    return Taken({f'encoder.{name}': value for name, value in net.state_dict().items()}, encoder,
                 source='a draw')


def states(recipe: TrainRecipe, weights: Path) -> list[dict[str, torch.Tensor]]:
    return [weights_of(file) for file in weights_files(recipe, weights)]


def settle(weights: Path, encoder: str) -> None:
    """Set the norms to the image's statistics, since after two steps most outputs are 0."""
    net = load_net(weights, 3, NO_DROPOUT, encoder)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(normalise(np.concatenate([IMAGE, IMAGE[:, ::-1]])))
    torch.save(net.state_dict(), weights)


@pytest.mark.parametrize('second', ['lite0', 'mobilenet_v2'])
def test_members_of_an_ensemble_share_what_is_frozen_and_are_the_passes(
    tmp_path: Path, second: str
) -> None:
    each = ({}, {'encoder': second, 'epochs': 2})
    recipe = tiny(method='deep_ensemble', members=2, each=each)
    train_weights(recipe, DATA, tmp_path / 'net.pt', (start(), start(second)), 1)
    one, two = states(recipe, tmp_path / 'net.pt')
    frozen = tuple(f'encoder.{i}.' for i in range(ENCODERS['lite0'].taps[1] + 1))
    if second == 'lite0':
        assert all(torch.equal(one[name], two[name]) for name in one if name.startswith(frozen))
    assert not torch.equal(one['decoder.classifier.weight'], two['decoder.classifier.weight'])
    files = weights_files(recipe, tmp_path / 'net.pt')
    encoders = dict(zip(files, ('lite0', second), strict=True))
    for file, encoder in encoders.items():
        settle(file, encoder)
    card = make_bundle(recipe, DATA.train, tmp_path / 'net.pt', tmp_path / 'bundle')
    assert (card.method, card.members, card.passes) == ('deep_ensemble', 2, 2)
    assert ('2 epochs' in card.training) is (recipe.of_member(0).epochs != 2)
    assert '8 labelled images' in card.training and all(
        ENCODERS[name].title in card.training for name in encoders.values())
    assert all(ENCODERS[name].licence in card.license for name in encoders.values())
    inputs = pass_inputs(card, 2, 0)
    with closing(open_backend('onnxruntime', load_bundle(tmp_path / 'bundle'),
                              Settings(threads=1))) as backend:
        alone_in = [{name: np.asarray(rows)[k:k + 1] for name, rows in inputs.items()}
                    for k in range(2)]
        logits = np.stack([backend.run(IMAGE[0], masks, 1.0).logits for masks in alone_in])
    for index, (file, encoder) in enumerate(encoders.items()):
        with torch.no_grad():
            alone = load_net(file, 3, NO_DROPOUT, encoder)(normalise(IMAGE)).numpy()
        # A network trained for two steps amplifies the rounding of the graphs' 16-bit weights.
        assert np.abs(logits[index] - alone[0]).mean() < 0.2 * alone.std()
    assert np.abs(logits[0] - logits[1]).mean() > 0.4 * logits.std()
    torch.save(PyramidNet(4, NO_DROPOUT, 'lite0').state_dict(), tmp_path / 'net.1.pt')
    with pytest.raises(TrainingError, match=r'decoder\.classifier'):
        make_bundle(recipe, DATA.train, tmp_path / 'net.pt', tmp_path / 'other')


def test_a_recipe_comes_to_the_settings_that_it_says() -> None:
    suim = read_recipe(TrainRecipe, 'suim')
    one, two = fit_settings_of(suim, 0), fit_settings_of(suim, 1)
    assert (one.epochs, one.small_epochs, one.encoder_rate, one.iou_weight) == (36, 26, 0.1, 0)
    assert (two.epochs, two.small_epochs, two.iou_weight) == (24, 17, 1)
    assert two.seed == one.seed + 1000
    assert one.augmentation.crop == (288, 224)
    pipeline = fit_settings_of(read_recipe(TrainRecipe, 'pipeline'))
    assert (pipeline.epochs, pipeline.small_epochs, pipeline.draw_power) == (16, 11, 0)
    assert fit_settings_of(TrainRecipe(size=(64, 64))).augmentation.crop == (64, 64)
    assert [run_dropout_of(recipe).head for recipe in (
        TrainRecipe(), TrainRecipe(method='single'), TrainRecipe(dropout=0.2))] == [0.5, 0, 0.2]


@pytest.mark.release
@pytest.mark.parametrize(('keys', 'passes', 'sites'), [
    (('method=single',), 1, {}),
    (('method=error_propagation', 'passes=4'), 4, {'noise': 'noise'}),
])
def test_one_command_trains_each_method_of_one_network(
    place: Path, keys: tuple[str, ...], passes: int, sites: dict[str, str]
) -> None:
    assert main([*words(place, 'net=', 'encoder=lite0', *keys), '--init', 'none']) == 0
    bundle = load_bundle(str(place / 'made'))
    card = bundle.card
    assert (f'method={card.method}', card.passes) == (keys[0], passes)
    assert {site.name: site.kind for site in card.dropout_sites} == sites
    assert card.feature_shape is not None
    with open_pipeline(bundle, temperature=1.0, backend='onnxruntime') as pipeline:
        image = cv2.imread(str(place / 'reef' / 'images' / '0.png'))
        maps = pipeline.measure(image).maps
    # Passes differ only with dropout and with propagated moments.
    assert (float(maps.mutual_information.max()) > 1e-6) == (passes > 1)
