# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the strategies of `uncertainty_seg select` find, and how long they take.

``photographs DIR`` scores the validation split of a folder of labelled photographs with a bundle
that has not seen it (the included `suim` has), chooses from it with every strategy, and measures
the chosen: mean IoU over the classes that occur in a frame (small: the masks that need labels),
share of bad frames (below 0.5), how many classes there are (2 to the entropy, in bits, of the true
pixels' classes: 1 for one class, C for all alike), and photographs they come from, a share of the
chosen. The pool is taken once as it is, and once as a vehicle would bring it back: every
photograph seen several times by a camera that hovers (shift, zoom, light, noise, JPEG), each view
scored by itself. The 95 % intervals are of the difference to random, by half-sampling: half of the
photographs are drawn, all strategies choose half as many of them, and the spread of half a pool is
that of a whole one drawn anew (Politis, Romano and Wolf, Subsampling, 1999; a bootstrap would make
duplicates).

``dive BAG TABLE`` takes the bag of `simulate dive` and the table of it by `score`, and counts
what is chosen by the event it was taken in.

``speed ROWS`` writes a score table of that many drawn frames and takes the time on the core of
the verb, a process for each strategy, reading and writing included.

    python benchmarks/select_study.py photographs DIR --bundle FOLD [--count 30]
    python benchmarks/select_study.py dive BAG TABLE [--count 20]
    python benchmarks/select_study.py speed 100000 [--count 500]

"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
import json
from pathlib import Path
import resource
import subprocess
import sys
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from uncertainty_seg.calibration.labelled_pairs import bgr_pairs, opened
from uncertainty_seg.core.arrays import ConfusionMatrix, ImageU8, LabelMap
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.scores.vector import class_keys, ScoreVector
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.data.selection.frame_features import frame_features
from uncertainty_seg.data.selection.pool import Candidates, SelectionRequest, STRATEGIES
from uncertainty_seg.data.selection.run import candidates_of
from uncertainty_seg.data.selection.strategies import select
from uncertainty_seg.sim.dive import EVENT_TOPIC
from uncertainty_seg.storage.bags.reader import BagMessage, BagReader
from uncertainty_seg.storage.labelled_folder import load_folder
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.storage.perceptual_hash import perceptual_hash
from uncertainty_seg.storage.score_rows import info_of, read_rows, schema_of, TableInfo

BAD_IOU = 0.5
DRAWS, SEEDS = 200, 20
MEASURES = ('IoU', 'bad', 'classes', 'photographs')
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """Scored views: what can be chosen from, and the truth that no strategy sees."""

    frames: Candidates
    photographs: NDArray[np.int64]
    ious: NDArray[np.float64]
    true_pixels: NDArray[np.float64]

    def cut(self, rows: NDArray[np.int64]) -> Pool:
        """Return some rows."""
        return Pool(self.frames.cut(rows), self.photographs[rows], self.ious[rows],
                    self.true_pixels[rows])


def views(image: ImageU8, truth: LabelMap, count: int, rng: np.random.Generator) \
        -> list[tuple[ImageU8, LabelMap]]:
    """Return what a hovering camera sees: the photograph first, then shifted and zoomed."""
    found = [(image, truth)]
    height, width = truth.shape
    for _ in range(count - 1):
        zoom = 1 + rng.uniform(0.02, 0.06)
        shift = rng.uniform(-0.02, 0.02, 2) * (width, height)
        middle = np.array([width, height]) / 2
        matrix = np.array([[zoom, 0, 0], [0, zoom, 0]], np.float64)
        matrix[:, 2] = middle * (1 - zoom) + shift
        seen = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        mask = cv2.warpAffine(truth, matrix, (width, height), flags=cv2.INTER_NEAREST,
                              borderMode=cv2.BORDER_REFLECT)
        lit = seen * rng.uniform(0.93, 1.07) + rng.normal(0, 2, seen.shape)
        _, jpeg = cv2.imencode('.jpg', np.clip(lit, 0, 255).astype(np.uint8),
                               [cv2.IMWRITE_JPEG_QUALITY, 90])
        found.append((np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8),
                      np.asarray(mask, np.uint8)))
    return found


