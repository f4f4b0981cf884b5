# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The description of a model bundle: classes, input, dropout sites, licence, hashes.

It converts between JSON text and a dataclass; `storage` reads files and compares hashes.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass, field
import json
import math
import re
from typing import Any

from uncertainty_seg.core.grid import Grid, UPSAMPLINGS
from uncertainty_seg.errors import ModelBundleError

SCHEMA_VERSION = 2
FIT_RULES = ('letterbox', 'stretch')
COLOR_ORDERS = ('rgb', 'bgr')
METHODS = ('single', 'mc_dropout', 'deep_ensemble', 'direct', 'error_propagation')
SITE_KINDS = ('mask', 'noise')
PRECISIONS = ('fp32', 'fp16', 'bf16')
MASK_DRAWS = ('independent', 'stratified')
# Bounds of a card, far above the needs of any network on a vehicle: a foreign card must not make
# the node allocate terabytes, or send control sequences to a terminal.
LONGEST_SIDE = 8192
MOST_PASSES = 1000
# The trunk's output with features, and its maximum number of channels.
FEATURE_MAP = 'feature_map'
MOST_FEATURES = 128
_MOST_LOGITS = 2**28
_MOST_MASKS = 2**31
_MOST_ENTRIES = 1000
_MOST_AXES = 8
_LONGEST_NAME, _LONGEST_TEXT = 200, 20_000
_OPSETS = range(1, 101)
_SHA256 = re.compile('[0-9a-f]{64}')
# Length of the digest of an image: two of a million images collide in one of 40 million sets.
SEEN_DIGITS = 16
# Allowed in texts, although str.isprintable is false for every space but one.
_SPACES = '\n\t\xa0\u3000'


# -------------------------------------------------------------------------------------------------
# Strict JSON, since a file of a bundle may be foreign: Python's reader accepts more than the
# standard, which this package never writes.


def load_object(text: str | bytes) -> dict[str, Any]:
    """
    Parse one JSON object, from UTF-8 if it is given as bytes.

    Raises ValueError if the text is not JSON or not an object, repeats a key, has a number that is
    not finite, or is nested too deeply.
    """
    try:
        raw = json.loads(text.decode() if isinstance(text, bytes) else text,
                         object_pairs_hook=_without_twins, parse_constant=_finite,
                         parse_float=_finite)
    except RecursionError:
        raise ValueError('it is nested too deeply') from None
    if not isinstance(raw, dict):
        raise ValueError('it is not an object')
    return raw


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'the key {twice[:80]!r} occurs twice')
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f'{text[:40]} is no number of JSON, or beyond the range of a float')
    return value


# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DropoutSite:
    """
    One input of the head that differs between passes.

    `shape` is that of one pass: (C, 1, 1) for a mask of channels, (C, H, W) for one of elements;
    (S, C, 1, 1) for the S samples of `direct`, (C, 1, 1) for the noise of `error_propagation`. `p`
    is the probability that an element of a mask is dropped, in (0, 1), and 0 for noise. `kind` is
    'mask', a factor, or 'noise', standard normal numbers.
    """

    name: str
    shape: tuple[int, ...]
    p: float
    # Not in repr, since calibrations have a digest of that; noise is marked there by p = 0.
    kind: str = field(default='mask', repr=False)


