# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Check that the outputs are logits, and that the written files compute the same logits.

Weights are stored in 16 bits if the logits stay the same. A network that rounding would change
noticeably keeps its weights in float32, in files twice as large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx

from uncertainty_seg.compiler.algebra.dropout_to_masks import without_dropout
from uncertainty_seg.compiler.checks.pass_checks import distance, run_graph, softmax
from uncertainty_seg.compiler.compile import CompiledGraphs, with_files
from uncertainty_seg.compiler.frontend.outputs import strip_final_resize
from uncertainty_seg.compiler.head_graphs import logits_of
from uncertainty_seg.compiler.onnx_tools import attribute, constants, producer, session_of, Values
from uncertainty_seg.compiler.plan import CompileOptions, Decision
from uncertainty_seg.compiler.precision import unhalvable
from uncertainty_seg.core.bundle import PASSES_FILE, TRUNK_FILE
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.model_card import InputSpec, ModelCard
from uncertainty_seg.errors import GraphError

# -------------------------------------------------------------------------------------------------
# Probabilities mistaken for logits give nearly the same maps at every pixel, and mutual
# information 10 to 20 times too low.

# Rounding of probabilities to float32 takes them this far beyond 0..1, and their sum from 1.
_MOST_BEYOND, _MOST_FROM_ONE = 1e-6, 1e-4
# Sums over the classes are equal if they differ by less than this share of the values' spread.
_SAME_SUM = 1e-5
# Lengths over the classes are equal if they differ by less than the first share. A class depends
# on the image if its values differ by more than the second share of the length.
_SAME_LENGTH, _MOVES = 1e-5, 1e-2
_OF_PROBABILITIES = {'Sigmoid', 'HardSigmoid', 'Softmax'}
_BEFORE = 'return the tensor before the activation (output=NAME names it in an ONNX file)'


def require_logits(model: onnx.ModelProto, spec: InputSpec, activation: str) -> None:
    """
    Raise GraphError if an output cannot be logits, or is not what was declared.

    An output is refused if it stays in [0, 1] on several test images, if its nodes bound it to
    [-1, 1], or if it has the same length over the classes at every pixel, as normalised features
    have. The error names the range of the values and the activation to declare.
    """
    plain = without_dropout(model)
    before = strip_final_resize(plain)[0].graph.output[0]
    if before.name != plain.graph.output[0].name:
        plain.graph.output.append(before)
    runs = run_graph(plain, [{plain.graph.input[0].name: image} for image in _floats(spec)])
    values, small = (np.concatenate([run[place] for run in runs]) for place in (0, -1))
    last = producer(plain.graph.node, plain.graph.output[0].name)
    if activation in ('softmax', 'sigmoid') and last is not None and last.op_type == 'Log':
        _require_distribution(np.exp(values), activation)
    elif activation in ('auto', 'logits'):
        _require_no_probabilities(values, activation)
    if activation == 'auto':
        _require_no_bounds(plain.graph)
        _require_no_directions(small)


def _require_distribution(values: NDArray[np.float32], activation: str) -> None:
    sums = values.sum(1)
    if not np.isfinite(values).all():
        raise GraphError(f'activation is {activation}, and the output has values below 0 or no '
                         'numbers', 'probabilities', 'leave it out, or declare another')
    if not np.abs(sums - 1).max() <= _MOST_FROM_ONE:
        raise GraphError(
            f'activation is {activation}, and the probabilities of a pixel add up to '
            f'{sums.min():.4g} to {sums.max():.4g} on random images', '1 at each pixel',
            _BEFORE)


def _require_no_probabilities(values: NDArray[np.float32], activation: str) -> None:
    is_one = _is_one_channel(values)
    shown = values[:, 1:] - values[:, :1] if is_one else values  # restores z of -z / 2 and z / 2
    low, high = float(shown.min()), float(shown.max())
    if not (low >= -_MOST_BEYOND and high <= 1 + _MOST_BEYOND):
        if activation == 'auto' and not is_one:
            _require_no_scaled_softmax(shown, high - low)
        return
    adds_up = not is_one and bool(np.abs(shown.sum(1) - 1).max() <= _MOST_FROM_ONE)
    what = f'the output stays in [{low:.3g}, {high:.3g}] on random images'
    what += ', and adds up to 1 over the classes' if adds_up else ''
    if activation == 'logits' and not adds_up:
        return
    declared = 'softmax' if adds_up else 'sigmoid' if is_one else ''
    fix = f'{_BEFORE}, or say activation={declared}, with which its logarithm is taken' \
        if declared else f'{_BEFORE}, or say activation=logits if there is none'
    if activation == 'auto' and is_one:
        fix += '; activation=logits if there is none'
    raise GraphError(what if activation == 'auto' else f'activation is logits, and {what}',
                     'logits, which take any value', fix)


