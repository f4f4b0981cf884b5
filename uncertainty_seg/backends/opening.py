# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Open the pipeline of a bundle: the entry point of `uncertainty_seg.open_pipeline` and the verbs.

It combines bundles on disk, a runtime and the pipeline, which lower packages must not import
together.
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
        Divides the logits, in place of the calibration's temperature; 1 opens a bundle without a
        calibration. The pipeline then has no gate, and the flag is always false. The setting
        ``uncalibrated='run'`` does the same, in every verb.
    all_scores : bool, optional
        Compute every score, not only those of the gate and the usual six.
    **parameters
        Single settings by name, such as ``passes=20``; they replace those of `settings`. Pass
        names that contain a dot as ``**{'gate.alpha': 0.1}``.

    Returns
    -------
    Pipeline
        A context manager, closed at the end of its block or by ``close()``.

    Raises
    ------
    UncertaintySegError
        If bundle, runtime and settings do not fit together; nothing stays open then.

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
    Return settings under which a bundle runs offline even without a calibration.

    No vehicle acts on the results of the verbs, so they may rank frames by an uncalibrated
    network; a warning says that no frame is confident.
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
    Return a bundle, read from disk if given as a name or a path; see `load_bundle`.

    With trusted keys its folder is read again, since a loaded bundle does not record its signer.
    """
    if isinstance(model, ModelBundle):
        if trusted_keys:
            load_bundle(model.folder, False, trusted_keys)
        return model if has_calibration else replace(model, calibration=None)
    return load_bundle(model, has_calibration, trusted_keys)


def checked_settings(settings: Settings | None = None, **parameters: object) -> Settings:
    """
    Return settings with `parameters` replaced and every value checked.

    Raises
    ------
    ConfigError
        If a name is unknown, or a value is of another type or out of range.

    """
    return settings_from_dict({**to_dict(settings or Settings()), **parameters})
