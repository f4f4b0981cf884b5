# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Look at what comes out: is it logits, and is it the same from the files that are written.

Weights are stored in 16 bits where the logits stay the same. A network in which rounding shows
keeps the weights that show it in float32, in the end all of them: the files are larger then, and
right. Which ones is found by rounding some of them at a time.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx

from uncertainty_seg.compiler.algebra.dropout_to_masks import without_dropout
from uncertainty_seg.compiler.bounds import bounds_of
from uncertainty_seg.compiler.checks.pass_checks import distance, run_graph
from uncertainty_seg.compiler.compile import CompiledGraphs, with_stored_weights
from uncertainty_seg.compiler.frontend.outputs import strip_final_resize
from uncertainty_seg.compiler.head_graphs import INV_TEMPERATURE, SUM_LOGITS
from uncertainty_seg.compiler.onnx_tools import copy_of, float_info, producer, refill
from uncertainty_seg.compiler.plan import CompileOptions, Decision
from uncertainty_seg.compiler.precision import halvable, unhalvable
from uncertainty_seg.core.bundle import HEAD_FILE, HEAD_STATS_FILE, TRUNK_FILE
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.model_card import InputSpec, ModelCard
from uncertainty_seg.errors import GraphError

# -------------------------------------------------------------------------------------------------
# Probabilities that are taken for logits are all alike: each pixel says the same, and mutual
# information is 10 to 20 times too low.

# Of probabilities that are rounded to float32, and of their sum.
_MOST_BEYOND, _MOST_FROM_ONE = 1e-6, 1e-4
# Sums over the classes differ by less than this share of the spread where they are the same.
_SAME_SUM = 1e-5
# Lengths over the classes differ by less than this share where they are the same, and the values
# of a class by more than this share of the length where they depend on the image.
_SAME_LENGTH, _MOVES = 1e-5, 1e-2
_OF_PROBABILITIES = {'Sigmoid', 'HardSigmoid', 'Softmax'}
_BEFORE = 'return the tensor before the activation (--output NAME names it in an ONNX file)'