def _require_no_scaled_softmax(values: NDArray[np.float32], spread: float) -> None:
    """Raise for values such as percentages, which have the same sum at every pixel."""
    sums = values.sum(1, dtype=np.float64)
    # Logits that are normalised over the classes, such as Segmenter's, have the sum zero.
    is_zero = abs(sums.mean()) <= _SAME_SUM * spread
    if values.shape[1] < 2 or is_zero or not np.ptp(sums) <= _SAME_SUM * spread:
        return
    raise GraphError(
        f'the output adds up to {sums.mean():.4g} over the classes at every pixel of random '
        'images', 'logits, not probabilities times something',
        f'{_BEFORE}, or say activation=logits if there is none')


def _require_no_bounds(graph: onnx.GraphProto) -> None:
    """Raise if an operator such as tanh bounds the output to [-1, 1], or a sigmoid to [0, c]."""
    made, fixed = {out: node for node in graph.node for out in node.output}, constants(graph)
    node, is_scaled = made.get(graph.output[0].name), False
    while node is not None and not _is_bounded(node, fixed):
        data = [name for name in node.input if name and name not in fixed]
        values = [fixed[name] for name in node.input if name in fixed]
        is_pair = node.op_type == 'Concat' and len(data) == 2  # -z / 2 and z / 2
        is_affine = node.op_type in ('Add', 'Sub', 'Mul', 'Div') and len(data) == 1
        is_passed = node.op_type in _PASSED or (
            node.op_type == 'Resize' and attribute(node, 'mode') != 'cubic')
        if not (is_pair or is_affine or is_passed) or not data:
            return
        if is_affine:
            size = float(abs(values[0]).max())
            is_scaled |= size < 1 if node.op_type == 'Div' else size > 1
        node = made.get(data[-1])
    if node is None or is_scaled and node.op_type not in _OF_PROBABILITIES:
        return  # logits that a tanh caps, say at 10
    raise GraphError(
        f'the output comes from {node.op_type}, whose values are bounded on any image',
        'logits, which take any value',
        f'{_BEFORE}, or say activation=logits if these are the logits')


def _is_bounded(node: onnx.NodeProto, fixed: Values) -> bool:
    if node.op_type != 'Clip':
        return node.op_type in _BOUNDED
    limits = [fixed.get(name) for name in node.input[1:3]]
    return len(limits) == 2 and all(v is not None and abs(v).max() <= 1 for v in limits)


# Operators with bounded results, and operators that pass on values or means of values.
_BOUNDED = {'Tanh', 'Softsign', 'Erf', 'Sin', 'Cos', *_OF_PROBABILITIES}
_PASSED = {'Transpose', 'Reshape', 'Squeeze', 'Unsqueeze', 'Flatten', 'Identity', 'Cast', 'Slice',
           'Gather', 'Expand', 'ReduceMean', 'MaxPool', 'AveragePool', 'GlobalAveragePool'}


def _require_no_directions(values: NDArray[np.float32]) -> None:
    """Raise for vectors of one length, of which only the direction varies, as in embeddings."""
    shown = values[:, 1:] - values[:, :1] if _is_one_channel(values) else values
    pixels = shown.transpose(1, 0, 2, 3).reshape(shown.shape[1], -1).astype(np.float64)
    lengths = np.sqrt((pixels ** 2).sum(0))
    lengths, pixels = lengths[lengths > 0], pixels[:, lengths > 0]  # zero has no direction
    if not lengths.size or not np.ptp(lengths) <= _SAME_LENGTH * lengths.mean():
        return
    # Logits from a final LayerNorm have the sum zero; constant logits do not vary at all.
    is_centred = len(pixels) > 1 and abs(pixels.sum(0)).max() <= _SAME_LENGTH * lengths.mean()
    if is_centred or np.ptp(pixels, axis=1).max() <= _MOVES * lengths.mean():
        return
    raise GraphError(
        f'the output has the length {lengths.mean():.4g} over the classes at every pixel of '
        'random images, as features that are normalised', 'logits, which take any value',
        'return what the classifier gives (output=NAME names it in an ONNX file), or say '
        'activation=logits if these are the logits')


def _is_one_channel(values: NDArray[np.float32]) -> bool:
    """Return whether one channel z was expanded to -z / 2 and z / 2."""
    return values.shape[1] == 2 and np.array_equal(values[:, 0], -values[:, 1])


