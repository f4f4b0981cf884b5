# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How far a picture's features, hash and embedding move when the same sight is seen otherwise.

Photographs of a folder are taken evenly by name, made small, changed, and compared with
themselves and with each other: by `analysis.frame_features` (shares and uncertainties of the
classes are held equal, so that only the picture counts), and with --bundle by the bits of the
perceptual hash and the cosine distance of `tools.score.embedding`. Prints the rows of the tables
in docs/score.md and docs/select.md: median, 95 % and largest, and how many of the changed pictures
are nearer to their own than any other photograph is to any.

    python benchmarks/feature_distances.py DIR [--count 60] [--width 320] [--height 240]
        [--bundle suim]

"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.data.scoring.shard import ShardEngine
from uncertainty_seg.data.selection.frame_features import frame_features
from uncertainty_seg.data.selection.near_duplicates import bits_apart
from uncertainty_seg.storage.frame_sources import pictures
from uncertainty_seg.storage.perceptual_hash import hash_distance, perceptual_hash

NUM_CLASSES = 8
_NOISE = 5.0
# As `select` has it.
MIN_BITS = 12


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


def moved(share: float) -> Callable[[ImageU8], ImageU8]:
    """Return what turns the camera by a share of the image: the edge that comes in is new."""
    def change(image: ImageU8) -> ImageU8:
        height, width = image.shape[:2]
        down, right = round(share * height), round(share * width)
        kept = image[down:, right:]
        return np.asarray(cv2.copyMakeBorder(kept, 0, down, 0, right, cv2.BORDER_REFLECT))

    return change


def cropped(share: float) -> Callable[[ImageU8], ImageU8]:
    """Return what goes nearer: the middle of a picture at its whole size."""
    def change(image: ImageU8) -> ImageU8:
        height, width = image.shape[:2]
        down, right = (round(side * (1 - share) / 2) for side in (height, width))
        kept = image[down:height - down, right:width - right]
        return np.asarray(cv2.resize(kept, (width, height), interpolation=cv2.INTER_LINEAR))

    return change


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
# Of a vehicle that moves on, which are more than a hash bears.
VIEWS: dict[str, Callable[[ImageU8], ImageU8]] = {
    'moved by 5 % both ways': moved(0.05), 'moved by 10 % both ways': moved(0.10),
    'cropped to 90 %': cropped(0.9), 'cropped to 80 %': cropped(0.8),
}


def read_some(folder: Path, count: int, width: int, height: int) -> list[ImageU8]:
    """Read photographs of a folder, evenly by name, made small."""
    paths = pictures(folder)
    taken = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [np.asarray(cv2.resize(cv2.imread(str(paths[k]), cv2.IMREAD_COLOR), (width, height),
                                  interpolation=cv2.INTER_AREA)) for k in taken]


def compare_duplicates(images: list[ImageU8], model: str) -> None:
    """Print how far hash and embedding move, and how many changed pictures each finds."""
    engine = ShardEngine(Settings(model=model, uncalibrated='run'))
    pipeline = engine.pipeline()

    def seen(image: ImageU8) -> tuple[int, NDArray[np.float32]]:
        vector = engine.embedding(pipeline.measure(image))
        assert vector is not None
        return perceptual_hash(image), vector

    own = [seen(image) for image in images]
    pairs = np.triu_indices(len(own), 1)
    hashes, vectors = np.array([h for h, _ in own], np.uint64), np.stack([v for _, v in own])
    bits = bits_apart(hashes[:, None], hashes)[pairs]
    angles = (1 - vectors @ vectors.T)[pairs]
    print(f'| another photograph | {np.median(bits):.0f} | least {bits.min()} | '
          f'{np.median(angles):.4f} | least {angles.min():.4f}, 1 % {np.quantile(angles, .01):.4f}'
          ' | |')
    for name, change in {**CHANGES, **VIEWS}.items():
        changed = [seen(change(image)) for image in images]
        far = np.array([hash_distance(a, b) for (a, _), (b, _) in zip(own, changed, strict=True)])
        gap = np.array([1 - a @ b for (_, a), (_, b) in zip(own, changed, strict=True)])
        print(f'| {name} | {np.median(far):.0f} | {(far < MIN_BITS).mean():.0%} | '
              f'{np.median(gap):.4f}, 95 % {np.quantile(gap, .95):.4f} | '
              f'{(gap < angles.min()).mean():.0%} | '
              f'{((far >= MIN_BITS) & (gap < angles.min())).sum()} of '
              f'{(far >= MIN_BITS).sum()} |')
    engine.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--count', type=int, default=60)
    parser.add_argument('--width', type=int, default=320)
    parser.add_argument('--height', type=int, default=240)
    parser.add_argument('--bundle', help='compare hash and embedding of this bundle instead')
    args = parser.parse_args()
    images = read_some(args.folder, args.count, args.width, args.height)
    if args.bundle:
        compare_duplicates(images, args.bundle)
        return
    own = np.stack([features(image) for image in images])
    print(f'{len(images)} photographs of {args.width}x{args.height}')
    for name, change in CHANGES.items():
        apart = np.linalg.norm(np.stack([features(change(image)) for image in images]) - own,
                               axis=1)
        print(f'| {name} | {np.median(apart):.3f} | {np.quantile(apart, 0.95):.3f} | '
              f'{apart.max():.3f} |')
    apart = np.linalg.norm(own[:, None] - own, axis=2)[np.triu_indices(len(own), 1)]
    print(f'| another photograph | {np.median(apart):.3f} | | 1 % are nearer than '
          f'{np.quantile(apart, 0.01):.3f}, 10 % than {np.quantile(apart, 0.1):.3f} |')


if __name__ == '__main__':
    main()
