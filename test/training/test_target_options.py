# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What `train` makes of images of another place, from the command to weights and card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from test_fit import toy  # noqa: E402
import test_train_user  # noqa: E402

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.errors import DatasetError  # noqa: E402
from uncertainty_seg.storage.labelled_folder import find_unlabelled  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402
from uncertainty_seg.training import recipes  # noqa: E402
from uncertainty_seg.training.run_facts import read_facts  # noqa: E402
from uncertainty_seg.training.sim_to_real import colour_statistics, with_colours  # noqa: E402

pytestmark = pytest.mark.torch
words, weights_of = test_train_user.words, test_train_user.weights_of


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`reef` as in test_train_user, four labelled images `real`, and six pictures `dive`."""
    place = test_train_user.place.__wrapped__(tmp_path, monkeypatch)
    test_train_user.write_data(place / 'real', toy(4, 2))
    (place / 'dive').mkdir()
    for k in range(6):
        cv2.imwrite(str(place / 'dive' / f'{k}.png'), picture(k))
    return place


def picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(60, 190, (4, 6, 3)).astype(np.uint8)
    return cv2.resize(coarse, (60, 40))


def card_of(place: Path, name: str = 'made') -> str:
    return load_bundle(str(place / name)).card.training


def test_mixed_batches_are_trained_on_and_the_card_says_in_which_share(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(place, '--epochs', 1, '--mix', place / 'real', '--mix-share', 0.25)) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])['images'] == 16
    assert card_of(place).startswith('16 labelled images of reef, real, 1 epochs of ')
    assert 'In each batch 2 of 8 images are of 4 labelled images of real.' in card_of(place)
    assert main(words(place, '--epochs', 1, '--mix', place / 'real')) == 2
    assert 'the mixed images 4 with a share of 0.25, not 4 with a share of 0.5' in \
        capsys.readouterr().err
    # Without --mix the images are others, and so is the run.
    assert main(words(place, '--epochs', 1)) == 2
    assert 'is of a run with ' in capsys.readouterr().err


def test_colours_of_one_target_give_the_weights_of_images_that_were_recoloured_before(
    place: Path
) -> None:
    files = [place / 'reef' / 'images' / f'{k}.png' for k in range(12)]
    for seed, file in enumerate(files, 10):
        cv2.imwrite(str(file), picture(seed))
    one = place / 'one'
    one.mkdir()
    (place / 'dive' / '3.png').rename(one / '3.png')
    target = colour_statistics(cv2.imread(str(one / '3.png'))[..., ::-1])
    assert main(words(place, '--epochs', 2, '--colour-like', one)) == 0
    for file in files:
        recoloured = with_colours(cv2.imread(str(file))[..., ::-1].copy(), target)
        cv2.imwrite(str(file), recoloured[..., ::-1])
    assert main(words(place, '--epochs', 2, out='before')) == 0
    test_train_user.assert_same(weights_of(place / 'made.pt'), weights_of(place / 'before.pt'))
    assert 'Each image has the colours (mean and spread in Lab) of one of 1 images of one.' in \
        card_of(place)


def fitted(file: Path) -> np.ndarray:
    """Return the network's input by hand: 60x40 in the middle of 64x64, grey around it."""
    whole = np.full((64, 64, 3), 114, np.uint8)
    whole[10:53] = cv2.resize(cv2.imread(str(file)), (64, 43))[..., ::-1]
    return whole


def test_batch_norms_of_the_target_are_measured_after_the_training_and_nothing_else_changes(
    place: Path
) -> None:
    asked = words(place, '--epochs', 2, '--adapt-batchnorm', place / 'dive')
    assert main(words(place, '--epochs', 2, out='plain')) == 0
    assert main(asked) == 0
    plain, ours = weights_of(place / 'plain.pt'), weights_of(place / 'made.pt')
    moved = {name for name in plain if not torch.equal(plain[name], ours[name])}
    assert moved == {'body.1.running_mean', 'body.1.running_var', 'body.1.num_batches_tracked'}
    pixels = np.stack([fitted(file) for file in (place / 'dive').iterdir()]) / 255.0
    pixels = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    features = torch.nn.functional.conv2d(
        torch.from_numpy(pixels).permute(0, 3, 1, 2), plain['body.0.weight'].double(),
        plain['body.0.bias'].double(), stride=2, padding=1)
    torch.testing.assert_close(ours['body.1.running_mean'].double(), features.mean((0, 2, 3)),
                               atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours['body.1.running_var'].double(), features.var((0, 2, 3)),
                               atol=1e-5, rtol=1e-4)
    assert card_of(place).endswith('Its batch norms were measured anew on 6 images of dive.')
    iou = read_facts(place / 'made.pt').val_mean_iou
    assert iou != read_facts(place / 'plain.pt').val_mean_iou
    # The finished run again does not adapt what is adapted to something else.
    before = card_of(place)
    assert main([*asked, '--note', '']) == 0
    test_train_user.assert_same(weights_of(place / 'made.pt'), ours)
    assert card_of(place) == before
    # One that was trained without is adapted by the same command with the option.
    assert main(words(place, '--epochs', 2, '--adapt-batchnorm', place / 'dive',
                      out='plain')) == 0
    test_train_user.assert_same(weights_of(place / 'plain.pt'), ours)
    # Measured on other images, nothing is left of the first ones, nor does the card name them.
    assert main(words(place, '--epochs', 2, '--adapt-batchnorm', place / 'real',
                      out='plain')) == 0
    assert card_of(place, 'plain').count('Its batch norms were measured anew') == 1
    assert card_of(place, 'plain').endswith('measured anew on 4 images of real.')


