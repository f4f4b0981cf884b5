# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Open the pipeline of a bundle: what `uncertainty_seg.open_pipeline` and the verbs start from.

It joins what the rooms below may not join: bundles on disk, a runtime, and the pipeline.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import logging
from pathlib import Path

from uncertainty_seg.backends import registry
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.gate import NO_CALIBRATION
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import (
    RUN_UNCALIBRATED,
    Settings,
    settings_from_dict,
    to_dict,
)
from uncertainty_seg.errors import CalibrationError
from uncertainty_seg.storage.foreign_files import load_ignore_mask
from uncertainty_seg.storage.model_bundle import load_bundle

_log = logging.getLogger(__name__)


def open_pipeline(
    model: ModelBundle | Path | str | None = None,
    settings: Settings | None = None,
    *,
    temperature: float | None = None,
    all_scores: bool = False,
    **parameters: object,
) -> Pipeline:
    """
    Open a bundle on the best runtime of this machine, ready for the first frame.

    Parameters
    ----------
    model : ModelBundle, Path or str, optional
        Name of an included model ('pipeline', 'suim'), folder of a bundle, or a loaded bundle;
        `model` of the settings if omitted.
    settings : Settings, optional
        Backend, T, seed, gate and so on; the node's defaults if omitted.
    temperature : float, optional
        Divides the logits, in place of the calibration's temperature; 1 opens a bundle that is
        not calibrated. There is no gate then, and the flag is always false; the setting
        ``uncalibrated='run'`` does the same, in every verb.
    all_scores : bool, optional
        Compute every score, not only those of the gate and the usual six.
    **parameters
        Single settings by their names, such as ``passes=20``; they replace those of `settings`.
        Names with a dot are given as ``**{'gate.alpha': 0.1}``.

    Returns
    -------
    Pipeline
        A context manager, closed at the end of its block; else by ``close()``.

    Raises
    ------
    UncertaintySegError
        If bundle, runtime and settings do not fit together; nothing stays open.

    """
    settings = checked_settings(settings, **parameters)
    bundle = as_bundle(settings.model if model is None else model,
                       trusted_keys=settings.trusted_keys)
    if temperature is None and bundle.calibration is None \
            and settings.uncalibrated != RUN_UNCALIBRATED:
        raise CalibrationError(f'bundle {bundle.card.name!r} has no calibration.json',
                               'thresholds for the gate', 'run uncertainty_seg calibrate on it, '
                               "or open it with uncalibrated='run', without a gate")
    return registry.open_pipeline(
        bundle, settings, load_ignore_mask(settings.ignore_mask), temperature, all_scores)


def offline_settings(bundle: ModelBundle, settings: Settings) -> Settings:
    """
    Return settings under which a bundle runs offline even if nobody has calibrated it.

    Nothing is steered by what the verbs write, so a new network may rank frames at once; a
    warning says that there is no promise.
    """
    if bundle.calibration is not None or settings.uncalibrated == RUN_UNCALIBRATED:
        return settings
    _log.warning('%s (%r): scores are real, at temperature 1, and no frame is confident',
                 NO_CALIBRATION, bundle.card.name)
    return replace(settings, uncalibrated=RUN_UNCALIBRATED)


def as_bundle(
    model: ModelBundle | Path | str, has_calibration: bool = True,
    trusted_keys: Sequence[str] = (),
) -> ModelBundle:
    """
    Return a bundle, read from disk if it is a name or a path; see `load_bundle`.

    With trusted keys its folder is read again: who signed it is not known of a loaded one.

    """
    if isinstance(model, ModelBundle):
        if trusted_keys:
            load_bundle(model.folder, False, trusted_keys)
        return model if has_calibration else replace(model, calibration=None)
    return load_bundle(model, has_calibration, trusted_keys)


def checked_settings(settings: Settings | None = None, **parameters: object) -> Settings:
    """
    Return settings whose every value is in range.

    Raises
    ------
    ConfigError
        If a name is unknown, or a value is of another type or out of range.

    """
    return settings_from_dict({**to_dict(settings or Settings()), **parameters})
