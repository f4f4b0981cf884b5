# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The results of a study: one Parquet file, a row a round, and a summary as Markdown.

How long a round took is in a file of its own, so that equal seeds give the same bytes here.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
import math
from pathlib import Path
from typing import Any

from uncertainty_seg.calibration.statistics.learning_curves import (
    band_of,
    SeedBand,
    share_reaching,
    value_at,
)
from uncertainty_seg.storage.whole_files import whole_file
from uncertainty_seg.training.active.chain import read_result
from uncertainty_seg.training.active.study import FULL, START, STRATEGIES, StudyPlace

RESULTS, TIMES = 'results.parquet', 'times.parquet'
# Less than the full set by so much counts as reached.
POINT = 0.01
Row = dict[str, Any]


def chains_of(
    place: StudyPlace, strategies: Sequence[str], seeds: Sequence[int]
) -> list[tuple[str, int]]:
    """Return strategy and seed of what is asked for, and of what the study has beside it."""
    asked = {(strategy, seed) for strategy in (*strategies, FULL) for seed in seeds}
    there = {pair for pair in place.chains() if pair[0] in STRATEGIES}
    names = list(dict.fromkeys([*strategies, *STRATEGIES]))
    names = [*(name for name in names if name != FULL), FULL]
    numbers = list(dict.fromkeys([*seeds, *sorted(seed for _, seed in there)]))
    return [pair for pair in product(names, numbers) if pair in asked | there]


def collect(place: StudyPlace, chains: Sequence[tuple[str, int]]) -> list[Row]:
    """Return the finished rounds by strategy and seed; each strategy begins with the start."""
    rows = []
    for strategy, seed in chains:
        first = FULL if strategy == FULL else START
        start = place.result(first, seed, 0)
        if start.is_file():
            rows.append({**read_result(start), 'strategy': strategy})
        number = 1
        while (path := place.result(strategy, seed, number)).is_file():
            rows.append(read_result(path))
            number += 1
    return rows


def write_results(folder: Path, rows: Sequence[Row]) -> None:
    """Write results.parquet and times.parquet, each whole or not at all."""
    import pyarrow as pa
    from pyarrow import parquet

    if not rows:
        return
    number = pa.float64()
    kinds = {'strategy': pa.string(), 'seed': pa.int64(), 'round': pa.int64(),
             'num_labelled': pa.int64(), 'share': number, 'label_pixels': pa.int64(),
             'regions': pa.int64(), 'test_mean_iou': number, 'val_mean_iou': number,
             'test_ece': number, 'limit': number, 'loss': number}
    columns = {name: pa.array([_known(row[name]) for row in rows], kind)
               for name, kind in kinds.items()}
    classes = list(rows[0]['test_iou'])
    columns |= {f'test_iou.{name}': pa.array([_known(row['test_iou'][name]) for row in rows],
                                             number) for name in classes}
    pick = pa.struct([('frame', pa.string()), ('score', number), ('reason', pa.string())])
    columns['picks'] = pa.array([row['picks'] for row in rows], pa.list_(pick))
    with whole_file(folder / RESULTS) as draft, draft.open('wb') as file:
        parquet.write_table(pa.table(columns), file)
    keys = ('strategy', 'seed', 'round')
    times = {name: columns[name] for name in keys} | {
        name: pa.array([row[name] for row in rows], number) for name in ('train_s', 'score_s')}
    with whole_file(folder / TIMES) as draft, draft.open('wb') as file:
        parquet.write_table(pa.table(times), file)


def _known(value: Any) -> Any:
    """Return NaN as a missing value."""
    return None if isinstance(value, float) and math.isnan(value) else value


@dataclass(frozen=True)
class Curve:
    """Test mean IoU of a strategy and seed over the share and the pixels of labels."""

    strategy: str
    seed: int
    shares: tuple[float, ...]
    values: tuple[float, ...]
    pixels: tuple[float, ...]
    regions: tuple[float, ...]


