# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Ensembles, places of dropout and banks of masks, trained for a few steps on planted data."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from test_fit import toy  # noqa: E402

from uncertainty_seg.compiler.capture.mask_bank import train_with_bank  # noqa: E402
from uncertainty_seg.compiler.onnx_tools import shapes  # noqa: E402
from uncertainty_seg.compiler.plan import CompileOptions, graph_cost  # noqa: E402
from uncertainty_seg.core.dropout_masks import MEMBER, pass_inputs  # noqa: E402
from uncertainty_seg.core.model_card import InputSpec  # noqa: E402
from uncertainty_seg.errors import DatasetError, TrainingError  # noqa: E402
from uncertainty_seg.storage.labelled_folder import LabelledFolder  # noqa: E402
from uncertainty_seg.training import recipes  # noqa: E402
from uncertainty_seg.training.encoders import ENCODERS  # noqa: E402
from uncertainty_seg.training.fit.augmentation import Augmentation, normalise  # noqa: E402
from uncertainty_seg.training.fit.run import FitSettings  # noqa: E402
from uncertainty_seg.training.members import (  # noqa: E402
    bootstrap,
    EnsemblePlan,
    member_file,
)
from uncertainty_seg.training.networks import (  # noqa: E402
    dropout_plan,
    DropoutPlan,
    NO_DROPOUT,
    PyramidNet,
)
from uncertainty_seg.training.recipes import (  # noqa: E402
    as_ensemble,
    as_single,
    load_net,
    make_bundle,
    Recipe,
    recipe,
    train_weights,
    with_dropout,
    with_encoder,
    with_epochs,
)

