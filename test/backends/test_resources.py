# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Threads within what the process is granted, chunks within the memory budget."""

import math
import os
from pathlib import Path

from conftest import make_tiny_bundle, tiny_card, tiny_head, tiny_trunk
import hypothesis
from hypothesis import strategies as st
import onnx
from onnx import helper, TensorProto
import pytest

from uncertainty_seg.backends import resources
from uncertainty_seg.backends.resources import (
    choose_chunk,
    estimate_graphs,
    estimate_memory,
    head_bytes_a_pass,
    hold_memory,
    MAX_CHUNK,
    usable_threads,
)
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.storage.model_bundle import load_bundle

MEGABYTE = 2**20


@hypothesis.given(st.integers(1, 1000), st.integers(1, 10**9), st.integers(1, 1000))
def test_a_chunk_fits_the_budget_and_chunks_are_nearly_equal(
    total: int, size: int, budget_mb: int
) -> None:
    chunk = choose_chunk(total, size, budget_mb).passes
    assert 1 <= chunk <= min(total, MAX_CHUNK)
    assert chunk == 1 or chunk * size <= budget_mb * MEGABYTE
    last = total % chunk or chunk
    num_chunks = -(-total // chunk)
    assert chunk - last < num_chunks


@pytest.mark.parametrize(('total', 'size', 'budget_mb', 'passes', 'reason'), [
    (20, MEGABYTE, 64, 20, 'all fit at once: 1.0 MB a pass, budget 64 MB'),
    (100, MEGABYTE, 64, 20, 'equal chunks within the bound of 20 a chunk'),
    (20, 9 * MEGABYTE, 64, 7, 'equal chunks within the budget'),
    (32, MEGABYTE, 64, 16, 'equal chunks within the bound of 20 a chunk'),
    (20, 65 * MEGABYTE, 64, 1, 'not even one pass fits: 65.0 MB a pass, budget 64 MB'),
])
def test_the_reason_says_what_bound_the_chunk(
    total: int, size: int, budget_mb: int, passes: int, reason: str
) -> None:
    chunking = choose_chunk(total, size, budget_mb)
    assert chunking.passes == passes
    assert reason in chunking.reason


def save(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / 'head.onnx'
    onnx.save(model, str(path))
    return path


def test_memory_of_a_pass_is_what_lives_at_the_same_time(tmp_path: Path) -> None:
    # Input and output of the last product, 3 x 12 x 16 each; the mask is no longer needed then.
    assert head_bytes_a_pass(save(tmp_path, tiny_head())) == 4 * 2 * 3 * 12 * 16


def test_a_head_of_a_fixed_number_of_passes_takes_its_share_of_all(tmp_path: Path) -> None:
    head = tiny_head()
    for info in (head.graph.input[1], head.graph.output[0]):
        info.type.tensor_type.shape.dim[0].dim_value = 8
    # As above, and what the features take, divided by eight.
    assert head_bytes_a_pass(save(tmp_path, head)) == 4 * 2 * 3 * 12 * 16


def test_the_estimate_is_that_of_a_count_by_hand(tmp_path: Path) -> None:
    bundle = load_bundle(str(make_tiny_bundle(tmp_path / 'tiny')))
    found = estimate_memory(bundle, Settings(passes=30, memory_budget_mb=1))
    # Features of 3 x 12 x 16 in and out of a product; 3 mask values; a chunk of at most 20.
    assert (found.passes, found.chunk, found.budget_mb) == (30, 15, 1)
    assert (found.bytes_a_pass, found.mask_bytes_a_pass) == (4 * 2 * 576, 4 * 3)
    assert found.chunk_bytes == 15 * 4 * 2 * 576
    # Two weights, the transposed image beside the image as floats, and fourteen planes.
    assert found.total == 4 * 2 + 4 * 2 * 48 * 64 * 3 + 4 * 48 * 64 * (2 * 3 + 8)
    assert not found.exceeds
    assert found.text().startswith('memory: 0.1 MB for 15 of 30 passes at once (0 MB a pass')
    assert found.facts()['chunk_mb'] == 0.1


def test_a_pass_above_the_budget_is_said_to_exceed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(str(make_tiny_bundle(tmp_path / 'tiny')))
    monkeypatch.setattr(resources, '_MEGABYTE', 4 * 2 * 576 - 1)
    found = estimate_memory(bundle, Settings(memory_budget_mb=1))
    assert (found.chunk, found.exceeds) == (1, True)
    assert not estimate_memory(bundle, Settings(memory_budget_mb=2)).exceeds


def test_the_largest_chunk_that_a_frame_may_take_is_chosen_or_it_is_refused() -> None:
    card = tiny_card(passes=20)
    trunk, wide = tiny_trunk(), 4 * 2 * 3 * 600 * 800  # of a pass: 11 MB
    head = tiny_head()
    for info, sides in ((head.graph.input[0], (600, 800)), (head.graph.output[0], (600, 800))):
        for axis, side in zip((2, 3), sides, strict=True):
            info.type.tensor_type.shape.dim[axis].dim_value = side
    free = estimate_graphs(card, trunk, head, Settings())
    assert (free.bytes_a_pass, free.chunk, free.budget_mb) == (wide, 5, 64)
    assert hold_memory(card, trunk, head, 1000) == free
    for most in range(20, 70):
        held = hold_memory(card, trunk, head, most)
        assert held.total <= most * 2**20
        settings = Settings(memory_budget_mb=held.budget_mb)
        assert held == estimate_graphs(card, trunk, head, settings)
        larger = estimate_graphs(card, trunk, head, Settings(
            memory_budget_mb=math.ceil((held.chunk + 1) * wide / 2**20)))
        assert larger.total > most * 2**20 or held == free
    with pytest.raises(ConfigError, match='a frame takes .* MB with 1 of 20 passes at once, 11.0 '
                                          'MB .* at most 9 MB, as --memory-mb .* smaller --input'):
        hold_memory(card, trunk, head, 9)


def test_tensors_that_are_no_longer_needed_do_not_count(tmp_path: Path) -> None:
    names = ['drop', 'a', 'b', 'c', 'logits']
    nodes = [helper.make_node('Relu', [x], [y]) for x, y in zip(names, names[1:], strict=False)]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ['T', 5, 7, 9])
             for n in ('drop', 'logits')]
    graph = helper.make_graph(nodes, 'chain', infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    assert head_bytes_a_pass(save(tmp_path, model)) == 4 * 2 * 5 * 7 * 9


def test_threads_are_those_asked_for_or_those_of_the_affinity(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(8)))
    monkeypatch.setattr(resources, '_CPU_QUOTA_FILE', tmp_path / 'none')
    assert usable_threads(3) == 3
    assert usable_threads(0) == 8


@pytest.mark.parametrize(('text', 'threads'), [
    ('max 100000\n', 8), ('150000 100000\n', 2), ('1000 100000\n', 1), ('1600000 100000\n', 8),
])
def test_a_container_that_grants_fewer_cores_is_heeded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, threads: int
) -> None:
    file = tmp_path / 'cpu.max'
    file.write_text(text)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(8)))
    monkeypatch.setattr(resources, '_CPU_QUOTA_FILE', file)
    assert usable_threads(0) == threads