def curves_of(rows: Sequence[Row]) -> list[Curve]:
    """Return the curves of the strategies, `FULL` not among them."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row['strategy'] != FULL:
            found.setdefault((row['strategy'], row['seed']), []).append(row)
    return [Curve(strategy, seed, tuple(row['share'] for row in part),
                  tuple(_number(row['test_mean_iou']) for row in part),
                  tuple(float(row['label_pixels']) for row in part),
                  tuple(float(row['regions']) for row in part))
            for (strategy, seed), part in found.items()]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


@dataclass(frozen=True)
class Gain:
    """What a strategy has over random at a share of the labels, by seeds that have both."""

    strategy: str
    share: float
    value: SeedBand
    gain: SeedBand


@dataclass(frozen=True)
class StudySummary:
    """
    What a study found.

    Attributes
    ----------
    full : SeedBand
        Test mean IoU of all labels.
    shares : tuple of float
        Of the schedule.
    reached : dict of str to SeedBand
        By strategy, the share at which it has what all labels give, less one point.
    num_seeds : dict of str to int
        Seeds of each strategy, reached or not.
    gains : tuple of Gain
        By strategy and share.
    absent : dict of str to int
        Classes that no frame of a start held, and of how many seeds.

    """

    full: SeedBand
    shares: tuple[float, ...]
    reached: dict[str, SeedBand]
    num_seeds: dict[str, int]
    gains: tuple[Gain, ...]
    absent: dict[str, int]


def summarise(rows: Sequence[Row]) -> StudySummary:
    """Work out what a study found."""
    curves = curves_of(rows)
    full = band_of([_number(row['test_mean_iou']) for row in rows if row['strategy'] == FULL])
    strategies = list(dict.fromkeys(curve.strategy for curve in curves))
    reached, num_seeds = {}, {}
    for name in strategies:
        ours = [curve for curve in curves if curve.strategy == name]
        reached[name] = band_of([share_reaching(c.shares, c.values, full.mean - POINT)
                                 for c in ours])
        num_seeds[name] = len(ours)
    shares = _shares_of(curves)
    absent: dict[str, int] = {}
    starts = {row['seed']: row for row in rows if row['round'] == 0 and row['strategy'] != FULL}
    for row in starts.values():
        for name in row['absent']:
            absent[name] = absent.get(name, 0) + 1
    return StudySummary(full, shares, reached, num_seeds,
                        tuple(_gain(curves, name, share) for name in strategies
                              for share in shares), absent)


def _shares_of(curves: Sequence[Curve]) -> tuple[float, ...]:
    """Return the shares of random, else of the longest curve."""
    ours = [curve for curve in curves if curve.strategy == 'random'] or list(curves)
    return max((curve.shares for curve in ours), key=len, default=())


def _gain(curves: Sequence[Curve], strategy: str, share: float) -> Gain:
    values = {c.seed: value_at(c.shares, c.values, share) for c in curves
              if c.strategy == strategy}
    base = {c.seed: value_at(c.shares, c.values, share) for c in curves
            if c.strategy == 'random'}
    both = [values[seed] - base[seed] for seed in values if seed in base]
    return Gain(strategy, share, band_of(list(values.values())),
                band_of(both if strategy != 'random' else []))


def markdown(title: str, summary: StudySummary) -> str:
    """Return the summary as Markdown, for a page of docs."""
    lines = [f'# {title}', '', 'Test mean IoU in points; ± is half of a 95 % t interval over '
             'seeds, of gains over random in pairs of the same seed.', '']
    if summary.full.count:
        lines += [f'All labels give {points(summary.full)}.', '']
    shares = [f'{100 * share:.3g} %' for share in summary.shares]
    lines += [f'| strategy | {" | ".join(shares)} |', '| --- |' + ' --- |' * len(shares)]
    for name in summary.reached:
        cells = [points(gain.value) for gain in summary.gains if gain.strategy == name]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    lines += ['', '| gain over random | ' + ' | '.join(shares) + ' |',
              '| --- |' + ' --- |' * len(shares)]
    for name in summary.reached:
        if name != 'random':
            cells = [signed(gain.gain) for gain in summary.gains if gain.strategy == name]
            lines.append(f'| {name} | {" | ".join(cells)} |')
    lines += ['', '| strategy | labels that reach all labels less one point | seeds |',
              '| --- | --- | --- |']
    lines += [f'| {name} | {reached_text(summary, name)} | {summary.num_seeds[name]} |'
              for name in summary.reached]
    if summary.absent:
        lines += ['', 'Classes that no frame of the start held: ' + ', '.join(
            f'{name} ({count} seed{"s" if count > 1 else ""})'
            for name, count in summary.absent.items()) + '.']
    return '\n'.join(lines) + '\n'


def reached_text(summary: StudySummary, strategy: str) -> str:
    """Say what share of labels reaches all labels less one point."""
    band, seeds = summary.reached[strategy], summary.num_seeds[strategy]
    if not summary.full.count:
        return 'not known without all labels'
    if not band.count:
        return 'not reached'
    # Without the seeds that need more there is no interval of all of them.
    if band.count < seeds:
        return f'{100 * band.mean:.1f} % in {band.count} of {seeds} seeds, else not reached'
    half = f' ± {100 * (band.high - band.mean):.1f}' if math.isfinite(band.high) else ''
    return f'{100 * band.mean:.1f}{half} %'


def points(band: SeedBand) -> str:
    """Write a figure in points, with half of its interval."""
    if not band.count:
        return '–'
    half = f' ± {100 * (band.high - band.mean):.1f}' if math.isfinite(band.high) else ''
    return f'{100 * band.mean:.1f}{half}'


def signed(band: SeedBand) -> str:
    """Write a difference in points, with half of its interval."""
    if not band.count:
        return '–'
    half = f' ± {100 * (band.high - band.mean):.1f}' if math.isfinite(band.high) else ''
    return f'{100 * band.mean:+.1f}{half}'
