# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every name and call of TensorRT fits what its own modules declare, in five versions.

TensorRT ships no types for a checker. Its modules carry signatures in their docstrings, of which
mypy's stubgen makes stubs; mypy then checks the package's files against them in strict mode. What
a version lacks, and the package asks for first, is listed, as are the names that are looked up by
string. Not seen here: where None comes back (the signatures do not say), and what values mean.

"""

from __future__ import annotations

import ast
from dataclasses import dataclass
import os
from pathlib import Path
import re
import subprocess
import sys

import pytest
from tensorrt_interface import INTERFACES

ROOT = Path(__file__).resolve().parents[3]
BACKENDS = ROOT / 'uncertainty_seg' / 'backends'
GPU = BACKENDS / 'gpu'
# The files that touch TensorRT.
FILES = ('engine_build.py', 'nvidia.py', 'tensorrt.py')
RTX = {'ComputeCapability', 'IBuilderConfig.num_compute_capabilities',
       'IBuilderConfig.set_compute_capability'}
# Asked of TensorRT-RTX only; 10 declares some of it, and 11 most.
JIT_10 = {'DynamicShapesKernelSpecializationStrategy', 'IRuntimeCache',
          'IRuntimeConfig.create_runtime_cache', 'IRuntimeConfig.set_runtime_cache',
          'IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy'}
JIT_103 = {'DynamicShapesKernelSpecializationStrategy', 'IRuntimeCache', 'IRuntimeConfig',
           'ICudaEngine.create_runtime_config'}
# What a version declares not, and the package uses in other versions only.
LACKS: dict[str, set[str]] = {
    '1.7.1.116': set(), '1.4.0.76': set(), '10.3.0': RTX | JIT_103, '10.16.1.11': RTX | JIT_10,
    '11.4.0.106': RTX | JIT_10}
# Names that the package looks up by string or that no checker sees.
BY_STRING = {
    'BuilderFlag.TF32', 'BuilderFlag.REQUIRE_USER_ALLOCATION',
    *(f'DataType.{name}' for name in
      ('FLOAT', 'HALF', 'INT8', 'INT32', 'INT64', 'UINT8', 'BOOL')),
    'NetworkDefinitionCreationFlag.STRONGLY_TYPED',
    *(f'ILogger.Severity.{name}' for name in
      ('INTERNAL_ERROR', 'ERROR', 'WARNING', 'INFO', 'VERBOSE')),
    'ILogger.log', 'IProgressMonitor', 'TensorIOMode.INPUT', 'MemoryPoolType.WORKSPACE',
    'MemoryPoolType.TACTIC_DRAM', 'DynamicShapesKernelSpecializationStrategy.EAGER',
    'ExecutionContextAllocationStrategy.USER_MANAGED',
}
NOT_IN_10 = {'BuilderFlag.REQUIRE_USER_ALLOCATION',
             'DynamicShapesKernelSpecializationStrategy.EAGER'}
LACKS_BY_STRING: dict[str, set[str]] = {
    number: set() if number.startswith('1.') else NOT_IN_10 for number in INTERFACES}
# By default one version, the others before a release.
VERSIONS = [pytest.param(number, marks=[] if number == '1.7.1.116' else pytest.mark.release)
            for number in INTERFACES]
# Method -> its parameters, in the order in which we pass them.
SIGNATURES = {
    'Builder.create_network': ['flags'],
    'Builder.build_serialized_network': ['network', 'config'],
    'OnnxParser.parse': ['model'],
    'IBuilderConfig.add_optimization_profile': ['profile'],
    'IBuilderConfig.create_timing_cache': ['serialized_timing_cache'],
    'IBuilderConfig.set_timing_cache': ['cache', 'ignore_mismatch'],
    'IBuilderConfig.set_flag': ['flag'],
    'IBuilderConfig.clear_flag': ['flag'],
    'IBuilderConfig.set_memory_pool_limit': ['pool', 'pool_size'],
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
# Classes whose members the package uses, by whatever name it holds the objects.
CLASSES = ('Builder', 'OnnxParser', 'ParserError', 'IBuilderConfig', 'INetworkDefinition',
           'ITensor', 'IOptimizationProfile', 'ITimingCache', 'Runtime', 'ICudaEngine',
           'IExecutionContext')
# Of these classes, without types, and not what the package calls by that name.
NOT_OURS = {'OnnxParser.clear_flag', 'OnnxParser.set_flag'}
CONFIG = """
[mypy]
strict = true
python_version = 3.10
warn_return_any = false
# `type: ignore` is for a run without stubs, where base classes of TensorRT are Any.
warn_unused_ignores = false
follow_imports = silent
# numpy's types differ between its versions, and are no matter here.
[mypy-numpy.*,onnx.*,torch.*]
follow_imports = skip
ignore_missing_imports = true
[mypy-tensorrt]
disallow_any_generics = false
disallow_untyped_defs = false
disallow_incomplete_defs = false
disable_error_code = assignment, override, overload-overlap, overload-cannot-match, misc
"""
# Methods whose docstring gives a type by its name in C++, in some versions.
IN_C = {'log': '(self, severity: ILogger.Severity, msg: str) -> None',
        'get_error': '(self, index: int) -> ParserError',
        'get_tensor_mode': '(self, name: str) -> TensorIOMode',
        'create_runtime_cache': '(self) -> IRuntimeCache',
        'set_runtime_cache': '(self, cache: IRuntimeCache) -> bool'}
# What is wrong: file, the call as it stands, the same broken, and what mypy must say of it.
BROKEN = [
    ('engine_build.py', 'OnnxParser(network, logger)', 'OnnxParser(logger, network)',
     'Argument 1 to "OnnxParser" has incompatible type "ILogger"'),
    ('engine_build.py', 'create_network(trt.', 'create_network(0, trt.',
     'Too many arguments for "create_network" of "Builder"'),
    ('engine_build.py', 'parser.parse(graph)', 'parser.parse(name)',
     'Argument 1 to "parse" of "OnnxParser" has incompatible type "str"'),
    ('engine_build.py', 'error.desc().split()', 'error.desc.split()', 'has no attribute "split"'),
    ('engine_build.py', 'bytes(memory)', 'bytes(config)',
     'No overload variant of "bytes" matches argument type "IBuilderConfig"'),
    ('engine_build.py', '.add_optimization_profile(', '.add_profile(',
     '"IBuilderConfig" has no attribute "add_profile"'),
    ('engine_build.py', 'set_shape(tensor, *shapes)', 'set_shape(tensor, shapes)',
     'Missing positional arguments "opt", "max" in call to "set_shape"'),
    ('engine_build.py', 'num_steps: int', 'num_steps: str',
     'incompatible with supertype "'),
    ('nvidia.py', 'severity: tensorrt.ILogger.Severity', 'severity: tensorrt.DataType',
     'incompatible with supertype "'),
    ('tensorrt.py', 'stream_handle=', 'stream=', 'Unexpected keyword argument "stream"'),
    ('tensorrt.py', 'set_tensor_address(name, buffer.address)',
     'set_tensor_address(len(name), buffer.address)',
     'Argument 1 to "set_tensor_address" of "IExecutionContext" has incompatible type "int"'),
    ('tensorrt.py', 'set_input_shape(name, buffer.shape)', 'set_input_shape(name, 1.5)',
     '"set_input_shape"'),
    ('tensorrt.py', 'get_tensor_mode(name)', 'get_tensor_mode(index)',
     'Argument 1 to "get_tensor_mode" of "ICudaEngine" has incompatible type "int"'),
]


def stub_of(text: str) -> str:
    """
    Mend what stubgen writes down of TensorRT's docstrings.

    C++ takes a tuple where the signature says Dims. The buffer of IHostMemory has no signature,
    nor has the iterator that Dims has by its length and items.

    """
    # The types of TensorRT hide Python's of the same name.
    text = re.sub(r'^bool: .*\n', '', text, flags=re.MULTILINE)
    text = re.sub(r'(?<=[\[ ])bool\b(?! as)', 'builtins.bool', text)
    text = re.sub(r'(?:typing\.)?SupportsInt\b', 'int', text)  # which would take a float
    text = re.sub(r'(?<=\w: )Dims(?=[,)])', 'Dims | collections.abc.Sequence[int]', text)
    # Names that Python has not.
    text = re.sub(r'(?<=[:>] )buffer\b', 'typing_extensions.Buffer', text)
    text = re.sub(r'(?<=[ \[])capsule\b', 'object', text)
    text = _member(text, 'Dims', 'def __iter__(self) -> collections.abc.Iterator[int]: ...')
    text = _member(text, 'IHostMemory', 'def __buffer__(self, flags: int) -> memoryview: ...')
    for name, signature in IN_C.items():
        text = re.sub(rf'def {name}\(self, (?:\*|\w+,).*', f'def {name}{signature}: ...', text)
    lines = [_without_bad_syntax(line) for line in text.splitlines()]
    head = ['import builtins, collections.abc, typing_extensions', '__version__: str']
    return '\n'.join([*head, *lines])


def _member(text: str, owner: str, line: str) -> str:
    """Put a member into a class, if it has none of that name."""
    start = re.search(rf'^class {owner}:\n', text, re.MULTILINE)
    assert start is not None, owner
    body = text[start.end():].split('\nclass ')[0]
    is_there = line.split('(')[0] in body
    return text if is_there else f'{text[:start.end()]}    {line}\n{text[start.end():]}'


def _without_bad_syntax(line: str) -> str:
    """Forget a signature that is none, as one whose last argument alone has no default."""
    found = re.match(r'( *)def (\w+)\(', line)
    if found is None:
        return line
    try:
        ast.parse(line.strip())
    except SyntaxError:
        return f'{found[1]}def {found[2]}(self, *args, **kwargs): ...'
    return line


@dataclass(frozen=True)
class Checker:
    """mypy, with the stubs of one version."""

    number: str
    stub: str
    folder: Path

    def errors(self, *shadows: tuple[Path, Path]) -> list[str]:
        """Return what mypy says of the package's files; of shadows in the place of some."""
        words = [word for pair in shadows for word in ('--shadow-file', *map(str, pair))]
        done = subprocess.run(
            [sys.executable, '-m', 'mypy', '--config-file', str(self.folder / 'mypy.ini'),
             '--cache-dir', str(self.folder.parent / 'cache'), '--no-error-summary', *words,
             *(str(GPU / name) for name in FILES)],
            capture_output=True, text=True, check=False, cwd=ROOT,
            env={**os.environ, 'MYPYPATH': str(self.folder)})
        assert not done.stderr, done.stderr
        return [line for line in done.stdout.splitlines() if ' error: ' in line]


