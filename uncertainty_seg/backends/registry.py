# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Open a backend by its name, or the best one that works on this machine.

Each runtime is imported by the function that opens it, so that a machine needs only the runtime
that it uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import logging
import platform

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.plausibility import Backend
from uncertainty_seg.core.settings import precision_of, Settings
from uncertainty_seg.errors import BackendUnavailableError, ConfigError, EngineMissingError

AUTO = 'auto'
AUTO_ORDER = ('tensorrt', 'openvino', 'onnxruntime')
# Machines on which 'auto' may choose a backend, because it was measured to be faster there.
_AUTO_MACHINES = {'openvino': ('x86_64', 'AMD64')}
_log = logging.getLogger(__name__)


def _open_tensorrt(bundle: ModelBundle, settings: Settings) -> Backend:
    from uncertainty_seg.backends.gpu.tensorrt import TensorRtBackend

    return TensorRtBackend(bundle, settings)


def _open_openvino(bundle: ModelBundle, settings: Settings) -> Backend:
    from uncertainty_seg.backends.cpu.openvino import OpenVinoBackend

    return OpenVinoBackend(bundle, settings)


def _open_onnxruntime(bundle: ModelBundle, settings: Settings) -> Backend:
    from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend

    return OnnxRuntimeBackend(bundle, settings)


OPENERS: dict[str, Callable[[ModelBundle, Settings], Backend]] = {
    'tensorrt': _open_tensorrt,
    'openvino': _open_openvino,
    'onnxruntime': _open_onnxruntime,
}


def open_backend(name: str, bundle: ModelBundle, settings: Settings) -> Backend:
    """
    Open a backend, a key of `OPENERS` or 'auto' for the best one; the caller closes it.

    Raises ConfigError for an unknown name; BackendUnavailableError if its runtime is not installed
    or does not compute in that precision (with 'auto', if that holds for all backends), or the
    thresholds of the bundle, which a caller that uses none leaves out, do not hold for it;
    ModelBundleError if the graphs do not fit the card; EngineMissingError if a GPU is present and
    its engine has not been built. The last also holds for 'auto', so that a vehicle does not fall
    back to its CPU because one command was forgotten.
    """
    if bundle.calibration is not None:
        require_rounding(name, bundle, settings)
    if name not in (AUTO, *OPENERS):
        raise ConfigError(f'backend is {name!r}', f'one of {", ".join((AUTO, *OPENERS))}')
    opener = _open_best if name == AUTO else OPENERS[name]
    return _with_its_check(opener(bundle, settings), bundle, settings)


def _with_its_check(backend: Backend, bundle: ModelBundle, settings: Settings) -> Backend:
    """Warn of a poor self-check; close the backend and raise if the self-check forbids it."""
    from uncertainty_seg.backends.check_record import warn_of_rough

    precision = precision_of(bundle.card, settings.precision)
    try:
        warn_of_rough(bundle.card, backend, precision)
    except BackendUnavailableError:
        backend.close()
        raise
    return backend


def open_pipeline(
    bundle: ModelBundle, settings: Settings, ignore: NDArray[np.bool_] | None = None,
    temperature: float | None = None, all_scores: bool = False,
) -> Pipeline:
    """
    Open the backend of the settings, check that its passes use the masks, and warm it up.

    The pipeline is ready for the first frame, and the caller closes it; `ignore`, `temperature`
    and `all_scores` are those of `Pipeline`. A number of threads in the settings also limits
    OpenCV's threads in the whole process. Raises UncertaintySegError if bundle, backend and
    settings do not fit; nothing stays open then.
    """
    if settings.threads:
        cv2.setNumThreads(settings.threads)
    opened = bundle if temperature is None else replace(bundle, calibration=None)
    backend = open_backend(settings.backend, opened, settings)
    try:
        pipeline = Pipeline(bundle, backend, settings, temperature, ignore, all_scores=all_scores)
        pipeline.check_masks()
    except BaseException:
        backend.close()
        raise
    _log.info('model %s from %s, backend %s, %d passes', bundle.card.name, bundle.folder,
              backend.name, pipeline.passes)
    return pipeline


def _open_best(bundle: ModelBundle, settings: Settings) -> Backend:
    reasons: list[str] = []
    for name in AUTO_ORDER:
        try:
            _require_machine(name)
            require_rounding(name, bundle, settings)
            backend = OPENERS[name](bundle, settings)
        except EngineMissingError:
            raise
        except BackendUnavailableError as err:
            reasons.append(f'{name}: {err}')
            _log.info('backend auto: not %s', reasons[-1])
            continue
        _log.info('backend auto: took %s, %s', name,
                  'the next best that works here' if reasons else 'the best that works here')
        return backend
    raise BackendUnavailableError(f'no backend works here ({"; ".join(reasons)})')


def _require_machine(name: str) -> None:
    machines = _AUTO_MACHINES.get(name)
    if machines and platform.machine() not in machines:
        raise BackendUnavailableError(
            f'auto takes {name} on {machines[0]} only, and this is {platform.machine()}',
            fix=f'set backend to {name} to try it',
        )


def require_rounding(name: str, bundle: ModelBundle, settings: Settings) -> None:
    """
    Raise BackendUnavailableError for a backend that computes a float16 graph in float32.

    Thresholds calibrated in fp16 do not hold there.
    """
    if name == 'openvino' and precision_of(bundle.card, settings.precision) == 'fp16':
        raise BackendUnavailableError(
            'openvino computes fp16 graphs in float32, for which their thresholds do not hold',
            fix='set backend to onnxruntime, which simulates fp16, or take the bundle in fp32')