def test_a_network_labels_the_target_where_it_is_sure_and_another_learns_from_that(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words(place, '--epochs', 3, '--passes', 40, out='teacher')) == 0
    seen: dict[str, Any] = {}

    def train_weights(plan: Any, data: Any, *more: Any, **options: Any) -> None:
        seen.update(data=data, target=options['extras'].target)
        original(plan, data, *more, **options)

    original = recipes.train_weights
    monkeypatch.setattr(recipes, 'train_weights', train_weights)
    assert main(words(place, '--epochs', 1, '--pseudo-labels', place / 'dive', '--pseudo-bundle',
                      place / 'teacher', '--pseudo-quantile', 0.3)) == 0
    data, target = seen['data'], seen['target']
    assert (len(data.stems), target.mixed, target.pseudo) == (18, 6, 6)
    assert data.stems[12:] == [str(k) for k in range(6)]
    masks = np.stack(data.masks[12:])
    assert masks.shape == (6, 40, 60)
    assert (masks != 255).mean() == pytest.approx(0.3, abs=0.02)  # of 64x43, brought to 60x40
    # Where it labels, it says what the untouched network says, but for a few passes' noise.
    from own_net import build

    net = build().eval()
    net.load_state_dict(weights_of(place / 'teacher.pt'))
    with torch.no_grad():
        images = np.stack([fitted(place / 'dive' / f'{k}.png') for k in range(6)])
        logits = net(recipes_normalise(images))
    label = torch.nn.functional.interpolate(logits, (64, 64), mode='bilinear').argmax(1).numpy()
    label = np.stack([cv2.resize(one[10:53].astype(np.uint8), (60, 40),
                                 interpolation=cv2.INTER_NEAREST_EXACT) for one in label])
    assert (masks == label)[masks != 255].mean() > 0.97
    card = card_of(place)
    assert card.startswith('12 labelled images of reef, ')
    assert 'In each batch 4 of 8 images are of 6 images of dive with the labels of the bundle ' \
        'teacher, where the entropy is among the lowest 30%.' in card


def recipes_normalise(images: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)) \
        / torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)


@pytest.mark.parametrize(('more', 'code', 'match'), [
    (['--mix-share', '0.5'], 2, '--mix-share without --mix or --pseudo-labels'),
    (['--pseudo-quantile', '0.5'], 2, '--pseudo-quantile without --pseudo-labels'),
    (['--pseudo-labels', 'dive'], 2, '--pseudo-labels without a bundle that gives the labels'),
    (['--mix', 'reef'], 2, 'in --data and in --mix'),
    (['--mix', 'real', '--bootstrap'], 2, '--bootstrap'),
    (['--colour-like', 'nowhere'], 2, 'no folder nowhere'),
    (['--colour-like', 'empty'], 2, 'no images in empty'),
    (['--colour-like', 'reef:test'], 2, "no split 'test' in reef, expected one of train, val"),
    (['--adapt-batchnorm', 'dive:train'], 2, "a split 'train' of dive"),
    (['--adapt-batchnorm', 'text'], 2, '0.png cannot be read'),
    (['--mix', 'other'], 2, 'the images that are mixed in have the classes sand, rock'),
    (['--pseudo-labels', 'dive', '--pseudo-bundle', 'pipeline'], 2, 'the bundle pipeline labels'),
])
def test_what_cannot_be_is_one_sentence(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    more: list[str], code: int, match: str,
) -> None:
    monkeypatch.chdir(place)
    for name in ('empty', 'text'):
        (place / name).mkdir()
    (place / 'text' / '0.png').write_text('no picture')
    other = test_train_user.write_data(place / 'other', toy(4, 0))
    (other / 'classes.json').write_text(json.dumps({'classes': ['sand', 'rock']}))
    assert main(words(place, '--epochs', 1, *more)) == code
    said = capsys.readouterr().err.strip().splitlines()
    assert match in said[-1]
    assert not (place / 'made.pt').exists()


def test_a_network_without_batch_norms_is_refused_before_it_is_trained(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = test_train_user.NET.replace('torch.nn.BatchNorm2d(8),', 'torch.nn.Identity(),')
    (place / 'normless_net.py').write_text(source)
    asked = words(place, '--epochs', 1, '--adapt-batchnorm', place / 'dive')
    asked[asked.index('own_net:build')] = 'normless_net:build'
    assert main(asked) == 2
    assert 'a network without batch norms' in capsys.readouterr().err
    assert not (place / 'made.pt').exists()


def test_unlabelled_images_of_a_folder_that_sets_some_aside_are_those_to_train_on(
    place: Path
) -> None:
    assert [stem for stem, _ in find_unlabelled(str(place / 'reef'))] == [
        str(k) for k in range(12)]
    val = find_unlabelled(f'{place / "reef"}:val')
    assert (val.name, [path.stem for path in val.paths]) == ('reef:val', ['12', '13', '14', '15'])
    assert len(find_unlabelled(str(place / 'real')).paths) == 4
    pictures = dict(find_unlabelled(str(place / 'dive')))
    np.testing.assert_array_equal(pictures['2'],
                                  cv2.imread(str(place / 'dive' / '2.png'))[..., ::-1])
    (place / 'reef' / 'images' / '3.png').unlink()
    with pytest.raises(DatasetError, match="image '3' of .*reef is missing"):
        find_unlabelled(str(place / 'reef'))
