# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The compiled loops of `cpu_reduction`: one pass over memory from logits to sums to maps.

Importing this module imports numba; only `cpu_reduction` does so, when a reduction is built.

Everything is in base 2: the logits arrive times log2(e) / temperature, so that exponentials need
no multiplication, and entropies are in bits until the last line divides them by log2(C). Exp and
log are polynomials in plain arithmetic, because a call to the C library in a loop keeps LLVM from
vectorising it. Loops run over slices that begin at 0: numba guards every other index against
being negative, which costs the vectorisation as well.

The only freedom given to the compiler is to fuse a product with a sum. Anything that lets it
reorder sums or assume that there is no NaN would break the bits or hide the NaN.

The columns of a row are kept in slots. When w is a multiple of wl, slot ``k * wl + i`` holds
column ``i * s + k``: all slots of a phase k have the same interpolation weights and their sources
lie side by side. Otherwise slot and column are the same.

"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

_MAGIC = np.float32(1.5 * 2**23)  # a float32 plus this is rounded to an integer in its low bits
_EXP2_MIN = np.float32(-126.0)  # 2 to this is the smallest normal float32
_MANTISSA = np.int32(0x007FFFFF)
_ONE_BITS = np.int32(0x3F800000)
_MANTISSA_BITS = np.int32(23)
_SQRT2 = np.float32(2**0.5)
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_INF, _NAN = np.float32(np.inf), np.float32(np.nan)
# Minimax fits: 2**x = 1 + x P(x) on [-1/2, 1/2], relative error 2.1e-7;
# log2(1 + x) = x Q(x) on [sqrt(1/2) - 1, sqrt(2) - 1], absolute error 1.6e-8.
_P0, _P1, _P2, _P3, _P4 = (np.float32(v) for v in (
    0.6931471955056255, 0.24022348952976075, 0.055503331809134804, 0.00966637310065015,
    0.001340043658501766,
))
_Q0, _Q1, _Q2, _Q3, _Q4, _Q5, _Q6, _Q7, _Q8 = (np.float32(v) for v in (
    1.4426950048871932, -0.7213471993099363, 0.4809102798674461, -0.3607162643000735,
    0.2879390923807607, -0.23867566844079685, 0.21521226442431016, -0.20893390708327966,
    0.12926437193496498,
))
_FAST = {'contract'}
# Left to itself LLVM keeps these as calls, which costs a fifth of the time.
_inner = numba.njit(fastmath=_FAST, forceinline=True)


class Columns(NamedTuple):
    """
    How a row of logits becomes a row of slots.

    Attributes
    ----------
    sources : ndarray of uint32, shape (2, w) or (2, 0)
        Left and right source of each slot in the padded row; empty if there are phases.
    weights : ndarray of float32, shape (w,) or (0,)
        Share of the right source.
    phase_offsets : ndarray of int64, shape (s,) or (0,)
        Where the left sources of a phase begin in the padded row.
    phase_weights : ndarray of float32, shape (s,) or (0,)
        Share of the right source.

    """

    sources: Any
    weights: Any
    phase_offsets: Any
    phase_weights: Any


class Rows(NamedTuple):
    """
    Sources of each output row.

    Attributes
    ----------
    upper, lower : ndarray of int64, shape (h,)
        Rows of the logits.
    weights : ndarray of float32, shape (h,)
        Share of the lower.

    """

    upper: Any
    lower: Any
    weights: Any


class Sums(NamedTuple):
    """
    Sufficient statistics of the passes seen, by slot.

    Attributes
    ----------
    probs : ndarray of float32, shape (h, C, w)
        Sum of the probabilities.
    votes : ndarray of uint16, shape (h, C, w)
        Passes in which the class won; the lowest class wins among equals.
    squares : ndarray of float32, shape (h, w)
        Sum of the squared probabilities of all classes.
    entropy : ndarray of float32, shape (h, w)
        Sum of the entropies in bits, less log2 of `norms`.
    norms : ndarray of float32, shape (h, w)
        Product of the softmax denominators; its logarithm is taken once instead of T times.

    """

    probs: Any
    votes: Any
    squares: Any
    entropy: Any
    norms: Any


