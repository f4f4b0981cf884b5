# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The description of a model bundle: classes, input, dropout sites, licence, hashes.

Text in, dataclass out, and back. Reading files and comparing hashes is `storage`'s.

"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass
import json
import math
from typing import Any

from uncertainty_seg.errors import ModelBundleError

SCHEMA_VERSION = 1
FIT_RULES = ('letterbox', 'stretch')
COLOR_ORDERS = ('rgb', 'bgr')
METHODS = ('mc_dropout', 'deep_ensemble')
PRECISIONS = ('fp32', 'fp16', 'bf16', 'int8')
REDUCTIONS = ('full', 'low')
UPSAMPLINGS = ('half_pixel', 'align_corners')


@dataclass(frozen=True)
class DropoutSite:
    """
    One place of the network where a mask is multiplied in.

    Attributes
    ----------
    name : str
        Name of the mask input of the head.
    shape : tuple of int
        Shape of the mask of one pass: (C, 1, 1) for channel dropout, (C, H, W) for elements.
    p : float
        Chance that an element is dropped, in (0, 1).

    """

    name: str
    shape: tuple[int, ...]
    p: float


@dataclass(frozen=True)
class InputSpec:
    """
    What the network wants to see.

    Attributes
    ----------
    width, height : int
        Network size w, h in pixels.
    fit : str
        'letterbox' keeps the aspect and pads, 'stretch' does not.
    color_order : str
        'rgb' or 'bgr'.
    mean, std : tuple of float
        Normalisation of values scaled to 0..1; it is already inside the graph.

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
    Everything a runtime or a reader needs of a bundle.

    Attributes
    ----------
    schema : int
        Version of this format.
    name, method : str
        Name of the bundle; how its passes come about ('mc_dropout').
    class_names : tuple of str
        C names, in the order of the class ids.
    palette : tuple of (int, int, int)
        RGB colour of each class.
    ignore_index : int
        Pixel value in masks for "not known".
    input : InputSpec
        Size and fit of the image.
    dropout_sites : tuple of DropoutSite
        Mask inputs of the head.
    passes : int
        T the bundle is meant to run with.
    opset : int
        ONNX opset of the graphs.
    logits_shape : tuple of int
        (C, hl, wl) of the head's output for one pass.
    training, license, not_good_for : str
        Data and recipe; licence; where not to use it.
    metrics : mapping of str to float
        Measured on validation data, named in `training`.
    sha256 : mapping of str to str
        Digest of each file beside the card.
    precision : str
        What the graphs compute in: 'fp32', 'fp16', 'bf16', or 'int8' for a quantised trunk.
        The reduction is always float32.
    reduction : str
        'full' upsamples the logits of each pass to (h, w); 'low' reduces at (hl, wl) and
        upsamples the maps.
    chunk : int
        Passes that the head takes at once, exactly; 0 if it takes any number.
    is_balanced : bool
        Every pass keeps the same number of channels at each channel site.
    members : int
        Networks of a deep ensemble, which are its passes; 0 for dropout.
    upsampling : str
        How (hl, wl) becomes (h, w): bilinear, where the corners of the outer pixels meet
        ('half_pixel') or their centres ('align_corners').

    """

    schema: int
    name: str
    method: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    input: InputSpec  # noqa: A003
    dropout_sites: tuple[DropoutSite, ...]
    passes: int
    opset: int
    logits_shape: tuple[int, int, int]
    training: str
    license: str  # noqa: A003
    not_good_for: str
    metrics: Mapping[str, float]
    sha256: Mapping[str, str]
    precision: str = 'fp32'
    reduction: str = 'full'
    chunk: int = 0
    is_balanced: bool = False
    members: int = 0
    upsampling: str = 'half_pixel'

    def __post_init__(self) -> None:
        """Refuse a card that contradicts itself."""
        for is_wrong, came, expected in self._contradictions():
            if is_wrong:
                raise ModelBundleError(
                    f'card of {self.name!r}: {came}', expected, 'compile the bundle again'
                )

    def _contradictions(self) -> list[tuple[bool, str, str]]:
        spec, num = self.input, self.num_classes
        bad_sites = [s.name for s in self.dropout_sites if not 0.0 < s.p < 1.0 or not s.shape]
        return [
            (self.schema != SCHEMA_VERSION, f'schema {self.schema}', str(SCHEMA_VERSION)),
            (self.method not in METHODS, f'method {self.method!r}', f'one of {METHODS}'),
            (not 2 <= num <= 255, f'{num} classes', '2 to 255'),
            (len(self.palette) != num, f'{len(self.palette)} colours', f'{num}'),
            (self.logits_shape[0] != num, f'{self.logits_shape[0]} logits', f'{num}'),
            (spec.fit not in FIT_RULES, f'fit {spec.fit!r}', f'one of {FIT_RULES}'),
            (spec.color_order not in COLOR_ORDERS, f'colour order {spec.color_order!r}',
             f'one of {COLOR_ORDERS}'),
            (min(spec.width, spec.height) < 8, f'input {spec.width}x{spec.height}',
             'at least 8 pixels a side'),
            (not self.dropout_sites, 'no dropout site', 'at least one'),
            (self.precision not in PRECISIONS, f'precision {self.precision!r}',
             f'one of {PRECISIONS}'),
            (self.reduction not in REDUCTIONS, f'reduction {self.reduction!r}',
             f'one of {REDUCTIONS}'),
            (self.upsampling not in UPSAMPLINGS, f'upsampling {self.upsampling!r}',
             f'one of {UPSAMPLINGS}'),
            (self.chunk < 0, f'chunks of {self.chunk}', '0 or more'),
            ((self.method == 'deep_ensemble') != (self.members >= 2),
             f'{self.members} members for {self.method}', '2 or more for deep_ensemble, else 0'),
            (self.members > 0 and self.passes != self.members,
             f'{self.passes} passes of {self.members} members', 'one pass a member'),
            (bool(bad_sites), f'sites {bad_sites}', 'p between 0 and 1 and a shape'),
            (self.passes < 1, f'{self.passes} passes', 'at least 1'),
            (not all(map(math.isfinite, self.metrics.values())), 'a metric is not finite', ''),
        ]

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)


