# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A model bundle once it has been read and checked: what backends and pipeline are given.

`storage.model_bundle` reads it from disk.

"""

from __future__ import annotations

from dataclasses import dataclass
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.calibration import Calibration, mask_digest
from uncertainty_seg.core.dropout_masks import has_free_seed
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.scores.density import FeatureDensity
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import CalibrationError

TRUNK_FILE = 'trunk.onnx'
PASSES_FILE = 'passes.onnx'
CARD_FILE = 'card.json'
CALIBRATION_FILE = 'calibration.json'
# What the features of a frame are compared with; its digest is in the calibration.
FEATURES_FILE = 'features.npz'
# Of every file of a bundle, as sha256sum writes and checks it; and the signature of that list.
HASHES_FILE = 'SHA256SUMS'
SIGNATURE_FILE = 'SHA256SUMS.sig'


@dataclass(frozen=True)
class ModelBundle:
    """
    A checked bundle: its folder, card, calibration and features of the training frames.

    `calibration` is None for a bundle that was compiled and not yet calibrated, `features` unless
    its calibration has fitted them.
    """

    folder: Path
    card: ModelCard
    calibration: Calibration | None
    features: FeatureDensity | None = None

    @property
    def trunk_path(self) -> Path:
        """Return the graph that runs once a frame."""
        return self.folder / TRUNK_FILE

    @property
    def passes_path(self) -> Path:
        """Return the graph that runs T passes and sums over them."""
        return self.folder / PASSES_FILE


# -------------------------------------------------------------------------------------------------
# Whether the calibration of a bundle is one for what is about to run.

_log = logging.getLogger(__name__)


def fitting_calibration(
    bundle: ModelBundle, settings: Settings, passes: int, precision: str,
    ignore: NDArray[np.bool_] | None,
) -> Calibration:
    """
    Return the calibration of a bundle if it is for these settings.

    Raises CalibrationError if there is none, or it is for another T, mask policy, precision or
    kind of masks, or for masks of another seed where these are the same in every frame. Another
    ignore mask is logged; without dropout seed and mask policy change nothing.
    """
    calibration = bundle.calibration
    if calibration is None:
        raise CalibrationError(
            f'bundle {bundle.card.name!r} has no calibration.json', 'thresholds for the gate',
            'run uncertainty_seg calibrate on it, or set uncalibrated to run: real scores, no '
            'promise, the flag always false',
        )
    pairs: list[tuple[str, object, object]] = [
        ('passes', calibration.passes, passes), ('precision', calibration.precision, precision),
        ('smallest_class', calibration.smallest_class, smallest_class_of(bundle, settings))]
    if has_free_seed(bundle.card):  # without dropout every frame has the same passes
        pairs.insert(1, ('mask_policy', calibration.mask_policy, settings.mask_policy))
    if calibration.mask_draw != bundle.card.mask_draw:
        raise CalibrationError(
            f'the masks of {bundle.card.name!r} are {bundle.card.mask_draw}, but it was '
            f'calibrated with {calibration.mask_draw} ones', fix='calibrate the bundle again')
    for name, calibrated, wanted in pairs:
        if calibrated != wanted:
            raise _unfit(bundle, name, calibrated, wanted)
    require_seed(bundle, settings)
    if calibration.ignore_sha256 != mask_digest(ignore):
        _log.warning('%r was calibrated with another ignore_mask: its thresholds are for scores '
                     'of other pixels', bundle.card.name)
    return calibration


def smallest_class_of(bundle: ModelBundle, settings: Settings) -> float:
    """Return the least share of a class in the mask: of the settings, or as it was calibrated."""
    made = bundle.calibration
    return settings.smallest_class if settings.smallest_class >= 0 or made is None \
        else made.smallest_class


def _unfit(bundle: ModelBundle, name: str, calibrated: object, wanted: object) -> CalibrationError:
    return CalibrationError(
        f'{name} is {wanted}, but {bundle.card.name!r} was calibrated with {calibrated}',
        fix=f'set {name} to {calibrated}, or calibrate the bundle again')


def require_seed(bundle: ModelBundle, settings: Settings) -> None:
    """
    Refuse fixed masks of another seed than those that a bundle was calibrated with.

    The scores of one set of T masks are off by the same share in every frame, by another for each
    seed. Masks that are drawn for each frame are off by as much, but it averages out.

    """
    calibration, card = bundle.calibration, bundle.card
    if calibration is None or settings.seed == calibration.seed \
            or settings.mask_policy != 'fixed' or not has_free_seed(card):
        return
    raise CalibrationError(
        f'seed is {settings.seed} and the masks are the same in every frame',
        f'{calibration.seed}, the seed of the masks that {card.name!r} was calibrated with',
        f'set seed to {calibration.seed}, or calibrate the bundle with seed {settings.seed}')