def _floats(spec: InputSpec) -> list[NDArray[np.float32]]:
    """Return normalised images (1, 3, h, w): noise, patches, black and white."""
    images = _images(spec.height, spec.width)
    images += [np.full_like(images[0], value) for value in (0, 255)]
    return [np.ascontiguousarray(
        ((image / 255 - np.array(spec.mean)) / np.array(spec.std)).transpose(0, 3, 1, 2),
        np.float32) for image in images]


# -------------------------------------------------------------------------------------------------
# Store the weights, and run the files.

# Limits for the effect of rounding: largest change of a logit as a share of their spread, share of
# changed labels, and change of a probability. The last is needed because a class that a large
# constant switches off makes the spread large.
_MOST_MOVED, _MOST_LABELS, _MOST_PROBABILITY = 1e-3, 2e-3, 2e-2
_PASSES = 3
_STEP = 'halve_weights'
_OUTSIDE = '16 bits cannot hold its values: they are too large, too small or infinite'
Logits = list[NDArray[np.float32]]


@dataclass(frozen=True)
class StorageReport:
    """How the weights of a bundle are stored, and the effect of rounding them."""

    full: tuple[str, ...] = ()  # Large weights that stay float32 while others have 16 bits.
    logit_error: float = 0.0  # Largest change of a logit, as a share of the logits' spread.
    label_error: float = 0.0  # Share of the passes' labels that rounding changes.
    probability_error: float = 0.0  # Largest change of a probability.

    @property
    def is_near(self) -> bool:
        """Whether all effects of rounding are within their limits; False for NaN."""
        return (self.logit_error <= _MOST_MOVED and self.label_error <= _MOST_LABELS
                and self.probability_error <= _MOST_PROBABILITY)


def store_weights(
    compiled: CompiledGraphs, card: ModelCard, options: CompileOptions
) -> tuple[CompiledGraphs, StorageReport]:
    """Store the weights in 16 bits where this changes the logits little enough."""
    if options.full_weights or options.precision in ('fp16', 'bf16'):
        return compiled, StorageReport()
    outside = tuple(name for part in (compiled.trunk, compiled.head) for name in unhalvable(part))
    report = _compared(compiled, card, outside)
    decisions = [Decision(_STEP, name, False, _OUTSIDE) for name in outside]
    if not report.is_near:
        decisions = [Decision(_STEP, 'all weights', False,
                              f'16 bits show: they move a logit by {report.logit_error:.2g} of '
                              f'the spread, and {report.label_error:.2g} of the labels')]
        compiled = with_files(replace(compiled, is_halved=False))
        report = StorageReport(('all weights',))
    plan = replace(compiled.plan, decisions=(*compiled.plan.decisions, *decisions))
    return replace(compiled, plan=plan), report


def _compared(
    compiled: CompiledGraphs, card: ModelCard, outside: tuple[str, ...]
) -> StorageReport:
    """Compare the logits of the files, as written, with those of the exact graphs."""
    passes = card.members or (1 if card.has_one_pass else _PASSES)
    given = pass_inputs(card, passes, 1)
    images = _images(card.input.height, card.input.width)
    exact = _logits(compiled.trunk, compiled.head, given, images)
    trunk, passes_file = (onnx.load_model_from_string(compiled.files[name])
                          for name in (TRUNK_FILE, PASSES_FILE))
    ours = _logits(trunk, logits_of(passes_file), given, images)
    pairs = list(zip(ours, exact, strict=True))
    return StorageReport(
        outside, max(distance(a, b) for a, b in pairs),
        max(float((a.argmax(1) != b.argmax(1)).mean()) for a, b in pairs),
        max(float(abs(softmax(a) - softmax(b)).max()) for a, b in pairs))


def _logits(
    trunk: onnx.ModelProto, head: onnx.ModelProto, given: Mapping[str, Any],
    images: list[NDArray[np.uint8]],
) -> Logits:
    sessions, found = (session_of(trunk), session_of(head)), []
    names = [info.name for info in sessions[0].get_outputs()]
    for image in images:
        tensors = dict(zip(names, sessions[0].run(names, {'image': image}), strict=True))
        feed = {'image': image, **tensors, **given}
        found.append(sessions[1].run(['logits'], {
            info.name: feed[info.name] for info in sessions[1].get_inputs()})[0])
    return found


def _images(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Return an image of noise, and one of patches 8 pixels wide; uint8 (1, h, w, 3)."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (1, height, width, 3), np.uint8)
    small = rng.integers(0, 256, (1, -(-height // 8), -(-width // 8), 3), np.uint8)
    return [noise, small.repeat(8, 1).repeat(8, 2)[:, :height, :width]]