def card_to_json(card: ModelCard) -> str:
    """Write a card as indented JSON with a stable order of keys."""
    return json.dumps(dataclasses.asdict(card), indent=2) + '\n'


def card_from_json(text: str | bytes) -> ModelCard:
    """
    Read and check a card as `card_to_json` writes it.

    Raises ModelBundleError if the text is no JSON, lacks a key, has an unknown one, or another
    schema.
    """
    try:
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise TypeError('it is not an object')
        if raw.get('schema') != SCHEMA_VERSION:
            raise ModelBundleError(
                f'card.json has schema {raw.get("schema")!r}', str(SCHEMA_VERSION),
                'use a bundle compiled for this version of uncertainty_seg',
            )
        return _card(raw)
    except (ValueError, TypeError, KeyError) as err:
        raise ModelBundleError(
            f'card.json cannot be read ({err})', 'the card that compile wrote',
            'restore the bundle from its source or compile it again',
        ) from err


def _card(raw: dict[str, Any]) -> ModelCard:
    spec = dict(raw['input'])
    spec['mean'], spec['std'] = tuple(spec['mean']), tuple(spec['std'])
    sites = [
        DropoutSite(str(s['name']), tuple(int(n) for n in s['shape']), float(s['p']))
        for s in raw['dropout_sites']
    ]
    channels, rows, columns = (int(n) for n in raw['logits_shape'])
    changed = {
        'input': InputSpec(**spec),
        'dropout_sites': tuple(sites),
        'class_names': tuple(str(n) for n in raw['class_names']),
        'palette': tuple((int(r), int(g), int(b)) for r, g, b in raw['palette']),
        'logits_shape': (channels, rows, columns),
    }
    return ModelCard(**{**raw, **changed})
