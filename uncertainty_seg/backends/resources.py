# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""How many passes a backend runs, how many at once, on how many threads, and what they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
import os
from pathlib import Path
from typing import Any, TYPE_CHECKING

from uncertainty_seg.core.bundle import HEAD_FILE, ModelBundle, TRUNK_FILE
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.settings import passes_of, Settings
from uncertainty_seg.errors import ConfigError

if TYPE_CHECKING:
    import onnx

_CPU_QUOTA_FILE = Path('/sys/fs/cgroup/cpu.max')
# Beyond this many passes a call the fixed cost of a call no longer shows.
MAX_CHUNK = 20
_MEGABYTE = 2**20
_FLOAT = 4  # bytes


def usable_threads(wanted: int) -> int:
    """
    Return the threads asked for, or with 0 as many as this process may use.

    That is the number of cores in its affinity, or fewer where a container grants less.

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
    """How many passes run at once (the last chunk may be shorter), and why, for the log."""

    passes: int
    reason: str


def choose_chunk(total: int, bytes_a_pass: int, budget_mb: int, fixed: int = 0) -> Chunking:
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
    fixed : int
        Passes that the head takes, if it takes no other number; 0 if it takes any.

    Returns
    -------
    Chunking
        At least one pass, at most `MAX_CHUNK`, whatever the budget; `fixed` if that is given.

    """
    if fixed:
        size = f'{bytes_a_pass / _MEGABYTE:.1f} MB a pass'
        return Chunking(fixed, f'the head takes no other number: {size}')
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


@dataclass(frozen=True)
class MemoryEstimate:
    """
    What the tensors of a frame take at most, in bytes; the runtime's own code is not in it.

    Attributes
    ----------
    passes, chunk : int
        T, and how many of them run at once.
    bytes_a_pass, mask_bytes_a_pass : int
        What one more pass in a chunk takes, and its masks alone, which are in it.
    total : int
        Weights, the trunk or the head with one chunk, whichever takes more, and the sums.
    budget_mb : int
        The budget that the chunk was chosen by.

    """

    passes: int
    chunk: int
    bytes_a_pass: int
    mask_bytes_a_pass: int
    total: int
    budget_mb: int

    @property
    def chunk_bytes(self) -> int:
        """Return what the passes that run at once take."""
        return self.chunk * self.bytes_a_pass

    @property
    def exceeds(self) -> bool:
        """Say whether even the smallest chunk takes more than the budget."""
        return self.chunk_bytes > self.budget_mb * _MEGABYTE

    def facts(self) -> dict[str, float]:
        """Return the figures in MB, for scripts."""
        sizes = {'a_pass_mb': self.bytes_a_pass, 'masks_a_pass_mb': self.mask_bytes_a_pass,
                 'chunk_mb': self.chunk_bytes, 'total_mb': self.total}
        return {'passes': self.passes, 'chunk': self.chunk, 'budget_mb': self.budget_mb,
                **{name: round(size / _MEGABYTE, 1) for name, size in sizes.items()}}

    def text(self) -> str:
        """Return the figures as a line for people."""
        found = self.facts()
        return (f'memory: {found["chunk_mb"]:g} MB for {self.chunk} of {self.passes} passes at '
                f'once ({found["a_pass_mb"]:g} MB a pass, {found["masks_a_pass_mb"]:g} MB of it '
                f'masks), about {found["total_mb"]:g} MB with weights, trunk and sums; the '
                'runtime itself is not in it')


def estimate_memory(bundle: ModelBundle, settings: Settings) -> MemoryEstimate:
    """
    Estimate what a bundle takes on a CPU, from its graphs, if nothing is fused.

    Parameters
    ----------
    bundle : ModelBundle
        Its graphs are read.
    settings : Settings
        T and the memory budget.

    """
    import onnx

    trunk, head = (onnx.load(str(path)) for path in (bundle.trunk_path, bundle.head_path))
    return estimate_graphs(bundle.card, trunk, head, settings)


