# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A backend whose results are checked before anything is made of them.

A runtime with a broken driver, an engine of another network or a buffer that nobody wrote returns
arrays all the same, and zeros everywhere look like a frame without any uncertainty. What cannot be
the maps of this image is a fault of the frame.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
import hashlib
import math
from typing import Protocol, TypeVar

import numpy as np

from uncertainty_seg.core.arrays import FloatMap, ImageU8
from uncertainty_seg.core.dropout_masks import Masks
from uncertainty_seg.core.uncertainty import MapRequest, MORE_MAPS, NO_MORE, UncertaintyMaps
from uncertainty_seg.errors import BackendError

# Half-precision sums leave the range by this much.
TOLERANCE = 1e-3
# Results that are remembered: a ring of buffers that nobody writes is known up to this length.
MEMORY_RESULTS = 8
# By so much two maps of one pixel may differ from what their definitions say of each other.
LOOSE = 0.02
_FIX = 'run uncertainty_seg self-check; the runtime, its driver or the engine is broken'
_FLOATS = ('confidence', *(f.name for f in fields(UncertaintyMaps)
                           if f.name not in ('label', 'confidence', 'features', *MORE_MAPS)))
# As the bits of a float32: NaN, infinity and everything negative are larger.
_HIGHEST_BITS = np.float32(1 + TOLERANCE).view(np.uint32)

_T = TypeVar('_T')
_ROW_WORDS = 241
_ROW_BYTES = 8 * _ROW_WORDS


class Backend(Protocol):
    """What the pipeline needs of a runtime."""

    name: str

    def run(
        self, image: ImageU8, masks: Masks, temperature: float, request: MapRequest = NO_MORE
    ) -> UncertaintyMaps:
        """
        Return the maps (h, w) of an image (h, w, 3) in the card's size and colour order.

        Besides the usual maps come those of the request, which is left out where it is empty.
        """
        ...

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """How long each stage of the last run took."""
        ...

    def close(self) -> None:
        """Free everything; may be called twice."""
        ...


class CheckedBackend:
    """Run another backend, and raise BackendError for a result that cannot be the image's."""

    def __init__(self, backend: Backend, num_classes: int) -> None:
        self._backend, self._num_classes = backend, num_classes
        self.name = backend.name
        self._images: dict[bytes, ImageU8] = {}  # by the maps that came of them, oldest first
        self._beside = ThreadPoolExecutor(1, 'check of results')

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """How long each stage of the last run took."""
        return self._backend.timings_ms

    def close(self) -> None:
        """Close the backend."""
        self._beside.shutdown()
        self._backend.close()

    def run(
        self, image: ImageU8, masks: Masks, temperature: float, request: MapRequest = NO_MORE
    ) -> UncertaintyMaps:
        """
        Return the maps of the backend.

        Raises BackendError if they are not plausible, or those of one of the latest images while
        the image is another; and what the backend raises.
        """
        maps = self._maps(image, masks, temperature, request)
        self._check(maps, image)
        return maps

    def run_and(
        self, work: Callable[[UncertaintyMaps], _T], image: ImageU8, masks: Masks,
        temperature: float, request: MapRequest = NO_MORE,
    ) -> tuple[UncertaintyMaps, _T]:
        """
        Return the maps, and what some work makes of them while they are checked.

        The check waits for memory and not for the processor, so that it is nearly free beside the
        work. Raises what `run` raises, rather than what the work makes of impossible maps.
        """
        maps = self._maps(image, masks, temperature, request)
        check = self._beside.submit(self._check, maps, image)
        try:
            made = work(maps)
        except Exception:
            check.result()
            raise
        check.result()
        return maps, made

    def _maps(
        self, image: ImageU8, masks: Masks, temperature: float, request: MapRequest
    ) -> UncertaintyMaps:
        # A backend of a user's own need not know of requests.
        if not request.names:
            return self._backend.run(image, masks, temperature)
        return self._backend.run(image, masks, temperature, request)

    def _check(self, maps: UncertaintyMaps, image: ImageU8) -> None:
        if problem := implausible(maps, image, self._num_classes):
            raise BackendError(f'the network returned {problem}', fix=_FIX)
        seen = fingerprint(maps.confidence)
        before = self._images.get(seen)
        # With other masks the same image may give the same maps, but not another image.
        if before is not None and not np.array_equal(before, image):
            raise BackendError('the network returned the maps of an image before',
                               'maps of this image', _FIX)
        self._images[seen] = image
        if len(self._images) > MEMORY_RESULTS:
            del self._images[next(iter(self._images))]


