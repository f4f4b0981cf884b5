# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every exception the package raises on purpose.

The tree::

    UncertaintySegError
    ├── ConfigError           a parameter or argument is out of its range
    ├── ShapeError            an array has another shape or dtype than promised
    ├── ImageError            one frame cannot be used; the next one may
    ├── ModelBundleError      a bundle is missing, damaged or does not fit
    │   ├── CalibrationError  its thresholds were made for something else
    │   └── UnknownModelError there is no bundle of that name or at that path
    ├── GraphError            a network cannot be compiled
    ├── BackendError          the runtime failed
    │   └── BackendUnavailableError   it is not installed here
    │       └── EngineMissingError    its engine has not been built on this machine
    ├── BagError              a bag cannot be read or written
    ├── DatasetError          a folder of labelled images is missing or damaged
    ├── TableError            a table of scores cannot be read or written
    ├── FrameLogError         a frame log cannot be read or written
    └── TrainingError         weights or a recipe for training are unusable
        └── DivergedError     a run that began well gave numbers no more

Each carries one sentence made from facts: what came, what was expected, what to do.
The base class joins the three, so that all of them read alike.
"""

from collections.abc import Collection, Iterable
from importlib.util import find_spec
from pathlib import Path
import sys
import sysconfig


def some_of(names: Iterable[object], most: int = 5) -> str:
    """Join names for a sentence; of many the first few, and how many more there are."""
    every = [str(name) for name in names]
    more = f' and {len(every) - most} more' if len(every) > most else ''
    return ', '.join(every[:most]) + more


class UncertaintySegError(Exception):
    """
    Base of all errors raised on purpose.

    Its sentence says what `came`, with the offending value, what was `expected`, and the `fix`;
    `reason` is the sentence without what to do, for another sentence that contains it.
    """

    def __init__(self, came: str, expected: str = '', fix: str = '') -> None:
        parts = [came.rstrip('.')]
        if expected:
            parts.append(f'expected {expected}'.rstrip('.'))
        text = ', '.join(parts)
        self.reason = text
        end = '' if fix.endswith('?') else '.'
        super().__init__(f'{text}: {fix.rstrip(".")}{end}' if fix else f'{text}.')


class ConfigError(UncertaintySegError):
    """A parameter or argument is out of its range."""


class ShapeError(UncertaintySegError):
    """An array has another shape or dtype than promised."""


class ImageError(UncertaintySegError):
    """One frame cannot be used; the next one may."""


class ModelBundleError(UncertaintySegError):
    """A model bundle is missing, damaged, or does not fit."""


class CalibrationError(ModelBundleError):
    """The thresholds of a bundle were made for another model, T or precision."""


class UnknownModelError(ModelBundleError):
    """No bundle has that name or lies at that path, or none was named."""


class GraphError(UncertaintySegError):
    """A network cannot be compiled to a bundle."""


class BackendError(UncertaintySegError):
    """The runtime that executes the network failed."""


class BackendUnavailableError(BackendError):
    """The runtime is not installed or cannot work on this machine."""


class EngineMissingError(BackendUnavailableError):
    """The runtime works here, and the engine it needs has not been built on this machine."""


class BagError(UncertaintySegError):
    """A bag cannot be read or written."""


class DatasetError(UncertaintySegError):
    """A folder of labelled images is missing or damaged."""


class FrameLogError(UncertaintySegError):
    """A frame log cannot be read or written."""


class TableError(UncertaintySegError):
    """A table of scores cannot be read or written."""


class TrainingError(UncertaintySegError):
    """Weights or a recipe for training are unusable."""


class DivergedError(TrainingError):
    """The loss of a run is not a number."""


def require_known(what: str, words: Iterable[object], known: Collection[str]) -> None:
    """Raise ConfigError, which says what it is, if a word is none of those known."""
    for word in words:
        if word not in known:
            raise ConfigError(f'{what} {word!r}', f'one of {", ".join(known)}')


# A package as it is imported -> the extra of setup.py that installs it; a test compares them.
EXTRAS = {
    **dict.fromkeys(('cv2', 'mcap', 'numpy', 'onnx', 'onnxruntime', 'rosbags', 'tqdm',
                     'yaml'), 'runtime'),
    **dict.fromkeys(('matplotlib', 'scipy'), 'calibrate'),
    **dict.fromkeys(('jinja2', 'pyarrow'), 'score'),
    **dict.fromkeys(('safetensors', 'timm'), 'nets'),
    **dict.fromkeys(('torch', 'torchvision', 'onnxscript'), 'train'),
    'cryptography': 'sign', 'openvino': 'openvino', 'pycocotools': 'labels',
    'ray': 'ray',
}


def install_command(package: str) -> str:
    """Return the command that installs an optional package, a key of `EXTRAS`."""
    command = f"pip install '.[{EXTRAS[package]}]'"
    if is_externally_managed():
        # There pip refuses to install beside the system's packages (PEP 668).
        command = ('python3 -m venv --system-site-packages .venv && . .venv/bin/activate && '
                   f'{command} -r scripts/requirements/build.txt && colcon build')
    return f'{command} in a checkout of uncertainty_seg'


def is_externally_managed() -> bool:
    """Tell whether this Python belongs to the system and pip installs nothing into it."""
    is_in_venv = sys.prefix != sys.base_prefix
    marker = Path(sysconfig.get_path('stdlib')) / 'EXTERNALLY-MANAGED'
    return not is_in_venv and marker.is_file()


def require_libraries(*names: str) -> None:
    """
    Refuse to begin minutes of work without a library, a key of `EXTRAS`, needed at their end.

    Raises BackendUnavailableError if one is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise BackendUnavailableError(f'{name} is not installed', fix=install_command(name))
