# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Ask for libraries that are needed at the end of minutes of work, at its beginning."""

from __future__ import annotations

from importlib.util import find_spec

from uncertainty_seg.errors import BackendUnavailableError

# What is imported -> its name for pip, and what it is for.
_LIBRARIES = {
    'pyarrow': ('pyarrow', 'the score table'),
    'ray': ('ray', 'a cluster'),
    'matplotlib': ('matplotlib', 'the plots of a report'),
    'scipy': ('scipy', 'the bound of a share'),
    'sklearn': ('scikit-learn', 'the density'),
}


def require_libraries(*names: str) -> None:
    """
    Refuse to begin without a library.

    Parameters
    ----------
    *names : str
        Of 'matplotlib', 'pyarrow', 'ray', 'scipy' and 'sklearn', as they are imported.

    Raises
    ------
    BackendUnavailableError
        If one is not installed.

    """
    for name in names:
        if find_spec(name) is None:
            package, use = _LIBRARIES[name]
            raise BackendUnavailableError(f'{package} is not installed', f'it, for {use}',
                                          f'pip install {package}')
