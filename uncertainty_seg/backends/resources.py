# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""How many threads a backend may use, and how many passes fit in its memory budget."""

from __future__ import annotations

from dataclasses import dataclass
import math
import os
from pathlib import Path
from typing import Any

_CPU_QUOTA_FILE = Path('/sys/fs/cgroup/cpu.max')
# Beyond this many passes a call the fixed cost of a call no longer shows.
MAX_CHUNK = 20
_MEGABYTE = 2**20


def usable_threads(wanted: int) -> int:
    """
    Bound the threads by what this process may use.

    Parameters
    ----------
    wanted : int
        Threads asked for; 0 for as many as there are.

    Returns
    -------
    int
        `wanted`, or the cores of the process's affinity, fewer where a container grants less.

    """
    if wanted > 0:
        return wanted
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_QUOTA_FILE.read_text().split()
        granted = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup, or 'max': nothing is held back
        granted = cores
    return max(1, min(cores, granted))


@dataclass(frozen=True)
class Chunking:
    """
    How many passes run at once.

    Attributes
    ----------
    passes : int
        Passes of a chunk; the last may be shorter.
    reason : str
        Why, for the log.

    """

    passes: int
    reason: str


def choose_chunk(total: int, bytes_a_pass: int, budget_mb: int) -> Chunking:
    """
    Split T passes in chunks of nearly the same size that fit in the budget.

    Parameters
    ----------
    total : int
        T.
    bytes_a_pass : int
        Memory that one more pass in a chunk takes.
    budget_mb : int
        Memory that a chunk may take.

    Returns
    -------
    Chunking
        At least one pass, at most `MAX_CHUNK`, whatever the budget.

    """
    fitting = budget_mb * _MEGABYTE // max(bytes_a_pass, 1)
    limit = max(1, min(total, fitting, MAX_CHUNK))
    passes = math.ceil(total / math.ceil(total / limit))
    size = f'{bytes_a_pass / _MEGABYTE:.1f} MB a pass, budget {budget_mb} MB'
    if fitting < 1:
        return Chunking(1, f'not even one pass fits: {size}')
    if limit == total:
        return Chunking(passes, f'all fit at once: {size}')
    bound = 'the budget' if fitting < MAX_CHUNK else f'the bound of {MAX_CHUNK} a chunk'
    return Chunking(passes, f'equal chunks within {bound}: {size}')


def head_bytes_a_pass(head_path: Path) -> int:
    """
    Estimate how much memory one more pass takes in the head.

    Parameters
    ----------
    head_path : Path
        The head, a graph whose only symbolic axis is the pass, or one of a fixed number of passes.

    Returns
    -------
    int
        Growth of the largest sum of tensors that live at the same time, if nodes run in the
        order of the file and nothing is fused: an upper bound of what a runtime needs. Of a head
        with a fixed number of passes, its share of the sum.

    """
    import onnx

    model = onnx.load(str(head_path))
    first = model.graph.output[0].type.tensor_type.shape.dim[0]
    if first.dim_value:
        return math.ceil(_peak_bytes(model, first.dim_value) / first.dim_value)
    # Many passes, so that what is there only once does not decide where the peak lies.
    growth = _peak_bytes(model, 2 * MAX_CHUNK) - _peak_bytes(model, MAX_CHUNK)
    return max(math.ceil(growth / MAX_CHUNK), 1)


def _peak_bytes(model: Any, passes: int) -> int:
    """Walk the nodes with T fixed; the largest total of live tensors, in bytes."""
    sizes = _tensor_bytes(model, passes)
    nodes = model.graph.node
    last_use = {name: index for index, node in enumerate(nodes) for name in node.input}
    outputs = {info.name for info in model.graph.output}
    live = sum(sizes.get(info.name, 0) for info in model.graph.input)
    peak = live
    for index, node in enumerate(nodes):
        live += sum(sizes.get(name, 0) for name in node.output)
        peak = max(peak, live)
        ended = {name for name in [*node.input, *node.output] if name not in outputs
                 and last_use.get(name, index) == index}
        live -= sum(sizes.get(name, 0) for name in ended)
    return peak


def _tensor_bytes(model: Any, passes: int) -> dict[str, int]:
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # they would hold the symbolic axis
    for info in [*fixed.graph.input, *fixed.graph.output]:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = passes
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    sizes = {}
    for info in [*inferred.input, *inferred.value_info, *inferred.output]:
        kind = info.type.tensor_type
        itemsize = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
        sizes[info.name] = itemsize * math.prod(dim.dim_value for dim in kind.shape.dim)
    return sizes
