# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Carry the limits of a bundle over to the same network in another precision, without labels.

Each limit is lowered, so that a frame which the variant accepts would have been accepted by the
bundle too, but for a stated share of the frames. Every second image says in which proportion the
limits fall: by what each score differs, as a root mean square. The others say how far: by the
least at which the share is kept (conformal risk control, Angelopoulos et al. 2022,
arXiv:2208.02814; its loss is 1 for a frame that the variant alone accepts).

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

# Of frames that the variant may accept and the bundle not.
ERROR = 0.005
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
    margins : mapping of float to mapping of str to float
        By alpha, how far the limit of each score was lowered.
    num_images : int
        Images that both were run on.
    accepted : mapping of float to (float, float)
        Shares of these images that the bundle and the variant accept, by alpha.

    """

    calibration: Calibration
    margins: Mapping[float, Mapping[str, float]]
    num_images: int
    accepted: Mapping[float, tuple[float, float]]

    def summary(self) -> dict[str, Any]:
        """Return the line for scripts."""
        return {'images': self.num_images,
                'margins': {f'{alpha:g}': dict(of) for alpha, of in self.margins.items()},
                'more_bad': self.calibration.carried_error,
                'accepted': {f'{alpha:g}': {'bundle': round(shares[0], 4),
                                            'variant': round(shares[1], 4)}
                             for alpha, shares in self.accepted.items()}}


def carry_over(
    variant: ModelBundle, source: ModelBundle, folder: Path, settings: Settings,
    error: float = ERROR,
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
    error : float
        Largest share of frames, in (0, 1), that the variant may accept and the bundle not.

    Returns
    -------
    CarriedOver
        The calibration has the source's promises with lower limits, and `carried_error`.

    Raises
    ------
    ConfigError
        If the two are not the same network by their cards.
    CalibrationError
        If the source has no promise for these settings, there are too few images for the error,
        or the limits would fall to nothing.
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
    margins = {promise.alpha: margins_of(promise.limits, original, changed, error)
               for promise in made.promises}
    promises = tuple(_lowered(promise, margins[promise.alpha]) for promise in made.promises)
    carried = replace(described, promises=promises, carried_error=error,
                      thresholds={**made.thresholds, **promises[-1].limits})
    accepted = {old.alpha: (float(_accepted(original, old.limits).mean()),
                            float(_accepted(changed, new.limits).mean()))
                for old, new in zip(made.promises, promises, strict=True)}
    return CarriedOver(carried, margins, len(images), accepted)


def margins_of(
    limits: Mapping[str, float], original: Columns, changed: Columns, error: float
) -> dict[str, float]:
    """
    Return how far to lower each limit, so that hardly a frame passes that did not before.

    Parameters
    ----------
    limits : mapping of str to float
        Of each gate score.
    original, changed : mapping of str to ndarray of float64, shape (n,)
        Scores of the same frames, by name; growing with uncertainty.
    error : float
        In (0, 1): the largest probability that a further frame is within the lowered limits by its
        changed scores, and over the limits by its original ones.

    Returns
    -------
    dict of str to float
        At least 0; infinite where nothing less keeps the error.

    Raises
    ------
    CalibrationError
        If there are too few frames for the error.

    """
    apart = {name: (original[name] - changed[name])[::2] for name in limits}
    scales = {name: float(np.sqrt(np.mean(value ** 2))) for name, value in apart.items()}
    checked = {name: changed[name][1::2] for name in limits}
    refused = ~_accepted({name: original[name][1::2] for name in limits}, limits)
    num_frames, most = len(refused), int(np.floor(error * (len(refused) + 1) + 1e-9)) - 1
    if most < 0:
        raise CalibrationError(f'{2 * num_frames} images for an error of {error:g}',
                               f'at least {2 * int(np.ceil(1 / error - 1 - 1e-9))}',
                               'take more images, or a larger --error')
    # Of each frame, the least radius at which a limit refuses it; 0 where one does already.
    with np.errstate(divide='ignore', invalid='ignore'):
        reach = np.min([np.where(checked[name] > limit, 0.0, (limit - checked[name])
                                 / scales[name]) for name, limit in limits.items()], axis=0)
    wrong = np.sort(np.where(refused, reach, 0.0))[::-1]
    radius = float(np.nextafter(wrong[most], np.inf)) if wrong[most] > 0 else 0.0
    if not np.isfinite(radius):  # a score that differs on no image that says how far
        return dict.fromkeys(limits, np.inf)
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
            f'the limit {promise.limits[wrong[0]]:.3g} of {wrong[0]} would have to fall by '
            f'{margins[wrong[0]]:.3g}', 'less', 'calibrate the variant on labelled images')
    return replace(promise, limits=limits)


def _accepted(scores: Columns, limits: Mapping[str, float]) -> NDArray[np.bool_]:
    return np.all([scores[name] <= limit for name, limit in limits.items()], axis=0)
