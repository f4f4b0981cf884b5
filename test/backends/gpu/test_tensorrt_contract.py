# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every name of TensorRT that the package uses exists in TensorRT 8.6, 10.3, 10.16 and 11.4.

NVIDIA's Python modules are imported, the real ones, over libraries that have the right symbols and
nothing in them, so that every class and signature is there and nothing can run. What the package
uses is read off its source.

"""

from __future__ import annotations

import ast
from functools import cache
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

BACKENDS = Path(__file__).resolve().parents[3] / 'uncertainty_seg' / 'backends'
# Variable that names the folder of a version -> version, and names it does not have.
VERSIONS: dict[str, tuple[str, set[str]]] = {
    'UNCERTAINTY_SEG_TRT86': ('8.6.1', {
        'NetworkDefinitionCreationFlag.STRONGLY_TYPED', 'BuilderFlag.BF16', 'DataType.INT64',
        'IBuilderConfig.progress_monitor', 'IProgressMonitor'}),
    'UNCERTAINTY_SEG_TRT103': ('10.3.0', set()),
    'UNCERTAINTY_SEG_TRT1016': ('10.16.1.11', set()),
    'UNCERTAINTY_SEG_TRT114': ('11.4.0.106', {
        'NetworkDefinitionCreationFlag.EXPLICIT_BATCH', 'BuilderFlag.FP16', 'BuilderFlag.BF16',
        'BuilderFlag.INT8', 'BuilderFlag.OBEY_PRECISION_CONSTRAINTS', 'ILayer.precision',
        'ILayer.set_output_type'}),
}
# TensorRT-RTX only: set where `is_rtx`, or asked for by getattr.
RTX_ONLY = {'IBuilderConfig.num_compute_capabilities', 'IBuilderConfig.set_compute_capability',
            'ComputeCapability', 'IExecutionContext.is_stream_capturable'}
# File -> its variables that hold objects of TensorRT -> class.
VARIABLES = {
    'engine_build.py': {
        'builder': 'Builder', 'parser': 'OnnxParser', 'config': 'IBuilderConfig',
        'cache': 'ITimingCache', 'error': 'ParserError', 'caches[0]': 'ITimingCache'},
    'engine_config.py': {
        'builder': 'Builder', 'config': 'IBuilderConfig', 'network': 'INetworkDefinition',
        'layer': 'ILayer', 't': 'ITensor', 'tensor': 'ITensor',
        'profile': 'IOptimizationProfile', 'kinds': 'DataType'},
    'tensorrt_engine.py': {
        'self._runtime': 'Runtime', 'engine': 'ICudaEngine', 'self._context': 'IExecutionContext'},
}
# Our own wrapper goes by the name of what it wraps.
OURS = {'Runtime.trt', 'Runtime.messages', 'ICudaEngine.inputs', 'ICudaEngine.outputs'}
# Names that are looked up by string.
BY_STRING = {
    *(f'BuilderFlag.{name}' for name in
      ('TF32', 'FP16', 'BF16', 'INT8', 'OBEY_PRECISION_CONSTRAINTS')),
    *(f'DataType.{name}' for name in
      ('FLOAT', 'HALF', 'INT8', 'INT32', 'INT64', 'UINT8', 'BOOL')),
    *(f'NetworkDefinitionCreationFlag.{name}' for name in ('EXPLICIT_BATCH', 'STRONGLY_TYPED')),
    *(f'ILogger.Severity.{name}' for name in
      ('INTERNAL_ERROR', 'ERROR', 'WARNING', 'INFO', 'VERBOSE')),
    'ILogger.log', 'IProgressMonitor', 'TensorIOMode.INPUT',
}
# Method -> its parameters, in the order in which we pass them.
SIGNATURES = {
    'Builder.create_network': ['flags'],
    'Builder.build_serialized_network': ['network', 'config'],
    'OnnxParser.parse': ['model'],
    'OnnxParser.parse_from_file': ['model'],
    'IBuilderConfig.add_optimization_profile': ['profile'],
    'IBuilderConfig.create_timing_cache': ['serialized_timing_cache'],
    'IBuilderConfig.set_timing_cache': ['cache', 'ignore_mismatch'],
    'IBuilderConfig.set_flag': ['flag'],
    'IBuilderConfig.clear_flag': ['flag'],
    'ITimingCache.combine': ['input_cache', 'ignore_mismatch'],
    'IOptimizationProfile.set_shape': ['input', 'min', 'opt', 'max'],
    'Runtime.deserialize_cuda_engine': ['serialized_engine'],
    'ICudaEngine.get_tensor_name': ['index'],
    'ICudaEngine.get_tensor_mode': ['name'],
    'ICudaEngine.get_tensor_shape': ['name'],
    'ICudaEngine.get_tensor_dtype': ['name'],
    'IExecutionContext.set_input_shape': ['name', 'shape'],
    'IExecutionContext.set_tensor_address': ['name', 'memory'],
    'IExecutionContext.execute_async_v3': ['stream_handle'],
}

# In the process that imports a version: print which of the names exist, and signatures.
LOOK = """
import importlib, json, sys
whole = importlib.import_module('tensorrt_bindings')
module = importlib.import_module('tensorrt_bindings.tensorrt')
names, methods = json.loads(sys.argv[1])
def find(name):
    found = module
    for part in name.split('.'):
        found = getattr(found, part, None)
        if found is None:
            return None
    return found
