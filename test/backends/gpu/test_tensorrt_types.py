# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every name of TensorRT that the package uses is in five versions, with parameters in our order.

The names are read from the package's source: each attribute that some class of TensorRT-RTX 1.7
has. That version builds for real (test_tensorrt_build_gate) and is what the stand-in is held
against (test_tensorrt_fake); here the others are compared with it. What a version lacks, and the
package asks for first, is listed. Not seen here: types, where None comes back, what values mean.

"""

from __future__ import annotations

import ast
from pathlib import Path
import re

from fake_tensorrt import RTX
import pytest
from tensorrt_interface import INTERFACES

BACKENDS = Path(__file__).resolve().parents[3] / 'uncertainty_seg' / 'backends'
# The files that touch TensorRT.
FILES = ('engine_build.py', 'nvidia.py', 'tensorrt.py')
CLASSES = ('Builder', 'OnnxParser', 'ParserError', 'IBuilderConfig', 'INetworkDefinition',
           'ITensor', 'IOptimizationProfile', 'Runtime', 'ICudaEngine',
           'IExecutionContext', 'IRuntimeConfig', 'IRuntimeCache')
# Names that the package looks up by string, or that are no attributes.
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
# Asked of TensorRT-RTX only; 10 declares some of it, and 11 most.
ONLY_RTX = {
    'ComputeCapability', 'IBuilderConfig.num_compute_capabilities',
    'IBuilderConfig.set_compute_capability', 'BuilderFlag.REQUIRE_USER_ALLOCATION',
    'DynamicShapesKernelSpecializationStrategy.EAGER', 'IRuntimeCache.serialize',
    'IRuntimeCache.deserialize', 'IRuntimeConfig.create_runtime_cache',
    'IRuntimeConfig.set_runtime_cache',
    'IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy',
    'IExecutionContext.is_stream_capturable'}
LACKS = {'1.7.1.116': set(), '1.4.0.76': set(), '11.4.0.106': ONLY_RTX, '10.16.1.11': ONLY_RTX,
         '10.3.0': ONLY_RTX | {'ICudaEngine.create_runtime_config',
                               'IRuntimeConfig.set_execution_context_allocation_strategy'}}
# Method -> its parameters, in the order in which we pass them.
SIGNATURES = {
    'Builder.create_network': ['flags'],
    'Builder.build_serialized_network': ['network', 'config'],
    'OnnxParser.parse': ['model'],
    'IBuilderConfig.add_optimization_profile': ['profile'],
    'IBuilderConfig.set_flag': ['flag'],
    'IBuilderConfig.clear_flag': ['flag'],
    'IBuilderConfig.set_memory_pool_limit': ['pool', 'pool_size'],
    'IOptimizationProfile.set_shape': ['input', 'min', 'opt', 'max'],
    'Runtime.deserialize_cuda_engine': ['serialized_engine'],
    'ICudaEngine.get_tensor_name': ['index'],
    'ICudaEngine.get_tensor_mode': ['name'],
    'IExecutionContext.set_input_shape': ['name', 'shape'],
    'IExecutionContext.set_tensor_address': ['name', 'memory'],
    'IExecutionContext.execute_async_v3': ['stream_handle'],
}


def used_names() -> list[str]:
    """Return Class.attribute for each attribute in the package's files."""
    attributes = {node.attr for name in FILES
                  for node in ast.walk(ast.parse((BACKENDS / 'gpu' / name).read_text()))
                  if isinstance(node, ast.Attribute) and not node.attr.startswith('_')}
    attributes.discard('reset')  # of our own
    return sorted(BY_STRING | set(SIGNATURES)
                  | {f'{kind}.{name}' for kind in CLASSES for name in attributes})


@pytest.mark.parametrize('number', [
    pytest.param(number, marks=[] if number == RTX else pytest.mark.release)
    for number in INTERFACES])
def test_what_is_used_exists_and_parameters_have_our_order(number: str, tmp_path: Path) -> None:
    here = INTERFACES[RTX].facts(used_names(), tmp_path)
    asked = [name for name, facts in here.items() if facts is not None]
    assert set(asked) >= BY_STRING | set(SIGNATURES) and len(asked) > 60
    found = INTERFACES[number].facts(asked, tmp_path)
    assert {name for name in asked if found[name] is None} == LACKS[number]
    for method, expected in SIGNATURES.items():
        name = method.split('.')[1]
        # An overloaded method has a numbered line for each form.
        forms = re.findall(rf'^(?:\d+\. )?{name}\((self.*)', found[method]['doc'], re.MULTILINE)
        names = [re.findall(r'(?:^|, )(\w+):', form)[1:] for form in forms]
        assert any(one[:len(expected)] == expected for one in names), found[method]['doc']


def test_no_other_file_touches_tensorrt_and_no_bit_of_a_flag_is_written_down() -> None:
    for path in sorted(BACKENDS.rglob('*.py')):
        text = path.read_text(encoding='utf-8')
        if path.name in FILES:
            assert re.findall(r'1 << \d', text) == []  # bits differ between versions
        else:
            found = re.findall(r'trt\.module|\.execute_async|create_execution_context', text)
            assert not found, path.name