def implausible(maps: UncertaintyMaps, image: ImageU8, num_classes: int) -> str:
    """
    Say what of some maps of an image (h, w, 3) cannot be; empty if nothing.

    Expected are the shape (h, w) of the image, finite numbers from 0 to 1, a confidence of at
    least 1/C, labels below C, not the same number everywhere unless the image is, and maps that
    fit together at the pixel of the least confidence.
    """
    shape = image.shape[:2]
    more = tuple(name for name in MORE_MAPS if name in maps.present)
    for name in ('label', *_FLOATS, *more):
        values = getattr(maps, name)
        wanted = np.uint8 if name == 'label' else np.float32
        if values.shape != shape or values.dtype != wanted:
            return (f'{name} as {values.dtype} {values.shape}, '
                    f'expected {np.dtype(wanted)} {shape}')
    for name in (*_FLOATS[1:], *more):
        if problem := _out_of_range(name, getattr(maps, name)):
            return problem
    # Both are NaN if any pixel is, and a comparison with NaN is false.
    at = int(maps.confidence.argmin())
    lowest, highest = float(maps.confidence.flat[at]), float(maps.confidence.max())
    if not (1 / num_classes - TOLERANCE <= lowest and highest <= 1 + TOLERANCE):
        return (f'a confidence from {lowest:.4g} to {highest:.4g}, '
                f'expected finite numbers from 1/{num_classes} to 1')
    if maps.label.max() >= num_classes:
        return f'the label {maps.label.max()}, expected one of {num_classes} classes from 0'
    if lowest == highest and (image != image[0, 0]).any():
        return f'a confidence of {lowest:.4g} at every pixel of an image that is not uniform'
    return (_contradiction(maps, at, num_classes)
            or _more_contradiction({name: float(getattr(maps, name).flat[at]) for name in more},
                                   lowest, float(maps.entropy.flat[at]), num_classes))


def _contradiction(maps: UncertaintyMaps, at: int, num_classes: int) -> str:
    """Say which maps of one pixel exclude each other: one of them is not of this image."""
    confidence, entropy, mutual, aleatoric, variance = (
        float(values.flat[at]) for values in (
            maps.confidence, maps.entropy, maps.mutual_information, maps.aleatoric,
            maps.total_variance))
    # No class has more than the confidence, so no surprise is less than that of the likeliest.
    least = -math.log(confidence) / math.log(num_classes)
    if entropy < least - LOOSE:
        return (f'an entropy of {entropy:.4g} where the confidence is {confidence:.4g}, '
                f'expected at least {least:.4g}')
    if abs(entropy - mutual - aleatoric) > LOOSE:
        return (f'a mutual information of {mutual:.4g} and an aleatoric part of {aleatoric:.4g}, '
                f'expected {entropy:.4g}, the entropy, in sum')
    if mutual > LOOSE and not variance > 0:
        return (f'no variance where the mutual information is {mutual:.4g}, expected passes that '
                'differ')
    return ''


def _more_contradiction(
    more: Mapping[str, float], confidence: float, entropy: float, num_classes: int
) -> str:
    """Say the same of the maps that were asked for, at one pixel."""
    # The second class has at most what the first leaves, and at least a share of it.
    rest = 1 - confidence
    least, most = rest + rest / (num_classes - 1), min(1.0, 2 * rest)
    if 'margin' in more and not least - LOOSE <= more['margin'] <= most + LOOSE:
        return (f'a margin of {more["margin"]:.4g} where the confidence is {confidence:.4g}, '
                f'expected {least:.4g} to {most:.4g}')
    if 'unknown' in more and more['unknown'] < entropy - LOOSE:
        return (f'unknown of {more["unknown"]:.4g} where the entropy is {entropy:.4g}, expected '
                'no less: it is that of softened probabilities')
    return ''


def _out_of_range(name: str, values: FloatMap) -> str:
    # One pass over memory instead of three. Only -0.0 is taken for wrong, and looked at again.
    if np.ascontiguousarray(values).view(np.uint32).max() <= _HIGHEST_BITS:
        return ''
    low, high = float(values.min()), float(values.max())
    if -TOLERANCE <= low and high <= 1 + TOLERANCE:
        return ''
    wrong = next(v for v in (low, high) if not -TOLERANCE <= v <= 1 + TOLERANCE)
    return f'{name} {wrong:.4g}, expected finite numbers from 0 to 1'


def fingerprint(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    """
    Return 16 bytes that two arrays of an image or a map have in common only if they are equal.

    The bytes are added up as words of 64 bits, every 241st in one sum, and the sums are digested:
    ten times as cheap as a digest of the array, and changed by a single bit as by a shift, since
    no image has rows of 241 words. It is no defence against arrays that are made to collide.
    """
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    rows = flat.size // _ROW_BYTES
    words = flat[:rows * _ROW_BYTES].view(np.uint64).reshape(rows, _ROW_WORDS)
    rest = flat[rows * _ROW_BYTES:].tobytes()
    return hashlib.blake2b(words.sum(0).tobytes() + rest, digest_size=16).digest()