def require_logits(model: onnx.ModelProto, spec: InputSpec, activation: str) -> None:
    """
    Refuse an output that is bounded as no logits are, or is not what was declared.

    It stays in [0, 1] on images of all kinds, cannot leave [-1, 1] by the nodes that make it, or
    has the same length over the classes at every pixel, as features that are normalised.

    Parameters
    ----------
    model : ModelProto
        Normalised floats to what is taken for logits, as `Prepared.float_model`.
    spec : InputSpec
        Of its image.
    activation : str
        As it was declared: one of `plan.ACTIVATIONS`.

    Raises
    ------
    GraphError
        With the range of the values, and what to declare.

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
        _require_no_bounds(plain.graph, values)
        _require_no_directions(small)


def _require_distribution(values: NDArray[np.float32], activation: str) -> None:
    sums = values.sum(1)
    if not np.isfinite(values).all():
        raise GraphError(f'--activation is {activation}, and the output has values below 0 or no '
                         'numbers', 'probabilities', 'leave the option out, or declare another')
    if not np.abs(sums - 1).max() <= _MOST_FROM_ONE:
        raise GraphError(
            f'--activation is {activation}, and the probabilities of a pixel add up to '
            f'{sums.min():.4g} to {sums.max():.4g} on random images', '1 at each pixel',
            _BEFORE)


def _require_no_probabilities(values: NDArray[np.float32], activation: str) -> None:
    is_one = _is_one_channel(values)
    shown = values[:, 1:] - values[:, :1] if is_one else values  # one channel z is -z / 2, z / 2
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
    fix = f'{_BEFORE}, or say --activation {declared}, with which its logarithm is taken' \
        if declared else f'{_BEFORE}, or say --activation logits if there is none'
    if activation == 'auto' and is_one:
        fix += '; --activation logits if there is none'
    raise GraphError(what if activation == 'auto' else f'--activation is logits, and {what}',
                     'logits, which take any value', fix)


def _require_no_scaled_softmax(values: NDArray[np.float32], spread: float) -> None:
    """Refuse percentages and the like: what adds up to the same at every pixel of every image."""
    sums = values.sum(1, dtype=np.float64)
    # Logits that are normalised over the classes, as Segmenter's, add up to zero.
    is_zero = abs(sums.mean()) <= _SAME_SUM * spread
    if values.shape[1] < 2 or is_zero or not np.ptp(sums) <= _SAME_SUM * spread:
        return
    raise GraphError(
        f'the output adds up to {sums.mean():.4g} over the classes at every pixel of random '
        'images', 'logits, not probabilities times something',
        f'{_BEFORE}, or say --activation logits if there is none')


def _require_no_bounds(graph: onnx.GraphProto, values: NDArray[np.float32]) -> None:
    """Refuse what a tanh or the like holds in [-1, 1], or a sigmoid in [0, c], on any image."""
    bounds = bounds_of(graph, graph.output[0].name)
    factor = 2 if _is_one_channel(values) else 1
    low, high = factor * bounds.low, factor * bounds.high
    is_small = low >= -1 - _MOST_BEYOND and high <= 1 + _MOST_BEYOND
    is_share = low >= -_MOST_BEYOND and bounds.operators <= _OF_PROBABILITIES
    if bounds.is_finite and bounds.operators and (is_small or is_share):
        raise GraphError(
            f'the output comes from {" and ".join(sorted(bounds.operators))}, which keeps it in '
            f'[{low:.3g}, {high:.3g}] on any image', 'logits, which take any value',
            f'{_BEFORE}, or say --activation logits if these are the logits')


def _require_no_directions(values: NDArray[np.float32]) -> None:
    """Refuse features of one length: only their direction says something, as of an embedding."""
    shown = values[:, 1:] - values[:, :1] if _is_one_channel(values) else values
    pixels = shown.transpose(1, 0, 2, 3).reshape(shown.shape[1], -1).astype(np.float64)
    lengths = np.sqrt((pixels ** 2).sum(0))
    lengths, pixels = lengths[lengths > 0], pixels[:, lengths > 0]  # zero has no direction
    if not lengths.size or not np.ptp(lengths) <= _SAME_LENGTH * lengths.mean():
        return
    # Logits that a LayerNorm ends add up to zero; those of a constant do not move at all.
    is_centred = len(pixels) > 1 and abs(pixels.sum(0)).max() <= _SAME_LENGTH * lengths.mean()
    if is_centred or np.ptp(pixels, axis=1).max() <= _MOVES * lengths.mean():
        return
    raise GraphError(
        f'the output has the length {lengths.mean():.4g} over the classes at every pixel of '
        'random images, as features that are normalised', 'logits, which take any value',
        'return what the classifier gives (--output NAME names it in an ONNX file), or say '
        '--activation logits if these are the logits')


def _is_one_channel(values: NDArray[np.float32]) -> bool:
    """Whether one channel z became -z / 2 and z / 2."""
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

# How far rounding may move a logit, as a share of their spread, and how many labels. A class that
# a large constant switches off makes that spread large: so there is a limit of a probability too.
MOST_MOVED, MOST_LABELS, MOST_PROBABILITY = 1e-3, 2e-3, 2e-2
_PASSES, _MOST_RUNS = 3, 24
_STEP = 'halve_weights'
_OUTSIDE = '16 bits cannot hold its values: they are too large, too small or infinite'
Logits = list[NDArray[np.float32]]


@dataclass(frozen=True)
class StorageReport:
    """
    How the weights of a bundle are stored, and what that changes.

    Attributes
    ----------
    megabytes : float
        Of all graphs.
    full : tuple of str
        Large weights that stay float32 beside others in 16 bits.
    logit_error : float
        Largest difference that rounding makes, as a share of the logits' spread.
    label_error : float
        Share of the labels of the passes that rounding changes.
    probability_error : float
        Largest difference that rounding makes to a probability.

    """

    megabytes: float
    full: tuple[str, ...] = ()
    logit_error: float = 0.0
    label_error: float = 0.0
    probability_error: float = 0.0

    @property
    def is_near(self) -> bool:
        """Whether nothing that rounding changes shows; NaN shows."""
        return self.is_within(1)

    def is_within(self, share: float) -> bool:
        """Say whether it stays within a share of all three limits."""
        return (self.logit_error <= MOST_MOVED * share and self.label_error <= MOST_LABELS * share
                and self.probability_error <= MOST_PROBABILITY * share)


def store_weights(
    compiled: CompiledGraphs, card: ModelCard, options: CompileOptions
) -> tuple[CompiledGraphs, StorageReport]:
    """
    Round what may be rounded of the weights, and run the result.

    Parameters
    ----------
    compiled : CompiledGraphs
        Already compared with the network, with float32 weights.
    card : ModelCard
        Its card.
    options : CompileOptions
        Whether to round at all; what computes in 16 bits is left as it is.

    Returns
    -------
    compiled : CompiledGraphs
        With other files, and a decision for each weight that stays float32.
    report : StorageReport
        Of the files, on random images.

    """
    if not options.is_half or options.precision in ('fp16', 'bf16'):
        return compiled, StorageReport(_megabytes(compiled.files))
    check = _StorageCheck(compiled, card)
    outside = {name: _OUTSIDE for part in (compiled.trunk, compiled.head)
               for name in unhalvable(part)}
    report = check.written(compiled.files, outside)
    if report.is_near:
        return _told(compiled, outside), report
    full = dict.fromkeys(check.shown(), 'rounding it to 16 bits shows in the logits')
    stored = with_stored_weights(compiled, card.input, {*outside, *full})
    report = check.written(stored.files, {**outside, **full})
    if not report.is_near:  # other errors than those of the search add up
        full = dict.fromkeys(check.candidates, 'rounding it to 16 bits may show in the logits')
        stored = with_stored_weights(compiled, card.input, None)
        report = check.written(stored.files, {**outside, **full})
    return _told(stored, {**outside, **full}), report


def _told(compiled: CompiledGraphs, full: Mapping[str, str]) -> CompiledGraphs:
    decisions = [Decision(_STEP, name, False, reason) for name, reason in full.items()]
    plan = replace(compiled.plan, decisions=(*compiled.plan.decisions, *decisions))
    return replace(compiled, plan=plan)


def _megabytes(files: Mapping[str, bytes]) -> float:
    return sum(map(len, files.values())) / 1e6


class _StorageCheck:
    """Logits of one compiled network with float32 weights, and with other ones."""

    def __init__(self, compiled: CompiledGraphs, card: ModelCard) -> None:
        self._card = card
        step = card.chunk or 1
        passes = card.members or (1 if card.has_one_pass else step * math.ceil(_PASSES / step))
        self._given = pass_inputs(card, passes, 1)
        self._images = _images(card.input.height, card.input.width)
        parts = compiled.trunk, compiled.head
        self._rounded = {name: half.astype(np.float32) for part in parts
                         for name, half in halvable(part).items()}
        self._float = {t.name: onnx.numpy_helper.to_array(t) for part in parts
                       for t in part.graph.initializer if t.name in self._rounded}
        self._open = (_session(_with_weights_given(compiled.trunk, self._rounded)),
                      _session(_with_weights_given(compiled.head, self._rounded)))
        self._exact = self._logits(self._open, self._float)

    @property
    def candidates(self) -> list[str]:
        """Weights that may be rounded, in the order of the graph."""
        return list(self._rounded)

    def written(self, files: Mapping[str, bytes], full: Iterable[str]) -> StorageReport:
        """Run the files as they are written; compare with float32 weights."""
        trunk, head = (_session(files[name]) for name in (TRUNK_FILE, HEAD_FILE))
        found = self._report(self._logits((trunk, head), {}), files, full)
        stats = _session(files[HEAD_STATS_FILE])
        sums = self._logits((trunk, stats), {INV_TEMPERATURE: np.ones(1, np.float32)},
                            SUM_LOGITS)
        error = max(distance(total[None] / np.float32(len(logits)), logits.mean(0, keepdims=True))
                    for total, logits in zip(sums, self._exact, strict=True))
        return replace(found, logit_error=max(found.logit_error, error))

    def _report(
        self, ours: Logits, files: Mapping[str, bytes], full: Iterable[str]
    ) -> StorageReport:
        error = max(distance(a, b) for a, b in zip(ours, self._exact, strict=True))
        labels = max(float((a.argmax(1) != b.argmax(1)).mean())
                     for a, b in zip(ours, self._exact, strict=True))
        moved = max(float(abs(_softmax(a) - _softmax(b)).max())
                    for a, b in zip(ours, self._exact, strict=True))
        return StorageReport(_megabytes(files), tuple(full), error, labels, moved)

    def shown(self) -> list[str]:
        """
        Return weights without which rounding does not show.

        Halves of the weights are rounded, and halves of halves where that shows more than their
        share of the bytes allows, up to a number of runs.

        """
        total = sum(self._rounded[name].size for name in self.candidates)
        groups, runs = [self.candidates], 0
        kept: list[str] = []
        while groups:
            group = groups.pop(0)
            share = math.sqrt(sum(self._rounded[name].size for name in group) / total)
            runs += 1
            report = self._rounding(group) if runs < _MOST_RUNS else None
            if report is not None and report.is_within(share):
                continue
            if report is None or len(group) == 1:
                kept += group
            else:
                middle = len(group) // 2
                groups += [group[:middle], group[middle:]]
        return kept

    def _rounding(self, names: Sequence[str]) -> StorageReport:
        weights = {**self._float, **{name: self._rounded[name] for name in names}}
        return self._report(self._logits(self._open, weights), {}, ())

    def _logits(
        self, sessions: tuple[Any, Any], weights: Mapping[str, NDArray[np.float32]],
        output: str = 'logits',
    ) -> Logits:
        trunk, head = sessions
        found = []
        for image in self._images:
            feed = {'image': image, **weights}
            names = [info.name for info in trunk.get_outputs()]
            feed.update(zip(names, trunk.run(names, _wanted(trunk, feed)), strict=True))
            passes = len(next(iter(self._given.values()))) if self._given else 1
            step = self._card.chunk or passes
            parts = [head.run([output], _wanted(head, {**feed, **{
                name: rows[at:at + step] for name, rows in self._given.items()}}))[0]
                for at in range(0, passes, step)]
            found.append(np.concatenate(parts) if output == 'logits' else np.sum(parts, 0))
        return found


def _session(model: bytes) -> Any:
    """Return a session of ONNX Runtime on the CPU; it is installed, the checks have run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _wanted(session: Any, feed: Mapping[str, Any]) -> dict[str, Any]:
    return {info.name: feed[info.name] for info in session.get_inputs()}


def _with_weights_given(
    model: onnx.ModelProto, names: Mapping[str, object]
) -> bytes:
    """Make some initializers inputs, so that one session runs with any values of them."""
    result = copy_of(model)
    graph = result.graph
    graph.input.extend(float_info(t.name, t.dims) for t in graph.initializer if t.name in names)
    refill(graph.initializer, [t for t in graph.initializer if t.name not in names])
    return result.SerializeToString()


def _images(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Return an image of noise, and one of patches 8 pixels wide; uint8 (1, h, w, 3)."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (1, height, width, 3), np.uint8)
    small = rng.integers(0, 256, (1, -(-height // 8), -(-width // 8), 3), np.uint8)
    return [noise, small.repeat(8, 1).repeat(8, 2)[:, :height, :width]]