class Maps(NamedTuple):
    """The maps of `UncertaintyMaps`, in its order, each of shape (h, w)."""

    label: Any
    confidence: Any
    entropy: Any
    mutual_information: Any
    variation_ratio: Any
    total_variance: Any
    aleatoric: Any


@_inner
def _exp2(x: Any) -> Any:
    """Return 2**x for x in [-126, 0]; NaN stays NaN as long as its low bits are 0."""
    shifted = x + _MAGIC
    f = x - (shifted - _MAGIC)
    p = _ONE + f * (_P0 + f * (_P1 + f * (_P2 + f * (_P3 + f * _P4))))
    exponent = np.float32(shifted).view(np.int32) << _MANTISSA_BITS
    return np.int32(np.float32(p).view(np.int32) + exponent).view(np.float32)


@_inner
def _log2(x: Any) -> Any:
    """Return log2 of a positive normal number; finite for 0, of no meaning for NaN."""
    bits = np.float32(x).view(np.int32)
    exponent = np.float32((bits >> _MANTISSA_BITS) - 127)
    m = np.int32((bits & _MANTISSA) | _ONE_BITS).view(np.float32)
    is_high = m > _SQRT2
    exponent = exponent + _ONE if is_high else exponent
    y = (m * _HALF if is_high else m) - _ONE
    q = _Q4 + y * (_Q5 + y * (_Q6 + y * (_Q7 + y * _Q8)))
    return exponent + y * (_Q0 + y * (_Q1 + y * (_Q2 + y * (_Q3 + y * q))))


@_inner
def _mix_rows(upper: Any, lower: Any, weight: Any, scale: Any, padded: Any) -> None:
    """Interpolate between two rows (wl,), scale, repeat the ends; anything infinite is NaN."""
    n = upper.size
    share = weight * scale
    rest = scale - share
    inner = padded[1:n + 1]
    for i in range(n):
        v = upper[i] * rest + lower[i] * share
        # The canonical NaN, whose low bits _exp2 may shift into the exponent.
        inner[i] = v if abs(v) < _INF else _NAN
    padded[0] = inner[0]
    padded[n + 1] = inner[n - 1]


