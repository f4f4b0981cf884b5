# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A backend whose results are checked before they are used.

A runtime with a broken driver, an engine of another network or an unwritten buffer still returns
arrays, and zeros everywhere look like a frame without any uncertainty. A result that cannot belong
to the image is a fault of the frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol
import zlib

import numpy as np

from uncertainty_seg.core.arrays import FloatMap, ImageU8
from uncertainty_seg.core.dropout_masks import Masks
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.uncertainty import PassSums
from uncertainty_seg.errors import BackendError

# Half-precision passes exceed the range of a sum by up to this share of T.
TOLERANCE = 1e-3
# Number of results that are remembered: a ring of stale buffers is detected up to this length.
MEMORY_RESULTS = 8
# The mean entropy of passes may exceed the entropy of their mean by this much, in nats.
LOOSE_NATS = 0.03
_FIX = 'run uncertainty_seg self-check; the runtime, its driver or the engine is broken'


class Backend(Protocol):
    """A runtime, as the pipeline uses it."""

    name: str

    def run(self, image: ImageU8, masks: Masks, temperature: float) -> PassSums:
        """Return the sums over the passes of an image (h, w, 3) in the card's size and order."""
        ...

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """Return how long each stage of the last run took."""
        ...

    def close(self) -> None:
        """Release all resources; may be called twice."""
        ...


class CheckedBackend:
    """Run another backend, and raise BackendError for a result that cannot be the image's."""

    def __init__(self, backend: Backend, card: ModelCard) -> None:
        self._backend, self._shape = backend, card.logits_shape
        self.name = backend.name
        self._images: dict[int, ImageU8] = {}  # by the checksum of their result, oldest first

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """Return how long each stage of the last run took."""
        return self._backend.timings_ms

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()

    def run(self, image: ImageU8, masks: Masks, temperature: float) -> PassSums:
        """
        Return the sums of the backend.

        Raises BackendError if they are implausible, or equal those of another recent image, and
        any error of the backend.
        """
        # A copy, so that a backend that writes its arrays anew gets no means of the frame before.
        sums = replace(self._backend.run(image, masks, temperature))
        if problem := implausible(sums, image, self._shape):
            raise BackendError(f'the network returned {problem}', fix=_FIX)
        seen = zlib.crc32(np.ascontiguousarray(sums.p).data)
        before = self._images.get(seen)
        # Different masks may give equal sums for one image; different images never do.
        if before is not None and not np.array_equal(before, image):
            raise BackendError('the network returned the result of an earlier image',
                               'that of this image', _FIX)
        self._images[seen] = image
        if len(self._images) > MEMORY_RESULTS:
            del self._images[next(iter(self._images))]
        return sums


def implausible(sums: PassSums, image: ImageU8, shape: tuple[int, int, int]) -> str:
    """
    Return what is implausible about the sums of an image (h, w, 3); empty if nothing is.

    Expected are arrays of the `shape` (C, hg, wg) of the logits, finite numbers in the range of T
    passes, probabilities that sum to T, entropies, squares and votes that fit the mean
    probabilities, and a confidence that varies unless the image is uniform.
    """
    classes, plane, passes = shape[0], shape[1:], sums.passes
    ranges = {'p': (shape, 1.0), 'votes': (shape, 1.0), 'entropy_nats': (plane, np.log(classes)),
              'p_squared': (plane, 1.0), 'logits': (shape, np.inf)}
    for name, (wanted, most) in ranges.items():
        values: FloatMap = getattr(sums, name)
        if values.shape != wanted or values.dtype != np.float32:
            return f'{name} as {values.dtype} {values.shape}, expected float32 {wanted}'
        # Both are NaN if any number is, and a comparison with NaN is false.
        low, high = float(values.min()) / passes, float(values.max()) / passes
        least = -np.inf if name == 'logits' else -TOLERANCE
        if not (least < low and high < most + TOLERANCE):
            wrong = high if least < low else low
            return (f'{name} {wrong:.4g} a pass, expected finite numbers'
                    + (f' from 0 to {most:.4g}' if most < np.inf else ''))
    return _contradiction(sums) or _sameness(sums, image)


def _contradiction(sums: PassSums) -> str:
    """Return which sums contradict each other, so that they cannot be of the same passes."""
    total = sums.mean.sum(0)
    low, high = float(total.min()), float(total.max())
    if low < 1 - TOLERANCE or high > 1 + TOLERANCE:
        return f'probabilities that sum to {low:.4g} to {high:.4g}, expected 1'
    above = float((sums.entropy_nats / sums.passes - sums.nats_of_mean).max())
    if above > LOOSE_NATS:
        return (f'passes whose mean entropy is {above:.4g} nats above that of their mean, '
                'expected none above it')
    squares = sums.p_squared / sums.passes
    short = float(((sums.mean * sums.mean).sum(0) - squares).max())
    if short > TOLERANCE:
        return f'squares of probabilities {short:.4g} below that of their mean, expected none'
    votes = float(sums.votes.max(0).min()) / sums.passes
    if votes < 1 / len(sums.p) - TOLERANCE:
        return f'a class with {votes:.4g} of the votes at most, expected 1/{len(sums.p)} or more'
    return ''


def _sameness(sums: PassSums, image: ImageU8) -> str:
    confidence = sums.p.max(0)
    lowest, highest = float(confidence.min()), float(confidence.max())
    if lowest == highest and confidence.size > 1 and (image != image[0, 0]).any():
        return (f'a confidence of {lowest / sums.passes:.4g} at every pixel of an image that is '
                'not uniform')
    return ''
