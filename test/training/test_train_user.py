# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Train with images and a network of one's own: stopped, killed, diverged, and what is kept."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time
from typing import Any
import zlib

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from test_fit import PLAIN, TinyNet, toy  # noqa: E402
import test_members  # noqa: E402

from uncertainty_seg.backends.registry import open_pipeline  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.core.model_card import DropoutSite  # noqa: E402
from uncertainty_seg.core.settings import Settings  # noqa: E402
from uncertainty_seg.errors import TrainingError  # noqa: E402
from uncertainty_seg.storage.labelled_folder import LabelledFolder  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402
from uncertainty_seg.training import recipes  # noqa: E402
from uncertainty_seg.training.fit.augmentation import normalise  # noqa: E402
from uncertainty_seg.training.fit.loop import affordable_epochs, fit  # noqa: E402
from uncertainty_seg.training.fit.run import finished_epochs, FitSettings, Row, Watch  # noqa: E402
from uncertainty_seg.training.init_weights import (  # noqa: E402
    load_what_fits,
    measure_norms,
    read_bundle,
    read_weights,
    Taken,
)
from uncertainty_seg.training.members import EnsemblePlan  # noqa: E402
from uncertainty_seg.training.networks import DropoutPlan, PyramidNet  # noqa: E402
from uncertainty_seg.training.recipes import load_net, make_bundle, train_weights  # noqa: E402
from uncertainty_seg.training.run_facts import find_classifier, Held, read_facts  # noqa: E402

pytestmark = pytest.mark.torch
without_imagenet = test_members.without_imagenet
ROOT = Path(__file__).resolve().parents[2]
NET = """
import os
import time
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
        if self.training:
            time.sleep(float(os.environ.get('OWN_NET_SLEEP_S', 0)))
        return self.last(self.drop(self.body(image)))


def build():
    return Own(3)


def build_two():
    return Own(2)


class Hopeless(Own):
    def forward(self, image):
        return super().forward(image) * (float('nan') if self.training else 1.0)


def build_hopeless():
    return Hopeless(3)


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
        image[0, 0] = (number, zlib.crc32(folder.name.encode()) % 256, 0)  # some toys are equal
        cv2.imwrite(str(folder / 'images' / f'{stem}.png'), image[..., ::-1])
        cv2.imwrite(str(folder / 'masks' / f'{stem}.png'), mask)
    if splits:
        (folder / 'splits.json').write_text(json.dumps(
            {name: data.stems[part] for name, part in splits.items()}))
    (folder / 'classes.json').write_text(json.dumps({'classes': list(data.class_names)}))
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve images to train on, four more, and the module of a network."""
    write_data(tmp_path / 'reef', toy(16, 6), train=slice(0, 12), val=slice(12, 16))
    (tmp_path / 'own_net.py').write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def words(place: Path, *more: object, out: str = 'made', data: str = 'reef') -> list[str]:
    return ['train', 'own', '--data', str(place / data), '--net', 'own_net:build', '--size',
            '64x64', '--out', str(place / out), '--threads', '1', *map(str, more)]


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def test_a_network_of_ones_own_becomes_a_bundle_and_the_card_says_what_it_saw(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(place, '--epochs', 3, '--note', 'Toys.', '--passes', 5)) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told['images'], told['epochs'], told['passes']) == (12, 3, 5)
    card = load_bundle(str(place / 'made')).card
    iou = told['val_mean_iou']
    assert card.training == (
        '12 labelled images of reef, 3 epochs of own_net:build, started from what own_net:build '
        f'builds. Mean IoU {iou:.3f} on 4 others. Toys.')
    assert (card.name, card.class_names) == ('made', ('dark', 'bright', 'red'))
    # The IoU is that of the bundle on the split val, by another road: its masks off, T of 1.
    from own_net import build

    net = build().eval()
    net.load_state_dict(weights_of(place / 'made.pt'))
    table = np.zeros((3, 3))
    with open_pipeline(load_bundle(str(place / 'made')), Settings(backend='onnxruntime'),
                       temperature=1.0) as pipeline, torch.no_grad():
        for stem in range(12, 16):
            image = cv2.imread(str(place / 'reef' / 'images' / f'{stem}.png'))
            mask = cv2.imread(str(place / 'reef' / 'masks' / f'{stem}.png'), 0)
            result = pipeline.measure(image)
            assert result.maps.label.shape == (64, 64)
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