@_inner
def _mix_columns(padded: Any, columns: Any, base: Any, out: Any) -> None:
    """Interpolate slots base.. of a padded row (wl + 2,)."""
    n = out.size
    num_low = padded.size - 2
    if columns.phase_offsets.size == 0:
        left, right = columns.sources[0, base:base + n], columns.sources[1, base:base + n]
        weights = columns.weights[base:base + n]
        for i in range(n):
            out[i] = padded[left[i]] * (_ONE - weights[i]) + padded[right[i]] * weights[i]
        return
    for phase in range(base // num_low, (base + n - 1) // num_low + 1):
        first = max(base, phase * num_low)
        stop = min(base + n, (phase + 1) * num_low)
        share = columns.phase_weights[phase]
        rest = _ONE - share
        begin = columns.phase_offsets[phase] + first - phase * num_low
        end = begin + stop - first
        left, right = padded[begin:end], padded[begin + 1:end + 1]
        part = out[first - base:stop - base]
        for i in range(part.size):
            part[i] = left[i] * rest + right[i] * share


@_inner
def _take_max(z: Any, c: Any, best: Any, winner: Any) -> None:
    """Keep the largest logit and its class."""
    if c == 0:
        for i in range(z.size):
            best[i] = z[i]
            winner[i] = 0
        return
    c32 = np.int32(c)
    for i in range(z.size):
        is_larger = z[i] > best[i]
        best[i] = z[i] if is_larger else best[i]
        winner[i] = c32 if is_larger else winner[i]


@_inner
def _exponentiate(z: Any, best: Any, norm: Any, tilt: Any) -> None:
    """Replace logits by 2**(z - best); add them to `norm`, and times z - best to `tilt`."""
    for i in range(z.size):
        d = z[i] - best[i]
        d = _EXP2_MIN if _EXP2_MIN > d else d  # in this order NaN stays
        e = _exp2(d)
        z[i] = e
        norm[i] += e
        tilt[i] += e * d


@_inner
def _add_class(
    e: Any, inverse: Any, winner: Any, c: Any, probs: Any, votes: Any, squares: Any
) -> None:
    """Normalise one class and add it to the sums of its block."""
    c32 = np.int32(c)
    for i in range(e.size):
        p = e[i] * inverse[i]
        probs[i] += p
        squares[i] += p * p
        votes[i] += np.int32(1) if winner[i] == c32 else np.int32(0)


@_inner
def _add_norm(norm: Any, tilt: Any, entropy: Any, norms: Any) -> None:
    """Add the entropy log2(norm) - tilt / norm, its first term as a factor; invert `norm`."""
    for i in range(norm.size):
        inverse = _ONE / norm[i]
        norms[i] *= norm[i]
        entropy[i] -= tilt[i] * inverse
        norm[i] = inverse


@_inner
def _copy(source: Any, target: Any) -> None:
    for i in range(target.size):
        target[i] = source[i]


@_inner
def _load(sums: Any, y: Any, base: Any, n: Any, probs: Any, votes: Any, lines: Any) -> None:
    for c in range(probs.shape[0]):
        _copy(sums.probs[y, c, base:base + n], probs[c, :n])
        _copy(sums.votes[y, c, base:base + n], votes[c, :n])
    _copy(sums.squares[y, base:base + n], lines[0, :n])
    _copy(sums.entropy[y, base:base + n], lines[1, :n])
    _copy(sums.norms[y, base:base + n], lines[2, :n])


@_inner
def _store(sums: Any, y: Any, base: Any, n: Any, probs: Any, votes: Any, lines: Any) -> None:
    for c in range(probs.shape[0]):
        _copy(probs[c, :n], sums.probs[y, c, base:base + n])
        _copy(votes[c, :n], sums.votes[y, c, base:base + n])
    _copy(lines[0, :n], sums.squares[y, base:base + n])
    _copy(lines[1, :n], sums.entropy[y, base:base + n])
    _copy(lines[2, :n], sums.norms[y, base:base + n])


def accumulate_rows(
    logits: Any, scale: Any, rows: Any, columns: Any, sums: Any, block: Any, is_first: Any,
    is_first_of_group: Any, y_first: Any, y_stop: Any,
) -> None:
    """
    Add a chunk of passes to the sums of some output rows.

    Parameters
    ----------
    logits : ndarray of float32, shape (Tc, C, hl, wl)
        A chunk.
    scale : float32
        log2(e) / temperature.
    rows, columns : Rows, Columns
        Where an output pixel comes from.
    sums : Sums
        Changed in rows y_first to y_stop.
    block : int
        Slots that are worked on at once, few enough to stay in the first-level cache.
    is_first, is_first_of_group : bool
        Whether the votes, and the other sums, begin at nothing.
    y_first, y_stop : int
        The rows.

    """
    passes, num_classes, _, num_low = logits.shape
    width = sums.squares.shape[1]
    low = np.empty((passes, num_classes, num_low + 2), np.float32)
    z = np.empty((num_classes, block), np.float32)
    probs = np.empty((num_classes, block), np.float32)
    votes = np.empty((num_classes, block), np.int32)
    lines = np.empty((6, block), np.float32)  # squares, entropy, norms; best, norm, tilt
    winner = np.empty(block, np.int32)
    for y in range(y_first, y_stop):
        for t in range(passes):
            for c in range(num_classes):
                _mix_rows(logits[t, c, rows.upper[y]], logits[t, c, rows.lower[y]],
                          rows.weights[y], scale, low[t, c])
        for base in range(0, width, block):
            n = min(block, width - base)
            _load(sums, y, base, n, probs, votes, lines)
            if is_first:
                votes[:] = 0
            if is_first_of_group:
                probs[:] = _ZERO
                lines[:2] = _ZERO
                lines[2] = _ONE
            best, norm, tilt, won = lines[3, :n], lines[4, :n], lines[5, :n], winner[:n]
            for t in range(passes):
                for c in range(num_classes):
                    _mix_columns(low[t, c], columns, base, z[c, :n])
                    _take_max(z[c, :n], c, best, won)
                norm[:] = _ZERO
                tilt[:] = _ZERO
                for c in range(num_classes):
                    _exponentiate(z[c, :n], best, norm, tilt)
                _add_norm(norm, tilt, lines[1, :n], lines[2, :n])
                for c in range(num_classes):
                    _add_class(z[c, :n], norm, won, c, probs[c, :n], votes[c, :n], lines[0, :n])
            _store(sums, y, base, n, probs, votes, lines)


@_inner
def _spread(slots: Any, num_phases: Any, out: Any) -> None:
    """Put slots back into the order of columns."""
    if num_phases == 0:
        _copy(slots, out)
        return
    num_low = slots.size // num_phases
    for phase in range(num_phases):
        part = slots[phase * num_low:(phase + 1) * num_low]
        for i in range(num_low):
            out[i * num_phases + phase] = part[i]


@_inner
def _mean_of_class(
    sums: Any, passes: Any, c: Any, best: Any, winner: Any, entropy: Any, squares: Any,
    most: Any, votes: Any,
) -> None:
    """Take one class of a row into largest mean, entropy, sum of squares and most votes."""
    c32 = np.int32(c)
    for i in range(sums.size):
        p = sums[i] / passes  # not times 1 / T: a certain class is 1 for every T
        is_larger = p > best[i]
        best[i] = p if is_larger else best[i]
        winner[i] = c32 if is_larger else winner[i]
        entropy[i] -= p * _log2(p)
        squares[i] += p * p
        most[i] = max(most[i], np.float32(votes[i]))


def finish_rows(
    sums: Any, num_phases: Any, passes: Any, per_bit: Any, maps: Any, y_first: Any, y_stop: Any
) -> None:
    """
    Turn sums into maps.

    Parameters
    ----------
    sums : Sums
        Of all passes.
    num_phases : int
        How slots are ordered; 0 as columns.
    passes : float32
        T.
    per_bit : float32
        1 / log2(C).
    maps : Maps
        Written in rows y_first to y_stop.
    y_first, y_stop : int
        The rows.

    """
    _, num_classes, width = sums.probs.shape
    best = np.empty(width, np.float32)
    winner = np.empty(width, np.int32)
    most = np.empty(width, np.float32)
    entropy = np.empty(width, np.float32)
    squares = np.empty(width, np.float32)
    within = np.empty(width, np.float32)
    for y in range(y_first, y_stop):
        best[:] = -_ONE
        winner[:] = 0
        most[:] = _ZERO
        entropy[:] = _ZERO
        squares[:] = _ZERO
        for c in range(num_classes):
            _mean_of_class(sums.probs[y, c], passes, c, best, winner, entropy, squares, most,
                           sums.votes[y, c])
        _finish_row(sums.squares[y], sums.entropy[y], sums.norms[y], passes, per_bit, best,
                    entropy, squares, most, within)
        _spread(winner, num_phases, maps.label[y])
        _spread(best, num_phases, maps.confidence[y])
        _spread(entropy, num_phases, maps.entropy[y])
        _spread(within, num_phases, maps.aleatoric[y])
        _spread(squares, num_phases, maps.total_variance[y])
        _spread(most, num_phases, maps.variation_ratio[y])
        for x in range(width):
            mutual = maps.entropy[y, x] - maps.aleatoric[y, x]
            maps.mutual_information[y, x] = _ZERO if mutual < _ZERO else mutual


@_inner
def _finish_row(
    square_sum: Any, entropy_sum: Any, norms: Any, passes: Any, per_bit: Any, best: Any,
    entropy: Any, squares: Any, most: Any, within: Any,
) -> None:
    """Bring entropies to 0..1, squares to a variance and votes to a ratio; NaN goes everywhere."""
    for i in range(best.size):
        # Zero, or NaN where a pass was: the votes and the largest mean do not know of it.
        broken = entropy[i] * _ZERO
        best[i] += broken
        within[i] = (entropy_sum[i] + _log2(norms[i])) / passes * per_bit
        entropy[i] *= per_bit
        variance = square_sum[i] / passes - squares[i]
        squares[i] = _ZERO if variance < _ZERO else variance
        most[i] = (passes - most[i]) / passes + broken


class Kernels(NamedTuple):
    """The two entry points, compiled."""

    accumulate_rows: Any
    finish_rows: Any


def compile_kernels(is_cached: bool) -> Kernels:
    """Return dispatchers that release the interpreter's lock; they compile on their first call."""
    jit = numba.njit(nogil=True, fastmath=_FAST, cache=is_cached)
    return Kernels(jit(accumulate_rows), jit(finish_rows))
