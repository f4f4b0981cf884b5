# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The compiled loops of `reduction`: one pass over memory from logits to sums to maps.

Importing this module imports numba; only `reduction` does so, when a reduction is built.

Everything is in base 2: the logits are multiplied by log2(e) / temperature beforehand, so that
exponentials need no multiplication, and entropies are in bits until the last line divides them by
log2(C). Exp and log are polynomials in plain arithmetic, because a call to the C library in a loop
keeps LLVM from vectorising it. Two properties of numba determine the form of the loops. It checks
every index that it cannot prove positive, which prevents vectorisation: such indices are unsigned.
And it counts references to every view of an array with an atomic operation each, which took half
of the time: so arrays are passed whole, together with indices.

The compiler may only fuse a product with a sum. Options that let it reorder sums or assume that
there is no NaN would change the bits or hide the NaN.

`reduction` explains how the image is cut. All loops are in one file, because numba compiles
again only when the file of the entry point changes.

"""

from __future__ import annotations

import math
from typing import Any

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
# Without the numpy error model each division looks for a zero first, in a loop of its own.
_OPTIONS = {'fastmath': {'contract'}, 'error_model': 'numpy'}
# Left to itself LLVM keeps the helpers as calls, which costs a fifth of the time.
_inner = numba.njit(forceinline=True, **_OPTIONS)
_PASSES = 4  # that are added at once
_LINE = 16  # float32 in a cache line


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
def _aligned(rows: Any, pitch: Any) -> Any:
    """Return zeros that begin where a cache line does: vectors across lines take twice as long."""
    flat = np.zeros(rows * pitch + _LINE, np.float32)
    start = (-flat.ctypes.data % (4 * _LINE)) // 4
    return flat[start:start + rows * pitch].reshape(rows, pitch)


@_inner
def _mix_rows(
    logits: Any, t: Any, c: Any, upper: Any, lower: Any, share: Any, scale: Any, start: Any,
    low: Any,
) -> None:
    """Interpolate between two rows and scale; anything infinite becomes NaN."""
    right = share * scale
    left = scale - right
    first = np.uint64(start)
    for i in range(logits.shape[3]):
        v = logits[t, c, upper, i] * left + logits[t, c, lower, i] * right
        # The canonical NaN, whose low bits _exp2 may shift into the exponent.
        low[t, c, first + np.uint64(i)] = v if abs(v) < _INF else _NAN


@_inner
def _mix_tile(
    logits: Any, scale: Any, upper: Any, lower: Any, shares: Any, first_row: Any, tile_rows: Any,
    low: Any,
) -> None:
    """Interpolate the rows of a tile, all passes and classes, side by side."""
    passes, num_classes, _, num_low = logits.shape
    for t in range(passes):
        for c in range(num_classes):
            for r in range(tile_rows):
                y = first_row + r
                _mix_rows(logits, t, c, upper[y], lower[y], shares[y], scale, 1 + r * num_low,
                          low)


@_inner
def _shift_columns(
    low: Any, t: Any, offset: Any, share: Any, num_low: Any, tile_rows: Any, n: Any, z: Any
) -> None:
    """Interpolate between neighbours, and copy where a row has no neighbour."""
    rest = _ONE - share
    edge = 0 if offset == 0 else num_low - 1
    for c in range(low.shape[1]):
        for i in range(n):
            left = np.uint64(i) + offset
            z[c, i] = low[t, c, left] * rest + low[t, c, left + np.uint64(1)] * share
        for r in range(tile_rows):
            z[c, r * num_low + edge] = low[t, c, 1 + r * num_low + edge]


@_inner
def _look_up_columns(
    low: Any, t: Any, left: Any, right: Any, weights: Any, n: Any, z: Any
) -> None:
    """Interpolate between the sources of each slot."""
    for c in range(low.shape[1]):
        for i in range(n):
            share = weights[i]
            z[c, i] = low[t, c, left[i]] * (_ONE - share) + low[t, c, right[i]] * share


@_inner
def _take_max(z: Any, c: Any, best: Any, winners: Any, k: Any) -> None:
    """Keep the largest logit and its class, the lowest class among equals."""
    first, second = np.int32(c), np.int32(c + 1)
    for i in range(best.size):
        top, won = best[i], winners[k, i]
        is_larger = z[c, i] > top
        top = z[c, i] if is_larger else top
        won = first if is_larger else won
        is_larger = z[c + 1, i] > top
        best[i] = z[c + 1, i] if is_larger else top
        winners[k, i] = second if is_larger else won


@_inner
def _exponentiate(
    z: Any, c: Any, best: Any, e: Any, k: Any, norm: Any, tilt: Any, squares: Any
) -> None:
    """Compute 2**(z - best); add it to `norm`, its square, and its product with z - best."""
    for i in range(best.size):
        top = best[i]
        d0, d1 = z[c, i] - top, z[c + 1, i] - top
        d0 = _EXP2_MIN if _EXP2_MIN > d0 else d0  # in this order NaN stays
        d1 = _EXP2_MIN if _EXP2_MIN > d1 else d1
        p0, p1 = _exp2(d0), _exp2(d1)
        e[k, c, i], e[k, c + 1, i] = p0, p1
        norm[i] = norm[i] + p0 + p1
        tilt[i] = tilt[i] + p0 * d0 + p1 * d1
        squares[i] = squares[i] + p0 * p0 + p1 * p1


@_inner
def _softmax(
    z: Any, best: Any, norm: Any, tilt: Any, squares: Any, k: Any, winners: Any, e: Any,
    inverses: Any, lines: Any,
) -> None:
    """Compute exponentials, inverse norm and winner of a pass, and add it to the lines."""
    for i in range(best.size):
        best[i] = -_INF
        winners[k, i] = 0
        norm[i] = _ZERO
        tilt[i] = _ZERO
        squares[i] = _ZERO
    # Two classes at a time, to load and store the common lines half as often.
    for c in range(0, z.shape[0], 2):
        _take_max(z, c, best, winners, k)
    for c in range(0, z.shape[0], 2):
        _exponentiate(z, c, best, e, k, norm, tilt, squares)
    for i in range(best.size):  # the entropy is log2(norm) - tilt / norm
        inverse = _ONE / norm[i]
        inverses[k, i] = inverse
        lines[0, i] += squares[i] * inverse * inverse
        lines[1, i] -= tilt[i] * inverse
        lines[2, i] *= norm[i]


@_inner
def _add_pass(
    e: Any, inverses: Any, winners: Any, k: Any, c: Any, n: Any, probs: Any, votes: Any
) -> None:
    """Normalise one class of a pass and add it to the sums."""
    c32 = np.int32(c)
    for i in range(n):
        probs[c, i] += e[k, c, i] * inverses[k, i]
        votes[c, i] += np.int32(1) if winners[k, i] == c32 else np.int32(0)


@_inner
def _add_passes(
    e: Any, inverses: Any, winners: Any, c: Any, n: Any, probs: Any, votes: Any
) -> None:
    """Do the same for _PASSES passes in their order, loading and storing the sums once."""
    c32 = np.int32(c)
    for i in range(n):
        total = probs[c, i]
        total += e[0, c, i] * inverses[0, i]
        total += e[1, c, i] * inverses[1, i]
        total += e[2, c, i] * inverses[2, i]
        total += e[3, c, i] * inverses[3, i]
        probs[c, i] = total
        count = votes[c, i]
        count += np.int32(1) if winners[0, i] == c32 else np.int32(0)
        count += np.int32(1) if winners[1, i] == c32 else np.int32(0)
        count += np.int32(1) if winners[2, i] == c32 else np.int32(0)
        count += np.int32(1) if winners[3, i] == c32 else np.int32(0)
        votes[c, i] = count


@_inner
def _load(
    stored_probs: Any, stored_votes: Any, stored_lines: Any, tile: Any, phase: Any,
    is_first: Any, is_first_of_group: Any, n: Any, probs: Any, votes: Any, lines: Any,
) -> None:
    """Begin with what earlier chunks left, or with nothing."""
    for c in range(probs.shape[0]):
        for i in range(n):
            votes[c, i] = 0 if is_first else np.int32(stored_votes[tile, phase, c, i])
        for i in range(n):
            probs[c, i] = _ZERO if is_first_of_group else stored_probs[tile, phase, c, i]
    for i in range(n):
        lines[0, i] = _ZERO if is_first_of_group else stored_lines[tile, phase, 0, i]
        lines[1, i] = _ZERO if is_first_of_group else stored_lines[tile, phase, 1, i]
        lines[2, i] = _ONE if is_first_of_group else stored_lines[tile, phase, 2, i]


@_inner
def _store(
    stored_probs: Any, stored_votes: Any, stored_lines: Any, tile: Any, phase: Any, n: Any,
    probs: Any, votes: Any, lines: Any,
) -> None:
    """Leave the sums to the next chunk."""
    for c in range(probs.shape[0]):
        for i in range(n):
            stored_votes[tile, phase, c, i] = votes[c, i]
        for i in range(n):
            stored_probs[tile, phase, c, i] = probs[c, i]
    for c in range(3):
        for i in range(n):
            stored_lines[tile, phase, c, i] = lines[c, i]


@_inner
def _mean_of_class(
    probs: Any, votes: Any, c: Any, total: Any, best: Any, label: Any, entropy: Any, lost: Any,
    squares: Any, most: Any,
) -> None:
    """Take one class into largest mean, its class, entropy, sum of squares and most votes."""
    c32 = np.int32(c)
    for i in range(best.size):
        p = probs[c, i] / total  # not times 1 / T: a certain class is 1 for every T
        is_larger = p > best[i]
        best[i] = p if is_larger else best[i]
        label[i] = c32 if is_larger else label[i]
        # Kahan's sum: over 255 classes a plain one is off by 3e-6.
        term = -p * _log2(p) - lost[i]
        summed = entropy[i] + term
        lost[i] = (summed - entropy[i]) - term
        entropy[i] = summed
        squares[i] += p * p
        most[i] = max(most[i], votes[c, i])


@_inner
def _finish(
    probs: Any, votes: Any, lines: Any, total: Any, per_bit: Any, best: Any, label: Any,
    entropy: Any, lost: Any, squares: Any, most: Any,
) -> None:
    """
    Turn sums into values of the maps, in place.

    The lines become total variance, aleatoric and mutual information, `squares` the variation
    ratio. NaN goes everywhere.

    """
    for i in range(best.size):
        best[i] = -_ONE
        label[i] = 0
        most[i] = 0
        entropy[i] = _ZERO
        lost[i] = _ZERO
        squares[i] = _ZERO
    for c in range(probs.shape[0]):
        _mean_of_class(probs, votes, c, total, best, label, entropy, lost, squares, most)
    for i in range(best.size):
        # Zero, or NaN where a pass was: the votes and the largest mean do not know of it.
        broken = entropy[i] * _ZERO
        within = (lines[1, i] + _log2(lines[2, i])) / total * per_bit
        all_of_it = entropy[i] * per_bit
        difference = all_of_it - within
        variance = lines[0, i] / total - squares[i]
        best[i] += broken
        entropy[i] = all_of_it
        lines[0, i] = _ZERO if variance < _ZERO else variance
        lines[1, i] = within
        lines[2, i] = _ZERO if difference < _ZERO else difference
        squares[i] = (total - np.float32(most[i])) / total + broken


@_inner
def _write_row(
    labels: Any, maps: Any, y: Any, start: Any, phase: Any, num_phases: Any, label: Any,
    best: Any, entropy: Any, ratio: Any, lines: Any,
) -> None:
    """Put the slots of one row of a phase where they belong in a row of the image."""
    for i in range(labels.shape[1] // num_phases):
        x, j = i * num_phases + phase, start + i
        labels[y, x] = label[j]
        maps[0, y, x] = best[j]
        maps[1, y, x] = entropy[j]
        maps[2, y, x] = lines[2, j]
        maps[3, y, x] = ratio[j]
        maps[4, y, x] = lines[0, j]
        maps[5, y, x] = lines[1, j]


@_inner
def _second_of_class(
    probs: Any, c: Any, total: Any, label: Any, second: Any
) -> None:
    """Keep the largest mean of the classes that did not win."""
    c32 = np.int32(c)
    for i in range(second.size):
        p = probs[c, i] / total
        p = -_ONE if label[i] == c32 else p
        second[i] = p if p > second[i] else second[i]


@_inner
def _soften_class(
    probs: Any, c: Any, total: Any, inv_tau: Any, top: Any, norm: Any, tilt: Any
) -> None:
    """Add the mean of a class, over the largest and to the power of `inv_tau`."""
    for i in range(norm.size):
        d = (_log2(probs[c, i] / total) - top[i]) * inv_tau
        d = _EXP2_MIN if _EXP2_MIN > d else d
        p = _exp2(d)
        norm[i] += p
        tilt[i] += p * d


@_inner
def _write_more(
    more: Any, y: Any, start: Any, phase: Any, num_phases: Any, first: Any, second: Any
) -> None:
    """Put the slots of one or two more maps where they belong."""
    for i in range(more.shape[2] // num_phases):
        more[0, y, i * num_phases + phase] = first[start + i]
    if more.shape[0] > 1:
        for i in range(more.shape[2] // num_phases):
            more[1, y, i * num_phases + phase] = second[start + i]


# No `_inner`: the loops of those who ask for no more maps stay as fast as they were.
@numba.njit(**_OPTIONS)
def _more_of_tile(
    more: Any, first_row: Any, tile_rows: Any, stride: Any, phase: Any, num_phases: Any,
    probs: Any, total: Any, inv_tau: Any, per_bit: Any, best: Any, label: Any, pitch: Any,
) -> None:
    """Compute and write the margin and, if there is a second map, what is unknown."""
    n = best.size
    scratch = _aligned(4, pitch)
    margin, norm, tilt, top = scratch[0, :n], scratch[1, :n], scratch[2, :n], scratch[3, :n]
    for i in range(n):
        margin[i] = -_ONE
    for c in range(probs.shape[0]):
        _second_of_class(probs, c, total, label, margin)
    for i in range(n):  # NaN where the largest mean is
        margin[i] = _ONE - (best[i] - margin[i])
    if more.shape[0] > 1:
        for i in range(n):
            top[i] = _log2(best[i])
        for c in range(probs.shape[0]):
            _soften_class(probs, c, total, inv_tau, top, norm, tilt)
        for i in range(n):
            norm[i] = (_log2(norm[i]) - tilt[i] / norm[i]) * per_bit + best[i] * _ZERO
    for r in range(min(tile_rows, more.shape[1] - first_row)):
        _write_more(more, first_row + r, r * stride, phase, num_phases, margin, norm)


def reduce_tiles(
    logits: Any, scale: Any, rows: Any, columns: Any, sums: Any, is_first: Any,
    is_first_of_group: Any, labels: Any, maps: Any, more: Any, total: Any, per_bit: Any,
    inv_tau: Any, tile_first: Any, tile_stop: Any,
) -> None:
    """
    Add a chunk of passes to some tiles; store the sums, or turn them into maps.

    Parameters
    ----------
    logits : ndarray of float32, shape (Tc, C, hl, wl)
        A chunk; may hold no pass.
    scale : float32
        log2(e) / temperature.
    rows, columns : Rows, Columns
        Where an output pixel comes from.
    sums : Sums
        Read unless this is the first chunk, written unless it is the last.
    is_first, is_first_of_group : bool
        Whether the votes, and the other sums, begin at nothing.
    labels : ndarray of uint8, shape (h, w)
        The label map, written if this is the last chunk.
    maps : ndarray of float32, shape (6, h, w)
        The other maps in the order of `UncertaintyMaps`; likewise.
    more : ndarray of float32, shape (1 or 2, h, w), or None
        The margin, and what is unknown; likewise. For None other code is compiled, without the
        branches: they took 6 % of the time where nobody asked for these maps.
    total : float32
        T if this is the last chunk, else 0.
    per_bit : float32
        1 / log2(C).
    inv_tau : float32
        1 / the temperature of what is unknown.
    tile_first, tile_stop : int
        The tiles.

    """
    upper, lower, row_shares = rows
    offsets, column_shares, left, right, weights = columns
    sum_probs, sum_votes, sum_lines = sums
    passes, num_classes, _, num_low = logits.shape
    num_tiles, num_phases, _, n = sum_probs.shape
    height, width = labels.shape
    tile_rows = upper.size // num_tiles
    stride = width // num_phases
    # Rows that are an odd number of cache lines apart do not push each other out of the cache.
    pitch = n + _LINE
    low_pitch = math.ceil(max(n, tile_rows * num_low) / _LINE) * _LINE + _LINE
    low = _aligned(passes * num_classes, low_pitch).reshape(passes, num_classes, low_pitch)
    num_even = num_classes + num_classes % 2
    z = _aligned(num_even, pitch)
    z[:] = -_INF  # of a class too many the exponential is 0
    e = _aligned(_PASSES * num_even, pitch).reshape(_PASSES, num_even, pitch)
    inverses = _aligned(_PASSES, pitch)
    winners = _aligned(_PASSES, pitch).view(np.int32)
    probs = _aligned(num_classes, pitch)
    votes = _aligned(num_classes, pitch).view(np.int32)
    lines = _aligned(3, pitch)
    scratch = _aligned(4, pitch)
    best, norm, tilt, squares = scratch[0, :n], scratch[1, :n], scratch[2, :n], scratch[3, :n]
    whole = _aligned(2, pitch).view(np.int32)
    label, most = whole[0, :n], whole[1, :n]
    for tile in range(tile_first, tile_stop):
        _mix_tile(logits, scale, upper, lower, row_shares, tile * tile_rows, tile_rows, low)
        for phase in range(num_phases):
            _load(sum_probs, sum_votes, sum_lines, tile, phase, is_first, is_first_of_group, n,
                  probs, votes, lines)
            for t in range(passes):
                k = t % _PASSES
                if offsets.size > 0:
                    _shift_columns(low, t, offsets[phase], column_shares[phase], num_low,
                                   tile_rows, n, z)
                else:
                    _look_up_columns(low, t, left, right, weights, n, z)
                _softmax(z, best, norm, tilt, squares, k, winners, e, inverses, lines)
                if k == _PASSES - 1:
                    for c in range(num_classes):
                        _add_passes(e, inverses, winners, c, n, probs, votes)
            for k in range(passes % _PASSES):
                for c in range(num_classes):
                    _add_pass(e, inverses, winners, k, c, n, probs, votes)
            if total == _ZERO:
                _store(sum_probs, sum_votes, sum_lines, tile, phase, n, probs, votes, lines)
                continue
            _finish(probs, votes, lines, total, per_bit, best, label, norm, tilt, squares, most)
            if more is not None:
                _more_of_tile(more, tile * tile_rows, tile_rows, stride, phase, num_phases, probs,
                              total, inv_tau, per_bit, best, label, pitch)
            for r in range(min(tile_rows, height - tile * tile_rows)):
                _write_row(labels, maps, tile * tile_rows + r, r * stride, phase, num_phases,
                           label, best, norm, squares, lines)


@_inner
def _falling(x: Any) -> Any:
    """Return 1 / (1 + 2**x); of no meaning for NaN."""
    size = -abs(x)
    part = _exp2(_EXP2_MIN if _EXP2_MIN > size else size)
    whole = _ONE / (_ONE + part)
    return part * whole if x > _ZERO else whole


@_inner
def _squash(best: Any, norm: Any, scale: Any) -> None:
    """Turn the largest logit and the sum of exponentials into the energy; NaN stays."""
    for i in range(best.size):
        broken = norm[i] * _ZERO
        norm[i] = _falling((best[i] + _log2(norm[i])) * scale) + broken


def squash_tiles(
    sources: Any, rows: Any, columns: Any, slots: Any, maps: Any, per_nat: Any, scale: Any,
    tile_first: Any, tile_stop: Any,
) -> None:
    """
    Compute the energy from mean logits, in some tiles.

    Parameters
    ----------
    sources : ndarray of float32, shape (1, C, hl, wl)
        Logits, averaged over the passes.
    rows, columns : Rows, Columns
        Where an output pixel comes from.
    slots : ndarray of float32, shape (tiles, phases, C, n)
        Only its shape is looked at.
    maps : ndarray of float32, shape (1, h, w)
        Energy.
    per_nat, scale : float32
        log2(e), and what logits are multiplied by before they are squashed.
    tile_first, tile_stop : int
        The tiles.

    """
    upper, lower, row_shares = rows
    offsets, column_shares, left, right, weights = columns
    num_classes, num_low = sources.shape[1], sources.shape[3]
    num_tiles, num_phases, _, n = slots.shape
    height, width = maps.shape[1:]
    tile_rows = upper.size // num_tiles
    stride = width // num_phases
    pitch = n + _LINE
    low_pitch = math.ceil(max(n, tile_rows * num_low) / _LINE) * _LINE + _LINE
    low = _aligned(num_classes, low_pitch).reshape(1, num_classes, low_pitch)
    num_even = num_classes + num_classes % 2
    z = _aligned(num_even, pitch)
    z[:] = -_INF  # as in `reduce_tiles`
    e = _aligned(num_even, pitch).reshape(1, num_even, pitch)
    winners = _aligned(1, pitch).view(np.int32)
    inverses, lines = _aligned(1, pitch), _aligned(3, pitch)
    scratch = _aligned(4, pitch)
    best, norm, tilt, squares = scratch[0, :n], scratch[1, :n], scratch[2, :n], scratch[3, :n]
    for tile in range(tile_first, tile_stop):
        _mix_tile(sources, per_nat, upper, lower, row_shares, tile * tile_rows, tile_rows, low)
        for phase in range(num_phases):
            if offsets.size > 0:
                _shift_columns(low, 0, offsets[phase], column_shares[phase], num_low, tile_rows,
                               n, z)
            else:
                _look_up_columns(low, 0, left, right, weights, n, z)
            _softmax(z, best, norm, tilt, squares, 0, winners, e, inverses, lines)
            _squash(best, norm, scale)
            for r in range(min(tile_rows, height - tile * tile_rows)):
                _write_more(maps, tile * tile_rows + r, r * stride, phase, num_phases, norm, best)


def compile_kernel(name: str, is_cached: bool) -> Any:
    """Return loops by name, releasing the interpreter's lock; the first call compiles them."""
    loops = {'reduce_tiles': reduce_tiles, 'squash_tiles': squash_tiles}[name]
    return numba.njit(nogil=True, cache=is_cached, **_OPTIONS)(loops)