def test_a_dataset_trains_to_the_weights_of_its_folder_and_the_card_has_its_version(
    place: Path
) -> None:
    stems = [f'{number:02}' for number in range(16)]  # whose order is that of a dataset
    for number, stem in enumerate(stems):
        image = cv2.imread(str(place / 'reef' / 'images' / f'{number}.png'))
        image[0, 0] = number  # some of the toys are equal
        cv2.imwrite(str(place / 'reef' / 'images' / f'{stem}.png'), image)
        mask = place / 'reef' / 'masks' / f'{number}.png'
        mask.rename(mask.with_stem(stem))
    (place / 'reef' / 'splits.json').write_text(
        json.dumps({'train': stems[:12], 'val': stems[12:]}))
    assert main(['dataset', 'init', str(place / 'data')]) == 0
    assert main(['dataset', 'add', str(place / 'data'), str(place / 'reef'), '--split',
                 'given']) == 0
    assert main(words(place, '--epochs', 2)) == 0
    assert main(words(place, '--epochs', 2, out='grown', data='data')) == 0
    assert_same(weights_of(place / 'grown.pt'), weights_of(place / 'made.pt'))
    card = load_bundle(str(place / 'grown')).card
    assert '12 labelled images of data (version 1), 2 epochs' in card.training


@pytest.mark.release
def test_a_run_killed_in_an_epoch_gives_the_weights_of_one_that_was_not(place: Path) -> None:
    epochs = ('--epochs', 4)
    assert main(words(place, *epochs, out='whole')) == 0
    environment = {**os.environ, 'OWN_NET_SLEEP_S': '0.4', 'OMP_NUM_THREADS': '1',
                   'PYTHONPATH': os.pathsep.join([str(place), str(ROOT)])}
    process = subprocess.Popen(
        [sys.executable, '-m', 'uncertainty_seg', *words(place, *epochs)], env=environment,
        cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    progress, deadline_s = place / 'made.progress', time.monotonic() + 120
    while not progress.is_file():
        assert process.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.02)
    time.sleep(0.5)  # into the first step of the next epoch, which takes 0.4 s
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 <= finished_epochs(progress) < 4 and not (place / 'made').exists()
    assert main(words(place, *epochs)) == 0
    assert_same(weights_of(place / 'made.pt'), weights_of(place / 'whole.pt'))
    rows = [list(csv.DictReader((place / f'{name}.curves.csv').open())) for name in
            ('made', 'whole')]
    assert [[(row['epoch'], row['loss'], row['val_mean_iou']) for row in part] for part in rows] \
        == [[(row['epoch'], row['loss'], row['val_mean_iou']) for row in rows[1]]] * 2
    assert [row['epoch'] for row in rows[0]] == ['1', '2', '3', '4']
    assert '4 epochs' in load_bundle(str(place / 'made')).card.training
    assert '<img src="data:image/svg+xml' in (place / 'made.curves.html').read_text()


