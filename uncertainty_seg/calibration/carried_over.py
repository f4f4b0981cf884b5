# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Carry the thresholds of a bundle over to the same network in another precision, without labels.

Each threshold is lowered so that the bundle would also have accepted every frame that the variant
accepts, except for a stated share of the frames. Every second image determines the proportions of
the reductions: the root-mean-square difference of each score. The other images determine their
size: the smallest at which the stated share is kept (conformal risk control, Angelopoulos et al.
2022, arXiv:2208.02814). The loss is 1 for a frame that the variant accepts although the bundle
refuses it or gives a different mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.registry import require_rounding
from uncertainty_seg.calibration.labelled_pairs import images_in, opened
from uncertainty_seg.calibration.stats.evaluation import accepted_by
from uncertainty_seg.calibration.stats.gate_scale import LOWEST_LIMIT
from uncertainty_seg.core.arrays import ImageU8, LabelMap
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import (
    Calibration,
    CarriedFrom,
    image_digest,
    mask_digest,
    Promise,
    without_shares,
)
from uncertainty_seg.core.settings import BUNDLE_PRECISION, precision_of, Settings
from uncertainty_seg.errors import CalibrationError, ConfigError
from uncertainty_seg.storage.foreign_files import load_ignore_mask
from uncertainty_seg.storage.model_bundle import model_digest
from uncertainty_seg.storage.progress import progress

# Share of frames that the variant may accept and the bundle not.
ERROR = 0.005
# Masks are different if more than this share of their pixels has another class.
MOST_LABELS = 0.02
# The bundle must accept at least this part of its acceptance rate at calibration, or the images
# say nothing about accepted frames; the variant must accept at least this part of the bundle's.
_LEAST_ACCEPTED = 0.5
Columns = Mapping[str, NDArray[np.float64]]
_SAME = ('method', 'class_names', 'input', 'dropout_sites', 'logits_shape', 'mask_draw', 'members')


@dataclass(frozen=True)
class CarriedOver:
    """
    Thresholds that were carried over, and the measured differences.

    `margins` holds by alpha how far the threshold of each score was lowered, `accepted` the shares
    of the images that bundle and variant accept, `labels_differ` the mean share of other labels.
    """

    calibration: Calibration
    margins: Mapping[float, Mapping[str, float]]
    num_images: int
    accepted: Mapping[float, tuple[float, float]]
    labels_differ: float

    def summary(self) -> dict[str, Any]:
        """Return the figures of the machine-readable line."""
        return {'images': self.num_images,
                'margins': {f'{alpha:g}': dict(of) for alpha, of in self.margins.items()},
                'more_bad': self.calibration.carried_error,
                'labels_differ': self.labels_differ,
                'accepted': {f'{alpha:g}': {'bundle': round(shares[0], 4),
                                            'variant': round(shares[1], 4)}
                             for alpha, shares in self.accepted.items()}}


def carry_over(
    variant: ModelBundle, source: ModelBundle, folder: Path, settings: Settings,
    error: float = ERROR,
) -> CarriedOver:
    """
    Lower the thresholds of `source` as the scores of `variant` require; write nothing.

    `settings` are those with which the node will run the variant; the source runs in the precision
    of its calibration. The result has the source's promises, without the shares that were measured
    for the source. See `api.calibrate_like`.
    """
    _require_same(variant, source)
    require_rounding(settings.backend, variant, settings)
    made = source.calibration
    if made is None or not made.promises:
        raise CalibrationError(f'{source.card.name!r} promises nothing that could be carried over',
                               'a calibrated bundle', 'run uncertainty_seg calibrate on it')
    if made.ignore_sha256 != mask_digest(load_ignore_mask(settings.ignore_mask)):
        raise CalibrationError(f'{source.card.name!r} was calibrated with another ignore mask',
                               fix='set that one as ignore_mask')
    described = replace(
        made, precision=precision_of(variant.card, settings.precision),
        model_sha256=model_digest(variant.card))
    images = list({image_digest(image): image for image in images_in(folder).values()}.values())
    original, masks = _measured(source, images, replace(
        settings, precision=BUNDLE_PRECISION if made.precision == source.card.precision
        else made.precision), made)
    changed, other_masks = _measured(
        replace(variant, calibration=described, features=source.features), images, settings,
        described)
    differ = np.array([float(np.mean(one != other)) for one, other
                       in zip(masks, other_masks, strict=True)])
    for promise in made.promises:
        _require_accepted(promise, float(accepted_by(original, promise.limits).mean()))
    margins = {promise.alpha: margins_of(promise.limits, original, changed, error,
                                         differ > MOST_LABELS) for promise in made.promises}
    promises = tuple(_lowered(promise, margins[promise.alpha]) for promise in made.promises)
    accepted = {old.alpha: (float(accepted_by(original, old.limits).mean()),
                            float(accepted_by(changed, new.limits).mean()))
                for old, new in zip(made.promises, promises, strict=True)}
    _require_same_share(accepted, source.card.name)
    carried = replace(
        described, promises=promises, carried_error=made.carried_error + error,
        thresholds={**made.thresholds, **promises[-1].limits}, carried_from=CarriedFrom(
            source.card.name, made.precision, made.model_sha256, len(images),
            {f'{alpha:g}': shares for alpha, shares in accepted.items()}))
    return CarriedOver(carried, margins, len(images), accepted, float(differ.mean()))