pytestmark = pytest.mark.torch
SPEC = InputSpec(64, 64, 'stretch', 'rgb', (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGE = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
DATA = toy(8)


def tiny_recipe(epochs: int = 1) -> Recipe:
    """Return the recipe of `suim` for small images and two steps an epoch."""
    fit = FitSettings(epochs=epochs, batch=4, augmentation=Augmentation(
        crop=(64, 64), scale=(0.8, 1.4), colour=0.0, blur_share=0.0))
    small = with_encoder(recipe('suim'), 'lite0')
    return dataclasses.replace(small, input=SPEC, fit=fit, passes=4)


@pytest.fixture(autouse=True)
def without_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the encoder as it was drawn; the same for every member, as ImageNet's would be."""
    def draw(encoder: torch.nn.Module, name: str, path: Path) -> None:
        torch.manual_seed(99)
        for weights in encoder.parameters():
            if weights.dim() == 4:
                torch.nn.init.kaiming_normal_(weights, mode='fan_out')

    monkeypatch.setattr(recipes, 'load_imagenet', draw)
    # Networks of two steps magnify the rounding of weights to 16 bits.
    monkeypatch.setattr(recipes, 'CompileOptions', partial(CompileOptions, is_half=False))


def train(plan: Recipe, weights: Path, data: LabelledFolder = DATA, **more: int) -> None:
    train_weights(plan, data, Path('none.pth'), weights, 1, **more)


def states(weights: Path, count: int) -> list[dict[str, torch.Tensor]]:
    return [torch.load(member_file(weights, i), weights_only=True) for i in range(count)]


def equal_parts(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> set[str]:
    """Return the parts of the network all of whose weights are the same to the bit."""
    def part(name: str) -> str:
        return '.'.join(name.split('.')[:1 if name.startswith('encoder') else 2])

    parts = {part(name) for name in one}
    return parts - {part(name) for name in one if not torch.equal(one[name], two[name])}


def run(model: onnx.ModelProto | bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    names = [out.name for out in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def logits_of(folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    features = run((folder / 'trunk.onnx').read_bytes(), {'image': IMAGE})
    features.pop('feature_map')  # an output of its own, which no head takes
    return run((folder / 'head.onnx').read_bytes(), {**features, **inputs})['logits']


def by_torch(weights: Path, encoder: str, masks: np.ndarray | None = None) -> np.ndarray:
    """Compute logits by the other road: the torch net, one mask before the classifier."""
    net = load_net(weights, 3, NO_DROPOUT, encoder)
    with torch.no_grad():
        features = net.decoder.final(net.decoder.merged(net.features(normalise(IMAGE))))
        if masks is not None:
            features = features * torch.from_numpy(masks)
        return net.decoder.classifier(features).numpy()


def settle(weights: Path, encoder: str = 'lite0') -> None:
    """Give the norms the statistics of the image: after two steps most outputs are still 0."""
    net = load_net(weights, 3, NO_DROPOUT, encoder)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(normalise(np.concatenate([IMAGE, IMAGE[:, ::-1]])))
    torch.save(net.state_dict(), weights)


def macs(folder: Path) -> int:
    model = onnx.load(str(folder / 'trunk.onnx'))
    return graph_cost(model.graph.node, shapes(model)).macs


# --- members ------------------------------------------------------------------------------------


@pytest.mark.release
def test_full_networks_of_mixed_encoders_differ_and_are_the_passes(tmp_path: Path) -> None:
    plan = as_ensemble(tiny_recipe(), EnsemblePlan(2, encoders=('lite0', 'mobilenet_v2')))
    train(plan, tmp_path / 'net.pt')
    for index, encoder in enumerate(('lite0', 'mobilenet_v2')):
        settle(member_file(tmp_path / 'net.pt', index), encoder)
    card = make_bundle(plan, DATA, tmp_path / 'net.pt', tmp_path / 'bundle')
    assert (card.method, card.members, card.passes) == ('deep_ensemble', 2, 2)
    assert 'EfficientNet-Lite0 and MobileNetV2' in card.training and '8 labelled images' in \
        card.training
    logits = logits_of(tmp_path / 'bundle', pass_inputs(card, 2, 0))
    for index, encoder in enumerate(('lite0', 'mobilenet_v2')):
        alone = by_torch(member_file(tmp_path / 'net.pt', index), encoder)
        np.testing.assert_allclose(logits[index], alone[0], rtol=1e-3, atol=1e-3)
    assert np.abs(logits[0] - logits[1]).max() > 0.1


def test_members_of_one_encoder_share_what_is_frozen_and_nothing_else(tmp_path: Path) -> None:
    plan = as_ensemble(tiny_recipe(), EnsemblePlan(2))
    train(plan, tmp_path / 'net.pt')
    one, two = states(tmp_path / 'net.pt', 2)
    frozen = tuple(f'encoder.{i}.' for i in range(ENCODERS['lite0'].taps[1] + 1))
    for name in one:
        if name.startswith(frozen):
            assert torch.equal(one[name], two[name]), name
    assert equal_parts(one, two) == set()


def test_members_are_trained_with_what_they_have_by_turns(tmp_path: Path) -> None:
    train(as_ensemble(tiny_recipe(), EnsemblePlan(2)), tmp_path / 'same.pt')
    same = states(tmp_path / 'same.pt', 2)
    for changes in ({'iou_weights': (0.0, 1.0)}, {'encoder_rates': (0.4, 0.1)}):
        plan = as_ensemble(tiny_recipe(), EnsemblePlan(2, **changes))
        train(plan, tmp_path / f'{min(changes)}.pt')
        one, two = states(tmp_path / f'{min(changes)}.pt', 2)
        assert all(torch.equal(one[name], same[0][name]) for name in one)
        assert not all(torch.equal(two[name], same[1][name]) for name in two)


@pytest.mark.release
@pytest.mark.parametrize('kind, shared', [
    ('decoders', {'encoder'}),
    ('heads', {'encoder', 'decoder.laterals', 'decoder.context', 'decoder.blocks'}),
])
def test_what_members_share_is_the_same_to_the_bit_and_computed_once(
    tmp_path: Path, kind: str, shared: set[str],
) -> None:
    plan = as_ensemble(tiny_recipe(), EnsemblePlan(3, kind))
    train(plan, tmp_path / 'net.pt')
    first, *others = states(tmp_path / 'net.pt', 3)
    for other in others:
        assert equal_parts(first, other) == shared
    assert equal_parts(*others) == shared
    card = make_bundle(plan, DATA, tmp_path / 'net.pt', tmp_path / 'bundle')
    trunk, alone = macs_by_hooks(PyramidNet(3, NO_DROPOUT, 'lite0'), kind)
    assert macs(tmp_path / 'bundle') == trunk + 3 * alone
    logits = logits_of(tmp_path / 'bundle', pass_inputs(card, 3, 0))
    assert len({row.tobytes() for row in logits}) == 3


def macs_by_hooks(net: PyramidNet, kind: str) -> tuple[int, int]:
    """Count the multiply-adds of convolutions in torch: of what is shared, and of the rest."""
    counts = {True: 0, False: 0}
    shared = ('encoder.', *(['decoder.laterals', 'decoder.context', 'decoder.blocks']
                            if kind == 'heads' else []))

    def count(name: str):
        def hook(module, _args, out):
            counts[name.startswith(shared)] += out.numel() * module.weight[0].numel()
        return hook

    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count(name))
    with torch.no_grad():
        net.eval()(normalise(IMAGE))
    return counts[True], counts[False]


def test_each_cycle_of_a_run_leaves_a_snapshot(tmp_path: Path) -> None:
    plan = as_ensemble(tiny_recipe(4), EnsemblePlan(2, 'snapshots'))
    assert plan.fit.cycles == 2
    train(plan, tmp_path / 'net.pt')
    one, two = states(tmp_path / 'net.pt', 2)
    assert equal_parts(one, two) == set()
    assert sorted(p.name for p in tmp_path.glob('*.pt')) == ['net.0.pt', 'net.1.pt']


def test_members_can_be_trained_one_by_one_and_are_the_same(tmp_path: Path) -> None:
    plan = as_ensemble(tiny_recipe(), EnsemblePlan(2, 'decoders'))
    train(plan, tmp_path / 'whole.pt')
    with pytest.raises(TrainingError, match='nothing of .*apart.0.pt, expected a finished run'):
        train(plan, tmp_path / 'apart.pt', member=1)
    for member in (0, 1):
        train(plan, tmp_path / 'apart.pt', member=member)
    for one, two in zip(states(tmp_path / 'whole.pt', 2), states(tmp_path / 'apart.pt', 2),
                        strict=True):
        for name, value in one.items():
            torch.testing.assert_close(value, two[name], rtol=0, atol=0, msg=name)


def test_a_run_that_is_finished_is_not_trained_again_and_a_half_one_not_built_on(
        tmp_path: Path) -> None:
    plan = as_ensemble(tiny_recipe(), EnsemblePlan(2, 'decoders'))
    train(plan, tmp_path / 'net.pt', member=0)
    written = member_file(tmp_path / 'net.pt', 0).stat().st_mtime_ns
    train(plan, tmp_path / 'net.pt', member=0)
    assert member_file(tmp_path / 'net.pt', 0).stat().st_mtime_ns == written
    longer = dataclasses.replace(plan, fit=dataclasses.replace(plan.fit, epochs=3))
    with pytest.raises(TrainingError, match='1 of 3 epochs of .*net.0.pt'):
        train(longer, tmp_path / 'net.pt', member=1)


def test_a_member_of_another_first_network_is_not_taken_for_one_of_this(tmp_path: Path) -> None:
    """Its decoder stands on an encoder that is gone: two networks at the price of two."""
    plan, file = as_ensemble(tiny_recipe(), EnsemblePlan(2, 'decoders')), tmp_path / 'net.pt'
    train(plan, file)
    train(plan, file, member=1)  # the same first network: finished
    member_file(file, 0).with_suffix('.progress').unlink()
    train(recipes.reseeded(plan, 5), file, member=0)
    with pytest.raises(TrainingError, match='other encoder of the first member'):
        train(plan, file, member=1)


@pytest.mark.release
def test_decoders_may_be_trained_for_fewer_epochs_than_the_first_network(tmp_path: Path) -> None:
    plan = dataclasses.replace(
        as_ensemble(tiny_recipe(epochs=2), EnsemblePlan(2, 'decoders')), member_epochs=1)
    lengths: list[int] = []
    train_weights(plan, DATA, Path('none.pth'), tmp_path / 'net.pt', 1,
                  lambda epoch, *_: lengths.append(epoch))
    assert lengths == [0, 1, 0]  # two epochs of the first, one of the second
    train(plan, tmp_path / 'net.pt')  # both are finished, and neither begins again
    first, second = states(tmp_path / 'net.pt', 2)
    assert 'encoder' in equal_parts(first, second)
    card = make_bundle(plan, DATA, tmp_path / 'net.pt', tmp_path / 'bundle')
    assert '2 decoders, 1 epochs each after the first.' in card.training


def test_a_bootstrap_draws_as_many_with_replacement_and_by_its_seed() -> None:
    data = toy(60, 20)
    drawn = bootstrap(data, 3)
    assert len(drawn.stems) == 60 and set(drawn.stems) < set(data.stems)
    assert 0.5 < len(set(drawn.stems)) / 60 < 0.75  # 1 - 1/e is 0.63
    assert drawn.stems == bootstrap(data, 3).stems != bootstrap(data, 4).stems
    for stem, image in zip(drawn.stems, drawn.images, strict=True):
        assert image is data.images[int(stem)]
    lost = next(seed for seed in range(50) if not {'0'} & set(bootstrap_stems(8, seed)))
    with pytest.raises(DatasetError, match=f"drawn by the seed {lost} hold no pixel of 'red'"):
        bootstrap(toy(8, 1), lost)


def bootstrap_stems(count: int, seed: int) -> list[str]:
    return [str(i) for i in np.random.default_rng(seed).integers(0, count, count)]


@pytest.mark.parametrize('changes, words', [
    ({'count': 1}, 'an ensemble of 1, expected at least two networks'),
    ({'kind': 'packed'}, "no kind of ensemble 'packed', expected one of nets, decoders"),
    ({'kind': 'decoders', 'encoders': ('lite0', 'lite1')}, '2 encoders for decoders of one trunk'),
    ({'encoders': ('lite0', 'lite1', 'lite2')}, '3 encoders for 2 members'),
    ({'encoders': ('lite0', 'resnet')}, "no encoder 'resnet', expected one of mobilenet_v2"),
    ({'kind': 'snapshots', 'has_bootstrap': True}, 'a bootstrap of snapshots'),
])
def test_an_ensemble_that_cannot_be_is_one_sentence(changes: dict, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        EnsemblePlan(**{'count': 2, **changes})


def test_members_of_other_classes_or_runs_are_refused(tmp_path: Path) -> None:
    plan = as_ensemble(tiny_recipe(), EnsemblePlan(2))
    for index, classes in enumerate((3, 4)):
        torch.save(PyramidNet(classes, NO_DROPOUT, 'lite0').state_dict(),
                   member_file(tmp_path / 'net.pt', index))
    with pytest.raises(TrainingError, match='of another shape.*decoder.classifier'):
        make_bundle(plan, DATA, tmp_path / 'net.pt', tmp_path / 'bundle')
    with pytest.raises(TrainingError, match='member 2 of 2 nets'):
        train(plan, tmp_path / 'net.pt', member=2)
    with pytest.raises(TrainingError, match='member 0 of mc_dropout, expected a deep ensemble'):
        train(tiny_recipe(), tmp_path / 'net.pt', member=0)
    with pytest.raises(TrainingError, match='5 epochs in 2 cycles'):
        as_ensemble(tiny_recipe(5), EnsemblePlan(2, 'snapshots'))
    with pytest.raises(TrainingError, match='dropout at level4, which heads share'):
        as_ensemble(with_dropout(tiny_recipe(), dropout_plan('level4')), EnsemblePlan(2, 'heads'),
                    keeps_dropout=True)


def test_a_single_pass_is_the_network_without_dropout(tmp_path: Path) -> None:
    plan = as_single(tiny_recipe())
    train(plan, tmp_path / 'net.pt')
    settle(tmp_path / 'net.pt')
    card = make_bundle(plan, DATA, tmp_path / 'net.pt', tmp_path / 'bundle')
    assert (card.method, card.passes, card.dropout_sites) == ('single', 1, ())
    logits = logits_of(tmp_path / 'bundle', pass_inputs(card, 1, 0))
    alone = by_torch(tmp_path / 'net.pt', 'lite0')
    np.testing.assert_allclose(logits, alone, rtol=1e-3, atol=1e-3)


# --- dropout ------------------------------------------------------------------------------------


@pytest.mark.release
def test_members_that_keep_dropout_give_members_times_masks(tmp_path: Path) -> None:
    plan = as_ensemble(tiny_recipe(), EnsemblePlan(2, 'decoders'), keeps_dropout=True)
    assert plan.passes == 4
    train(plan, tmp_path / 'net.pt')
    for index in range(2):
        settle(member_file(tmp_path / 'net.pt', index))
    card = make_bundle(plan, DATA, tmp_path / 'net.pt', tmp_path / 'bundle')
    names = ['mask_member0_decoder_drop_head', 'mask_member1_decoder_drop_head', MEMBER]
    assert [site.name for site in card.dropout_sites] == names
    inputs = pass_inputs(card, 4, 0)
    logits = logits_of(tmp_path / 'bundle', inputs)
    for index in range(4):
        member = index % 2
        alone = by_torch(member_file(tmp_path / 'net.pt', member), 'lite0',
                         inputs[names[member]][index:index + 1])
        np.testing.assert_allclose(logits[index], alone[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('text, expected', [
    ('head', {'head': 0.3}), ('deep_encoder', {'deep16': 0.3, 'deep32': 0.3}),
    ('decoder=0.1, head', {'context': 0.1, 'level16': 0.1, 'level8': 0.1, 'level4': 0.1,
                           'head': 0.3}),
    ('everywhere,level4=.2', {'context': 0.3, 'level16': 0.3, 'level8': 0.3, 'level4': 0.2,
                              'head': 0.3, 'deep16': 0.3, 'deep32': 0.3}),
])
def test_places_of_dropout_are_read_as_they_are_written(text: str, expected: dict) -> None:
    assert dropout_plan(text, 0.3).sites == expected


@pytest.mark.parametrize('text, rate, words', [
    ('neck', 0.5, "no place 'neck' for dropout, expected one of head, decoder, deep_encoder"),
    ('head=much', 0.5, "'much' as a rate of dropout, expected a number"),
    ('head', 1.0, r"dropout 'head' with the rates \[1.0\]"),
    ('head=0.5,deep16=0', 0.5, 'rates above 0 and below 1'), ('', 0.5, "no place ''"),
])
def test_a_place_or_rate_that_is_none_is_one_sentence(text: str, rate: float, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        dropout_plan(text, rate)


def test_dropout_deep_in_the_encoder_reaches_all_behind_it() -> None:
    torch.manual_seed(0)
    net = PyramidNet(3, DropoutPlan(head=0.0, deep16=0.5), 'lite0').eval()
    net.drop_deep16.train()
    with torch.no_grad():
        calm, moved = net.features(normalise(IMAGE)), net.features(normalise(IMAGE))
        net.drop_deep16.eval()
        plain = net.features(normalise(IMAGE))
    differs = [not torch.equal(a, b) for a, b in zip(calm, moved, strict=True)]
    assert differs == [False, False, True, True]
    dropped = (calm[2] == 0).all(dim=(2, 3))[0]
    torch.testing.assert_close(calm[2][0, ~dropped], 2 * plain[2][0, ~dropped])
    assert 30 < int(dropped.sum()) < 82  # of 112


@pytest.mark.release
def test_the_masks_of_training_are_those_that_run_to_the_bit(tmp_path: Path) -> None:
    plan = with_dropout(tiny_recipe(), dropout_plan('head,level4=0.25'))
    plan = dataclasses.replace(plan, passes=3, mask_bank=3, mask_seed=5)
    net = PyramidNet(3, plan.train_dropout, 'lite0')
    train_with_bank(net, PyramidNet(3, plan.run_dropout, 'lite0'), SPEC, 3, 5)
    seen: dict[str, torch.Tensor] = {}
    for name in ('drop_head', 'drop_levels.0'):
        site = net.decoder.get_submodule(name)
        site.register_forward_hook(
            lambda _m, args, out, name=name: seen.update({name: (args[0], out)}))
    with torch.no_grad():
        net.train()(normalise(np.repeat(IMAGE, 32, 0)))
    train(plan, tmp_path / 'net.pt')
    card = make_bundle(plan, DATA, tmp_path / 'net.pt', tmp_path / 'bundle')
    assert (card.mask_seed, card.passes) == (5, 3)
    bank = pass_inputs(card, 3, 5)
    taken = []
    for name, key in (('drop_head', 'mask_decoder_drop_head'),
                      ('drop_levels.0', 'mask_decoder_drop_levels_0')):
        before, after = seen[name]
        matches = [[torch.equal(after[i], before[i] * torch.from_numpy(bank[key][b]))
                    for b in range(3)] for i in range(32)]
        assert [row.count(True) for row in matches] == [1] * 32
        taken.append([row.index(True) for row in matches])
    assert taken[0] == taken[1] and set(taken[0]) == {0, 1, 2}  # one pass at every site


def test_a_net_with_a_bank_is_the_plain_net_in_eval_mode(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, plain = (PyramidNet(3, DropoutPlan(), 'lite0') for _ in range(2))
    plain.load_state_dict(net.state_dict())
    bank = train_with_bank(net, PyramidNet(3, DropoutPlan(), 'lite0'), SPEC, 2, 0)
    assert list(bank) == ['mask_decoder_drop_head']
    assert list(net.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(normalise(IMAGE)), plain.eval()(normalise(IMAGE)))
    for size, random, words in ((1, DropoutPlan(), 'a bank of 1 masks'),
                                (4, NO_DROPOUT, 'a bank of masks without dropout')):
        with pytest.raises(TrainingError, match=words):
            train_with_bank(net, PyramidNet(3, random, 'lite0'), SPEC, size, 0)


def test_another_encoder_is_frozen_up_to_the_same_stride() -> None:
    suim = recipe('suim')
    assert (suim.encoder, suim.frozen_layers) == ('lite2', 8)
    assert with_encoder(suim, 'mobilenet_v2').frozen_layers == 7
    assert with_encoder(suim, 'lite0').frozen_layers == 6
    assert with_encoder(recipe('pipeline'), 'lite2').frozen_layers == 0
    assert with_epochs(suim, 18).fit.small_epochs == 13  # 26 of 36
    assert suim.member_epochs == with_epochs(suim, 18).member_epochs == 0
    with pytest.raises(TrainingError, match="no recipe 'seagrass', expected one of suim"):
        recipe('seagrass')
