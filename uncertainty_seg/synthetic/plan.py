# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What happens where along a pipe.

A plan says where; how a burial or growth looks is up to the seabed and the pipe.

"""

from __future__ import annotations

from dataclasses import dataclass

from uncertainty_seg.synthetic.noise import stream


Stretches = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class PipePlan:
    """
    Where along the pipe what happens; stretches are (start, stop, strength 0..1) in metres.

    Parameters
    ----------
    start, stop : float
        Ends of the world.
    half_width : float
        How far the seabed reaches to either side.
    burials, spans, growths : tuple of tuples
        Stretches where sediment covers the pipe, where it hangs free, where things grow on it.
    clear : tuple of tuples
        Stretches kept without debris and boulders; the strength is not used.
    props_per_m : float
        Mean number of debris objects a metre of pipe.

    """

    start: float
    stop: float
    half_width: float
    burials: Stretches = ()
    spans: Stretches = ()
    growths: Stretches = ()
    clear: Stretches = ()
    props_per_m: float = 0.4


def random_plan(seed: int) -> PipePlan:
    """Draw what one single scene around x = 0 shows of normal operation."""
    rng = stream(seed, 1)

    def stretch(chance: float, short: float, long: float) -> Stretches:
        length, middle = rng.uniform(short, long), rng.uniform(0.5, 5)
        side, strength, hit = rng.choice([-1, 1]), rng.uniform(0.3, 1), rng.random()
        a = side * middle - length / 2
        return ((float(a), float(a + length), float(strength)),) if hit < chance else ()

    burials, spans = stretch(0.38, 1.5, 6), stretch(0.3, 2, 6)
    growths = stretch(0.7, 2, 8) + stretch(0.6, 2, 6)
    return PipePlan(-11, 11, 9, burials, spans, growths,
                props_per_m=float(rng.choice([0.4, 1.0, 1.8])))
