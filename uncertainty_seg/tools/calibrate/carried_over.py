# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Carry the limits of a bundle over to the same network in another precision, without labels.

Each limit is lowered by a margin, so that a frame which the variant accepts would have been
accepted by the bundle too. The margin is what the scores of the two lay apart on n images, of all
gate scores together: the largest value of any image, in units of each score's own differences. An
image like these exceeds it with a probability of at most 1 / (n + 1), whatever the distribution.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle, reduction_of
from uncertainty_seg.core.calibration import Calibration, LOWEST_LIMIT, Promise
from uncertainty_seg.core.settings import BUNDLE_PRECISION, precision_of, Settings
from uncertainty_seg.errors import CalibrationError, ConfigError
from uncertainty_seg.storage.model_bundle import model_digest
from uncertainty_seg.tools.calibrate.labelled_pairs import images_in, opened

Columns = Mapping[str, NDArray[np.float64]]
_SAME = ('method', 'class_names', 'input', 'dropout_sites', 'logits_shape', 'mask_draw', 'members')


@dataclass(frozen=True)
class CarriedOver:
    """
    Limits that were carried over, and what that took.

    Attributes
    ----------
    calibration : Calibration
        Of the variant, to be written.
    margins : mapping of str to float
        How far each limit was lowered.
    num_images : int
        Images that both were run on.
    accepted : mapping of float to (float, float)
        Shares of these images that the bundle and the variant accept, by alpha.

    """

    calibration: Calibration
    margins: Mapping[str, float]
    num_images: int
    accepted: Mapping[float, tuple[float, float]]

    def summary(self) -> dict[str, Any]:
        """Return the line for scripts."""
        return {'images': self.num_images, 'margins': dict(self.margins),
                'more_bad': self.calibration.carried_error,
                'accepted': {f'{alpha:g}': {'bundle': round(shares[0], 4),
                                            'variant': round(shares[1], 4)}
                             for alpha, shares in self.accepted.items()}}


def carry_over(
    variant: ModelBundle, source: ModelBundle, folder: Path, settings: Settings
) -> CarriedOver:
    """
    Lower the limits of `source` by what the scores of `variant` differ on images; write nothing.

    Parameters
    ----------
    variant : ModelBundle
        The same network in another precision; its own calibration is not looked at.
    source : ModelBundle
        Calibrated, with a promise.
    folder : Path
        Images like those that the calibration is for, without masks, or with images/ in it.
    settings : Settings
        As the node will run the variant; the source runs in the precision of its calibration.

    Returns
    -------
    CarriedOver
        The calibration has the source's promises with lower limits, and `carried_error`.

    Raises
    ------
    ConfigError
        If the two are not the same network by their cards.
    CalibrationError
        If the source has no promise for these settings, or its limits are no larger than the
        differences.
    DatasetError
        If there is no image, or one cannot be read.

    """
    _require_same(variant, source)
    made = source.calibration
    if made is None or not made.promises:
        raise CalibrationError(f'{source.card.name!r} promises nothing that could be carried over',
                               'a calibrated bundle', 'run uncertainty_seg calibrate on it')
    precision = precision_of(variant.card, settings.precision)
    described = replace(
        made, precision=precision, model_sha256=model_digest(variant.card), pass_steps=None,
        reductions=(reduction_of(source, settings),))
    images = list(images_in(folder).values())
    original = _scores(source, images, replace(settings, precision=BUNDLE_PRECISION
                                               if made.precision == source.card.precision
                                               else made.precision), made)
    changed = _scores(replace(variant, calibration=described, features=source.features), images,
                      settings, described)
    margins = margins_of(original, changed)
    promises = tuple(_lowered(promise, margins) for promise in made.promises)
    carried = replace(
        described, promises=promises, carried_error=1 / (len(images) + 1),
        thresholds={**made.thresholds, **promises[-1].limits})
    accepted = {old.alpha: (_accepted(original, old), _accepted(changed, new))
                for old, new in zip(made.promises, promises, strict=True)}
    return CarriedOver(carried, margins, len(images), accepted)


def margins_of(original: Columns, changed: Columns) -> dict[str, float]:
    """
    Return how far to lower each limit, so that no frame passes whose original score is above it.

    Parameters
    ----------
    original, changed : mapping of str to ndarray of float64, shape (n,)
        Scores of the same frames, by name; growing with uncertainty.

    Returns
    -------
    dict of str to float
        At least 0. A new frame's original score exceeds the changed one by more, in any score,
        with a probability of at most 1 / (n + 1).

    """
    apart = {name: original[name] - changed[name] for name in original}
    scales = {name: float(np.sqrt(np.mean(value ** 2))) for name, value in apart.items()}
    units = [value / scales[name] for name, value in apart.items() if scales[name] > 0]
    radius = max(0.0, float(np.max(units))) if units else 0.0
    return {name: radius * scale for name, scale in scales.items()}


def _require_same(variant: ModelBundle, source: ModelBundle) -> None:
    for name in _SAME:
        have, want = getattr(variant.card, name), getattr(source.card, name)
        if have != want:
            raise ConfigError(
                f'{name} of {variant.card.name!r} is {have}, that of {source.card.name!r} {want}',
                'the same network in another precision', 'calibrate it on labelled images')


def _scores(
    bundle: ModelBundle, images: Sequence[ImageU8], settings: Settings, made: Calibration
) -> Columns:
    """Measure the gate scores; CalibrationError if the calibration is not for the settings."""
    rows = []
    with opened(bundle, settings) as pipeline:
        for index, image in enumerate(tqdm(images, desc=bundle.card.name, unit='frame',
                                           disable=None)):
            rows.append(pipeline.measure(image, index).scores)
    found = {name: np.array([row[name] for row in rows], np.float64) for name in made.gate_scores}
    strange = [name for name, values in found.items() if not np.isfinite(values).all()]
    if strange:
        raise CalibrationError(f'{strange[0]} of {bundle.card.name!r} is not finite on an image',
                               fix='look at that image, or leave it out')
    return found


def _lowered(promise: Promise, margins: Mapping[str, float]) -> Promise:
    limits = {name: limit - margins[name] for name, limit in promise.limits.items()}
    wrong = [name for name, limit in limits.items() if limit < LOWEST_LIMIT]
    if wrong:
        raise CalibrationError(
            f'{wrong[0]} differs by {margins[wrong[0]]:.3g} between the two, and its limit is '
            f'{promise.limits[wrong[0]]:.3g}', 'smaller differences',
            'calibrate the variant on labelled images')
    return replace(promise, limits=limits)


def _accepted(scores: Columns, promise: Promise) -> float:
    within = [scores[name] <= limit for name, limit in promise.limits.items()]
    return float(np.mean(np.all(within, axis=0)))
