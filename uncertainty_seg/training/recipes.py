# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Recipes: all settings of a training or of active learning in one YAML file.

A recipe is a frozen dataclass; each key has a type, a default and a description. Shipped recipes
are in `config/recipes`. The recipe of a run is written next to its results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
import json
import math
from pathlib import Path
import re
from typing import Any, get_args, get_origin, get_type_hints, TypeVar

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.storage.whole_files import replace_file

RECIPE_FILE = 'recipe.yaml'
METHODS = ('mc_dropout', 'deep_ensemble', 'single', 'error_propagation')
SPLITS = {'train': ('train',), 'all': ('train', 'val')}
STRATEGIES = ('random', 'top-k', 'threshold', 'k-centre', 'uncertainty-diversity')
DEFAULT_ENCODER, DEFAULT_PASSES = 'mobilenet_v2', 20
_WITH_DROPOUT = ('mc_dropout', 'error_propagation')
_LICENSE = ('Apache-2.0; encoder {licence}; the licence of the training images is not known to '
            'this card')
# Keys in which the members of an ensemble may differ.
_OF_MEMBER = frozenset({
    'encoder', 'frozen_layers', 'epochs', 'batch', 'learning_rate', 'encoder_rate', 'iou_loss',
    'draw_rare', 'paste_share', 'crop', 'zoom', 'colour', 'small_share', 'small_scale'})
_ENDINGS = ('.yaml', '.yml')
_EXPONENT = re.compile(r'\d+(\.\d*)?[eE][-+]?\d+')
_T = TypeVar('_T')
_R = TypeVar('_R', 'TrainRecipe', 'ActiveRecipe')


def key(default: _T, text: str) -> _T:
    """Declare a key of a recipe: its default, and its meaning with unit and range."""
    made: _T = field(default=default, metadata={'text': text})
    return made


