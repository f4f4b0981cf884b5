# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The differences between the versions of TensorRT, behind one small object.

TensorRT 8.6 to 11 and TensorRT-RTX use the same names and not the same numbers: bit 1 of the
network's creation flags means "strongly typed" in 10.x and something else in 11.x. So every flag
is looked up by name, and what a version lacks is found by asking it. Only `load_tensorrt` imports
the module; tests pass one of their own.

"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import importlib
import logging
import re
from typing import Any, Protocol, TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from uncertainty_seg.errors import BackendError, BackendUnavailableError

if TYPE_CHECKING:
    import tensorrt

Shape: TypeAlias = tuple[int, ...]
# Full TensorRT first; the last is what the wheels of TensorRT-RTX install.
MODULES = ('tensorrt', 'tensorrt_rtx', 'tensorrt_rtx_bindings')
_KEPT = 20  # errors kept for the sentence of an exception
# TensorRT's severity -> level of the log. What it calls an error is raised or repaired (a stale
# engine) by the caller, so that it is a warning here.
_LEVELS = {'INTERNAL_ERROR': logging.WARNING, 'ERROR': logging.WARNING, 'WARNING': logging.INFO,
           'INFO': logging.DEBUG, 'VERBOSE': logging.DEBUG}
_ERRORS = ('INTERNAL_ERROR', 'ERROR')
# TensorRT's name -> numpy's. It has more types; numpy has no bfloat16.
_DTYPES = {'FLOAT': 'float32', 'HALF': 'float16', 'INT8': 'int8', 'INT32': 'int32',
           'INT64': 'int64', 'UINT8': 'uint8', 'BOOL': 'bool'}
_log = logging.getLogger(__name__)


class TensorRtModule(Protocol):
    """
    The names of `tensorrt`, `tensorrt_rtx` or `tensorrt_rtx_bindings` that the package uses.

    TensorRT ships no types, and its classes are named in annotations only. test_tensorrt_types
    makes stubs of the real modules and checks every call of the package against them.

    """

    __name__: str
    __version__: str
    Builder: type[tensorrt.Builder]
    BuilderFlag: type[tensorrt.BuilderFlag]
    ComputeCapability: type[tensorrt.ComputeCapability]  # TensorRT-RTX only
    DataType: type[tensorrt.DataType]
    # TensorRT-RTX only, as what `create_runtime_config` returns is of use there only
    DynamicShapesKernelSpecializationStrategy: type[
        tensorrt.DynamicShapesKernelSpecializationStrategy]
    ExecutionContextAllocationStrategy: type[tensorrt.ExecutionContextAllocationStrategy]
    ILogger: type[tensorrt.ILogger]
    IProgressMonitor: type[tensorrt.IProgressMonitor]  # from 10 on
    MemoryPoolType: type[tensorrt.MemoryPoolType]
    NetworkDefinitionCreationFlag: type[tensorrt.NetworkDefinitionCreationFlag]
    OnnxParser: type[tensorrt.OnnxParser]
    Runtime: type[tensorrt.Runtime]
    TensorIOMode: type[tensorrt.TensorIOMode]


class Messages:
    """TensorRT's messages, from any of its threads: for the log, and errors for an exception."""

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=_KEPT)

    def take(self, severity: str, text: str) -> None:
        """Keep an error, and log any message under its level."""
        if severity in _ERRORS:
            self._errors.append(text.strip())
        _log.log(_LEVELS.get(severity, logging.INFO), 'TensorRT: %s', text.strip())

    @property
    def errors(self) -> tuple[str, ...]:
        """Return the last errors, oldest first."""
        return tuple(self._errors)

    def reason(self) -> str:
        """Return the errors as one text for an exception, and clear them."""
        text = '; '.join(dict.fromkeys(self._errors))
        self._errors.clear()
        return text or 'TensorRT gave no reason'