@dataclass(frozen=True)
class InputSpec:
    """
    The format of the network's input image.

    The size is in pixels. The fit 'letterbox' keeps the aspect ratio and pads, 'stretch' does
    neither. `mean` and `std` normalise values scaled to 0..1; the graph does this itself.
    """

    width: int
    height: int
    fit: str
    color_order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class ModelCard:
    """
    Everything that a runtime or a reader needs to know about a bundle.

    Raises ModelBundleError if fields contradict each other or exceed the bounds.
    """

    schema: int
    name: str
    # Source of the passes, one of `METHODS`.
    method: str
    # C names, in the order of the class ids.
    class_names: tuple[str, ...]
    # An RGB colour of each class.
    palette: tuple[tuple[int, int, int], ...]
    # Pixel value of unknown pixels in masks.
    ignore_index: int
    input: InputSpec  # noqa: A003
    # Inputs of passes.onnx besides the trunk's outputs: masks and noise; none for `single`.
    dropout_sites: tuple[DropoutSite, ...]
    # Default T of the bundle.
    passes: int
    # ONNX opset of the graphs.
    opset: int
    # (C, hl, wl) of one pass, and of the sums over the passes.
    logits_shape: tuple[int, int, int]
    # Training data and recipe.
    training: str
    license: str  # noqa: A003
    not_good_for: str
    # Figures on the validation data that `training` names.
    metrics: Mapping[str, float]
    # SHA-256 of each file beside the card.
    sha256: Mapping[str, str]
    # Precision of the graphs; operations after the logits are always float32.
    precision: str = 'fp32'
    # Number of networks of a deep ensemble, each of which is a pass; 0 for dropout.
    members: int = 0
    # Bilinear upsampling of (hl, wl) to (h, w), which aligns the corners of the outer pixels
    # ('half_pixel') or their centres ('align_corners').
    upsampling: str = 'half_pixel'
    # Offset of the sums over the passes from the centres of the logits, down and right, in cells;
    # see `core.grid`.
    grid_offset: tuple[float, float] = (0.0, 0.0)
    # Largest relative difference of mean mutual information, variance or variation ratio at the
    # grid from that over the image, measured by `compile`.
    grid_error: float = 0.0
    # (D, hf, wf) of the trunk's output `feature_map`; None if it has none.
    feature_shape: tuple[int, int, int] | None = None
    # Draw of the masks of whole channels: 'independent', or 'stratified', which drops each channel
    # in the same number of passes up to rounding.
    mask_draw: str = 'independent'
    # Modules of the network whose other random numbers are disabled in every pass; see `compile`.
    silenced: tuple[str, ...] = ()
    # `image_digest` of every image that trained it or chose its epoch, sorted; empty if unknown.
    seen_images: tuple[str, ...] = ()
    # What the calibration promises, and how weak that is, in words; empty without one.
    promise: str = ''

    def __post_init__(self) -> None:
        """Raise ModelBundleError for the first contradiction or value out of bounds."""
        for is_wrong, came, expected in self._contradictions():
            if is_wrong:
                raise ModelBundleError(
                    f'card of {self.name!r}: {came}', expected, 'compile the bundle again'
                )

    def _contradictions(self) -> list[tuple[bool, str, str]]:
        spec, num = self.input, self.num_classes
        bad_sites = [s.name for s in self.dropout_sites if s.kind not in SITE_KINDS or not s.shape
                     or not (0.0 < s.p < 1.0 if s.kind == 'mask' else s.p == 0.0)]
        return [
            (self.schema != SCHEMA_VERSION, f'schema {self.schema}', str(SCHEMA_VERSION)),
            *((word not in words, f'{name} {word!r}', f'one of {words}') for name, word, words in (
                ('method', self.method, METHODS), ('fit', spec.fit, FIT_RULES),
                ('color_order', spec.color_order, COLOR_ORDERS),
                ('precision', self.precision, PRECISIONS),
                ('upsampling', self.upsampling, UPSAMPLINGS),
                ('mask_draw', self.mask_draw, MASK_DRAWS))),
            (not 2 <= num <= 255, f'{num} classes', '2 to 255'),
            (len(self.palette) != num, f'{len(self.palette)} colours', f'{num}'),
            (self.logits_shape[0] != num, f'{self.logits_shape[0]} logits', f'{num}'),
            (min(spec.width, spec.height) < 8, f'input {spec.width}x{spec.height}',
             'at least 8 pixels a side'),
            *self._unlike_the_method(),
            ((self.method == 'deep_ensemble') != (self.members >= 2),
             f'{self.members} members for {self.method}', '2 or more for deep_ensemble, else 0'),
            (self.members > 0 and (self.passes != self.members or len(self.dropout_sites) > 1),
             f'{self.passes} passes of {self.members} members, {len(self.dropout_sites)} sites',
             'one pass a member, and the site that chooses it'),
            (bool(bad_sites), f'sites {bad_sites}',
             'a mask with p between 0 and 1 or noise with p 0, and a shape'),
            (self.passes < 1, f'{self.passes} passes', 'at least 1'),
            (not all(map(math.isfinite, self.metrics.values())), 'a metric is not finite', ''),
            *self._beyond_bounds(),
        ]

    def _unlike_the_method(self) -> list[tuple[bool, str, str]]:
        """Return the checks of the sites against the method; `members` is checked elsewhere."""
        masks, noise = self.mask_sites, [site.shape for site in self.noise_sites]
        wanted = {'direct': ('(S, C, 1, 1)', 4), 'error_propagation': ('(C, 1, 1)', 3)}
        text, axes = wanted.get(self.method, ('', 0))
        fits = [shape[-3:] == (self.num_classes, 1, 1) and len(shape) == axes for shape in noise]
        return [
            (self.method in ('mc_dropout', 'deep_ensemble') and not masks, 'no dropout site',
             'at least one'),
            (self.method in ('single', 'error_propagation') and bool(masks),
             f'{len(masks)} dropout sites for {self.method}', 'none'),
            (fits != [True] * (axes > 0), f'noise of the shapes {noise} for {self.method}',
             f'one of {text}' if axes else 'none'),
            (self.has_one_pass and self.passes != 1,
             f'{self.passes} passes of {self.method} without dropout', '1: all would be equal'),
        ]

    def _beyond_bounds(self) -> list[tuple[bool, str, str]]:
        """Return the checks of types and bounds."""
        spec, sites = self.input, self.dropout_sites
        counts = {'passes': self.passes, 'members': self.members,
                  'width': spec.width, 'height': spec.height, 'opset': self.opset,
                  'ignore_index': self.ignore_index}
        features = self.feature_shape or ()
        whole = [*counts.values(), *self.logits_shape, *features,
                 *(n for s in sites for n in s.shape),
                 *(v for color in self.palette for v in color)]
        odd = [value for value in whole if type(value) is not int or abs(value) > _MOST_MASKS]
        if odd or any(len(s.shape) > _MOST_AXES for s in sites):
            return [(True, f'{odd[:1]!r:.60} where a whole number belongs, or a mask of more '
                     f'than {_MOST_AXES} axes', 'what compile writes')]
        floats = [*spec.mean, *spec.std, *self.grid_offset, self.grid_error, *(s.p for s in sites)]
        masks = sum(math.prod(s.shape) for s in sites) * max(self.passes, 1)
        names = [self.name, *self.class_names, *(s.name for s in sites), *self.silenced,
                 *self.metrics,
                 *self.sha256]
        bad_names = [n for n in names if not 0 < len(n) <= _LONGEST_NAME or not n.isprintable()]
        texts = {'training': self.training, 'license': self.license,
                 'not_good_for': self.not_good_for, 'promise': self.promise}
        bad_texts = [k for k, v in texts.items() if len(v) > _LONGEST_TEXT
                     or not all(c.isprintable() or c in _SPACES for c in v)]
        bad_digests = [k for k, v in self.sha256.items() if not _SHA256.fullmatch(v)]
        lengths = {'dropout sites': len(sites), 'metrics': len(self.metrics),
                   'silenced modules': len(self.silenced), 'files': len(self.sha256)}
        return [
            (len(self.grid_offset) != 2 or not all(0 <= v < 0.5 for v in self.grid_offset),
             f'grid_offset {self.grid_offset}', 'two numbers from 0 to below 0.5'),
            (max(spec.width, spec.height) > LONGEST_SIDE, f'input {spec.width}x{spec.height}',
             f'at most {LONGEST_SIDE} pixels a side'),
            (min(self.logits_shape) < 1 or math.prod(self.logits_shape) > _MOST_LOGITS,
             f'logits of shape {self.logits_shape}', f'at most {_MOST_LOGITS} values a pass'),
            (self.feature_shape is not None and not (
                len(features) == 3 and min(features) >= 1 and features[0] <= MOST_FEATURES
                and math.prod(features) <= _MOST_LOGITS),
             f'features of shape {self.feature_shape}',
             f'1 to {MOST_FEATURES} channels, rows and columns'),
            (any(n < 1 for s in sites for n in s.shape) or masks > _MOST_MASKS,
             f'masks of {masks} values', f'1 to {_MOST_MASKS} in all passes together'),
            *((not 0 <= counts[key] <= MOST_PASSES, f'{counts[key]} {words}',
               f'0 to {MOST_PASSES}') for key, words in (
                   ('passes', 'passes'), ('members', 'members'))),
            *((count > _MOST_ENTRIES, f'{count} {words}', f'at most {_MOST_ENTRIES}')
              for words, count in lengths.items()),
            (self.opset not in _OPSETS, f'opset {self.opset}', '1 to 100'),
            (not self.num_classes <= self.ignore_index <= 255,
             f'ignore_index {self.ignore_index}', f'{self.num_classes} to 255'),
            (not all(0 <= v <= 255 for color in self.palette for v in color),
             'a colour outside of 0 to 255', 'three bytes for each class'),
            (len(spec.mean) != 3 or len(spec.std) != 3 or not all(map(math.isfinite, floats))
             or min(spec.std) <= 0, f'mean {spec.mean} and std {spec.std}',
             'three finite numbers each, std above 0'),
            (bool(bad_names), f'the name {bad_names[:1]!r:.60}',
             f'1 to {_LONGEST_NAME} characters that can be printed'),
            (bool(bad_texts), f'{bad_texts[:1]} that is too long or cannot be printed',
             f'at most {_LONGEST_TEXT} characters that can be printed'),
            (bool(bad_digests), f'no sha256 of {bad_digests[:1]}', '64 hexadecimal digits'),
        ]

    @property
    def num_classes(self) -> int:
        """Return C, the number of classes."""
        return len(self.class_names)

    @property
    def grid(self) -> Grid:
        """Return the grid of the sums over passes, in the network's image."""
        _, rows, columns = self.logits_shape
        return Grid(rows, columns, self.input.height, self.input.width, self.upsampling,
                    self.grid_offset)

    @property
    def mask_sites(self) -> tuple[DropoutSite, ...]:
        """Return the sites of kind 'mask'."""
        return tuple(site for site in self.dropout_sites if site.kind == 'mask')

    @property
    def noise_sites(self) -> tuple[DropoutSite, ...]:
        """Return the sites of kind 'noise'."""
        return tuple(site for site in self.dropout_sites if site.kind == 'noise')

    @property
    def has_one_pass(self) -> bool:
        """Return whether all passes would be equal: `single`, and `direct` without dropout."""
        return self.method in ('single', 'direct') and not self.mask_sites


