# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How far a picture's features (`core.frame_features`) move when the same sight is seen otherwise.

Photographs of a folder are taken evenly by name, made small, changed, and compared with
themselves and with each other. Shares and uncertainties of the classes are held equal, so that
only the picture counts. Prints the rows of the table in docs/score.md.

    python benchmarks/feature_distances.py DIR [--count 60] [--width 320] [--height 240]

"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.analysis.frame_features import frame_features
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.storage.frame_sources import pictures

NUM_CLASSES = 8
_NOISE = 5.0


def features(image: ImageU8) -> NDArray[np.float64]:
    """Return the features of a picture whose classes are all alike."""
    even, calm, known = ([value] * NUM_CLASSES for value in (1 / NUM_CLASSES, 0.1, 0.02))
    return frame_features(image, even, calm, known).astype(np.float64)


def halved(image: ImageU8) -> ImageU8:
    """Return it at half the size."""
    return np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


def as_jpeg(image: ImageU8) -> ImageU8:
    """Return it as a JPEG of quality 50 gives it back."""
    _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 50])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def noisy(image: ImageU8) -> ImageU8:
    """Return it with Gaussian noise."""
    noise = np.random.default_rng(0).normal(0, _NOISE, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def shifted(image: ImageU8) -> ImageU8:
    """Return it moved by 2 % both ways, what leaves on one side entering on the other."""
    height, width = image.shape[:2]
    return np.roll(image, (height // 50, width // 50), (0, 1))


def lighter(values: int) -> Callable[[ImageU8], ImageU8]:
    """Return what makes a picture that many grey values lighter."""
    return lambda image: np.clip(image.astype(np.int32) + values, 0, 255).astype(np.uint8)


def mirrored(image: ImageU8) -> ImageU8:
    """Return it with left and right exchanged."""
    return np.ascontiguousarray(image[:, ::-1])


CHANGES: dict[str, Callable[[ImageU8], ImageU8]] = {
    'half the size': halved, 'JPEG of quality 50': as_jpeg, f'noise, sigma {_NOISE:g}': noisy,
    'shifted by 2 % both ways': shifted, '10 grey values lighter': lighter(10),
    '40 grey values lighter': lighter(40), 'mirrored': mirrored,
}


def read_some(folder: Path, count: int, width: int, height: int) -> list[ImageU8]:
    """Read photographs of a folder, evenly by name, made small."""
    paths = pictures(folder)
    taken = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [np.asarray(cv2.resize(cv2.imread(str(paths[k]), cv2.IMREAD_COLOR), (width, height),
                                  interpolation=cv2.INTER_AREA)) for k in taken]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--count', type=int, default=60)
    parser.add_argument('--width', type=int, default=320)
    parser.add_argument('--height', type=int, default=240)
    args = parser.parse_args()
    images = read_some(args.folder, args.count, args.width, args.height)
    own = np.stack([features(image) for image in images])
    print(f'{len(images)} photographs of {args.width}x{args.height}')
    for name, change in CHANGES.items():
        moved = np.linalg.norm(np.stack([features(change(image)) for image in images]) - own,
                               axis=1)
        print(f'| {name} | {np.median(moved):.3f} | {np.quantile(moved, 0.95):.3f} | '
              f'{moved.max():.3f} |')
    apart = np.linalg.norm(own[:, None] - own, axis=2)[np.triu_indices(len(own), 1)]
    print(f'| another photograph | {np.median(apart):.3f} | | 1 % are nearer than '
          f'{np.quantile(apart, 0.01):.3f}, 10 % than {np.quantile(apart, 0.1):.3f} |')


if __name__ == '__main__':
    main()