def estimate_graphs(
    card: ModelCard, trunk: onnx.ModelProto, head: onnx.ModelProto, settings: Settings
) -> MemoryEstimate:
    """Do what `estimate_memory` does with graphs that are on no disk yet."""
    passes, a_pass = passes_of(card, settings), _bytes_a_pass(head)
    chunk = choose_chunk(passes, a_pass, settings.memory_budget_mb, card.chunk).passes
    weights = sum(_FLOAT * math.prod(tensor.dims) for model in (trunk, head)
                  for tensor in model.graph.initializer)
    maps = card.input.height * card.input.width * (2 * card.num_classes + 8)
    return MemoryEstimate(
        passes, chunk, a_pass, _FLOAT * sum(math.prod(s.shape) for s in card.dropout_sites),
        weights + max(_peak_bytes(trunk, 1), _peak_bytes(head, chunk)) + _FLOAT * maps,
        settings.memory_budget_mb)


def memory_of_files(
    card: ModelCard, files: Mapping[str, bytes], most_mb: int | None = None
) -> MemoryEstimate:
    """Estimate what files of a bundle take before they are written; see `hold_memory`."""
    import onnx

    trunk, head = (onnx.load_model_from_string(files[name]) for name in (TRUNK_FILE, HEAD_FILE))
    if most_mb is not None:
        return hold_memory(card, trunk, head, most_mb)
    return estimate_graphs(card, trunk, head, Settings())


def hold_memory(
    card: ModelCard, trunk: onnx.ModelProto, head: onnx.ModelProto, most_mb: int
) -> MemoryEstimate:
    """
    Choose the largest budget of a chunk with which a frame takes no more than is allowed.

    Parameters
    ----------
    card, trunk, head : ModelCard, ModelProto, ModelProto
        Of the bundle to be.
    most_mb : int
        What the tensors of a frame may take, with weights, trunk and sums.

    Returns
    -------
    MemoryEstimate
        Whose `budget_mb` is for `memory_budget_mb`; the default if that holds.

    Raises
    ------
    ConfigError
        If a frame takes more even with the smallest chunk.

    """
    found = estimate_graphs(card, trunk, head, Settings())
    smaller = [] if card.chunk else range(found.chunk - 1, 0, -1)
    for chunk in smaller:
        if found.total <= most_mb * _MEGABYTE:
            break
        budget = max(1, math.ceil(chunk * found.bytes_a_pass / _MEGABYTE))
        if budget < found.budget_mb:
            found = estimate_graphs(card, trunk, head, Settings(memory_budget_mb=budget))
    if found.total > most_mb * _MEGABYTE:
        raise ConfigError(
            f'a frame takes {found.total / _MEGABYTE:.1f} MB with {found.chunk} of '
            f'{found.passes} passes at once, {found.chunk_bytes / _MEGABYTE:.1f} MB of it theirs',
            f'at most {most_mb} MB, as --memory-mb says',
            ('a smaller CHUNK of --skip-dropped helps, or ' if card.chunk > 1 else '')
            + 'compile for a smaller --input; fewer --passes do not help, since they run in '
            'chunks')
    return found


def head_bytes_a_pass(head_path: Path) -> int:
    """
    Estimate how much memory one more pass takes in the head.

    Parameters
    ----------
    head_path : Path
        A graph whose only symbolic axis is the pass, or one of a fixed number of passes.

    Returns
    -------
    int
        By how much the largest sum of tensors that live at the same time grows, if nodes run in
        the order of the file and nothing is fused: an upper bound of what a runtime needs. For a
        head with a fixed number of passes, that sum divided by the number.

    """
    import onnx

    return _bytes_a_pass(onnx.load(str(head_path)))


def _bytes_a_pass(model: onnx.ModelProto) -> int:
    first = model.graph.output[0].type.tensor_type.shape.dim[0]
    if first.dim_value:
        return math.ceil(_peak_bytes(model, first.dim_value) / first.dim_value)
    # Many passes, so that tensors without a pass axis do not decide where the peak is.
    growth = _peak_bytes(model, 2 * MAX_CHUNK) - _peak_bytes(model, MAX_CHUNK)
    return max(math.ceil(growth / MAX_CHUNK), 1)


def _peak_bytes(model: Any, passes: int) -> int:
    """Return the largest total of live tensors in bytes, with T fixed."""
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