@pytest.fixture(scope='module', params=VERSIONS)
def checker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Checker:
    interface = INTERFACES[request.param]
    pytest.importorskip('mypy', reason='mypy is not installed: scripts/test installs it')
    folder = tmp_path_factory.getbasetemp() / 'tensorrt_types' / interface.number
    (folder / 'tensorrt').mkdir(parents=True)
    subprocess.run(
        [sys.executable, '-c', 'from mypy.stubgen import main; main()', '--inspect-mode', '-q',
         '-m', interface.module, '-o', str(folder / 'raw')], check=True,
        env=interface.environment(folder))
    raw = folder / 'raw' / f'{interface.module.replace(".", "/")}.pyi'
    stub = stub_of(raw.read_text(encoding='utf-8'))
    (folder / 'tensorrt' / '__init__.pyi').write_text(stub, encoding='utf-8')
    (folder / 'mypy.ini').write_text(CONFIG, encoding='utf-8')
    return Checker(interface.number, stub, folder)


def missing_name(line: str) -> str:
    """Return Class.member if an error is that there is none such, else the error."""
    if 'Too many arguments for "create_execution_context"' in line:
        return 'ICudaEngine.create_execution_context(runtime_config)'
    patterns = (r'"(?:type\[)?(\w+)\]?" has no attribute "(\w+)"',
                r'Name "tensorrt\.(\w+)" is not defined()',
                r'Module "tensorrt" has no attribute "(\w+)"()')
    found = next((m for m in (re.search(p, line) for p in patterns) if m), None)
    if found is None:
        return line
    return '.'.join(part for part in found.groups() if part and part != 'tensorrt')


