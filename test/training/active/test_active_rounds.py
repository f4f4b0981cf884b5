# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Images of a study, the pace of its training, and what networks in memory say of images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from ramp_nets import GREY, ramp, still, WHITE  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from uncertainty_seg.core.model_card import InputSpec  # noqa: E402
from uncertainty_seg.core.uncertainty import maps_from_coarse_logits  # noqa: E402
from uncertainty_seg.errors import TrainingError  # noqa: E402
from uncertainty_seg.storage.labelled_folder import LabelledFolder  # noqa: E402
from uncertainty_seg.training.active.judging import BATCH, Jury  # noqa: E402
from uncertainty_seg.training.active.prepared import (  # noqa: E402
    num_regions,
    prepare,
    PreparedImages,
    read_prepared,
    write_prepared,
)
from uncertainty_seg.training.active.rounds import (  # noqa: E402
    _mixed,
    NetPlan,
    paced,
    require_dropout,
    RoundRun,
    seed_of,
    train_round,
)
from uncertainty_seg.training.fit.augmentation import (  # noqa: E402
    IMAGENET_MEAN,
    IMAGENET_STD,
    normalise,
)
from uncertainty_seg.training.networks import dropout_plan, PyramidNet  # noqa: E402

SPEC = InputSpec(64, 64, 'letterbox', 'rgb', IMAGENET_MEAN, IMAGENET_STD)


def folder(count: int, height: int = 64, width: int = 64, level: int | None = None
           ) -> LabelledFolder:
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (height, width, 3), np.uint8) if level is None else
              np.full((height, width, 3), level, np.uint8) for _ in range(count)]
    masks = [rng.integers(0, 2, (height, width), np.uint8) for _ in range(count)]
    return LabelledFolder(images, masks, [f's{k}' for k in range(count)], ('a', 'b'),
                          ((0, 0, 0), (1, 1, 1)), 255)


# --- images --------------------------------------------------------------------------------------


def test_regions_are_counted_by_class_with_corners_and_without_ignored_pixels() -> None:
    mask = np.array([[0, 0, 1, 1],
                     [0, 1, 0, 255],
                     [2, 2, 2, 255],
                     [0, 255, 0, 0]], np.uint8)
    # 0: above, joined by a corner, and two below; 1: joined by a corner; 2: one.
    assert num_regions(mask, 255) == 3 + 1 + 1
    assert num_regions(np.full((3, 3), 255, np.uint8), 255) == 0


def test_a_wide_image_lies_in_the_middle_and_its_mask_is_kept_at_twice_the_size() -> None:
    found = prepare(folder(1, 200, 400), SPEC, is_measured=True)
    rows, columns = found.box(0)
    assert (rows, columns) == (slice(16, 48), slice(0, 64))
    assert (found.masks[0, :16] == 255).all() and (found.masks[0, rows] != 255).all()
    assert found.truths[0].shape == (64, 128)  # of 200 x 400
    assert found.pixels[0] == 200 * 400
    assert found.folder([0]).images[0].shape == (32, 64, 3)
    assert prepare(folder(1, 32, 64), SPEC, is_measured=True).truths[0].shape == (32, 64)


def test_images_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    whole = prepare(folder(3, 50, 70), SPEC, is_measured=True)
    write_prepared(tmp_path / 'a.npz', whole)
    back = read_prepared(tmp_path / 'a.npz')
    assert back.digest == whole.digest and back.stems == ('s0', 's1', 's2')
    assert all((a == b).all() for a, b in zip(back.truths, whole.truths, strict=True))
    part = back.cut([2, 0])
    assert part.stems == ('s2', 's0') and (part.images[0] == whole.images[2]).all()


def test_images_that_are_no_file_of_a_study_are_named(tmp_path: Path) -> None:
    (tmp_path / 'a.npz').write_bytes(b'no')
    with pytest.raises(TrainingError, match='a.npz is missing or damaged'):
        read_prepared(tmp_path / 'a.npz')