def digests_in(text: str) -> tuple[str, ...]:
    """Split a text of concatenated digests of images; ValueError if it is none."""
    if len(text) % SEEN_DIGITS or len(bytes.fromhex(text)) * 2 < len(text):
        raise ValueError(f'seen_images has {len(text)} digits, no multiple of {SEEN_DIGITS}')
    return tuple(text[at:at + SEEN_DIGITS] for at in range(0, len(text), SEEN_DIGITS))


def card_to_json(card: ModelCard) -> str:
    """Return a card as indented JSON, without newer fields that have their default."""
    raw = dataclasses.asdict(card)
    raw['seen_images'] = ''.join(card.seen_images)
    for site in raw['dropout_sites']:
        if site['kind'] == 'mask':  # as in cards from before sites of noise
            del site['kind']
    for name, default in (('feature_shape', None), ('mask_draw', 'independent'),
                          ('grid_offset', (0.0, 0.0)), ('grid_error', 0.0), ('silenced', ()),
                          ('seen_images', ''), ('promise', '')):
        if raw[name] == default:
            del raw[name]
    return json.dumps(raw, indent=2) + '\n'


def card_from_json(text: str | bytes) -> ModelCard:
    """
    Parse and check a card that `card_to_json` wrote.

    Raises ModelBundleError if the text is not JSON, lacks a key, or has an unknown key or schema.
    """
    try:
        raw = load_object(text)
        if raw.get('schema') != SCHEMA_VERSION:
            raise ModelBundleError(
                f'card.json has schema {raw.get("schema")!r}', str(SCHEMA_VERSION),
                'compile or train it again, with this version of uncertainty_seg',
            )
        return _card(raw)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as err:
        raise ModelBundleError(
            f'card.json cannot be read ({err})', 'the card that compile wrote',
            'restore the bundle from its source or compile it again',
        ) from err


def _card(raw: dict[str, Any]) -> ModelCard:
    spec = dict(raw['input'])
    spec['mean'], spec['std'] = tuple(spec['mean']), tuple(spec['std'])
    sites = [
        DropoutSite(str(s['name']), tuple(s['shape']), float(s['p']), str(s.get('kind', 'mask')))
        for s in raw['dropout_sites']
    ]
    channels, rows, columns = raw['logits_shape']
    changed = {
        'input': InputSpec(**spec),
        'dropout_sites': tuple(sites),
        'class_names': tuple(str(n) for n in raw['class_names']),
        'palette': tuple((r, g, b) for r, g, b in raw['palette']),
        'logits_shape': (channels, rows, columns),
        'grid_offset': tuple(float(v) for v in raw.get('grid_offset', (0.0, 0.0))),
        'silenced': tuple(map(str, raw.get('silenced', ()))),
        'seen_images': digests_in(raw.get('seen_images', '')),
        'feature_shape': tuple(raw['feature_shape']) if raw.get('feature_shape') else None,
    }
    return ModelCard(**{**raw, **changed})