print(json.dumps({'version': whole.__version__,
                  'there': [name for name in names if find(name) is not None],
                  'docs': {name: find(name).__doc__ for name in methods if find(name)}}))
"""


def used_names() -> set[str]:
    """Class.member of all that the source takes from a variable that holds TensorRT's."""
    found = set(BY_STRING)
    for file, variables in VARIABLES.items():
        for node in ast.walk(ast.parse((BACKENDS / file).read_text(encoding='utf-8'))):
            if not isinstance(node, ast.Attribute):
                continue
            owner = ast.unparse(node.value)
            if owner in variables:
                found.add(f'{variables[owner]}.{node.attr}')
            elif owner == 'trt.module':
                found.add(node.attr)
    return found - OURS


def empty_libraries(extension: Path, folder: Path) -> None:
    """Make the libraries that an extension asks for, with its symbols, all returning nothing."""
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
        # All symbols in the first is enough: the loader looks in each.
        text = source if name == needed[0] else ''
        subprocess.run(['gcc', '-shared', '-fPIC', f'-Wl,-soname,{name}', '-o',
                        str(folder / name), '-x', 'c', '-'], input=text, text=True, check=True)


@cache
def surface(variable: str, folder: Path) -> dict[str, Any]:
    """Give what a real module has of the names we use."""
    version = VERSIONS[variable][0]
    place = Path(os.environ.get(variable, ''))
    extension = place / 'tensorrt_bindings' / 'tensorrt.so'
    if not os.environ.get(variable) or not extension.is_file():
        pytest.skip(f'the interface of TensorRT {version} is not here: scripts/test installs it '
                    f'and sets {variable}')
    for tool in ('gcc', 'nm', 'readelf'):
        if shutil.which(tool) is None:
            pytest.skip(f'{tool} is not installed: apt install gcc binutils')
    folder.mkdir(exist_ok=True)
    empty_libraries(extension, folder)
    done = subprocess.run(
        [sys.executable, '-c', LOOK, json.dumps([sorted(used_names()), sorted(SIGNATURES)])],
        capture_output=True, text=True, check=False,
        env={**os.environ, 'LD_LIBRARY_PATH': str(folder), 'PYTHONPATH': str(place)})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(params=VERSIONS, ids=lambda name: VERSIONS[name][0])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('libraries')


def test_the_source_is_read() -> None:
    names = used_names()
    assert {'Builder.create_network', 'OnnxParser.get_error', 'ParserError.desc', 'OnnxParser',
            'IBuilderConfig.set_flag', 'IOptimizationProfile.set_shape', 'ITensor.dtype',
            'IExecutionContext.execute_async_v3', 'ILayer.precision', 'ITimingCache.combine',
            'Runtime.deserialize_cuda_engine', 'ICudaEngine.num_io_tensors'} <= names


def test_no_other_file_touches_tensorrt() -> None:
    read = {*VARIABLES, 'tensorrt_api.py', 'engine_progress.py'}
    for path in sorted(BACKENDS.glob('*.py')):
        if path.name not in read:
            text = path.read_text(encoding='utf-8')
            found = re.findall(r'trt\.module|\.execute_async|create_execution_context', text)
            assert not found, path.name


def test_every_name_exists_but_those_we_ask_for_first(version: str, folder: Path) -> None:
    found = surface(version, folder / version)
    assert found['version'].startswith(VERSIONS[version][0])
    gone = used_names() - set(found['there']) - RTX_ONLY
    assert gone == VERSIONS[version][1] & used_names()


def test_parameters_have_the_order_in_which_we_pass_them(version: str, folder: Path) -> None:
    docs = surface(version, folder / version)['docs']
    assert set(docs) == set(SIGNATURES)
    for method, expected in SIGNATURES.items():
        name = method.split('.')[1]
        # An overloaded method has a numbered line for each form.
        forms = re.findall(rf'^(?:\d+\. )?{name}\((self.*)', docs[method], re.MULTILINE)
        names = [re.findall(r'(?:^|, )(\w+):', form)[1:] for form in forms]
        assert any(one[:len(expected)] == expected for one in names), docs[method]


def test_no_bit_of_a_flag_is_written_down() -> None:
    # They differ between versions.
    for file in ('tensorrt_api.py', *VARIABLES):
        text = (BACKENDS / file).read_text(encoding='utf-8')
        assert re.findall(r'1 << \d', text) == []