# --- pace ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(('images', 'steps'), [(3, 60), (40, 250), (400, 250), (5000, 100)])
def test_every_number_of_images_takes_the_same_steps(images: int, steps: int) -> None:
    data, epochs = paced(many(images), steps, 4, 1)
    assert epochs * (len(data.stems) // 4) == pytest.approx(steps, abs=epochs)
    counts = Counter(data.stems)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(counts) == min(images, len(data.stems))


def many(count: int) -> LabelledFolder:
    one = folder(1)
    return LabelledFolder(one.images * count, one.masks * count, [str(k) for k in range(count)],
                          one.class_names, one.palette, 255)


def test_extra_images_have_their_share_however_many_they_are() -> None:
    real, extra = many(10), many(300)
    mixed = _mixed(RoundRun(real, 0, Path('w'), extra, 0.25))
    assert len(mixed.stems) == 1200 and len(mixed.images) == 1200
    assert _mixed(RoundRun(many(0), 0, Path('w'), extra, 0.25)) is extra


def test_no_two_trainings_of_a_study_have_the_same_seed() -> None:
    seeds = [seed_of(s, r, m) for s in range(4) for r in range(20) for m in range(5)]
    assert len(set(seeds)) == len(seeds)


# --- what networks say ---------------------------------------------------------------------------


def jury(*nets: torch.nn.Module, passes: int = 7) -> Jury:
    return Jury(nets, SPEC, passes, 11)


@pytest.mark.parametrize('where', ['head', 'decoder', 'everywhere'])
def test_shared_layers_give_what_whole_passes_give(where: str) -> None:
    torch.manual_seed(0)
    net = PyramidNet(2, dropout_plan(where, 0.3)).eval()
    images = prepare(folder(2), SPEC, is_measured=False)
    # Fresh norms give features that are nearly 0: they take their statistics from the images.
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        net.train()(normalise(images.images))
    net.eval()
    found = list(jury(net).maps(images))
    # Eager torch: the whole network, seven times.
    for part in net.modules():
        if isinstance(part, torch.nn.Dropout2d):
            part.train()
    torch.manual_seed(11)
    with torch.no_grad():
        passes = torch.stack([net(normalise(images.images)) for _ in range(7)]).numpy()
    for row, maps in enumerate(found):
        wanted = maps_from_coarse_logits(passes[:, row], 64, 64)
        np.testing.assert_allclose(maps.mutual_information, wanted.mutual_information, atol=1e-4)
        np.testing.assert_allclose(maps.entropy, wanted.entropy, atol=1e-3)
        assert (maps.label == wanted.label).mean() > 0.999
        assert float(maps.mutual_information.max()) > 1e-3


def plain(level: int, count: int = 1) -> PreparedImages:
    return prepare(folder(count, level=level), SPEC, is_measured=True)


def test_grey_is_uncertain_in_every_pass_and_of_white_they_disagree() -> None:
    grey, white = (next(jury(ramp(), passes=64).maps(plain(level))) for level in (GREY, WHITE))
    assert grey.entropy.mean() > 0.99 and grey.mutual_information.mean() < 0.01
    assert white.entropy.mean() < 0.4 and white.mutual_information.mean() > 0.05


def test_without_dropout_one_pass_is_all_and_nothing_disagrees() -> None:
    maps = next(jury(still()).maps(plain(WHITE)))
    assert float(maps.mutual_information.max()) < 1e-9
    with pytest.raises(TrainingError, match='mine has no dropout and --strategy mi'):
        require_dropout(still(), 'mine', 'mi')
    require_dropout(ramp(), 'mine', 'mi')


def test_two_networks_of_opposite_minds_disagree_wholly() -> None:
    one, other = still(), still()
    with torch.no_grad():
        other.classifier.weight.neg_()
    maps = next(Jury((one, other), SPEC, 0, 0).maps(plain(WHITE)))
    np.testing.assert_allclose(maps.mutual_information, 1.0, atol=1e-4)  # ln 2 over ln 2
    # Passes 0 switches dropout off, also where a network has it.
    maps = next(Jury((ramp(), ramp()), SPEC, 0, 0).maps(plain(WHITE)))
    assert float(maps.mutual_information.max()) < 1e-9


def test_predictions_have_the_size_of_the_truth_and_the_class_of_the_largest_logit() -> None:
    data = prepare(folder(BATCH + 1, 100, 128, level=WHITE), SPEC, is_measured=True)
    found = list(jury(still()).predictions(data))
    assert len(found) == BATCH + 1
    for (label, confidence), truth in zip(found, data.truths, strict=True):
        assert label.shape == confidence.shape == truth.shape == (100, 128)
        assert (label == 0).all()
    grey = float(normalise(data.images[:1, 20:24, 20:24]).mean())
    wanted = float(F.softmax(torch.tensor([4 * grey, -4 * grey]), 0)[0])
    np.testing.assert_allclose(found[0][1][20:80], wanted, rtol=1e-5)


def test_features_are_the_mean_of_what_the_classifier_takes() -> None:
    data = plain(WHITE, BATCH + 2)
    found = jury(ramp()).features(data)
    assert found.shape == (BATCH + 2, 4)
    np.testing.assert_allclose(found, float(normalise(data.images[:1]).mean()), rtol=1e-5)


def test_frozen_layers_stay_as_they_came_and_the_others_do_not(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = PyramidNet(2, dropout_plan('head')).state_dict()
    torch.save(before, tmp_path / 'before.pt')
    plan = NetPlan(init=str(tmp_path / 'before.pt'), size=(64, 64), steps=2, batch=2, frozen=7)
    train_round(plan, None, RoundRun(folder(4), 0, tmp_path / 'after.pt'))
    after = torch.load(tmp_path / 'after.pt', weights_only=True)
    moved = {name.split('.')[1] for name, value in after.items()
             if name.startswith('encoder.') and not torch.equal(value, before[name])}
    assert moved == {str(layer) for layer in range(7, 18)}
