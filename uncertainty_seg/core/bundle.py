# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A model bundle after it was read and checked: the input of backends and pipeline.

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
# Features of the training frames, to compare a frame with; the calibration has the file's digest.
FEATURES_FILE = 'features.npz'
# Hashes of every file of a bundle, in the format of sha256sum, and the signature of that list.
HASHES_FILE = 'SHA256SUMS'
SIGNATURE_FILE = 'SHA256SUMS.sig'


@dataclass(frozen=True)
class ModelBundle:
    """
    A checked bundle: its folder, card, calibration and features of the training frames.

    `calibration` is None until the bundle is calibrated; `features` is None unless its calibration
    has fitted them.
    """

    folder: Path
    card: ModelCard
    calibration: Calibration | None
    features: FeatureDensity | None = None

    @property
    def trunk_path(self) -> Path:
        """Return the path of the graph that runs once per frame."""
        return self.folder / TRUNK_FILE

    @property
    def passes_path(self) -> Path:
        """Return the path of the graph that runs T passes and sums over them."""
        return self.folder / PASSES_FILE


# -------------------------------------------------------------------------------------------------
# Check that the calibration of a bundle fits the run.

_log = logging.getLogger(__name__)


def fitting_calibration(
    bundle: ModelBundle, settings: Settings, passes: int, precision: str,
    ignore: NDArray[np.bool_] | None,
) -> Calibration:
    """
    Return the calibration of a bundle if it was made for these settings.

    Raises CalibrationError if there is none, or if it was made for another T, precision, smallest
    class, mask draw or mask policy, or, with fixed masks, for another seed. A different ignore
    mask is only logged. Seed and mask policy are compared only if the inputs depend on a seed.
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
    if has_free_seed(bundle.card):  # otherwise every frame has the same passes
        pairs.insert(1, ('mask_policy', calibration.mask_policy, settings.mask_policy))
    if calibration.mask_draw != bundle.card.mask_draw:
        raise CalibrationError(
            f'the masks of {bundle.card.name!r} are {bundle.card.mask_draw}, but it was '
            f'calibrated with {calibration.mask_draw} ones', fix='calibrate the bundle again')
    for name, calibrated, wanted in pairs:
        if calibrated != wanted:
            raise CalibrationError(
                f'{name} is {wanted}, but {bundle.card.name!r} was calibrated with {calibrated}',
                fix=f'set {name} to {calibrated}, or calibrate the bundle again')
    require_seed(bundle, settings)
    if calibration.ignore_sha256 != mask_digest(ignore):
        _log.warning('%r was calibrated with another ignore_mask: its thresholds are for scores '
                     'of other pixels', bundle.card.name)
    return calibration


def smallest_class_of(bundle: ModelBundle, settings: Settings) -> float:
    """Return the smallest share of a class in the mask: the setting's, or the calibration's."""
    made = bundle.calibration
    return settings.smallest_class if settings.smallest_class >= 0 or made is None \
        else made.smallest_class


def require_seed(bundle: ModelBundle, settings: Settings) -> None:
    """
    Raise CalibrationError for fixed masks whose seed is not that of the calibration.

    One set of T masks biases the scores by the same share in every frame, and each seed by a
    different share. Masks drawn per frame have errors as large, which average out over frames.
    """
    calibration, card = bundle.calibration, bundle.card
    if calibration is None or settings.seed == calibration.seed \
            or settings.mask_policy != 'fixed' or not has_free_seed(card):
        return
    raise CalibrationError(
        f'seed is {settings.seed} and the masks are the same in every frame',
        f'{calibration.seed}, the seed of the masks that {card.name!r} was calibrated with',
        f'set seed to {calibration.seed}, or calibrate the bundle with seed {settings.seed}')