def test_every_call_fits_what_the_version_declares(checker: Checker) -> None:
    found = {missing_name(line) for line in checker.errors()}
    assert found == LACKS[checker.number], '\n'.join(sorted(found ^ LACKS[checker.number]))


def test_what_we_call_has_a_signature_to_be_checked_by(checker: Checker) -> None:
    used = {node.attr for name in FILES
            for node in ast.walk(ast.parse((GPU / name).read_text(encoding='utf-8')))
            if isinstance(node, ast.Attribute) and not node.attr.startswith('_')}
    checked, unsigned = set(), []
    for kind in ast.parse(checker.stub).body:
        for node in ast.walk(kind) if getattr(kind, 'name', '') in CLASSES else ():
            if isinstance(node, ast.FunctionDef) and node.name in used:
                has_result = node.returns is not None and ast.unparse(node.returns) != 'Any'
                is_open = node.args.vararg is not None or node.args.kwarg is not None
                is_typed = all(one.annotation is not None for one in node.args.args[1:])
                checked.add(f'{kind.name}.{node.name}')
                if not has_result or is_open or not is_typed:
                    unsigned.append(f'{kind.name}.{node.name}')
    assert set(unsigned) <= NOT_OURS
    assert set(SIGNATURES) <= checked
    assert len(checked) > 30


