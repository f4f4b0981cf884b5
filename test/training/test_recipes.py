# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Recipes: read, changed, refused with a sentence that names the value, and written."""

from pathlib import Path
import subprocess
import sys

import pytest

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.training.recipes import (
    ActiveRecipe,
    changed,
    describe,
    read_recipe,
    shipped_recipes,
    TrainRecipe,
    write_recipe,
)


def test_what_is_shipped_can_be_read_and_defaults_are_those_of_own() -> None:
    assert set(shipped_recipes(TrainRecipe)) == {'own', 'suim', 'pipeline'}
    assert set(shipped_recipes(ActiveRecipe)) == {'active'}
    assert read_recipe(TrainRecipe, 'own') == TrainRecipe()
    assert read_recipe(ActiveRecipe, 'active') == ActiveRecipe()
    suim = read_recipe(TrainRecipe, 'suim')
    assert (suim.method, suim.members, suim.num_passes) == ('deep_ensemble', 2, 2)
    ones = suim.of_member(0), suim.of_member(1)
    assert [(one.encoder, one.iou_loss, one.epochs, one.each) for one in ones] == [
        ('lite2', 0.0, 36, ()), ('tinyvit', 1.0, 24, ())]
    assert suim.of_member(3) == suim.of_member(1) and suim.split == 'train'
    pipeline = read_recipe(TrainRecipe, 'pipeline')
    assert (pipeline.size, pipeline.crop, pipeline.num_passes) == ((512, 384), (416, 320), 20)


@pytest.mark.parametrize('kind, name, changes', [
    (TrainRecipe, 'suim', {'epochs': 3, 'note': 'a: "b" # {c}\nd'}),
    (ActiveRecipe, 'active', {'train.epochs': 3, 'labels': [20, 40]})])
def test_a_recipe_that_is_written_is_read_back(
    tmp_path: Path, kind: type, name: str, changes: dict[str, object]
) -> None:
    made = read_recipe(kind, name, changes)
    write_recipe(tmp_path / 'recipe.yaml', made)
    assert read_recipe(kind, str(tmp_path / 'recipe.yaml')) == made
    assert made != read_recipe(kind, name)


def test_a_value_may_be_written_in_short() -> None:
    short = changed(TrainRecipe(), {'size': '96x64', 'iou_loss': 1, 'learning_rate': '1e-3'})
    assert (short.size, short.iou_loss, short.learning_rate) == ((96, 64), 1.0, 1e-3)
    assert changed(ActiveRecipe(), {'train.size': [64, 64]}).train.size == (64, 64)


@pytest.mark.parametrize('changes, words', [
    ({'epoch': 3}, 'epoch.*epochs'), ({'learning-rate': 1}, 'learning_rate'),
    ({'epochs': 2.5}, '2.5'), ({'epochs': 'many'}, 'many'), ({'epochs': True}, 'true'),
    ({'epochs': 0}, 'epochs 0'), ({'colour': '0.1x'}, '0.1x'), ({'colour': float('nan')}, 'NaN'),
    ({'note': 5}, 'note is 5'), ({'size': [64]}, 'size'), ({'size': '65x64'}, '65'),
    ({'size': 'axb'}, '"a"'), ({'iou_loss': []}, 'iou_loss'), ({'iou_loss': -1}, 'iou_loss'),
    ({'method': 'mc_dropuot'}, 'mc_dropuot.*mc_dropout'), ({'split': 'test'}, 'test'),
    ({'mix_share': 0}, 'mix_share'), ({'zoom': [2, 1]}, 'zoom'), ({'crop': [33, 32]}, 'crop'),
    ({'members': 3}, 'members 3 .*mc_dropout'),
    ({'method': 'single', 'dropout': 0.5}, 'dropout 0.5 .*single'), ({'dropout': 1}, 'dropout'),
    ({'method': 'single', 'passes': 3}, 'passes 3'),
    ({'method': 'deep_ensemble', 'passes': 8}, 'passes 8'),
    ({'method': 'deep_ensemble', 'members': 1}, 'members 1'),
    ({'method': 'deep_ensemble', 'members': 2, 'each': [{}, {}, {}]}, 'each'),
    ({'each': [{'epochs': 3}]}, 'each'),
    ({'method': 'deep_ensemble', 'each': [{'epochs': 0}]}, 'epochs 0'),
    ({'method': 'deep_ensemble', 'each': [{'size': '64x64'}]}, 'size'),
    ({'method': 'deep_ensemble', 'each': [3]}, 'keys and values'),
    ({'net': 'a:b', 'method': 'error_propagation'}, 'a:b'),
    ({'net': 'a:b', 'dropout': 0.5}, 'a:b'),
    ({'net': 'a:b', 'encoder': 'lite0'}, 'lite0'),
])
def test_what_cannot_be_is_refused_with_its_name_and_value(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        changed(TrainRecipe(), changes)


@pytest.mark.parametrize('changes, words', [
    ({'strategy': 'mi'}, 'mi'), ({'labels': [0.5, 0.1]}, 'labels'), ({'labels': [0]}, 'labels'),
    ({'labels': [0.1, 40]}, 'labels'), ({'steps': 0}, 'steps'),
    ({'train.epoch': 1}, 'epoch'), ({'epochs': 1}, 'epochs'), ({'train': 5}, '5'),
    ({'train': {'method': 'deep_ensemble', 'each': [{'epochs': 3}]}}, 'each .*3'),
    ({'train': {'method': 'deep_ensemble', 'each': [{'encoder': 'lite2'}]}}, 'each .*lite2')])
def test_rounds_that_cannot_be_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        changed(ActiveRecipe(), changes)


@pytest.mark.parametrize('text, words', [
    ('[1]', r'\[1\]'), ('epochs: [', 'recipe.yaml'), ('7', '7'), ('epoch: 3', 'epoch'),
    ('train: {epochs: 3}', 'train')])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / 'recipe.yaml').write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_recipe(TrainRecipe, str(tmp_path / 'recipe.yaml'))


def test_a_recipe_that_does_not_exist_is_refused_with_its_neighbours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='pipelne.*pipeline'):
        read_recipe(TrainRecipe, 'pipelne')
    with pytest.raises(ConfigError, match='nothing.yaml'):
        read_recipe(TrainRecipe, str(tmp_path / 'nothing.yaml'))


def test_every_key_is_described_and_reading_needs_no_torch() -> None:
    for kind in (TrainRecipe, ActiveRecipe):
        for name in vars(kind)['__dataclass_fields__']:
            assert f'  {name}: ' in describe(kind)
    code = ('import sys; from uncertainty_seg.training.recipes import *; '
            "read_recipe(TrainRecipe, 'own'); print('torch' in sys.modules)")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'False'
