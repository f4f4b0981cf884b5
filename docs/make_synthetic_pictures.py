# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Make the pictures of docs/reference/models.md.

Run from the repository's root: ``python docs/make_synthetic_pictures.py``. It takes a minute.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.sim.dive import Dive
from uncertainty_seg.sim.pipe import CLASS_NAMES, IGNORE, PALETTE
from uncertainty_seg.sim.scene import render_scene

PICTURES = Path(__file__).parent / 'pictures'
TILE = (320, 240)
SCENES = (100, 105, 109, 118, 131, 203, 211, 214)
UNKNOWNS = (('diver', 4), ('diver', 5), ('fish', 1), ('fish', 6))
TURBIDITIES = (0.0, 0.2, 0.4, 0.6, 0.8)
DIVE_SECONDS = (2, 6, 10.5, 13, 14.8, 15.5, 17.5, 20, 22.5, 25, 26.5, 27.5, 29, 31, 34, 38)


def painted(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Overlay the class colours on an image; seabed stays unchanged, unknown is white."""
    colours = np.full((256, 3), 255, np.uint8)
    colours[:len(PALETTE)] = np.array(PALETTE)[:, ::-1]
    mixed = cv2.addWeighted(image, 0.4, colours[mask], 0.6, 0)
    mixed[mask == 0] = image[mask == 0]
    return mixed


def titled(image: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Scale an image to a tile and write a title on it."""
    tile = cv2.resize(image, TILE, interpolation=cv2.INTER_AREA)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(tile, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, width,
                    cv2.LINE_AA)
    return tile


def save(name: str, tiles: list[NDArray[np.uint8]], columns: int) -> None:
    """Write tiles as one sheet."""
    rows = [np.hstack(tiles[i:i + columns]) for i in range(0, len(tiles), columns)]
    path = PICTURES / f'synthetic_{name}.jpg'
    cv2.imwrite(str(path), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 82])


def legend() -> NDArray[np.uint8]:
    """Return a legend of the classes, four tiles wide."""
    strip = np.full((28, 4 * TILE[0], 3), 255, np.uint8)
    names = [*zip(CLASS_NAMES, PALETTE, strict=True), (f'unknown ({IGNORE})', (255, 255, 255))]
    for k, (name, colour) in enumerate(names):
        left = 12 + k * 180
        cv2.rectangle(strip, (left, 6), (left + 22, 22), tuple(reversed(colour)), -1)
        cv2.rectangle(strip, (left, 6), (left + 22, 22), (0, 0, 0), 1)
        cv2.putText(strip, name.replace('_', ' '), (left + 30, 19), cv2.FONT_HERSHEY_SIMPLEX,
                    0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def main() -> None:
    """Render all sheets."""
    PICTURES.mkdir(exist_ok=True)
    scenes = [render_scene(seed) for seed in SCENES]
    rows: list[NDArray[np.uint8]] = []
    for k in range(0, len(scenes), 4):
        four = scenes[k:k + 4]
        rows.append(np.hstack([titled(s.image, f'turbidity {s.turbidity:.2f}') for s in four]))
        rows.append(np.hstack([titled(painted(s.image, s.mask), '') for s in four]))
    save('scenes', [*rows, legend()], 1)

    objects = [(kind, render_scene(seed, unknown=kind)) for kind, seed in UNKNOWNS]
    save('unknown', [titled(s.image, f'{kind}: {(s.mask == IGNORE).mean():.0%} of the image')
                     for kind, s in objects], 4)

    murk = [render_scene(211, turbidity=v) for v in TURBIDITIES]
    save('turbidity', [titled(s.image, f'turbidity {s.turbidity:.1f}') for s in murk]
         + [titled(painted(s.image, s.mask), '') for s in murk], len(murk))

    dive = Dive(3)
    frames = [(second, dive.frame(round(second * dive.rate_hz))) for second in DIVE_SECONDS]
    save('dive', [titled(f.image, f'{second:g} s  {f.event}') for second, f in frames], 4)


if __name__ == '__main__':
    main()