def _require(name: str, value: object, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise ConfigError(f'{name} {_text(value)}', wanted)


def _require_one_of(name: str, value: str, known: tuple[str, ...], more: str = '') -> None:
    if value not in known:
        near = get_close_matches(value, known, 3, 0.5)
        raise ConfigError(f'{name} {value!r}', f'one of {", ".join(near or known)}{more}')


@dataclass(frozen=True)
class TrainRecipe:
    """
    Settings for training a network and compiling its bundle.

    `describe` prints the keys with their texts. Raises ConfigError if a value is out of range or
    two contradict each other.
    """

    method: str = key('mc_dropout', f'source of the uncertainty: {", ".join(METHODS)}')
    net: str = key('', 'MODULE:FUNCTION that builds your own torch network; empty: the included '
                   'architecture')
    encoder: str = key('', 'encoder of the included architecture: mobilenet_v2, lite0, lite1 or '
                       f'lite2, or tinyvit; empty: that of the start, or {DEFAULT_ENCODER}')
    frozen_layers: int = key(0, 'number of encoder layers that are not trained')
    size: tuple[int, int] = key((320, 256), 'width and height of the input in pixels, multiples '
                                'of 32 from 64')
    dropout: float = key(0.0, 'dropout rate before the classifier, also at run time; 0: 0.5 if '
                         'the method needs dropout')
    passes: int = key(0, f'passes per frame; 0: {DEFAULT_PASSES} with dropout, one per member')
    members: int = key(4, 'networks of a deep ensemble')
    epochs: int = key(30, 'number of epochs')
    patience: int = key(0, 'stop after this many epochs without a better mean IoU on the split '
                        'val, and keep the best epoch; 0: never')
    batch: int = key(8, 'images per step')
    learning_rate: float = key(2e-3, 'peak learning rate of all layers except the encoder')
    encoder_rate: float = key(0.4, 'share of learning_rate for the encoder')
    iou_loss: float = key(0.0, 'weight of the Lovasz-Softmax loss of each image')
    each: tuple[dict[str, object], ...] = key((), 'keys and values by which the members of an '
                                              'ensemble differ, a mapping for each in turn')
    seed: int = key(0, 'random seed of the training')
    split: str = key('train', 'images to train on: train, or all for train and val')
    mix_share: float = key(0.5, 'share of each batch that comes from the folders mixed in')
    draw_rare: float = key(0.5, 'draw images with rare classes more often, by the share of images '
                           'with the rarest class to minus this power; 0: all alike')
    paste_share: float = key(0.25, 'share of images into which rare classes of others are pasted')
    crop: tuple[int, int] = key((0, 0), 'width and height of training crops; 0 0: nine tenths of '
                                'the size')
    zoom: tuple[float, ...] = key((0.65, 1.6), 'smallest and largest zoom factor')
    colour: float = key(0.15, 'strength of the random changes of colour, gamma and contrast')
    small_share: float = key(0.0, 'share of the epochs that begin the training with smaller '
                             'images, in half the time')
    small_scale: float = key(0.75, 'scale of the smaller images')
    name: str = key('', 'name of the bundle, for the card; empty: that of its folder')
    note: str = key('', 'description of the images, for the card')
    license: str = key(_LICENSE, 'for the card; {licence} is that of the encoder')  # noqa: A003
    not_good_for: str = key('Whatever is unlike the images that it was trained on.',
                            'limits, for the card')

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        _require_one_of('method', self.method, METHODS)
        _require_one_of('split', self.split, tuple(SPLITS))
        for name in ('epochs', 'batch', 'learning_rate'):
            _require(name, getattr(self, name), getattr(self, name) > 0, 'above 0')
        for name in ('frozen_layers', 'passes', 'patience', 'seed', 'draw_rare', 'colour',
                     'encoder_rate', 'iou_loss'):
            _require(name, getattr(self, name), getattr(self, name) >= 0, '0 or above')
        for name in ('mix_share', 'small_scale'):
            _require(name, getattr(self, name), 0 < getattr(self, name) <= 1, 'above 0, up to 1')
        _require('dropout', self.dropout, 0 <= self.dropout < 1, '0 or above, below 1')
        for name in ('paste_share', 'small_share'):
            _require(name, getattr(self, name), 0 <= getattr(self, name) <= 1, '0 to 1')
        _require('size', self.size, min(self.size) >= 64 and not any(n % 32 for n in self.size),
                 'multiples of 32 from 64')
        _require('crop', self.crop, self.crop == (0, 0) or (
            min(self.crop) > 0 and not any(n % 32 for n in self.crop)), 'multiples of 32')
        _require('zoom', self.zoom, len(self.zoom) == 2 and 0 < self.zoom[0] <= self.zoom[1],
                 'the smallest above 0, then the largest')
        self._require_fitting()

    @property
    def is_ensemble(self) -> bool:
        """Whether several networks are trained."""
        return self.method == 'deep_ensemble'

    def of_member(self, member: int) -> TrainRecipe:
        """Return the recipe of one network, with its keys of `each`."""
        one = replace(self, each=())
        return changed(one, self.each[member % len(self.each)]) if self.each else one

    @property
    def num_passes(self) -> int:
        """Return the number of passes per frame."""
        if self.is_ensemble:
            return self.members
        return self.passes or (DEFAULT_PASSES if self.has_dropout else 1)

    @property
    def has_dropout(self) -> bool:
        """Whether the bundle applies dropout at run time."""
        return self.method in _WITH_DROPOUT

    def _require_fitting(self) -> None:
        """Raise ConfigError for a key that the method does not use."""
        for name, methods in (('dropout', _WITH_DROPOUT), ('passes', _WITH_DROPOUT),
                              ('members', ('deep_ensemble',))):
            if self.method not in methods and getattr(self, name) != getattr(TrainRecipe, name):
                raise ConfigError(f'{name} {getattr(self, name)} with the method {self.method}',
                                  f'one of {", ".join(methods)}', f'leave {name} out')
        _require('each', self.each, len(self.each) <= (self.members if self.is_ensemble else 0),
                 'at most one mapping for each member of an ensemble')
        for member, keys in enumerate(self.each):
            _require('a mapping of each', keys, set(keys) <= _OF_MEMBER,
                     f'some of {", ".join(sorted(_OF_MEMBER))}')
            self.of_member(member)
        if self.is_ensemble:
            _require('members', self.members, self.members >= 2, 'two or more')
        if self.net and (self.method not in ('mc_dropout', 'single') or self.dropout
                         or self.encoder):
            raise ConfigError(f'method {self.method}, dropout {self.dropout:g} and encoder '
                              f'{self.encoder!r} with the network {self.net}',
                              'mc_dropout or single, and neither of the other two',
                              'your network has its dropout where you put it')


@dataclass(frozen=True)
class ActiveRecipe:
    """
    Settings for selecting frames to label, round by round, and for training on them.

    `describe` prints the keys with their texts. Raises ConfigError as `TrainRecipe` does.
    """

    strategy: str = key('uncertainty-diversity', f'selection strategy: {", ".join(STRATEGIES)}')
    score: str = key('mutual_information.mean', 'score of a frame, higher for a less certain one: '
                     'any score of a score table')
    threshold_sigma: float = key(0.0, 'the strategy threshold takes frames whose score exceeds '
                                 'the mean of the labelled ones by this many standard deviations')
    labels: tuple[float, ...] = key((0.05, 0.125, 0.25), 'labelled frames after each round, the '
                                    'first one random: counts, or shares of the pool up to 1')
    steps: int = key(600, 'training steps per round, whatever the number of labels')
    seed: int = key(0, 'random seed of draw and training')
    train: TrainRecipe = field(default=TrainRecipe(), metadata={
        'text': 'recipe of each training; its epochs and seed follow from steps and round'})

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        _require_one_of('strategy', self.strategy, STRATEGIES)
        _require('labels', self.labels, bool(self.labels) and self.labels[0] > 0 and all(
            one < two for one, two in zip(self.labels, self.labels[1:], strict=False)),
            'rising numbers above 0, shares or counts')
        _require('labels', self.labels, self.labels[-1] <= 1 or self.labels[0] > 1,
                 'all of them shares up to 1, or all counts above 1')
        _require('steps', self.steps, self.steps > 0, 'above 0')
        _require('seed', self.seed, self.seed >= 0, '0 or above')
        for keys in self.train.each:
            _require('a mapping of train.each', keys, not {'encoder', 'epochs'} & set(keys),
                     'neither encoder nor epochs, since start and steps are the same for all')


# -------------------------------------------------------------------------------------------------
# Files.


def shipped_recipes(kind: type) -> dict[str, Path]:
    """Return the files of the package's recipes of a kind, keyed by name."""
    from uncertainty_seg.storage.model_bundle import models_folders

    found: dict[str, Path] = {}
    for folder in models_folders():
        for path in sorted((folder.parent / 'recipes').glob('*.yaml')):
            if (path.stem == 'active') is (kind is ActiveRecipe):
                found.setdefault(path.stem, path)
    return found


def read_recipe(kind: type[_R], name: str, changes: Mapping[str, object] | None = None) -> _R:
    """
    Read a `TrainRecipe` or `ActiveRecipe`; keys in neither file nor changes keep their defaults.

    `name` is that of a shipped recipe, or the path of a .yaml file; `changes` replace keys of the
    file, nested ones with a dot, such as `train.epochs`. Raises ConfigError if there is no such
    recipe, or it has an unknown key or a value of the wrong type.
    """
    from uncertainty_seg.storage.foreign_files import parse_yaml

    path = Path(name)
    if path.suffix not in _ENDINGS:
        known = shipped_recipes(kind)
        _require_one_of('the recipe', name, tuple(known), ', or a .yaml file')
        path = known[name]
    try:
        values = parse_yaml(path) or {}
    except (OSError, ValueError) as err:
        raise ConfigError(f'the recipe {path} cannot be read ({err})', 'a YAML file of keys and '
                          'values') from err
    return changed(_built(kind, values, str(path)), changes or {})


def recipe_of(kind: type[_R], recipe: _R | str, changes: Mapping[str, object] | None) -> _R:
    """Return a recipe, given as such or by name or file, with changes; see `read_recipe`."""
    return read_recipe(kind, recipe, changes) if isinstance(recipe, str) else \
        changed(recipe, changes or {})


def changed(recipe: _R, changes: Mapping[str, object]) -> _R:
    """Return a recipe with other values for some keys, checked like those of a file."""
    nested: dict[str, dict[str, object]] = {}
    values: dict[str, Any] = {}
    hints = get_type_hints(type(recipe))
    for name, value in changes.items():
        first, dot, rest = name.partition('.')
        _require_known(type(recipe), first, name)
        if dot and is_dataclass(hints[first]):
            nested.setdefault(first, {})[rest] = value
        else:
            values[first] = _as(hints[first], value, name)
    for first, inner in nested.items():
        values[first] = changed(getattr(recipe, first), inner)
    return replace(recipe, **values)


def _built(kind: type[_R], values: object, source: str) -> _R:
    if not isinstance(values, dict):
        raise ConfigError(f'{source} holds {_text(values)}', 'keys and their values')
    hints = get_type_hints(kind)
    for name in values:
        _require_known(kind, name, f'{name} of {source}')
    return kind(**{name: _as(hints[name], value, f'{name} of {source}')
                   for name, value in values.items()})


def _require_known(kind: type, name: object, said: str) -> None:
    if name not in (known := tuple(entry.name for entry in fields(kind))):
        near = get_close_matches(str(name), known, 3, 0.5)
        raise ConfigError(f'no key {said}', f'one of {", ".join(near or known)}')


def _as(kind: Any, value: object, name: str) -> Any:
    """Convert a YAML value to the type of its key; ConfigError if it does not fit."""
    if kind is TrainRecipe:
        return _built(TrainRecipe, value, name)
    if get_origin(kind) is tuple:
        one, more = get_args(kind)
        if isinstance(value, str):
            value = [int(side) if side.isdecimal() else side for side in value.split('x')]
        parts = value if isinstance(value, (list, tuple)) else [value]
        is_short = not parts and get_origin(one) is not dict
        if is_short or (more is not Ellipsis and len(parts) != 2):
            raise ConfigError(f'{name} is {_text(value)}', 'two numbers, as [320, 256]')
        return tuple(_as(one, part, name) for part in parts)
    if kind is str and value is None:  # the file has the key without a value
        return ''
    if kind is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
        value = float(value)  # YAML 1.1 reads 1e-3 as a string
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and is_number and math.isfinite(value):  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    kind = get_origin(kind) or kind
    if isinstance(value, kind) and (kind is not int or is_number) and kind is not float:
        return value
    words = {int: 'a whole number', float: 'a number', str: 'a string', dict: 'keys and values'}
    raise ConfigError(f'{name} is {_text(value)}', words[kind])


def _text(value: object) -> str:
    """Return a value as YAML, which includes JSON."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def write_recipe(path: Path, recipe: TrainRecipe | ActiveRecipe) -> None:
    """Write a recipe atomically, for `read_recipe`."""
    text = '\n'.join(['# The recipe that ran; every key is given.', *_lines(recipe)])
    replace_file(path, f'{text}\n')


def _lines(recipe: object) -> Iterator[str]:
    for entry in fields(recipe):  # type: ignore[arg-type]
        value = getattr(recipe, entry.name)
        if is_dataclass(value):
            yield f'{entry.name}:'
            yield from (f'  {line}' for line in _lines(value))
        else:
            yield f'{entry.name}: {_text(value)}'


def describe(kind: type) -> str:
    """Return one line for each key of a recipe: name, meaning and default."""
    lines = []
    for entry in fields(kind):
        shown = '' if is_dataclass(entry.default) else f' [{_text(entry.default)}]'
        lines.append(f'  {entry.name}: {entry.metadata["text"]}{shown}')
    return '\n'.join(lines)


@dataclass(frozen=True)
class DropoutPlan:
    """Dropout rates of the included decoder: before the classifier, and at four other sites."""

    head: float = 0.5
    decoder: float = 0.0


NO_DROPOUT = DropoutPlan(head=0.0)
