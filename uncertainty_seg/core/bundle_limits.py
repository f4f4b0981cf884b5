# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Whether the calibration of a bundle is one for what is about to run."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import Calibration, mask_digest
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import CalibrationError

_log = logging.getLogger(__name__)


def fitting_calibration(
    bundle: ModelBundle, settings: Settings, passes: int, precision: str,
    ignore: NDArray[np.bool_] | None,
) -> Calibration:
    """
    Return the calibration of a bundle if it is for these settings.

    Parameters
    ----------
    bundle : ModelBundle
        Whose limits are asked for.
    settings : Settings
        Mask policy and seed.
    passes : int
        T.
    precision : str
        What the network computes in.
    ignore : ndarray of bool, or None
        Pixels left out of the scores.

    Returns
    -------
    Calibration
        The seed and the ignore mask may be others than its own, which is said in the log.

    Raises
    ------
    CalibrationError
        If there is none, or it is for another T, mask policy or precision.

    """
    calibration = bundle.calibration
    if calibration is None:
        raise CalibrationError(
            f'bundle {bundle.card.name!r} has no calibration.json', 'thresholds for the gate',
            'run uncertainty_seg calibrate on it',
        )
    pairs = (
        ('passes', calibration.passes, passes),
        ('mask_policy', calibration.mask_policy, settings.mask_policy),
        ('precision', calibration.precision, precision),
    )
    for name, calibrated, wanted in pairs:
        if calibrated != wanted:
            raise CalibrationError(
                f'{name} is {wanted}, but {bundle.card.name!r} was calibrated with {calibrated}',
                fix=f'set {name} to {calibrated}, or calibrate the bundle again',
            )
    if calibration.seed != settings.seed:
        _log.info('masks from seed %d, calibrated with seed %d: scores vary by the noise of '
                  'the sampler', settings.seed, calibration.seed)
    if calibration.ignore_sha256 != mask_digest(ignore):
        _log.warning('%r was calibrated with another ignore mask than this one: its limits '
                     'are for scores of other pixels', bundle.card.name)
    return calibration
