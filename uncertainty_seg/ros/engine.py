# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Opens the model a run was asked for, or frees everything and says why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import logging

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.storage.model_bundle import load_bundle

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """
    A pipeline that has been proved and warmed up.

    Attributes
    ----------
    pipeline : Pipeline
        Ready for the first frame.
    thresholds : mapping of str to float
        Every calibrated limit, gated or not.

    """

    pipeline: Pipeline
    thresholds: Mapping[str, float]


def open_engine(settings: Settings) -> Engine:
    """
    Load the bundle, open the backend, and prove the masks.

    Parameters
    ----------
    settings : Settings
        Model, backend, passes and the rest.

    Returns
    -------
    Engine
        Its pipeline is closed by the caller.

    Raises
    ------
    UncertaintySegError
        If the bundle, the backend or the settings do not fit; nothing stays open.

    """
    bundle = load_bundle(settings.model)
    backend = open_backend(settings.backend, bundle, settings)
    try:
        pipeline = Pipeline(bundle, backend, settings)
        pipeline.check_masks()
    except BaseException:
        backend.close()
        raise
    _log.info('model %s from %s, backend %s, %d passes', bundle.card.name, bundle.folder,
              backend.name, pipeline.passes)
    calibration = bundle.calibration
    return Engine(pipeline, dict(calibration.thresholds) if calibration else {})