class Fragile(TinyNet):
    """Its square root is no number once large steps have moved the scale far."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) / (1.5 - self.scale.square()).sqrt()


def test_a_loss_that_is_no_number_goes_back_and_on_at_a_lower_rate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[Row] = []
    watch = Watch(on_rows=lambda all_rows: rows.__setitem__(slice(None), all_rows))
    settings = FitSettings(epochs=6, batch=4, learning_rate=4.0, averaging=0.5, seed=1,
                           augmentation=PLAIN)
    torch.manual_seed(0)
    net = fit(Fragile(), toy(), settings, progress=tmp_path / 'run.progress', watch=watch)
    assert all(bool(value.isfinite().all()) for value in net.state_dict().values())
    noted = [row for row in rows if row['note']]
    assert noted and 'back to the end of epoch' in noted[0]['note']
    assert 'at a tenth of the rate' in caplog.text
    assert [row['epoch'] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(float(row['loss'])) for row in rows)
    # It stays slower, also for who goes on from the file.
    saved = torch.load(tmp_path / 'run.progress', weights_only=True)
    assert saved['returns'] >= len(noted)
    assert max(group['max_lr'] for group in saved['optimiser']['param_groups']) == pytest.approx(
        4.0 * 0.1 ** saved['returns'])


class Hopeless(TinyNet):

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) * (math.nan if self.training else 1.0)


def test_a_loss_that_is_never_a_number_ends_in_a_sentence() -> None:
    settings = FitSettings(epochs=2, batch=4, augmentation=PLAIN)
    with pytest.raises(TrainingError, match='the loss of epoch 1 is not a number, for the 5th '
                       'time, expected a loss that falls: give a smaller --learning-rate'):
        fit(Hopeless(), toy(), settings)


def test_images_without_a_known_pixel_are_no_divergence() -> None:
    data = toy()
    blank = dataclasses.replace(data, masks=[np.full_like(mask, 255) if k % 2 else mask
                                             for k, mask in enumerate(data.masks)])
    settings = FitSettings(epochs=2, batch=1, augmentation=PLAIN)
    rows: list[Row] = []
    fit(TinyNet(), blank, settings, watch=Watch(on_rows=lambda r: rows.extend(r[-1:])))
    assert [row['note'] for row in rows] == ['', '']
    assert all(float(row['loss']) > 0 for row in rows)


def test_patience_ends_the_run_and_keeps_the_best_epoch() -> None:
    ious = iter([0.2, 0.5, 0.4, 0.5, 0.3, 0.9, 0.9])
    settings = FitSettings(epochs=7, batch=4, learning_rate=2e-2, augmentation=PLAIN)
    kept: list[torch.nn.Module] = []
    rows: list[Row] = []
    averages: list[dict[str, torch.Tensor]] = []

    def measure(average: torch.nn.Module) -> float:
        averages.append({k: v.clone() for k, v in average.state_dict().items()})
        return next(ious)

    watch = Watch(measure, patience=3, on_rows=lambda r: rows.extend(r[-1:]))
    net = fit(TinyNet(), toy(), settings, lambda _e, _l, net: kept.append(net), watch=watch)
    assert len(rows) == 5  # three after the second, of which an equal one is no better
    assert_same(dict(net.state_dict()), averages[1])
    assert not torch.equal(averages[1]['classifier.weight'], averages[4]['classifier.weight'])


def test_a_budget_is_kept_by_fewer_epochs_whose_rate_falls_to_the_end(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data, settings = toy(), FitSettings(epochs=50, batch=4, augmentation=PLAIN)
    torch.manual_seed(3)
    assert affordable_epochs(TinyNet(), data, settings, 1e9) == 50
    assert affordable_epochs(TinyNet(), data, settings, 0.0) == 1
    assert main(words(place, '--epochs', 40, '--budget', 1e-6)) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told['epochs'] == 1
    saved = torch.load(place / 'made.progress', weights_only=True)
    assert saved['schedule']['total_steps'] == saved['schedule']['last_epoch']
    facts = read_facts(place / 'made.pt')
    assert facts is not None and (facts.is_finished, facts.asked, facts.epochs) == (True, 40, 1)
    # The same command later has nothing to do, however much time there is now.
    assert main(words(place, '--epochs', 40, '--budget', 100)) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])['epochs'] == 1


def test_five_images_are_enough_and_a_warning_says_how_often_they_are_taken(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_data(place / 'five', toy(5, 2))
    assert main(words(place, '--epochs', 2, data='five')) == 0
    assert '5 training images: each is taken 13 times an epoch' in caplog.text
    assert load_bundle(str(place / 'made')).card.training.startswith(
        '5 labelled images of five, 2 epochs of own_net:build')


def test_several_folders_are_one_data_set_and_each_keeps_its_split(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(place / 'wreck', toy(7, 3))  # no splits.json: all of it is trained on
    both = ['--data', str(place / 'reef'), str(place / 'wreck')]
    assert main([*words(place, '--epochs', 1), *both]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])['images'] == 19
    card = load_bundle(str(place / 'made')).card
    assert card.training.startswith('19 labelled images of reef, wreck, 1 epochs')
    assert 'on 4 others' in card.training


def other_classes(place: Path) -> list[str]:
    data = dataclasses.replace(toy(4), class_names=('dark', 'bright', 'blue'))
    write_data(place / 'other', data)
    return ['--data', str(place / 'reef'), str(place / 'other')]


def strange_id(place: Path) -> list[str]:
    cv2.imwrite(str(place / 'reef' / 'masks' / '3.png'), np.full((40, 60), 7, np.uint8))
    return []


def in_both(place: Path) -> list[str]:
    """Another file and another mask, of the same pixels."""
    image = cv2.imread(str(place / 'reef' / 'images' / '3.png'))
    cv2.imwrite(str(place / 'reef' / 'images' / '13.png'), image,
                [cv2.IMWRITE_PNG_COMPRESSION, 0])
    return []


def splits(content: object) -> Any:
    def write(place: Path) -> list[str]:
        (place / 'reef' / 'splits.json').write_text(json.dumps(content))
        return []
    return write


def no_val(place: Path) -> list[str]:
    (place / 'reef' / 'splits.json').unlink()
    return ['--patience', '2']


def damaged_progress(place: Path) -> list[str]:
    (place / 'made.progress').write_bytes(b'PK\3\4 cut short')
    return []


@pytest.mark.parametrize(('spoil', 'sentence'), [
    (other_classes, 'has the classes dark, bright, blue (ignored: 255), and'),
    (strange_id, "the mask of '3' in {place}/reef has the class id 7, expected ids from 0 to 2"),
    (in_both, "1 of 4 images of the split val are in train too, pixel for pixel ('13' is '3' "
     'there), expected other images to measure on: take them out of one of the two in splits.'),
    (splits({'train': {'a': 1}}), "split 'train' of {place}/reef/splits.json is no list, expected "
     'a list of file names without ending'),
    (splits({'train': 'f0'}), "split 'train' of {place}/reef/splits.json is no list"),
    (splits({'train': 7}), "split 'train' of {place}/reef/splits.json is no list"),
    (splits({'train': ['3', ['4']]}), "splits.json holds ['4'], which is no name, expected"),
    (lambda place: ['--out', str(place / 'reef')], '{place}/reef exists and holds no card.json, '
     'expected a new folder, or that of a bundle'),
    (lambda place: ['--init', str(place / 'own_net.py')], 'is no file of torch.save'),
    (lambda place: ['--data', str(place / 'nothing')], '{place}/nothing/splits.json is missing'),
    (no_val, '--patience without images to measure on, expected a split val'),
    (damaged_progress, 'made.progress is damaged or no progress of a run'),
    (lambda place: ['--net', 'own_net:build_two'], 'own_net:build_two gives 2 channels, expected '
     '3, one for each of dark, bright, red'),
    (lambda place: ['--net', 'own_net:nothing'], "has no function 'nothing'"),
    (lambda place: ['--size', '65x64'], '--size 65x64, expected multiples of 32'),
    (lambda place: ['--method', 'direct'], '--method direct with --net'),
    (lambda place: ['--rate', '0.2'], '--rate with --net'),
    (lambda place: ['--encoder-rate', '0.1'], '--encoder-rate with --net'),
    (lambda place: ['--init', 'pipeline'], '--init pipeline for a network of --net, expected a '
     'file of its weights'),
])
def test_what_cannot_be_trained_is_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], spoil: Any, sentence: str
) -> None:
    more = spoil(place)
    assert main([*words(place, '--epochs', 1), *more]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert sentence.format(place=place) in said and 'Traceback' not in said
    assert not (place / 'made').exists()
    assert not list(place.glob('*.pt'))


def test_a_recipe_that_does_not_exist_is_misuse_and_a_loss_without_a_number_is_not(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(place, '--epochs', 1)
    assert main([command[0], 'mine', *command[2:]]) == 2
    assert "no recipe 'mine', expected one of" in capsys.readouterr().err
    assert main([*command, '--net', 'own_net:build_hopeless']) == 1
    assert 'the loss of epoch 1 is not a number' in capsys.readouterr().err


def test_the_card_says_that_an_epoch_was_chosen_even_if_it_is_the_last(place: Path) -> None:
    for patience in ('0', '5'):
        assert main(words(place, '--epochs', 1, '--patience', patience, out=patience)) == 0
        card = load_bundle(str(place / patience)).card
        assert ('on 4 others, on which epoch 1 was chosen.' in card.training) == (patience == '5')
        assert card.has_chosen_epoch == (patience == '5')


def test_images_that_come_again_count_once(
    place: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    reef = place / 'reef'
    assert main(words(place, '--epochs', 1, out='once')) == 0
    twice = ['--data', str(reef), f'{reef}/../reef']
    assert main([*words(place, '--epochs', 1, out='twice'), *twice]) == 0
    assert '--data names the same folder more than once: it counts once' in caplog.text
    listed = json.loads((reef / 'splits.json').read_text())
    for name in ('images', 'masks'):
        shutil.copy(reef / name / '3.png', reef / name / 'three.png')
        shutil.copy(reef / name / '14.png', reef / name / 'more.png')
    again = {'train': [*listed['train'], '3', 'three'], 'val': [*listed['val'], '14', 'more']}
    (reef / 'splits.json').write_text(json.dumps(again))
    assert main(words(place, '--epochs', 1, out='thrice')) == 0
    assert "names '3' more than once: each counts once" in caplog.text
    assert '1 of 13 images are there before, pixel for pixel with their masks, and are left ' \
        'out: three' in caplog.text
    assert '1 of 5 images are there before' in caplog.text
    shutil.copytree(reef, place / 'copy')
    both = ['--data', str(reef), str(place / 'copy')]
    assert main([*words(place, '--epochs', 1, out='copied'), *both]) == 0
    for line in capsys.readouterr().out.splitlines():
        assert json.loads(line)['images'] == 12
    for name in ('twice', 'thrice', 'copied'):
        assert_same(weights_of(place / f'{name}.pt'), weights_of(place / 'once.pt'))
        assert 'on 4 others' in load_bundle(str(place / name)).card.training


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


def more_images(place: Path) -> list[str]:
    write_data(place / 'wreck', toy(7, 3))
    return ['--data', str(place / 'reef'), str(place / 'wreck')]


def own_start(place: Path) -> list[str]:
    torch.save(weights_of(place / 'made.pt'), place / 'start.pt')
    return ['--init', str(place / 'start.pt')]


def changed_net(place: Path) -> list[str]:
    """Another network of the same name."""
    sys.modules['own_net'].build = sys.modules['own_net'].build_wide
    return []


def junk(content: object) -> Any:
    def write(place: Path) -> list[str]:
        torch.save(content, place / 'made.progress')
        return []
    return write


@pytest.mark.parametrize(('change', 'sentence'), [
    (other_image, 'is of a run with other training images'),
    (other_mask, 'is of a run with other training images'),
    (more_images, 'is of a run with other training images'),
    (other_val, 'is of a run with other images of the split val'),
    (own_start, 'is of a run with the start what own_net:build builds, not the weights start.pt'),
    (lambda place: ['--net', 'own_net:build_wide'],
     'is of a run with the network own_net:build, not own_net:build_wide'),
    (changed_net, 'is of a run with weights that do not fit this network'),
    (lambda place: ['--size', '96x64'], 'is of a run with the input 64x64, not 96x64'),
    (lambda place: ['--learning-rate', '0.5'],
     'is of a run with the learning rate 0.002, not 0.5'),
    (lambda place: ['--iou-loss', '1'], 'is of a run with the iou weight 0.0, not 1.0'),
    (junk({}), 'is damaged or no progress of a run'), (junk([1]), 'is damaged or no progress'),
    (junk({'epochs': 1}), 'is damaged or no progress of a run'),
])
def test_what_is_another_run_does_not_go_on_from_the_file_of_the_first(
    place: Path, capsys: pytest.CaptureFixture[str], change: Any, sentence: str
) -> None:
    assert main(words(place, '--epochs', 1)) == 0
    kept = {path.name: path.read_bytes() for path in place.glob('made.*')
            if path.suffix != '.progress'}
    more = change(place)
    assert main([*words(place, '--epochs', 1), *more]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f'{place}/made.progress {sentence}' in said and 'to begin anew.' in said
    assert {name: (place / name).read_bytes() for name in kept} == kept


def test_another_start_of_the_same_name_is_another_run(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*words(place, '--epochs', 1), '--init', str(place / 'start.pt')]
    state = __import__('own_net').build().state_dict()
    torch.save(state, place / 'start.pt')
    assert main(command) == 0 and main(command) == 0  # the same one goes on
    torch.save({name: value + 1 for name, value in state.items()}, place / 'start.pt')
    assert main(command) == 2
    assert 'made.progress is of a run with other weights to start from, expected the run that ' \
        'is to go on: take another --out' in capsys.readouterr().err.splitlines()[-1]


def test_a_run_from_before_the_file_said_what_it_is_of_goes_on(place: Path) -> None:
    assert main(words(place, '--epochs', 1)) == 0
    saved = torch.load(place / 'made.progress', weights_only=True)
    del saved['made_of']
    torch.save(saved, place / 'made.progress')
    assert main(words(place, '--epochs', 1)) == 0


@pytest.mark.parametrize('content', ['[1]', '"all"', '{}', '{"images": 1', '{"images": "many", '
                                     '"epochs": 1, "kept_epoch": 1, "start": "", "folders": [], '
                                     '"val_mean_iou": null}'])
def test_facts_that_are_none_are_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    assert main(words(place, '--epochs', 1)) == 0
    (place / 'made.facts.json').write_text(content)
    assert main([*words(place), '--compile-only']) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f'uncertainty_seg train: {place}/made.facts.json holds no facts of a run, expected what '
        'train wrote: delete it, and the card will not say what the weights were trained on.')


def test_nothing_to_start_from_is_refused_and_random_weights_are_asked_for(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ['train', 'own', '--data', str(place / 'reef'), '--out', str(place / 'made')]
    assert main(command) == 2
    assert 'nothing to start from, expected --init BUNDLE|FILE or --imagenet PATH' in \
        capsys.readouterr().err


def test_the_classifier_is_the_layer_whose_bias_moves_the_logits() -> None:
    spec = test_members.SPEC
    assert find_classifier(TinyNet(), 3, spec) == 'classifier'

    class Squashed(TinyNet):

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image).softmax(1)

    assert find_classifier(Squashed(), 3, spec) == ''
    net = TinyNet()
    before = net.classifier.bias.clone()
    find_classifier(net, 3, spec)
    torch.testing.assert_close(net.classifier.bias, before)


# -------------------------------------------------------------------------------------------------
# What a training starts from.


@pytest.fixture(scope='module')
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PyramidNet]:
    """Return a bundle of a few steps, and the network that it was made of."""
    folder = tmp_path_factory.mktemp('finished')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, 'load_imagenet', lambda *_: None)
        plan, data = test_members.tiny_recipe(2), toy(8)
        train_weights(plan, data, Path('none.pth'), folder / 'net.pt', 1)
        make_bundle(plan, data, folder / 'net.pt', folder / 'bundle')
    return folder / 'bundle', load_net(folder / 'net.pt', 3, DropoutPlan(head=0.0), 'lite0')


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
    mine = PyramidNet(3, DropoutPlan(head=0.0), 'lite0')
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
    # A norm in training takes the statistics of its batch: with its own undone, all is lost.
    assert float((trained - expected).abs().mean()) < 0.1 * spread
    assert float((folded - expected).abs().mean()) > 0.3 * spread


@pytest.mark.parametrize('kind', ['decoders', 'nets'])
def test_of_an_ensemble_the_first_member_is_read_back(
    finished: tuple[Path, PyramidNet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    bundle, net = finished
    monkeypatch.setattr(recipes, 'load_imagenet', lambda *_: None)
    plan = recipes.as_ensemble(test_members.tiny_recipe(2), EnsemblePlan(2, kind))
    shutil.copy(bundle.parent / 'net.pt', tmp_path / 'm.0.pt')
    train_weights(plan, toy(8), Path('none.pth'), tmp_path / 'm.pt', 1, member=1)
    make_bundle(plan, toy(8), tmp_path / 'm.pt', tmp_path / 'both')
    taken = read_bundle(load_bundle(str(tmp_path / 'both')))
    assert (taken.encoder, taken.source) == ('lite0', 'the first member of the bundle suim')
    mine = PyramidNet(3, DropoutPlan(head=0.0), 'lite0')
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
    finished: tuple[Path, PyramidNet], place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = ['train', 'own', '--data', str(place / 'reef'), '--size', '64x64', '--out',
               str(place / 'more'), '--threads', '1', '--epochs', '1', '--init',
               str(finished[0]), '--learning-rate', '1e-9']
    assert main(command) == 0
    card = load_bundle(str(place / 'more')).card
    assert '1 epochs of EfficientNet-Lite0, started from the bundle suim.' in card.training
    # Hardly trained: it is what it was.
    made = load_net(place / 'more.pt', 3, DropoutPlan(head=0.0), 'lite0')
    batch = normalise(np.stack(toy(16, 6).images)[:12, :32, :32].repeat(2, 1).repeat(2, 2))
    with torch.no_grad():
        expected, found = finished[1].eval()(batch), made(batch)
    apart = (found - found.mean(1, keepdim=True)) - (expected - expected.mean(1, keepdim=True))
    assert float(apart.abs().mean()) < 0.3 * float(expected.std())
    again = [*command[:-4], '--init', str(place / 'more.pt'), '--weights', str(place / 'x.pt'),
             '--encoder', 'lite0']
    assert main(again) == 0
    assert 'started from the weights more.pt: ' in caplog.text


def test_weights_of_another_network_are_refused_in_a_sentence(tmp_path: Path) -> None:
    torch.save({'layer.weight': torch.zeros(3)}, tmp_path / 'other.pt')
    with pytest.raises(TrainingError, match='of 1 weights of the weights other.pt none has a '):
        load_what_fits(TinyNet(), read_weights(tmp_path / 'other.pt'), ())
    with pytest.raises(TrainingError, match='none has a name and shape'):
        load_what_fits(TinyNet(), Taken({}, source='nothing'), ())


def test_a_bundle_of_another_architecture_is_refused_with_what_to_do(tmp_path: Path) -> None:
    from conftest import make_tiny_bundle

    with pytest.raises(TrainingError, match='is no bundle of the shipped architecture .*give the '
                       'file of weights that train wrote beside the bundle: --init FILE.pt'):
        read_bundle(load_bundle(str(make_tiny_bundle(tmp_path / 'tiny'))))


def test_of_a_converted_bundle_and_of_members_with_dropout_the_reason_is_the_true_one() -> None:
    with pytest.raises(TrainingError, match="the weights of 'suim_fp16' are converted to fp16, "
                       'expected the bundle that it was converted from: give'):
        read_bundle(load_bundle('suim_fp16'))
    included = load_bundle('suim')
    mask = DropoutSite('member0_head', (96, 1, 1), 0.5)
    card = dataclasses.replace(included.card, dropout_sites=(mask, *included.card.dropout_sites))
    with pytest.raises(TrainingError, match="the members of 'suim' keep their dropout"):
        read_bundle(dataclasses.replace(included, card=card))


@pytest.mark.parametrize('name, encoder', [('suim', 'lite2'), ('pipeline', 'mobilenet_v2')])
def test_the_included_bundles_can_be_gone_on_from(name: str, encoder: str) -> None:
    taken = read_bundle(load_bundle(name))
    assert taken.encoder == encoder and taken.class_names == load_bundle(name).card.class_names
    # A zero of 16 bits may have a sign, in which what is shared bit for bit must not differ.
    assert not any((value.signbit() & (value == 0)).any() for value in taken.state.values())


def test_held_out_images_without_a_known_pixel_give_no_iou() -> None:
    data = toy(2)
    blank = dataclasses.replace(data, masks=[np.full_like(m, 255) for m in data.masks])
    assert math.isnan(Held(blank, test_members.SPEC).mean_iou(TinyNet().eval()))
