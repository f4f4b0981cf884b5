# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The report's tables as HTML; every text that was given is escaped here or before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
import math

from uncertainty_seg.tools import report_words as words
from uncertainty_seg.tools.report_parts import (
    BundleFacts,
    ClassRow,
    IntervalEntry,
    PromiseEntry,
    ScoreEntry,
    SeverityLadder,
)

# More rows than this are folded away, the gated and the best staying.
_SHOWN_SCORES = 24


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], marked: Sequence[int] = ()) -> str:
    """
    Lay cells out; the first column is the row's heading.

    Parameters
    ----------
    heads : sequence of str
        HTML of the column headings.
    rows : iterable of sequence of str
        HTML of the cells.
    marked : sequence of int
        Rows to stress.

    Returns
    -------
    str
        A table in a box that scrolls where the page is narrow.

    """
    head = ''.join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = []
    for k, (first, *rest) in enumerate(rows):
        mark = ' class="marked"' if k in marked else ''
        cells = ''.join(f'<td>{cell}</td>' for cell in rest)
        body.append(f'<tr{mark}><th scope="row">{first}</th>{cells}</tr>')
    lines = '\n'.join(body)
    return (f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>\n<tbody>\n'
            f'{lines}\n</tbody></table></div>')


def facts_list(pairs: Iterable[tuple[str, str]]) -> str:
    """Lay names and values out as a list of terms."""
    items = ''.join(f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>'
                    for name, value in pairs)
    return f'<dl class="facts">{items}</dl>'


def bundle_facts(bundle: BundleFacts) -> str:
    """Return what was measured with what."""
    pairs = [('bundle', bundle.name), ('method', bundle.method),
             ('passes T', str(bundle.passes)), ('seed', str(bundle.seed)),
             ('precision', bundle.precision), ('temperature', f'{bundle.temperature:.4g}')]
    pairs += [('date', bundle.date)] if bundle.date else []
    pairs += list(bundle.facts.items())
    digests = ''.join(f'<div><dt>hash of {escape(name)}</dt><dd><code>{escape(digest)}</code>'
                      '</dd></div>' for name, digest in bundle.hashes.items())
    return facts_list(pairs) + (f'<dl class="hashes">{digests}</dl>' if digests else '')


def promise_tiles(promise: PromiseEntry) -> str:
    """Return the figures of a promise, large."""
    level = words.whole_percent(promise.level)
    figures = [
        (words.percent(promise.accepted_share), 'of frames accepted'),
        (words.percent(promise.accepted_bad_share), 'of frames accepted and bad'),
        (words.whole_percent(promise.alpha), 'accepted and bad at most: the promise'),
        (words.percent(promise.bound, 2), 'bound that the limits reach'),
        (words.percent(promise.bad_upper), f'bad among accepted, at most ({level} confidence)'),
        (f'{promise.num_blocks}', f'blocks, {promise.num_frames} frames'),
    ]
    tiles = ''.join(f'<div class="tile"><strong>{escape(value)}</strong>'
                    f'<span>{escape(name)}</span></div>' for value, name in figures)
    return f'<div class="tiles">{tiles}</div>'


def score_table(rows: Sequence[ScoreEntry]) -> str:
    """Return the scores, gated first, then by E-AURC; a long tail is folded away."""
    ordered = sorted(rows, key=lambda row: (not row.is_gated, _excess(row), row.name))
    shown = max(_SHOWN_SCORES, sum(row.is_gated for row in rows))
    first, rest = ordered[:shown], ordered[shown:]
    text = _score_rows(first)
    if rest:
        text += (f'<details><summary>{len(rest)} more scores</summary>{_score_rows(rest)}'
                 '</details>')
    return text


def _score_rows(rows: Sequence[ScoreEntry]) -> str:
    heads = ['score', 'gate', 'limit', 'of training', 'KS', 'AURC', 'E-AURC', 'OOD AUROC']
    cells = [(f'<code>{escape(row.name)}</code>', 'yes' if row.is_gated else '',
              words.limit(row.threshold), words.limit(row.train_threshold),
              words.number(row.distance_ks, 2), words.number(row.aurc, 4),
              _interval(row.excess_aurc, 4), _interval(row.ood_auroc, 3))
             for row in rows]
    return table(heads, cells, [k for k, row in enumerate(rows) if row.is_gated])


def _interval(value: IntervalEntry | None, digits: int) -> str:
    figure, _, ends = words.interval(value, digits).partition(' ')
    return f'{figure} <small>{ends}</small>' if ends else figure


def _excess(row: ScoreEntry) -> float:
    value = math.inf if row.excess_aurc is None else row.excess_aurc.value
    return math.inf if math.isnan(value) else value


def class_table(rows: Sequence[ClassRow]) -> str:
    """Return the classes in the order given, with a bar for the IoU."""
    total = max(sum(row.num_pixels for row in rows), 1)
    cells = [(swatch(row.color_rgb) + escape(row.name), _bar(row.iou), f'{row.num_pixels:,}',
              words.percent(row.num_pixels / total), words.number(row.mean_entropy),
              words.limit(row.threshold)) for row in rows]
    return table(['class', 'IoU', 'true pixels', 'share', 'mean entropy over ln C', 'limit'],
                 cells)


def swatch(color_rgb: tuple[int, int, int] | None) -> str:
    """Return a square in a class's colour."""
    if color_rgb is None:
        return ''
    red, green, blue = (int(value) for value in color_rgb)
    return f'<i class="swatch" style="background:rgb({red},{green},{blue})"></i>'


def _bar(share: float) -> str:
    width = 0.0 if math.isnan(share) else 100 * min(max(share, 0.0), 1.0)
    return (f'<span class="bar"><i style="width:{width:.1f}%"></i></span>'
            f'<span class="value">{words.number(share)}</span>')


def ladder_table(ladders: Sequence[SeverityLadder]) -> str:
    """Return every step of every corruption."""
    cells = [(escape(ladder.kind), str(step.severity), words.number(step.mean_iou),
              words.percent(step.accepted_share), words.percent(step.accepted_bad_share),
              words.number(step.mean_ratio, 2))
             for ladder in ladders for step in ladder.steps]
    return table(['corruption', 'severity', 'mean IoU', 'accepted', 'accepted and bad',
                  'mean ratio'], cells)
