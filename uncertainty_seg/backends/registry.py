# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Open a backend by its name, or the best one that works on this machine.

Each runtime is imported by the function that opens it, so that a machine needs only the runtime
that it uses.

"""

from __future__ import annotations

from collections.abc import Callable
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
# Where it was measured to be the better choice; by name it may be chosen anywhere.
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
    Open a backend, a key of `OPENERS` or 'auto' for the best here; the caller closes it.

    Raises ConfigError if there is none of that name; BackendUnavailableError if its runtime is not
    installed or does not compute in that precision, with 'auto' if that is so for all;
    ModelBundleError if the graphs do not fit the card. EngineMissingError if there is a GPU whose
    engine has not been built; with 'auto' too, so that a vehicle does not run on its processor
    because one command was not run.
    """
    if name == AUTO:
        return _with_its_check(_open_best(bundle, settings), bundle, settings)
    if name not in OPENERS:
        raise ConfigError(f'backend is {name!r}', f'one of {", ".join((AUTO, *OPENERS))}')
    return _with_its_check(OPENERS[name](bundle, settings), bundle, settings)


def _with_its_check(backend: Backend, bundle: ModelBundle, settings: Settings) -> Backend:
    """Say what the self-check found where that matters; a backend that is refused is closed."""
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
    Open the backend of the settings, prove the masks on it, and warm it up.

    The pipeline is ready for the first frame, and closed by the caller; `ignore`, `temperature`
    and `all_scores` are as `Pipeline` takes them. A number of threads in the settings bounds those
    of OpenCV too, which are the whole process's. Raises UncertaintySegError if bundle, backend and
    settings do not fit; nothing stays open.
    """
    if temperature is None and bundle.calibration is not None:
        require_rounding(settings.backend, bundle, settings)
    if settings.threads:
        cv2.setNumThreads(settings.threads)
    backend = open_backend(settings.backend, bundle, settings)
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
    Refuse what computes float32 where a graph says float16: limits in fp16 are not for it.

    Raises BackendUnavailableError. A bundle that is opened without its limits may run there.
    """
    if name == 'openvino' and precision_of(bundle.card, settings.precision) == 'fp16':
        raise BackendUnavailableError(
            'openvino computes fp16 graphs in float32, for which their thresholds do not hold',
            fix='set backend to onnxruntime, which simulates fp16, or take the bundle in fp32')
