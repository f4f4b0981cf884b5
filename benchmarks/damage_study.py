# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure which damaged images `core.scores.image` refuses, and which the gate lets pass.

Frames are damaged in ways that cables, drivers and decoders damage them, as received and after
JPEG of quality 90. The limits are those of the other four fifths of the frames, in the order of
their names, so that neighbours in a video do not judge each other. Printed for each damage: the
share that is refused at these limits, after JPEG, and by which statistics; with --gate also the
share that the limits of the gate accept, alone and with the check.

    python benchmarks/damage_study.py suim --images DIR [DIR ...] [--foreign DIR] [--gate 20]

--write puts the limits of all frames into the calibration of the bundle, and changes nothing else
in it: for bundles that were calibrated before there was such a check.

"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import dataclasses
from pathlib import Path

import cv2
import numpy as np
from scipy.stats import beta

from uncertainty_seg.backends.opening import as_bundle, checked_settings
from uncertainty_seg.calibration.labelled_pairs import images_in, opened
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.scores.image import (
    damage,
    damage_limits,
    FIXED_LIMITS,
    image_statistics,
    ImageStatistics,
    STATISTICS,
)
from uncertainty_seg.sim.corruptions import corrupt
from uncertainty_seg.storage.model_bundle import write_calibration

Damage = Callable[[ImageU8, ImageU8, np.random.Generator], ImageU8]
FOLDS = 5
WEATHER = ('turbidity', 'darkness', 'blur', 'colour_cast', 'snow')


