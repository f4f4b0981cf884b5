# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One vector a frame of what the network's trunk makes of it: a learned embedding.

`analysis.frame_features` describes what a frame looks like; this is what the network sees in it.
It is the mean and the standard deviation of every channel over the image, of unit length together,
so that it hardly notices a crop or a shift. Where there are many channels they are mixed to fewer,
by fixed random weights, which keeps distances (Johnson and Lindenstrauss, 1984).

"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap
from uncertainty_seg.core.scores.density import pooled

MOST_VALUES = 256
Embeddings = NDArray[np.float32]


def embedding_length(num_channels: int) -> int:
    """Return the length of the embedding of features with D channels; 0 without any."""
    return min(2 * num_channels, MOST_VALUES)


def frame_embedding(features: FloatMap) -> Embeddings:
    """
    Return the embedding of a frame.

    Parameters
    ----------
    features : ndarray of float32, shape (1, D, hf, wf)
        Of the trunk, without the padding.

    Returns
    -------
    ndarray of float32, shape (embedding_length(D),)
        Of unit length, so that 1 less the dot product of two is their cosine distance, 0 to 2.
        NaN where a feature is not finite, or none differs from 0.

    """
    vector = pooled(features)
    if len(vector) > MOST_VALUES:
        vector = _mixing(len(vector)) @ vector
    with np.errstate(all='ignore'):
        return np.asarray(vector / np.linalg.norm(vector), np.float32)


@lru_cache(maxsize=1)
def _mixing(length: int) -> NDArray[np.float64]:
    drawn = np.random.default_rng(0).standard_normal((MOST_VALUES, length))
    return np.asarray(drawn / np.sqrt(MOST_VALUES))
