# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every name of TensorRT that the package or the fake uses exists in five versions.

The real modules are imported (see tensorrt_interface). The used names are read from the package's
source: each attribute that a class of TensorRT-RTX 1.7 has, with which test_tensorrt_build_gate
builds. Names that a version lacks, and whose existence the package checks, are listed. The fake
has no name, argument or value that the real modules lack.
"""

import ast
from collections.abc import Mapping
from enum import EnumMeta
import inspect
from pathlib import Path
import re
from typing import Any

from fake_cuda import FakeCuda
from fake_tensorrt import fake_tensorrt, RTX
import pytest
from tensorrt_interface import INTERFACES

BACKENDS = Path(__file__).resolve().parents[3] / 'uncertainty_seg' / 'backends'
# The files that use TensorRT.
FILES = ('engine_build.py', 'nvidia.py', 'tensorrt.py')
CLASSES = ('Builder', 'OnnxParser', 'ParserError', 'IBuilderConfig', 'INetworkDefinition',
           'ITensor', 'IOptimizationProfile', 'Runtime', 'ICudaEngine', 'IExecutionContext',
           'IRuntimeConfig')
# Names that the package looks up by string, or that are not attributes.
BY_STRING = {
    'BuilderFlag.TF32', 'BuilderFlag.REQUIRE_USER_ALLOCATION', 'ComputeCapability',
    'NetworkDefinitionCreationFlag.STRONGLY_TYPED',
    *(f'ILogger.Severity.{name}' for name in
      ('INTERNAL_ERROR', 'ERROR', 'WARNING', 'INFO', 'VERBOSE')),
    'ILogger.log', 'TensorIOMode.INPUT', 'MemoryPoolType.WORKSPACE', 'MemoryPoolType.TACTIC_DRAM',
    *(f'IProgressMonitor.{name}' for name in ('phase_start', 'step_complete', 'phase_finish')),
    'DynamicShapesKernelSpecializationStrategy.EAGER',
    'ExecutionContextAllocationStrategy.USER_MANAGED', 'IExecutionContext.is_stream_capturable',
}
# Used with TensorRT-RTX only; TensorRT 10 has some of these names, and 11 most.
ONLY_RTX = {
    'ComputeCapability', 'IBuilderConfig.num_compute_capabilities',
    'IBuilderConfig.set_compute_capability', 'BuilderFlag.REQUIRE_USER_ALLOCATION',
    'DynamicShapesKernelSpecializationStrategy.EAGER',
    'IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy',
    'IExecutionContext.is_stream_capturable'}
LACKS = {'1.7.1.116': set(), '1.4.0.76': set(), '11.4.0.106': ONLY_RTX, '10.16.1.11': ONLY_RTX,
         '10.3.0': ONLY_RTX | {'ICudaEngine.create_runtime_config',
                               'IRuntimeConfig.set_execution_context_allocation_strategy'}}
VERSIONS = [pytest.param(number, marks=[] if number == RTX else pytest.mark.release)
            for number in INTERFACES]


def used_names() -> list[str]:
    """Return Class.attribute for each attribute in the package's files."""
    attributes = {node.attr for name in FILES
                  for node in ast.walk(ast.parse((BACKENDS / 'gpu' / name).read_text()))
                  if isinstance(node, ast.Attribute) and not node.attr.startswith('_')}
    return sorted(BY_STRING | {f'{kind}.{name}' for kind in CLASSES for name in attributes})


@pytest.mark.parametrize('number', VERSIONS)
def test_what_is_used_exists(number: str, tmp_path: Path) -> None:
    here = INTERFACES[RTX].facts(used_names(), tmp_path)
    asked = [name for name, facts in here.items() if facts is not None]
    assert set(asked) >= BY_STRING and len(asked) > 55
    found = INTERFACES[number].facts(asked, tmp_path)
    assert {name for name in asked if found[name] is None} == LACKS[number]


# The fake ---------------------------------------------------------------------------------------


def members(owner: str, kind: type) -> dict[str, Any]:
    """Return public name -> object for a class of the fake."""
    found: dict[str, Any] = {owner: kind}
    if isinstance(kind, EnumMeta):
        values: Mapping[str, Any] = kind.__members__
        return {**found, **{f'{owner}.{name}': one for name, one in values.items()}}
    for name in dir(kind):
        if not name.startswith('_') or (name == '__init__' and owner == 'Runtime'):
            value = getattr(kind, name)
            found |= members(f'{owner}.{name}', value) if isinstance(value, type) else {
                f'{owner}.{name}': value}
    return found


@pytest.mark.parametrize('number', VERSIONS)
def test_the_stand_in_takes_and_gives_what_the_real_one_does(number: str, tmp_path: Path) -> None:
    ours = {name: one for kind in vars(fake_tensorrt(FakeCuda())).values()
            if isinstance(kind, type) for name, one in members(kind.__name__, kind).items()}
    real = INTERFACES[number].facts(sorted(ours), tmp_path)
    if number == RTX:
        assert [name for name in ours if real[name] is None] == []
        values = {name: int(one) for name, one in ours.items()
                  if isinstance(type(one), EnumMeta) and type(one).__name__ in name.split('.')}
        assert values == {name: real[name]['value'] for name in values}
    checked = 0
    for name, one in ours.items():
        theirs = real[name]
        if theirs is None or not inspect.isfunction(one):
            # A property here must not be a method in the real class.
            assert theirs is None or not isinstance(one, property) or not theirs['is_callable']
            continue
        signature, short = inspect.signature(one), name.rsplit('.', 1)[1]
        forms = re.findall(rf'^(?:\d+\. )?{short}\(self: ?[^,)]*(.*)\) -> (.*)$', theirs['doc'],
                           re.MULTILINE)
        wanted = list(signature.parameters)[1:]
        if number == RTX or not name.endswith('create_execution_context'):
            assert wanted in [re.findall(r', (\w+):', form)[:len(wanted)] for form, _ in forms], (
                name, theirs['doc'])
        if signature.return_annotation in ('bool', 'int', 'str', 'list[str]'):
            assert {kind.lower() for _, kind in forms} == {signature.return_annotation}, name
        checked += 1
    assert checked >= 11