def score_pool(folder: Path, bundle_name: str, mean_views: float) -> Pool:
    """Score every view of every photograph of the validation split."""
    bundle = load_bundle(bundle_name)
    pairs = bgr_pairs(bundle, load_folder(folder, 'val'))
    rng = np.random.default_rng(0)
    # Few are seen often: a geometric number of views.
    counts = rng.geometric(1 / mean_views, len(pairs)) if mean_views > 1 else np.ones(
        len(pairs), np.int64)
    rows = []
    calibration = bundle.calibration
    assert calibration is not None
    scorer = ScoreVector(bundle.card, calibration.pixel_limits, calibration.density)
    with opened(bundle, Settings(model=bundle_name), scorer=scorer) as pipeline:
        for photograph, (image, truth) in enumerate(tqdm(pairs, disable=None)):
            for seen in views(image, truth, int(counts[photograph]), rng):
                rows.append((photograph, *_scored(pipeline, *seen)))
    numbers, ratios, hashes, features, shares, ious, pixels = zip(*rows, strict=True)
    frames = Candidates(
        np.array([str(place) for place in range(len(rows))], object),
        np.array(['dive'] * len(rows), object), np.array(ratios), np.array(hashes, np.uint64),
        np.stack(features), np.array(shares), class_names=bundle.card.class_names)
    return Pool(frames, np.array(numbers), np.array(ious), np.array(pixels))


def _scored(pipeline: Pipeline, image: ImageU8, truth: LabelMap) -> tuple[object, ...]:
    card = pipeline.card
    result = pipeline.process(image, 0)
    label = result.label_at_source()
    keys = class_keys(card)
    shares = np.bincount(label.ravel(), minlength=len(keys)) / label.size
    features = frame_features(image, shares.tolist(),
                              [result.scores[f'entropy.{key}'] for key in keys],
                              [result.scores[f'mutual_information.{key}'] for key in keys])
    counts = ConfusionMatrix(card.num_classes)
    counts.add(truth, label, card.ignore_index)
    true = np.bincount(truth[truth != card.ignore_index], minlength=card.num_classes)
    return (result.verdict.score_ratio, perceptual_hash(image), features, shares,
            counts.mean_iou(), true / max(1, true.sum()))


def measured(pool: Pool, request: SelectionRequest) -> Values:
    """
    Choose, and return the mean of `MEASURES` over what was chosen.

    What is drawn by lot is measured by its expectation: the mean over many seeds.

    """
    seeds = range(SEEDS) if request.strategy in ('random', 'power-bald') else range(1)
    return np.nanmean([_measured(pool, replace(request, seed=seed)) for seed in seeds], 0)


def _measured(pool: Pool, request: SelectionRequest) -> Values:
    rows = select(pool.frames, request).rows
    if not len(rows):
        return np.full(len(MEASURES), np.nan)
    part = pool.true_pixels[rows].mean(0)
    bits = -(part[part > 0] * np.log2(part[part > 0])).sum()
    photographs = len(set(pool.photographs[rows])) / len(rows)
    return np.array([pool.ious[rows].mean(), (pool.ious[rows] < BAD_IOU).mean(), 2**bits,
                     photographs])


