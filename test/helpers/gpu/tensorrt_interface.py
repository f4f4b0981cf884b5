# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The Python APIs of five versions of TensorRT, as scripts/test installs them; no GPU is needed.

NVIDIA's real Python modules are imported. Those of TensorRT are linked to stub libraries, which
have the right symbols and no code: every class and signature exists and nothing can run. Those of
TensorRT-RTX are linked to the real libraries.
"""

from dataclasses import dataclass
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest


@dataclass(frozen=True)
class Interface:
    """A version, as `__version__` states it, and the suffix of its environment variable."""

    number: str
    key: str

    @property
    def variable(self) -> str:
        return f'UNCERTAINTY_SEG_{self.key}'

    @property
    def is_rtx(self) -> bool:
        return self.number.startswith('1.')

    @property
    def package(self) -> str:
        return 'tensorrt_rtx_bindings' if self.is_rtx else 'tensorrt_bindings'

    @property
    def module(self) -> str:
        """Return the dotted name of the extension module, which has the signatures."""
        return f'{self.package}.{self.package.removesuffix("_bindings")}'

    def environment(self, libraries: Path) -> dict[str, str]:
        """Return the environment of a process that can import it; skips if not installed."""
        folder = os.environ.get(self.variable, '')
        extension = Path(folder, f'{self.module.replace(".", "/")}.so')
        if not folder or not extension.is_file():
            pytest.skip(f'the interface of TensorRT {self.number} is not here: scripts/test '
                        f'installs it and sets {self.variable}')
        environment = {**os.environ, 'PYTHONPATH': folder}
        if not self.is_rtx:
            for tool in ('gcc', 'nm', 'readelf'):
                if shutil.which(tool) is None:
                    pytest.skip(f'{tool} is not installed: apt install gcc binutils')
            empty_libraries(extension, libraries)
            environment['LD_LIBRARY_PATH'] = str(libraries)
        return environment

    def facts(self, names: list[str], libraries: Path) -> dict[str, Any]:
        """Return value, kind and docstring of each name; None if the module lacks it."""
        done = subprocess.run(
            [sys.executable, '-c', LOOK, self.package, self.module, json.dumps(names)],
            capture_output=True, text=True, check=False, env=self.environment(libraries))
        assert done.returncode == 0, done.stderr
        version, found = json.loads(done.stdout.splitlines()[-1])
        assert version == self.number
        return dict(found)


INTERFACES = {number: Interface(number, key) for number, key in (
    ('1.7.1.116', 'RTX17'), ('1.4.0.76', 'RTX14'), ('10.3.0', 'TRT103'), ('10.16.1.11', 'TRT1016'),
    ('11.4.0.106', 'TRT114'))}
# Runs in the process that imports a version: prints kind, value and docstring of each name.
LOOK = """
import importlib, json, sys
whole = importlib.import_module(sys.argv[1])
module = importlib.import_module(sys.argv[2])
def facts(name):
    found = module
    for part in name.split('.'):
        found = getattr(found, part, None)
        if found is None:
            return None
    try:
        value = int(found)
    except TypeError:
        value = None
    return {'value': value, 'is_callable': callable(found), 'doc': found.__doc__}
print(json.dumps([whole.__version__, {name: facts(name) for name in json.loads(sys.argv[3])}]))
"""


def empty_libraries(extension: Path, folder: Path) -> None:
    """Compile stubs of the libraries that an extension is linked to, with its symbols."""
    def lines(*command: str) -> list[str]:
        done = subprocess.run([*command, str(extension)], capture_output=True, text=True,
                              check=True)
        return done.stdout.splitlines()

    wanted = [line.split()[-1] for line in lines('nm', '-D', '--undefined-only')]
    symbols = [name for name in wanted
               if re.search(r'_INTERNAL$|^getNv|PluginRegistry$|^initLibNv|^_ZN\d+nv', name)]
    source = ''.join(f'void *f{i}(void) __asm__("{name}");\nvoid *f{i}(void) {{ return 0; }}\n'
                     for i, name in enumerate(symbols))
    needed = [match.group(1) for line in lines('readelf', '-d')
              if (match := re.search(r'NEEDED.*\[(libnv\S+)\]', line))]
    for name in needed:
        # The first library has all symbols, which suffices: the loader searches every library.
        text = source if name == needed[0] else ''
        subprocess.run(['gcc', '-shared', '-fPIC', f'-Wl,-soname,{name}', '-o',
                        str(folder / name), '-x', 'c', '-'], input=text, text=True, check=True)
