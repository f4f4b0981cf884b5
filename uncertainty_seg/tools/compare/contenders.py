# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is compared: bundles as they run, and one bundle without what makes its passes differ.

The deterministic pass of a bundle is the same two graphs, given inputs under which all passes are
equal, once: dropout switched off, an ensemble by its first member.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
import hashlib

import numpy as np

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import calibration_to_json
from uncertainty_seg.core.dropout_masks import Masks, PassSource, still_inputs
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import BUNDLE_PASSES, Settings
from uncertainty_seg.core.uncertainty import MAP_NAMES
from uncertainty_seg.errors import ModelBundleError
from uncertainty_seg.storage.ignore_mask import load_ignore_mask
from uncertainty_seg.storage.model_bundle import model_digest

SINGLE = 'single'


@dataclass(frozen=True)
class Contender:
    """
    A bundle, and how it is run.

    Attributes
    ----------
    label : str
        Its name in the table.
    bundle : ModelBundle
        With or without a calibration.
    is_still : bool
        One pass with nothing random in it, instead of the bundle's own.

    """

    label: str
    bundle: ModelBundle
    is_still: bool = False

    @property
    def passes(self) -> int:
        """T."""
        return 1 if self.is_still else self.bundle.card.passes

    @property
    def temperature(self) -> float:
        """Return the temperature of the calibration; 1 without one."""
        calibration = self.bundle.calibration
        return 1.0 if calibration is None else calibration.temperature

    def describe(self) -> str:
        """Say in one sentence what it is."""
        card, size = self.bundle.card, self.bundle.card.input
        if self.is_still and card.members:
            how = f'the first member of {card.name!r} alone'
        elif self.is_still and card.is_balanced:
            how = (f'one pass of {card.name!r} with one of its masks, since this head cannot '
                   'switch them off')
        elif self.is_still:
            how = f'the deterministic pass of {card.name!r}: every mask is one, and T is 1'
        else:
            how = f'{card.method} with T={card.passes}'
        heat = f'temperature {self.temperature:.3g}' if self.bundle.calibration else \
            'temperature 1, since it has no calibration'
        return f'{how}; {size.width}x{size.height}, {heat}.'

    def digest(self) -> str:
        """Return a digest of everything in it that a figure depends on."""
        calibration = self.bundle.calibration
        text = '' if calibration is None else calibration_to_json(calibration)
        facts = (model_digest(self.bundle.card), str(text), self.passes, self.is_still)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    @contextmanager
    def opened(self, settings: Settings) -> Iterator[Pipeline]:
        """Open its pipeline with all scores, and close it at the end of the block."""
        used = replace(settings, passes=1 if self.is_still else BUNDLE_PASSES, all_scores=True,
                       mask_policy='fixed')
        backend = open_backend(used.backend, self.bundle, used)
        # Not to a bit the calibration's: with that, limits for other passes would be looked for.
        temperature = float(np.nextafter(self.temperature, np.inf))
        try:
            yield Pipeline(
                self.bundle, backend, used, temperature,
                load_ignore_mask(used.ignore_mask),
                source=_StillSource(self.bundle.card) if self.is_still else None,
                maps=MAP_NAMES)
        finally:
            backend.close()


class _StillSource(PassSource):
    """Inputs without anything random, always the same object, as backends want it."""

    def of(self, passes: int, seed: int) -> Masks:
        if self._drawn is None:
            self._drawn = (passes, seed), still_inputs(self._card, passes)
        return self._drawn[1]


def contenders_of(
    bundles: Sequence[ModelBundle], baseline: ModelBundle | None
) -> tuple[Contender, ...]:
    """
    Return what is compared, the baseline first.

    It is the one that is named; else the first bundle of one pass (method 'single'); else the
    deterministic pass of the first bundle. Raises ModelBundleError if a bundle has other classes
    than the first, or is given twice.
    """
    given = list(bundles)
    if baseline is not None and all(one.folder != baseline.folder for one in given):
        given.insert(0, baseline)
    _refuse_strangers(given)
    labels = _labels(given)
    made = [Contender(label, bundle) for label, bundle in zip(labels, given, strict=True)]
    first = next((one for one in made if one.bundle.card.method == SINGLE), None)
    if baseline is not None:
        first = next(one for one in made if one.bundle.folder == baseline.folder)
    if first is None:
        # The network that is first by itself, so that passes and no passes of it are compared.
        taken = {one.label for one in made}
        label = next(name for name in (SINGLE, f'{labels[0]} {SINGLE}', f'{labels[0]} one pass')
                     if name not in taken)
        first = Contender(label, bundles[0], is_still=True)
    return (first, *(one for one in made if one is not first))


def _refuse_strangers(bundles: Sequence[ModelBundle]) -> None:
    first, seen = bundles[0].card, set()
    for bundle in bundles:
        if bundle.card.class_names != first.class_names:
            raise ModelBundleError(
                f'{bundle.card.name!r} has the classes {bundle.card.class_names}',
                f'those of {first.name!r}, {first.class_names}',
                'compare networks that answer the same question')
        place = bundle.folder.resolve()
        if place in seen:
            raise ModelBundleError(f'{bundle.folder} is given twice', 'each bundle once')
        seen.add(place)


def _labels(bundles: Sequence[ModelBundle]) -> list[str]:
    """Name bundles by their cards, or where these repeat by their folders."""
    names = [bundle.card.name for bundle in bundles]
    folders = [name if names.count(name) == 1 else bundle.folder.name
               for name, bundle in zip(names, bundles, strict=True)]
    return [name if folders.count(name) == 1 else f'{name} {index + 1}'
            for index, name in enumerate(folders)]