class TensorRt:
    """
    A TensorRT module, and what its version can do.

    Parameters
    ----------
    module : module
        `tensorrt`, `tensorrt_rtx`, `tensorrt_rtx_bindings`, or an object with their names.

    Attributes
    ----------
    module : module
        For calls that are the same in every version.
    name : str
        Name of the module.
    version : str
        With its build number, as '10.3.0' or '1.7.1.116'.
    major : int
        Of the version; TensorRT-RTX counts from 1.
    is_rtx : bool
        Whether it is TensorRT-RTX.

    """

    def __init__(self, module: Any) -> None:
        self.module: TensorRtModule = module
        self.name: str = module.__name__.split('.')[0]
        self.version: str = str(module.__version__)
        self.is_rtx = self.name.startswith('tensorrt_rtx')
        number = re.match(r'\d+', self.version)
        if number is None:
            raise BackendError(f'{self.name} has version {self.version!r}', 'a number')
        self.major = int(number.group())

    @property
    def has_strong_types(self) -> bool:
        """Whether a network can keep exactly the types that its graph says; 8.6 cannot."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED')

    @property
    def has_weak_types(self) -> bool:
        """Whether TensorRT can choose types by builder flags; 11 and TensorRT-RTX cannot."""
        return not self.is_rtx and self.builder_flag('FP16') is not None

    @property
    def has_progress(self) -> bool:
        """Whether a build reports its progress."""
        return hasattr(self.module, 'IProgressMonitor')

    @property
    def compiles_kernels(self) -> bool:
        """Whether kernels are compiled when an engine first runs, as TensorRT-RTX does."""
        return self.is_rtx and hasattr(self.module, 'DynamicShapesKernelSpecializationStrategy')

    @property
    def has_timing_cache(self) -> bool:
        """Whether measurements of one build help the next; TensorRT-RTX measures when it runs."""
        return not self.is_rtx

    def creation_flags(self, is_strongly_typed: bool) -> int:
        """
        Return the bits for `Builder.create_network`.

        Explicit batch, where that is a choice, and strong types, which keep the types of the
        graph, where they are asked for. Raises BackendError if this version has none.

        """
        flags = self.module.NetworkDefinitionCreationFlag
        if is_strongly_typed and not self.has_strong_types:
            raise BackendError(f'TensorRT {self.version} has no strongly typed networks',
                               'TensorRT 10 or newer')
        bits = 0
        if not self.is_rtx and self.major < 10:
            bits |= 1 << int(flags.EXPLICIT_BATCH)
        if is_strongly_typed and self.is_choice_of_types:
            bits |= 1 << int(flags.STRONGLY_TYPED)
        return bits

    @property
    def is_choice_of_types(self) -> bool:
        """Whether strong types must be asked for; from 11 on the flag is there and ignored."""
        return self.has_strong_types and hasattr(self.module.BuilderFlag, 'FP16')

    def builder_flag(self, name: str) -> tensorrt.BuilderFlag | None:
        """Return a flag of the builder by its name, or None if this version has none such."""
        return getattr(self.module.BuilderFlag, name, None)

    def logger(self, messages: Messages) -> tensorrt.ILogger:
        """
        Make a logger for `Builder`, `OnnxParser` or `Runtime` that gives all to `messages`.

        Keep it as long as what was made with it.

        """
        if TYPE_CHECKING:
            # the checker must know a base class by name
            from tensorrt import ILogger as base  # noqa: I100
        else:
            base = self.module.ILogger
        names = {getattr(base.Severity, name): name for name in _LEVELS}

        class Bridge(base):  # type: ignore[misc]

            def __init__(self) -> None:
                base.__init__(self)  # pybind11 wants the base named

            def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
                messages.take(names.get(severity, 'ERROR'), msg)

        return Bridge()

    def numpy_dtype(self, data_type: tensorrt.DataType) -> np.dtype[Any]:
        """Return numpy's type of the same bits; raises BackendError if there is none."""
        for name, dtype in _DTYPES.items():
            if getattr(self.module.DataType, name, None) == data_type:
                return np.dtype(dtype)
        raise BackendError(f'a tensor of type {data_type}', f'one of {", ".join(_DTYPES)}',
                           'compile the bundle again: its borders are float32 and uint8')

    def data_type(self, dtype: DTypeLike) -> tensorrt.DataType:
        """Return the type of TensorRT for one of numpy; raises BackendError if there is none."""
        wanted = np.dtype(dtype)
        for name, known in _DTYPES.items():
            if wanted == np.dtype(known) and hasattr(self.module.DataType, name):
                return getattr(self.module.DataType, name)
        raise BackendError(f'TensorRT {self.version} has no type {wanted}')


def load_tensorrt(import_module: Callable[[str], Any] = importlib.import_module) -> TensorRt:
    """
    Import TensorRT, or else TensorRT-RTX.

    Touches no GPU. Call `device.find_device` first: without a driver, TensorRT 11 returns a
    `Runtime` that ends the process when it is used.

    Parameters
    ----------
    import_module : callable
        Imports a module by its name.

    Returns
    -------
    TensorRt
        The first that is installed.

    Raises
    ------
    BackendUnavailableError
        If none can be imported, with every reason.

    """
    reasons = []
    for name in MODULES:
        try:
            module = import_module(name)
        except ModuleNotFoundError as err:
            # A module that is there, without something that it needs, is worth reporting.
            if err.name != name:
                reasons.append(f'{name}: {err}')
        except Exception as err:  # a library of the driver that is missing raises what it likes
            reasons.append(f'{name}: {err}')
        else:
            return TensorRt(module)
    came = '; '.join(reasons) or f'none of {", ".join(MODULES)} is installed'
    raise BackendUnavailableError(
        f'TensorRT cannot be imported ({came})',
        fix='on a Jetson it comes with JetPack (apt install python3-libnvinfer) and a virtual '
        'environment needs --system-site-packages; on a desktop: pip install tensorrt')