def later(image: ImageU8, rng: np.random.Generator) -> ImageU8:
    """Show the scene about half a second later: moved, nearer and turned a little."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-2, 2), 1.06)
    turn[:, 2] += rng.choice([-1, 1], 2) * rng.uniform(0.02, [0.08, 0.06]) * (width, height)
    return np.asarray(cv2.warpAffine(image, turn, (width, height),
                                     borderMode=cv2.BORDER_REFLECT), np.uint8)


def with_rows(share: float, value: int | None) -> Damage:
    """Replace the last rows by a value, or by the row before them."""
    def call(image: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
        start = int(image.shape[0] * (1 - share))
        damaged = image.copy()
        damaged[start:] = image[start - 1] if value is None else value
        return damaged
    return call


def with_channel(channel: int, value: int | None, shift: float = 0) -> Damage:
    """Set a channel to a value, or move it down."""
    def call(image: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
        damaged = image.copy()
        moved = np.roll(image[..., channel], max(2, int(image.shape[0] * shift)), 0)
        damaged[..., channel] = moved if value is None else value
        return damaged
    return call


def woven(image: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """Take every second row from another picture."""
    damaged = image.copy()
    damaged[1::2] = other[1::2]
    return damaged


def torn(image: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """Take the lower part from another picture."""
    row = int(image.shape[0] * rng.uniform(0.2, 0.8))
    return np.concatenate([image[:row], other[row:]])


def banded(image: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """Take four bands of 16 rows from another picture."""
    damaged = image.copy()
    for row in range(len(image) // 4, len(image) - 16, max(len(image) // 5, 16)):
        damaged[row:row + 16] = other[row:row + 16]
    return damaged


def striped(image: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """Black out every third band."""
    damaged = image.copy()
    damaged[np.arange(len(image)) // max(2, len(image) // 32) % 3 == 0] = 0
    return damaged


def repitched(extra: int) -> Damage:
    """Read rows that are longer by some bytes than they are."""
    def call(image: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
        height, pitch = image.shape[0], image[0].size + extra
        flat = np.concatenate([image.ravel(), np.zeros(height * extra, np.uint8)])
        rows = flat[: height * pitch].reshape(height, pitch)[:, : image[0].size]
        return np.ascontiguousarray(rows).reshape(image.shape)
    return call


def _packed(image: ImageU8) -> ImageU8:
    """Return YUYV, (H, W, 2)."""
    even = image[:image.shape[0] // 2 * 2, :image.shape[1] // 2 * 2]
    yuv = cv2.cvtColor(even, cv2.COLOR_BGR2YUV)
    chroma = yuv[..., 1].copy()
    chroma[:, 1::2] = yuv[:, ::2, 2]
    return np.stack([yuv[..., 0], chroma], 2)


def as_uyvy(image: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """Take YUYV for UYVY: green and purple."""
    return np.asarray(cv2.cvtColor(_packed(image), cv2.COLOR_YUV2BGR_UYVY), np.uint8)


def as_nv12(image: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """Take YUYV for NV12: half the width, twice, with wrong colours."""
    packed = _packed(image)
    height, width = packed.shape[:2]
    planes = packed.reshape(-1)[: height * width * 3 // 2].reshape(height * 3 // 2, width)
    return np.asarray(cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_NV12), np.uint8)


def bad_jpeg(image: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """Decode a JPEG with four wrong bytes; the picture itself if it does not decode."""
    data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].ravel()
    start = int(len(data) * rng.uniform(0.4, 0.6))
    data[start:start + 4] = rng.integers(0, 255, 4)
    found = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return image if found is None else np.asarray(found, np.uint8)


def jpeg(image: ImageU8, quality: int) -> ImageU8:
    """Compress and decode."""
    data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _rolled(axis: int, share: float) -> Damage:
    return lambda image, other, rng: np.roll(image, int(image.shape[axis] * share), axis)


def _bytes_rolled(count: int) -> Damage:
    return lambda image, other, rng: np.roll(image.ravel(), count).reshape(image.shape)


DAMAGES: dict[str, Damage] = {
    'last quarter black': with_rows(0.25, 0), 'last quarter grey': with_rows(0.25, 128),
    'last tenth black': with_rows(0.1, 0), 'last third repeats a row': with_rows(1 / 3, None),
    'JPEG with 4 wrong bytes': bad_jpeg,
    'rows of 2 frames, 0.5 s apart': lambda a, b, rng: woven(a, later(a, rng), rng),
    'rows of 2 frames, other scene': woven,
    'torn, 0.5 s apart': lambda a, b, rng: torn(a, later(a, rng), rng),
    'torn, other scene': torn, 'bands of another frame': banded,
    'fields above each other': lambda a, b, rng: np.concatenate([a[::2], a[1::2]]),
    'rows rolled by 1/4': _rolled(0, 1 / 4), 'rows rolled by 1/3': _rolled(0, 1 / 3),
    'rows rolled by 1/2': _rolled(0, 1 / 2), 'columns rolled by 1/4': _rolled(1, 1 / 4),
    'bytes rolled by 1': _bytes_rolled(1), 'bytes rolled by 1000': _bytes_rolled(1000),
    'pitch wrong by a pixel': repitched(3), 'pitch wrong by a byte': repitched(1),
    'red and blue swapped': lambda a, b, rng: np.ascontiguousarray(a[..., ::-1]),
    'YUYV read as UYVY': as_uyvy, 'YUYV read as NV12': as_nv12,
    'red is 0': with_channel(2, 0), 'green is 128': with_channel(1, 128),
    'blue is 255': with_channel(0, 255), 'green 3 % down': with_channel(1, None, 0.03),
    'blue 10 % down': with_channel(0, None, 0.1),
    'grey only': lambda a, b, rng: np.repeat(a[..., 1:2], 3, 2),
    'black stripes': striped, 'values shifted left by 1': lambda a, b, rng: a << np.uint8(1),
    'values shifted left by 2': lambda a, b, rng: a << np.uint8(2),
    'values shifted right by 2': lambda a, b, rng: a >> np.uint8(2),
    'noise': lambda a, b, rng: rng.integers(0, 256, a.shape, np.uint8),
    'black': lambda a, b, rng: np.zeros_like(a),
}


def upper(count: int, total: int) -> float:
    """Return the upper end of the 95 % interval of Clopper and Pearson."""
    return 1.0 if count == total else float(beta.ppf(0.975, count + 1, total - count))


def fold_limits(frames: Sequence[ImageStatistics]) -> list[dict[str, float]]:
    """Return for each frame the limits that the other folds give."""
    fold = np.arange(len(frames)) * FOLDS // len(frames)
    made = [damage_limits([f for f, k in zip(frames, fold, strict=True) if k != part])
            for part in range(FOLDS)]
    return [made[part] for part in fold]


def accepts(pipeline: Pipeline, image: ImageU8) -> bool:
    """Say whether the limits of the gate accept a frame."""
    scores = pipeline.measure(image).scores
    return all(scores[name] <= limit for name, limit in pipeline.thresholds.items())


def study(
    images: dict[str, ImageU8], foreign: dict[str, ImageU8], num_frames: int,
    pipeline: Pipeline | None, num_gate: int,
) -> dict[str, float]:
    """Print the tables; return the limits of all frames."""
    names, pictures = list(images), list(images.values())
    frames = [image_statistics(picture) for picture in pictures]
    limits, every = fold_limits(frames), damage_limits(frames)
    print('limits:', ', '.join(f'{name} {every[name]:.2f}' for name in STATISTICS))
    refused = [n for n, f, limit in zip(names, frames, limits, strict=True) if damage(f, limit)]
    count = len(refused)
    print(f'clean: {count} of {len(frames)} refused ({count / len(frames):.2%}, at most '
          f'{upper(count, len(frames)):.2%}): {", ".join(refused[:12])}')
    print(f'clean, limits without calibration: '
          f'{sum(bool(damage(f, FIXED_LIMITS)) for f in frames)} of {len(frames)} refused')
    if foreign:
        strange = sum(bool(damage(image_statistics(i), every)) for i in foreign.values())
        print(f'foreign: {strange} of {len(foreign)} refused')
    picked = range(0, len(frames), max(1, len(frames) // num_frames))
    for kind in WEATHER:
        shares = [np.mean([bool(damage(image_statistics(corrupt(pictures[i], kind, step, i)),
                                       limits[i])) for i in picked]) for step in range(1, 6)]
        print(f'{kind:>30}, steps 1 to 5:', *(f'{share:5.1%}' for share in shares))
    for quality in (70, 50, 30, 10):
        share = np.mean([bool(damage(image_statistics(jpeg(pictures[i], quality)), limits[i]))
                         for i in picked])
        print(f'{"JPEG of quality":>30} {quality}: {share:5.1%}')
    if pipeline:
        gated = picked[::max(1, len(picked) // num_gate)]
        share = np.mean([accepts(pipeline, pictures[i]) for i in gated])
        print(f'the gate accepts {share:.0%} of {len(gated)} clean frames')
    print(f'{"damage":>30} refused  JPEG  fixed | gate accepts, and the check | by')
    for title, call in DAMAGES.items():
        rng = np.random.default_rng(0)
        found, after, fixed, accepted, both = [], [], [], [], []
        votes = dict.fromkeys(STATISTICS, 0)
        for i in picked:
            other = pictures[int(rng.integers(len(pictures)))]
            other = np.asarray(cv2.resize(other, pictures[i].shape[1::-1]), np.uint8)
            damaged = np.ascontiguousarray(call(pictures[i], other, rng))
            statistics = image_statistics(damaged)
            found.append(bool(damage(statistics, limits[i])))
            fixed.append(bool(damage(statistics, FIXED_LIMITS)))
            after.append(bool(damage(image_statistics(jpeg(damaged, 90)), limits[i])))
            for name in STATISTICS:
                votes[name] += getattr(statistics, name) > limits[i][name]
            if pipeline and i in gated:
                accepted.append(accepts(pipeline, damaged))
                both.append(accepted[-1] and not found[-1])
        by = ', '.join(f'{n} {c / len(picked):.0%}' for n, c in votes.items()
                       if c >= 0.05 * len(picked))
        gate = f'{np.mean(accepted):4.0%} {np.mean(both):4.0%}' if accepted else ''
        print(f'{title:>30}  {np.mean(found):6.1%} {np.mean(after):6.1%} {np.mean(fixed):6.1%} | '
              f'{gate} | {by}', flush=True)
    return every


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundle')
    parser.add_argument('--images', type=Path, nargs='+', required=True)
    parser.add_argument('--foreign', type=Path)
    parser.add_argument('--frames', type=int, default=200, help='to damage')
    parser.add_argument('--gate', type=int, default=0, help='of these to run the network on')
    parser.add_argument('--write', action='store_true', help='put the limits into the bundle')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    bundle: ModelBundle = as_bundle(args.bundle)
    images = {f'{folder.name}/{name}': image for folder in args.images
              for name, image in images_in(folder).items()}
    foreign = images_in(args.foreign) if args.foreign else {}
    if args.write:
        assert bundle.calibration is not None
        limits = damage_limits([image_statistics(image) for image in images.values()])
        write_calibration(bundle, dataclasses.replace(bundle.calibration, damage_limits=limits))
    elif args.gate:
        with opened(bundle, checked_settings(None)) as pipeline:
            study(images, foreign, args.frames, pipeline, args.gate)
    else:
        study(images, foreign, args.frames, None, 0)


if __name__ == '__main__':
    main()
