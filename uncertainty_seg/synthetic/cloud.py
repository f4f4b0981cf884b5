# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A drifting cloud of stirred-up silt: extra, uneven extinction in the water.

It is a field of density that moves as a whole; it neither settles nor spreads.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from uncertainty_seg.synthetic.noise import FloatArray, sample_tile


@dataclass(frozen=True, eq=False)
class Cloud:
    """
    The cloud at one moment.

    Parameters
    ----------
    tile : ndarray of float32, shape (S, S)
        Periodic noise that shapes it.
    density : float
        Mean extinction per metre.
    drift : ndarray of float32, shape (3,)
        How far it has drifted, metres.
    colour : ndarray of float32, shape (3,)
        BGR single-scattering albedo of the silt.

    """

    tile: FloatArray
    density: float
    drift: FloatArray
    colour: FloatArray

    def extinction(self, points: FloatArray) -> FloatArray:
        """Return the extinction per metre at points (H, W, 3)."""
        x, y, z = (points[..., i] - self.drift[i] for i in range(3))
        # Two slanted cuts through plane noise make a field that varies in all three directions.
        billows = sample_tile(self.tile, x + 0.7 * z, y - 0.5 * z, 5.2)
        wisps = sample_tile(self.tile, y + 0.6 * x, 1.3 * z - 0.4 * x, 2.7)
        uneven = np.clip(0.62 * np.exp(0.75 * billows + 0.45 * wisps), 0.3, 3.0)
        return (np.float32(self.density) * uneven).astype(np.float32)
