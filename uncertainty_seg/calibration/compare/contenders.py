# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is compared: bundles as they run, and one bundle without what makes its passes differ.

The deterministic pass of a bundle is the same two graphs, given inputs under which all passes are
equal, once: dropout switched off, an ensemble by its first member. In place of one bundle may
stand the networks of a cross-fitting, which are one contender together: each measures the frames
that it never saw.

"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
import hashlib
from pathlib import Path

import numpy as np

from uncertainty_seg.backends.opening import as_bundle
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.calibration.cross_fitted import read_networks
from uncertainty_seg.core.bundle import CARD_FILE, ModelBundle
from uncertainty_seg.core.calibration import calibration_to_json
from uncertainty_seg.core.dropout_masks import Masks, PassSource, still_inputs
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import BUNDLE_PASSES, Settings
from uncertainty_seg.core.uncertainty import MAP_NAMES
from uncertainty_seg.errors import ConfigError, ModelBundleError
from uncertainty_seg.storage.folds import FOLDS_FILE, read_folds
from uncertainty_seg.storage.foreign_files import load_ignore_mask
from uncertainty_seg.storage.model_bundle import model_digest

SINGLE = 'single'


@dataclass(frozen=True)
class GivenBundle:
    """
    A bundle, or the networks of a cross-fitting.

    Attributes
    ----------
    bundle : ModelBundle
        The bundle; of a cross-fitting the network without fold 0, for all that they share.
    folder : Path
        Where it is.
    by_fold : mapping of int to ModelBundle
        The network that did not see a fold; empty for one bundle.
    fold_by_stem : mapping of str to int
        The folds.

    """

    bundle: ModelBundle
    folder: Path
    by_fold: Mapping[int, ModelBundle] = field(default_factory=dict)
    fold_by_stem: Mapping[str, int] = field(default_factory=dict)


def as_given(place: ModelBundle | Path | str) -> GivenBundle:
    """
    Read a bundle, or a folder that `crossfit` filled.

    Raises ModelBundleError if it is neither; CalibrationError or DatasetError if a fold has no
    network or the folds cannot be read.
    """
    folder = None if isinstance(place, ModelBundle) else Path(place)
    if folder and (folder / FOLDS_FILE).is_file() and not (folder / CARD_FILE).is_file():
        folds = read_folds(folder / FOLDS_FILE)
        by_fold: dict[int, ModelBundle] = {}
        for network in read_networks(folder, folds):
            by_fold.setdefault(network.fold, network.bundle)
        return GivenBundle(by_fold[min(by_fold)], folder, by_fold, folds)
    bundle = as_bundle(place)
    return GivenBundle(bundle, bundle.folder)


def shared_folds(given: Sequence[GivenBundle]) -> Mapping[str, int]:
    """
    Return the folds of all that is given; empty if none has any.

    Raises ConfigError if they differ: some networks would have seen what others are judged by.
    """
    first = given[0]
    for other in given[1:]:
        if other.fold_by_stem != first.fold_by_stem:
            raise ConfigError(
                f'{other.folder} has other folds than {first.folder}',
                'bundles without folds, or the networks of the same folds',
                'train all methods with the same --folds and --fold-seed')
    return first.fold_by_stem


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
    by_fold : mapping of int to ModelBundle
        Of a cross-fitting, the network of each fold; else empty.

    """

    label: str
    bundle: ModelBundle
    is_still: bool = False
    by_fold: Mapping[int, ModelBundle] = field(default_factory=dict)

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
        if self.by_fold:
            how += f', by {len(self.by_fold)} networks, each on the fold that it did not see'
        heat = f'temperature {self.temperature:.3g}' if self.bundle.calibration else \
            'temperature 1, since it has no calibration'
        return f'{how}; {size.width}x{size.height}, {heat}.'

    def digest(self) -> str:
        """Return a digest of everything in it that a figure depends on."""
        calibration = self.bundle.calibration
        text = '' if calibration is None else calibration_to_json(calibration)
        others = [model_digest(bundle.card) for bundle in self.by_fold.values()]
        facts = (model_digest(self.bundle.card), str(text), self.passes, self.is_still, *others)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def of_fold(self, fold: int) -> Contender:
        """Return the one network that did not see a fold."""
        return replace(self, bundle=self.by_fold[fold], by_fold={})

    @contextmanager
    def opened(self, settings: Settings) -> Iterator[Pipeline]:
        """Open its pipeline with all scores, and close it at the end of the block."""
        used = replace(settings, passes=1 if self.is_still else BUNDLE_PASSES,
                       mask_policy='fixed')
        backend = open_backend(used.backend, self.bundle, used)
        # Not to a bit the calibration's: with that, limits for other passes would be looked for.
        temperature = float(np.nextafter(self.temperature, np.inf))
        try:
            yield Pipeline(
                self.bundle, backend, used, temperature,
                load_ignore_mask(used.ignore_mask),
                source=_StillSource(self.bundle.card) if self.is_still else None,
                maps=MAP_NAMES, all_scores=True)
        finally:
            backend.close()


class _StillSource(PassSource):
    """Inputs without anything random, always the same object, as backends want it."""

    def of(self, passes: int, seed: int) -> Masks:
        if self._drawn is None:
            self._drawn = (passes, seed), still_inputs(self._card, passes)
        return self._drawn[1]


def contenders_of(
    bundles: Sequence[GivenBundle], baseline: GivenBundle | None
) -> tuple[Contender, ...]:
    """
    Return what is compared, the baseline first.

    It is the one that is named; else the first of one pass (method 'single'); else the
    deterministic pass of the first. Raises ModelBundleError if one has other classes than the
    first, or is given twice.
    """
    given = list(bundles)
    if baseline is not None and _place_of(baseline, given) is None:
        given.insert(0, baseline)
    _refuse_strangers(given)
    labels = _labels(given)
    made = [Contender(label, one.bundle, by_fold=one.by_fold)
            for label, one in zip(labels, given, strict=True)]
    first = next((one for one in made if one.bundle.card.method == SINGLE), None)
    if baseline is not None:
        first = made[_place_of(baseline, given) or 0]
    if first is None:
        # The network that is first by itself, so that passes and no passes of it are compared.
        taken = {one.label for one in made}
        label = next(name for name in (SINGLE, f'{labels[0]} {SINGLE}', f'{labels[0]} one pass')
                     if name not in taken)
        first = replace(made[0], label=label, is_still=True)
    return (first, *(one for one in made if one is not first))


def _place_of(bundle: GivenBundle, given: Sequence[GivenBundle]) -> int | None:
    places = [one.folder.resolve() for one in given]
    return places.index(bundle.folder.resolve()) if bundle.folder.resolve() in places else None


def _refuse_strangers(given: Sequence[GivenBundle]) -> None:
    first, seen = given[0].bundle.card, set()
    for one in given:
        card = one.bundle.card
        if card.class_names != first.class_names:
            raise ModelBundleError(
                f'{card.name!r} has the classes {card.class_names}',
                f'those of {first.name!r}, {first.class_names}',
                'compare networks that answer the same question')
        place = one.folder.resolve()
        if place in seen:
            raise ModelBundleError(f'{one.folder} is given twice', 'each bundle once')
        seen.add(place)


def _labels(given: Sequence[GivenBundle]) -> list[str]:
    """Name bundles by their cards, or where these repeat by their folders."""
    names = [one.bundle.card.name for one in given]
    folders = [name if names.count(name) == 1 else one.folder.name
               for name, one in zip(names, given, strict=True)]
    return [name if folders.count(name) == 1 else f'{name} {index + 1}'
            for index, name in enumerate(folders)]
