# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Reduce the passes at the logits' own resolution, in numpy and OpenCV.

`CoarseReduction` computes what `core.uncertainty.maps_from_coarse_logits` defines, to 4e-6, with
the same bits for any number of threads and any chunk size. The passes are summed at (hl, wl), a
sixteenth of the pixels where the network gives logits of a quarter of each side, so that nothing
needs to be compiled: each step over a tile that stays in the second cache is one call of numpy.
Only the last softmax is at (h, w), whatever T is.

"""

from __future__ import annotations

from dataclasses import dataclass
import itertools
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.cpu.reduction import (
    float_taps,
    MOST_PASSES,
    new_maps,
    TileThreads,
)
from uncertainty_seg.core.arrays import FloatMap, LabelMap, require_shape
from uncertainty_seg.core.uncertainty import (
    LEAST_PROBABILITY,
    LOGIT_SCALE,
    MapRequest,
    NO_MORE,
    UncertaintyMaps,
)
from uncertainty_seg.errors import ShapeError

Floats = NDArray[np.float32]

# A float32 sum of this many equal passes is exact to 1.5e-6; longer ones are added in float64.
_GROUP = 32
# Of the largest array of a tile and of a band, of which a handful are in use at a time.
_TILE_BYTES, _BAND_BYTES = 300_000, 600_000
_FEWEST_PIXELS = 1024  # of a tile: below, calling numpy takes longer than computing
_PIXEL_STEP = 64  # pixels that vectors take at once: between them a tile's end changes no bit
_ONE = np.float32(1)
_SPREAD = ('mutual_information', 'variation_ratio', 'total_variance')  # upsampled as they are


@dataclass
class _CoarseSums:
    """
    Sums over the passes, for each pixel of the logits.

    `group` (C + 2, n) holds the probabilities, the entropies in nats and the squared probabilities
    of the passes since the last multiple of `_GROUP`, `total` those before; `votes` and
    `total_votes` (C, n) count the passes in which a class won; `logits` (C, n) is None unless a
    map of them is wanted.
    """

    group: Floats
    votes: NDArray[np.uint8]
    total: NDArray[np.float64]
    total_votes: NDArray[np.uint16]
    logits: NDArray[np.float64] | None = None


class CoarseReduction:
    """
    Sums over the passes of a frame at the size of the logits, and the maps of them.

    Parameters
    ----------
    logits_shape : (int, int, int)
        (C, hl, wl) of one pass.
    height, width : int
        h, w of the maps.
    threads : int
        Threads of this object, the caller's among them.
    upsampling : str
        'half_pixel' or 'align_corners'.

    Raises
    ------
    ShapeError
        If C is not in 2..255, or a size or `threads` is below 1.

    """

    def __init__(
        self, logits_shape: tuple[int, int, int], height: int, width: int, threads: int,
        upsampling: str = 'half_pixel',
    ) -> None:
        num_classes, rows, columns = logits_shape
        if not 2 <= num_classes <= 255 or min(*logits_shape, height, width, threads) < 1:
            raise ShapeError(
                f'reduction of {num_classes} classes to {width}x{height} on {threads} threads',
                '2 to 255 classes, a pixel and a thread',
            )
        self._shape, self._size = logits_shape, (height, width)
        self._threads = TileThreads(threads)
        self._tiles = _cut_pixels(num_classes, rows * columns, threads)
        self._bands = _bands(logits_shape, height, width, upsampling)
        stack = (num_classes + 2, rows * columns)
        self._sums = _CoarseSums(
            np.empty(stack, np.float32), np.empty((num_classes, stack[1]), np.uint8),
            np.empty(stack, np.float64), np.empty((num_classes, stack[1]), np.uint16))
        self._scratch = _Scratch()
        self._request = NO_MORE
        self._count = 0

    def reset(self, request: MapRequest = NO_MORE) -> None:
        """Forget all passes, and compute the maps of `request` too, for the next frame only."""
        self._count = 0
        self._request, self._sums.logits = request, None

    def add(self, logits: Floats, inv_temperature: float) -> None:
        """
        Add passes that are not the last.

        Parameters
        ----------
        logits : ndarray of float32, shape (Tc, C, hl, wl)
            The next passes; not needed after the call.
        inv_temperature : float
            The logits are multiplied by it.

        Raises
        ------
        ShapeError
            If the logits have another shape or dtype, or are more than 65535 passes.

        """
        require_shape('logits', logits, (None, *self._shape), np.float32)
        if len(logits) < 1 or self._count + len(logits) > MOST_PASSES:
            raise ShapeError(f'logits of shape {logits.shape} after {self._count} passes',
                             f'no empty axis, and at most {MOST_PASSES} passes')
        flat = np.ascontiguousarray(logits).reshape(len(logits), self._shape[0], -1)
        if self._request.of_logits:
            if self._sums.logits is None:
                self._sums.logits = np.zeros(flat.shape[1:])
            for one in flat:  # in their order: the same bits for any chunk size
                self._sums.logits += one
        self._threads.run(_add_tiles, len(self._tiles), (
            flat, np.float32(inv_temperature), self._sums, self._count, self._tiles,
            self._scratch))
        self._count += len(logits)

    def finish(self, logits: Floats, inv_temperature: float) -> UncertaintyMaps:
        """
        Add the last passes and compute the maps of all since `reset` or the last `finish`.

        Parameters
        ----------
        logits, inv_temperature : ndarray, float
            As in `add`.

        Returns
        -------
        UncertaintyMaps
            New arrays of shape (h, w), and of the other maps those that the last `reset` asked
            for. NaN wherever a logit that counts was NaN or infinite.

        Raises
        ------
        ShapeError
            As `add`.

        """
        self.add(logits, inv_temperature)
        labels, maps = new_maps(*self._size)
        more = {name: np.empty(self._size, np.float32)
                for name in (*self._request.of_means, *self._request.of_logits)}
        with np.errstate(all='ignore'):
            sources = _sources(self._sums, self._count, self._shape)
        self._threads.run(_finish_bands, len(self._bands), (
            sources, self._shape[0], labels, maps, more, self._request.unknown_temperature,
            self._bands, self._scratch))
        self.reset()
        return UncertaintyMaps(labels, *maps, **more)

    def close(self) -> None:
        """End the threads; may be called twice."""
        self._threads.close()


class _Scratch:
    """Memory that a thread takes and gives back: new memory would cost as much as the sums."""

    def __init__(self) -> None:
        self._free: list[Floats] = []

    def take(self, size: int) -> Floats:
        """Return at least `size` float32 of any content."""
        try:
            found = self._free.pop()
        except IndexError:
            found = np.empty(size, np.float32)
        return found if found.size >= size else np.empty(size, np.float32)

    def give_back(self, memory: Floats) -> None:
        """Keep memory for the next."""
        self._free.append(memory)


def _arrays(memory: Floats, *shapes: tuple[int, ...]) -> list[Floats]:
    """Return arrays of these shapes, one behind the other in memory."""
    edges = list(itertools.accumulate((math.prod(shape) for shape in shapes), initial=0))
    return [memory[first:stop].reshape(shape)
            for shape, first, stop in zip(shapes, edges, edges[1:], strict=False)]


# -------------------------------------------------------------------------------------------------
# At the resolution of the logits.


def _parts(size: int, count: int) -> list[slice]:
    edges = [size * index // count for index in range(count + 1)]
    return [slice(first, stop) for first, stop in zip(edges, edges[1:], strict=False)]


def _cut_pixels(num_classes: int, pixels: int, threads: int) -> list[slice]:
    most = max(_FEWEST_PIXELS, min(_TILE_BYTES // (4 * num_classes), pixels // threads))
    steps = math.ceil(pixels / _PIXEL_STEP)
    return [slice(part.start * _PIXEL_STEP, min(part.stop * _PIXEL_STEP, pixels))
            for part in _parts(steps, min(steps, math.ceil(pixels / most)))]


def _add_tiles(
    flat: Floats, scale: np.float32, sums: _CoarseSums, count: int, tiles: list[slice],
    scratch: _Scratch, first: int, stop: int,
) -> None:
    """Add passes (Tc, C, n), before which there were `count`, in some tiles."""
    num_classes = flat.shape[1]
    memory = scratch.take((3 * num_classes + 3) * max(t.stop - t.start for t in tiles))
    with np.errstate(all='ignore'):
        for tile in tiles[first:stop]:
            part = _CoarseSums(sums.group[:, tile], sums.votes[:, tile],
                               sums.total[:, tile], sums.total_votes[:, tile])
            _add_tile(flat[:, :, tile], scale, part, count, memory)
    scratch.give_back(memory)


def _add_tile(z: Floats, scale: np.float32, sums: _CoarseSums, count: int, memory: Floats) -> None:
    num_classes, pixels = z.shape[1:]
    probs, (entropy, squares) = sums.group[:num_classes], sums.group[num_classes:]
    stack = (num_classes, pixels)
    below, e, (row, norm, inverse), rest = _arrays(memory, stack, stack, (3, pixels), stack)
    won = rest.view(np.bool_)[:, :pixels]
    for index, one in enumerate(z, count):
        _begin(sums, index)
        np.maximum.reduce(one, 0, out=row)
        np.subtract(one, row, out=below)
        np.equal(below, 0, out=won)
        if np.count_nonzero(won) > pixels:
            _leave_first(won)
        np.add(sums.votes, won.view(np.uint8), out=sums.votes)
        np.multiply(below, scale, out=below)
        np.exp(below, out=e)
        np.add.reduce(e, 0, out=norm)
        np.divide(1, norm, out=inverse)
        # The entropy is log(norm) - sum(e * below) / norm.
        np.einsum('cn,cn->n', e, below, out=row)
        row *= inverse
        np.log(norm, out=norm)
        norm -= row
        entropy += norm
        e *= inverse
        np.add(probs, e, out=probs)
        np.einsum('cn,cn->n', e, e, out=row)
        squares += row


def _begin(sums: _CoarseSums, index: int) -> None:
    """Prepare the sums for the pass of this index."""
    if index % _GROUP:
        return
    if index == _GROUP:
        sums.total[...], sums.total_votes[...] = sums.group, sums.votes
    elif index:
        sums.total += sums.group
        sums.total_votes += sums.votes
    sums.group[...], sums.votes[...] = 0, 0


def _leave_first(won: NDArray[np.bool_]) -> None:
    """Of classes that are equal leave the lowest."""
    taken = won[0].copy()
    for row in won[1:]:
        row &= ~taken
        taken |= row


def _sources(sums: _CoarseSums, count: int, shape: tuple[int, int, int]) -> Floats:
    """
    Return what is upsampled, one plane after the other.

    These are log p* (C), the maps of `_SPREAD`, of which mutual information is over ln C, and the
    mean logits (C) if they were summed.
    """
    num_classes = shape[0]
    has_total = count > _GROUP
    whole = sums.group + sums.total if has_total else sums.group
    votes = sums.votes + sums.total_votes if has_total else sums.votes
    stack = (whole / np.float32(count)).astype(np.float32)
    mean, (entropy, squares) = stack[:num_classes], stack[num_classes:]
    broken = entropy * 0  # of a pass with an infinite logit, the entropy alone may be NaN
    log_mean = np.log(np.maximum(mean, np.float32(LEAST_PROBABILITY))) + broken
    parts = [
        log_mean,
        np.maximum(-np.einsum('cn,cn->n', mean, log_mean) - entropy, 0) / math.log(num_classes),
        _ONE - votes.max(0) / np.float32(count) + broken,
        np.maximum(squares - np.einsum('cn,cn->n', mean, mean), 0) + broken,
    ]
    if sums.logits is not None:
        parts.append(sums.logits / count + broken)
    return np.vstack(parts).astype(np.float32, copy=False).reshape(-1, *shape[1:])


# -------------------------------------------------------------------------------------------------
# At the resolution of the maps.


@dataclass(frozen=True)
class _WholeBand:
    """Rows of the maps, where these are a whole multiple of the logits: OpenCV is exact there."""

    rows: slice
    sources: slice  # rows of the logits, with a neighbour above and below
    offset: int  # of `rows` in what the sources become
    size: tuple[int, int]  # what the sources become

    def upsampled(self, planes: Floats, memory: Floats) -> Floats:
        """Return the band (N, rows, w) of planes (N, hl, wl)."""
        full, = _arrays(memory, (len(planes), *self.size))
        for source, target in zip(planes[:, self.sources], full, strict=True):
            cv2.resize(source, self.size[::-1], dst=target, interpolation=cv2.INTER_LINEAR)
        return full[:, self.offset:self.offset + self.rows.stop - self.rows.start]


@dataclass(frozen=True)
class _AnyBand:
    """Rows of the maps, of any size and upsampling."""

    rows: slice
    size: tuple[int, int]
    row_taps: tuple[NDArray[np.intp], NDArray[np.intp], Floats]
    column_taps: tuple[NDArray[np.intp], NDArray[np.intp], Floats]

    def upsampled(self, planes: Floats, memory: Floats) -> Floats:
        """Return the band (N, rows, w) of planes (N, hl, wl)."""
        upper, lower, share = self.row_taps
        left, right, rest = self.column_taps
        mixed = planes[:, upper] * (_ONE - share) + planes[:, lower] * share
        full: Floats = mixed.take(left, 2) * (_ONE - rest) + mixed.take(right, 2) * rest
        return full


def _bands(
    logits_shape: tuple[int, int, int], height: int, width: int, upsampling: str
) -> list[_WholeBand] | list[_AnyBand]:
    num_classes, rows, columns = logits_shape
    most = max(1, _BAND_BYTES // (4 * num_classes * width))
    is_whole = upsampling == 'half_pixel' and height % rows == 0 and width % columns == 0
    if not is_whole:
        y, x = (float_taps(*sizes, upsampling) for sizes in ((rows, height), (columns, width)))
        return [_AnyBand(part, (part.stop - part.start, width),
                         (y[0][part], y[1][part], y[2][part][:, None]), x)
                for part in _parts(height, math.ceil(height / most))]
    factor = height // rows
    found = []
    for part in _parts(rows, math.ceil(rows / max(1, most // factor))):
        sources = slice(max(part.start - 1, 0), min(part.stop + 1, rows))
        found.append(_WholeBand(
            slice(part.start * factor, part.stop * factor), sources,
            (part.start - sources.start) * factor,
            ((sources.stop - sources.start) * factor, width)))
    return found


def _finish_bands(
    sources: Floats, num_classes: int, labels: LabelMap, maps: FloatMap,
    more: dict[str, FloatMap], unknown_temperature: float,
    bands: list[_WholeBand] | list[_AnyBand], scratch: _Scratch, first: int, stop: int,
) -> None:
    """Compute some bands of all maps; see `_sources`."""
    most = max(math.prod(band.size) for band in bands)
    memory = scratch.take((len(sources) + 2 * num_classes + 2) * most)
    full_size = len(sources) * most
    with np.errstate(all='ignore'):
        for band in bands[first:stop]:
            full, rows = band.upsampled(sources, memory), band.rows
            log_mean, spread = full[:num_classes], full[num_classes:num_classes + len(_SPREAD)]
            plane = log_mean.shape[1:]
            below, rest = _arrays(memory[full_size:], log_mean.shape, (num_classes + 2, *plane))
            np.maximum.reduce(log_mean, 0, out=rest[0])
            np.subtract(log_mean, rest[0], out=below)
            _write_labels(below, labels[rows], rest)
            _write_maps(below, spread, maps[:, rows], rest)
            for name, values in more.items():
                if name == 'margin':
                    values[rows] = _margin(below, maps[0, rows])
                elif name == 'unknown':
                    softened = below / np.float32(unknown_temperature)
                    _write_entropy(softened, values[rows], rest[1], rest)
                else:
                    values[rows] = _squashed(full[num_classes + len(_SPREAD):], name)
    scratch.give_back(memory)


def _write_labels(below: Floats, labels: LabelMap, memory: Floats) -> None:
    """Write the lowest class whose logarithm is the largest; any where it is NaN."""
    num_classes = len(below)
    is_best = memory.reshape(-1).view(np.bool_)[:below.size].reshape(below.shape)
    np.equal(below, 0, out=is_best)
    ranks = is_best.view(np.uint8)
    np.multiply(ranks, np.arange(num_classes, 0, -1).astype(np.uint8)[:, None, None], out=ranks)
    np.maximum.reduce(ranks, 0, out=labels)
    np.subtract(np.uint8(num_classes), labels, out=labels)
    np.minimum(labels, np.uint8(num_classes - 1), out=labels)


def _write_entropy(
    below: Floats, entropy: FloatMap, largest: FloatMap, memory: Floats
) -> None:
    """Write entropy over ln C and largest probability of logits whose largest is 0."""
    tilt, e = memory[0], memory[-len(below):]
    np.exp(below, out=e)
    np.add.reduce(e, 0, out=entropy)
    np.divide(1, entropy, out=largest)
    np.einsum('crw,crw->rw', e, below, out=tilt)
    tilt *= largest
    np.log(entropy, out=entropy)
    entropy -= tilt
    entropy *= np.float32(1 / math.log(len(below)))


def _write_maps(below: Floats, spread: Floats, maps: FloatMap, memory: Floats) -> None:
    """Fill a band of the maps, in the order of `UncertaintyMaps`."""
    confidence, entropy, mutual, variation, variance, aleatoric = maps
    _write_entropy(below, entropy, confidence, memory)
    np.minimum(spread[0], entropy, out=mutual)
    variation[...], variance[...] = spread[1:]
    np.subtract(entropy, mutual, out=aleatoric)


def _margin(below: Floats, largest: FloatMap) -> Floats:
    """Return 1 less the distance of the two largest probabilities."""
    first, second = below[0].copy(), np.full(below.shape[1:], -np.inf, np.float32)
    for values in below[1:]:
        np.maximum(second, np.minimum(first, values), out=second)
        np.maximum(first, values, out=first)
    return _ONE - (largest - np.exp(second) * largest)


def _squashed(logits: Floats, name: str) -> Floats:
    """Return the map 'energy' or 'max_logit' of mean logits."""
    x = np.maximum.reduce(logits, 0)
    if name == 'energy':
        x = x + np.log(np.exp(logits - x).sum(0))
    half = np.float32(0.5)
    return half - half * np.tanh(x * (half / np.float32(LOGIT_SCALE)))
