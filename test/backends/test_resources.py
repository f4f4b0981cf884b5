# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Threads are limited to the process's CPUs, chunks to the memory budget."""

import os
from pathlib import Path

from conftest import tiny_head
import hypothesis
from hypothesis import strategies as st
from onnx import helper, TensorProto
import pytest

from uncertainty_seg.backends import runner
from uncertainty_seg.backends.runner import (
    bytes_a_pass,
    choose_chunk,
    MAX_CHUNK,
    MEGABYTE,
    usable_threads,
)


@hypothesis.given(st.integers(1, 1000), st.integers(1, 10**9), st.integers(1, 1000))
def test_a_chunk_fits_the_budget_and_chunks_are_nearly_equal(
    total: int, size: int, budget_mb: int
) -> None:
    chunk = choose_chunk(total, size, budget_mb)
    assert 1 <= chunk <= min(total, MAX_CHUNK)
    assert chunk == 1 or chunk * size <= budget_mb * MEGABYTE
    last = total % chunk or chunk
    num_chunks = -(-total // chunk)
    assert chunk - last < num_chunks


@pytest.mark.parametrize(('total', 'size', 'budget_mb', 'passes'), [
    (20, MEGABYTE, 64, 20), (100, MEGABYTE, 64, 25), (20, 9 * MEGABYTE, 64, 7),
    (50, MEGABYTE, 64, 25), (20, 65 * MEGABYTE, 64, 1),
])
def test_a_chunk_is_what_budget_and_bound_allow(
    total: int, size: int, budget_mb: int, passes: int
) -> None:
    assert choose_chunk(total, size, budget_mb) == passes


def test_the_estimate_is_that_of_a_count_by_hand() -> None:
    # A product whose input and output are features of 3 x 12 x 16.
    assert bytes_a_pass(tiny_head().SerializeToString()) == 4 * 2 * 576


def test_tensors_that_are_no_longer_needed_do_not_count() -> None:
    names = ['drop', 'a', 'b', 'c', 'logits']
    nodes = [helper.make_node('Relu', [x], [y]) for x, y in zip(names, names[1:], strict=False)]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ['T', 5, 7, 9])
             for n in ('drop', 'logits')]
    graph = helper.make_graph(nodes, 'chain', infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    assert bytes_a_pass(model.SerializeToString()) == 4 * 2 * 5 * 7 * 9


@pytest.mark.parametrize(('text', 'threads'), [
    ('', 8), ('max 100000\n', 8), ('150000 100000\n', 2), ('1000 100000\n', 1),
    ('1600000 100000\n', 8),
])
def test_a_container_that_grants_fewer_cores_is_heeded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, threads: int
) -> None:
    file = tmp_path / 'cpu.max'
    if text:
        file.write_text(text)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(8)))
    monkeypatch.setattr(runner, '_CPU_QUOTA_FILE', file)
    assert (usable_threads(3), usable_threads(0)) == (3, threads)