@pytest.mark.parametrize('number', VERSIONS)
def test_what_is_looked_up_by_string_exists_and_parameters_have_our_order(
    number: str, tmp_path: Path
) -> None:
    facts = INTERFACES[number].facts([*BY_STRING, *SIGNATURES], tmp_path)
    assert {name for name in BY_STRING if facts[name] is None} == LACKS_BY_STRING[number]
    for method, expected in SIGNATURES.items():
        name = method.split('.')[1]
        # An overloaded method has a numbered line for each form.
        forms = re.findall(rf'^(?:\d+\. )?{name}\((self.*)', facts[method]['doc'], re.MULTILINE)
        names = [re.findall(r'(?:^|, )(\w+):', form)[1:] for form in forms]
        assert any(one[:len(expected)] == expected for one in names), facts[method]['doc']


def test_no_other_file_touches_tensorrt_and_no_bit_of_a_flag_is_written_down() -> None:
    for path in sorted(BACKENDS.rglob('*.py')):
        text = path.read_text(encoding='utf-8')
        if path.name in FILES:
            assert re.findall(r'1 << \d', text) == []  # bits differ between versions
        else:
            found = re.findall(r'trt\.module|\.execute_async|create_execution_context', text)
            assert not found, path.name


def test_a_wrong_call_is_reported(checker: Checker, tmp_path: Path) -> None:
    texts = {name: (GPU / name).read_text(encoding='utf-8') for name in FILES}
    for file, right, wrong, _ in BROKEN:
        assert texts[file].count(right) == 1, right
        texts[file] = texts[file].replace(right, wrong)
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding='utf-8')
    said = checker.errors(*((GPU / name, tmp_path / name) for name in FILES))
    for file, _, wrong, words in BROKEN:
        row = next(number for number, line in enumerate(texts[file].splitlines(), 1)
                   if wrong in line)
        near = [line for line in said if (match := re.search(rf'{file}:(\d+): ', line))
                and abs(int(match[1]) - row) <= 2]
        assert any(words in line for line in near), (words, near)