def study(pool: Pool, count: int, min_distance: int) -> None:
    """Print every strategy beside random, with 95 % intervals of the difference."""
    members = [np.flatnonzero(pool.photographs == k) for k in range(pool.photographs.max() + 1)]
    asked = {name: SelectionRequest(name, count, limit=1.0, min_distance=min_distance)
             for name in STRATEGIES}
    whole = {name: measured(pool, request) for name, request in asked.items()}
    rng = np.random.default_rng(1)
    gains: dict[str, list[Values]] = {name: [] for name in asked}
    for _ in range(DRAWS):
        half = rng.permutation(len(members))[:len(members) // 2]
        drawn = pool.cut(np.concatenate([members[k] for k in half]))
        found = {name: measured(drawn, replace(request, count=count // 2))
                 for name, request in asked.items()}
        for name, values in found.items():
            gains[name].append(values - found['random'])
    print(f'\n{len(pool.frames)} frames of {len(members)} photographs, mean IoU '
          f'{pool.ious.mean():.3f}, {(pool.ious < BAD_IOU).mean():.1%} bad; {count} chosen; near '
          f'duplicates: fewer than {min_distance} bits')
    for name, values in whole.items():
        gain, halves = values - whole['random'], np.array(gains[name])
        low, high = np.nanquantile(halves, [0.025, 0.975], axis=0) - np.nanmean(halves, 0) + gain
        cells = [f'{label} {value:.3g} ({g:+.3f} [{a:+.3f}, {b:+.3f}])' for label, value, g, a, b
                 in zip(MEASURES, values, gain, low, high, strict=True)]
        print(f'  {name:22} ' + '  '.join(cells), flush=True)


def view_distances(pool: Pool) -> None:
    """Print how many bits apart views of one photograph are, and different photographs."""
    hashes = pool.frames.hashes
    assert hashes is not None
    first = {k: int(hashes[np.flatnonzero(pool.photographs == k)[0]])
             for k in set(pool.photographs.tolist())}
    same = [bin(int(h) ^ first[k]).count('1')
            for h, k in zip(hashes, pool.photographs, strict=True) if int(h) != first[k]]
    kinds = list(first.values())
    other = [bin(a ^ b).count('1') for i, a in enumerate(kinds) for b in kinds[:i]]
    for name, values in (('views of one photograph', same), ('photographs', other)):
        if values:
            low, middle, high = np.percentile(values, [1, 50, 99])
            below = [f'{np.mean(np.array(values) < d):.2%} below {d}' for d in (6, 8, 10, 12, 16)]
            print(f'{name}: from {min(values)} bits, 1 % below {low:g}, half below {middle:g}, '
                  f'99 % below {high:g}; {", ".join(below)}')


def dive(bag: Path, table_path: Path, count: int) -> None:
    """Print how many frames of each event every strategy chooses, and of how many there are."""
    with BagReader(bag) as reader:
        events = {item.received_ns: item.message.data for item in reader.messages(EVENT_TOPIC)
                  if isinstance(item, BagMessage)}
    table = read_rows(table_path)
    frames = candidates_of(table, info_of(table.schema), 'score_ratio')
    kinds = np.array([events[stamp] for stamp in table.column('stamp_ns').to_pylist()])
    names = list(dict.fromkeys(kinds))

    def counted(title: str, rows: NDArray[np.int64]) -> None:
        cells = [f'{name} {np.sum(kinds[rows] == name)}' for name in names]
        print(f'  {title:34} ' + ', '.join(cells)
              + f'; with the flag up {np.sum(frames.scores[rows] <= 1)}')

    counted('all', np.arange(len(kinds)))
    for gap_s in (0.0, None, 2.0):
        for name in STRATEGIES:
            asked = SelectionRequest(name, count, limit=1.0, min_distance=12, min_gap_s=gap_s)
            apart = 'gap by itself' if gap_s is None else f'{gap_s:g} s apart'
            counted(f'{name}, {apart}', select(frames, asked).rows)


def write_drawn_table(path: Path, count: int) -> None:
    """Write a table as 40 dives would give it: scenes of 25 frames, 64 features, 20 scores."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    rng = np.random.default_rng(0)
    classes = tuple(f'class {k}' for k in range(8))
    info = TableInfo('drawn', '0' * 64, classes, ((0, 0, 0),) * 8, 20, 0,
                     tuple(f'score_{k}' for k in range(20)), 64)
    scenes = np.arange(count) // 25
    features = (rng.normal(size=(scenes[-1] + 1, 64))[scenes]
                + rng.normal(0, 0.1, (count, 64))).astype(np.float32)
    hashes = rng.integers(0, 2**64, scenes[-1] + 1, np.uint64)[scenes]
    for _ in range(4):
        hashes ^= np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)
    dives = scenes * 40 // (scenes[-1] + 1)
    shares = rng.dirichlet(np.full(8, 0.3), count).astype(np.float32)
    ratios = rng.gamma(2, 0.4, count).astype(np.float32)
    columns: dict[str, object] = {
        'frame_key': [f'/dives/dive_{d:02d}#/camera/image_raw#{k}' for k, d in enumerate(dives)],
        'dive': [f'dive_{d:02d}' for d in dives],
        'run': [f'dive_{d:02d}' for d in dives],
        'source': [f'/dives/dive_{d:02d}' for d in dives],
        'kind': ['bag'] * count, 'topic': ['/camera/image_raw'] * count,
        'index': np.arange(count), 'stamp_ns': np.arange(count) * 10**8,
        'height': np.full(count, 720, np.int32), 'width': np.full(count, 1280, np.int32),
        'confident': ratios <= 1, 'verdict': ['scores'] * count, 'score_ratio': ratios,
        'phash': hashes,
        'features': pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), 64)}
    columns |= {f'score.{name}': rng.random(count, np.float32) for name in info.score_names}
    columns |= {f'share.{name}': shares[:, k] for k, name in enumerate(classes)}
    schema = schema_of(info)
    write_table(pa.table([pa.array(columns[name], schema.field(name).type)
                          if name != 'features' else columns[name] for name in schema.names],
                         schema=schema), path, compression='zstd')


def speed(rows: int, count: int, min_distances: Sequence[int]) -> None:
    """Time the verb in processes of their own."""
    with TemporaryDirectory() as folder:
        table = Path(folder) / 'drawn.parquet'
        write_drawn_table(table, rows)
        print(f'\n{rows} rows, {table.stat().st_size / 1e6:.0f} MB; {count} chosen')
        for min_distance in min_distances:
            for name in STRATEGIES:
                command = [sys.executable, '-m', 'uncertainty_seg', 'select', str(table),
                           '-n', str(count), '--strategy', name, '--sheet', '0', '--force',
                           '--min-distance', str(min_distance), '-o', f'{folder}/out']
                start_s = _children_s()
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                facts = json.loads(done.stdout.splitlines()[-1])
                print(f'  {name:22} near duplicates {min_distance:2} bits: '
                      f'{_children_s() - start_s:6.1f} s of a core, '
                      f'{facts["near_duplicates"]} left out', flush=True)
        peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(f'  peak memory of a process {peak_kib / 2**20:.2f} GiB')


def _children_s() -> float:
    # Others may be busy on this machine: time on the core, not on the wall.
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest='kind', required=True)
    photographs = kinds.add_parser('photographs')
    photographs.add_argument('folder', type=Path, metavar='DIR')
    photographs.add_argument('--bundle', required=True)
    photographs.add_argument('--count', type=int, default=30)
    photographs.add_argument('--views', type=float, default=6, help='mean views of a photograph')
    dived = kinds.add_parser('dive')
    dived.add_argument('bag', type=Path)
    dived.add_argument('table', type=Path)
    dived.add_argument('--count', type=int, default=20)
    timed = kinds.add_parser('speed')
    timed.add_argument('rows', type=int)
    timed.add_argument('--count', type=int, default=500)
    timed.add_argument('--min-distance', type=int, nargs='+', default=[0, 12])
    args = parser.parse_args()
    if args.kind == 'speed':
        speed(args.rows, args.count, args.min_distance)
        return
    if args.kind == 'dive':
        dive(args.bag, args.table, args.count)
        return
    study(score_pool(args.folder, args.bundle, 1), args.count, 0)
    hovering = score_pool(args.folder, args.bundle, args.views)
    view_distances(hovering)
    for min_distance in (0, 8, 12):
        study(hovering, args.count, min_distance)


if __name__ == '__main__':
    main()
