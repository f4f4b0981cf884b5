# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What is asked of a TensorRT module, with modules that have the names of each generation."""

from __future__ import annotations

from enum import IntEnum
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from uncertainty_seg.backends.gpu.tensorrt_api import load_tensorrt, Messages, TensorRt
from uncertainty_seg.errors import BackendError, BackendUnavailableError

# Values as in the real modules: the bit of one version is another flag in the next.
CREATION = {'8.6.1': {'EXPLICIT_BATCH': 0}, '10.3.0': {'EXPLICIT_BATCH': 0, 'STRONGLY_TYPED': 1},
            '11.4.0.106': {'STRONGLY_TYPED': 0, 'PREFER_JIT_PYTHON_PLUGINS': 1}}
FLAGS = {'8.6.1': {'FP16': 0, 'TF32': 7}, '10.3.0': {'FP16': 0, 'TF32': 6, 'BF16': 17},
         '11.4.0.106': {'TF32': 6}}


def module_of(version: str, name: str = 'tensorrt') -> Any:
    class Logger:
        Severity = IntEnum('Severity', [('INTERNAL_ERROR', 0), ('ERROR', 1), ('WARNING', 2),
                                        ('INFO', 3), ('VERBOSE', 4)])

        def __init__(self) -> None:
            self.is_base_called = True

    types = ['FLOAT', 'HALF', 'INT8', 'INT32', 'UINT8', 'BOOL', 'BF16']
    return SimpleNamespace(
        __name__=name, __version__=version, ILogger=Logger,
        NetworkDefinitionCreationFlag=IntEnum('Creation', CREATION[version]),
        BuilderFlag=IntEnum('Flag', FLAGS[version]),
        DataType=IntEnum('DataType', {one: i for i, one in enumerate(types)}))


@pytest.mark.parametrize(('version', 'weak', 'strong'), [
    ('8.6.1', 0b1, None), ('10.3.0', 0, 0b10), ('11.4.0.106', 0, 0)])
def test_creation_flags_are_those_of_the_version(
    version: str, weak: int, strong: int | None
) -> None:
    trt = TensorRt(module_of(version))
    assert trt.creation_flags(False) == weak
    assert trt.has_strong_types == (strong is not None)
    assert trt.has_weak_types == (version != '11.4.0.106')
    if strong is not None:
        assert trt.creation_flags(True) == strong
    else:
        with pytest.raises(BackendError, match='8.6.1 has no strongly typed networks, expected'):
            trt.creation_flags(True)


def test_a_flag_that_a_version_lacks_is_none() -> None:
    old, new = TensorRt(module_of('8.6.1')), TensorRt(module_of('11.4.0.106'))
    assert (old.builder_flag('TF32'), new.builder_flag('TF32')) == (7, 6)
    assert old.builder_flag('BF16') is None and new.builder_flag('FP16') is None


@pytest.mark.parametrize(('name', 'is_rtx'), [
    ('tensorrt', False), ('tensorrt_rtx', True), ('tensorrt_rtx_bindings.tensorrt_rtx', True)])
def test_rtx_is_told_by_its_name_and_types_are_always_strong(name: str, is_rtx: bool) -> None:
    trt = TensorRt(module_of('10.3.0', name))
    assert (trt.is_rtx, trt.has_weak_types, trt.has_timing_cache) == (
        is_rtx, not is_rtx, not is_rtx)
    assert '.' not in trt.name


def test_types_go_to_numpy_and_back() -> None:
    trt = TensorRt(module_of('8.6.1'))
    for name in ('float32', 'float16', 'int8', 'int32', 'uint8', 'bool'):
        assert trt.numpy_dtype(trt.data_type(np.dtype(name))) == np.dtype(name)
    with pytest.raises(BackendError, match='TensorRT 8.6.1 has no type int64'):
        trt.data_type(np.int64)
    with pytest.raises(BackendError, match='a tensor of type'):
        trt.numpy_dtype(trt.module.DataType.BF16)


def test_errors_are_kept_for_the_exception_and_warnings_are_not(
    caplog: pytest.LogCaptureFixture
) -> None:
    messages, module = Messages(), module_of('10.3.0')
    logger = TensorRt(module).logger(messages)
    assert logger.is_base_called
    with caplog.at_level(logging.DEBUG):
        for severity, text in (('ERROR', 'no room\n'), ('WARNING', 'slow'), ('INFO', 'chat'),
                               ('INTERNAL_ERROR', 'worse'), ('ERROR', 'no room')):
            logger.log(module.ILogger.Severity[severity], text)
    assert messages.errors == ('no room', 'worse', 'no room')
    assert [record.levelname for record in caplog.records] == [
        'WARNING', 'INFO', 'DEBUG', 'WARNING', 'WARNING']
    assert messages.reason() == 'no room; worse'
    assert messages.reason() == 'TensorRT gave no reason'


def test_tensorrt_comes_before_rtx_and_rtx_stands_in_for_it() -> None:
    modules = {'tensorrt': module_of('10.3.0'),
               'tensorrt_rtx': module_of('10.3.0', 'tensorrt_rtx')}

    def load(*names: str) -> str:
        def find(name: str) -> Any:
            if name not in names:
                raise ModuleNotFoundError(f'No module named {name!r}', name=name)
            return modules[name]
        return load_tensorrt(find).name

    assert load('tensorrt', 'tensorrt_rtx') == 'tensorrt'
    assert load('tensorrt_rtx') == 'tensorrt_rtx'
    with pytest.raises(BackendUnavailableError, match='none of tensorrt, tensorrt_rtx.*JetPack'):
        load()


def test_a_tensorrt_whose_library_is_missing_says_which() -> None:
    def find(name: str) -> Any:
        if name == 'tensorrt':
            raise OSError('libnvinfer.so.10: cannot open shared object file')
        raise ModuleNotFoundError(f'No module named {name!r}', name=name)

    with pytest.raises(BackendUnavailableError, match='tensorrt: libnvinfer.so.10: cannot open'):
        load_tensorrt(find)