def _require_same_share(accepted: Mapping[float, tuple[float, float]], name: str) -> None:
    for alpha, (before, after) in accepted.items():
        if after < _LEAST_ACCEPTED * before:
            raise CalibrationError(
                f'at alpha {alpha:g} the variant would accept {after:.1%} of the images, and '
                f'{name!r} accepts {before:.1%}', 'similar numbers',
                'calibrate the variant on labelled images')


def _require_accepted(promise: Promise, share: float) -> None:
    if share < _LEAST_ACCEPTED * (promise.accepted or 0.0):
        raise CalibrationError(
            f'at alpha {promise.alpha:g} {share:.1%} of the images are accepted, and of those of '
            f'the calibration {promise.accepted:.1%} were', 'images like those of the calibration',
            'give images of the same water and camera')


def margins_of(
    limits: Mapping[str, float], original: Columns, changed: Columns, error: float,
    is_other: NDArray[np.bool_],
) -> dict[str, float]:
    """
    Return how far to lower each threshold so that few frames are newly accepted.

    `original` and `changed` are float64 (n,) scores of the same frames by name, growing with
    uncertainty; `is_other` (n,) marks frames whose masks differ. A new frame is accepted by its
    changed scores with the lowered thresholds, although refused by its original scores or with a
    different mask, with a probability of at most `error`, in (0, 1). Margins are at least 0, and
    infinite if no finite one keeps the error. Raises CalibrationError if there are too few frames
    for the error.
    """
    apart = {name: (original[name] - changed[name])[::2] for name in limits}
    scales = {name: float(np.sqrt(np.mean(value ** 2))) for name, value in apart.items()}
    checked = {name: changed[name][1::2] for name in limits}
    refused = is_other[1::2] | ~accepted_by(
        {name: original[name][1::2] for name in limits}, limits)
    num_frames, most = len(refused), int(np.floor(error * (len(refused) + 1) + 1e-9)) - 1
    if most < 0:
        raise CalibrationError(f'{2 * num_frames} images for an error of {error:g}',
                               f'at least {2 * int(np.ceil(1 / error - 1 - 1e-9))}',
                               'take more images, or a larger error')
    # The smallest radius at which a threshold refuses each frame; 0 if one already does.
    reach = np.min([_reach(limit, checked[name], scales[name])
                    for name, limit in limits.items()], axis=0)
    wrong = np.sort(np.where(refused, reach, 0.0))[::-1]
    radius = float(wrong[most])
    if not np.isfinite(radius):  # all scales are 0, so no radius refuses further frames
        return dict.fromkeys(limits, np.inf)
    margins = {name: radius * scale for name, scale in scales.items()}
    # More than rounding, or the lowered threshold may equal the score that it must refuse.
    return {name: margin and margin + 8 * float(np.spacing(limits[name]))
            for name, margin in margins.items()}


def _reach(limit: float, scores: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    if scale == 0:  # the scores do not differ, so the threshold stays
        return np.where(scores > limit, 0.0, np.inf)
    return np.where(scores > limit, 0.0, (limit - scores) / scale)


def _require_same(variant: ModelBundle, source: ModelBundle) -> None:
    for name in _SAME:
        have, want = getattr(variant.card, name), getattr(source.card, name)
        if have != want:
            raise ConfigError(
                f'{name} of {variant.card.name!r} is {have}, that of {source.card.name!r} {want}',
                'the same network in another precision', 'calibrate it on labelled images')


def _measured(
    bundle: ModelBundle, images: Sequence[ImageU8], settings: Settings, made: Calibration
) -> tuple[Columns, list[LabelMap]]:
    """Return gate scores and labels of all images; CalibrationError if a score is not finite."""
    rows, labels = [], []
    with opened(bundle, settings) as pipeline:
        for index, image in enumerate(progress(images, desc=bundle.card.name)):
            result = pipeline.measure(image, index)
            rows.append(result.scores)
            geometry = result.geometry
            labels.append(result.maps.cut(geometry.rows, geometry.columns).label)
    found = {name: np.array([row[name] for row in rows], np.float64) for name in made.gate_scores}
    strange = [name for name, values in found.items() if not np.isfinite(values).all()]
    if strange:
        raise CalibrationError(f'{strange[0]} of {bundle.card.name!r} is not finite on an image',
                               fix='look at that image, or leave it out')
    return found, labels


def _lowered(promise: Promise, margins: Mapping[str, float]) -> Promise:
    limits = {name: limit - margins[name] for name, limit in promise.limits.items()}
    wrong = [name for name, limit in limits.items() if limit < LOWEST_LIMIT]
    if wrong:
        raise CalibrationError(
            f'the threshold {promise.limits[wrong[0]]:.3g} of {wrong[0]} would have to fall by '
            f'{margins[wrong[0]]:.3g}', 'less', 'calibrate the variant on labelled images')
    return without_shares(replace(promise, limits=limits))
