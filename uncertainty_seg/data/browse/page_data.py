# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a page for browsing holds: which frames, their numbers and places in the plot, as JSON.

A page has a limited number of frames, since their pictures are in it. What the network contradicts
comes first, then what was selected, then half of the rest by its score and half by lot, so that
the page shows the usual beside the worst.

"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.data.browse.truth import scaled_box, Truth
from uncertainty_seg.data.selection.pool import lots
from uncertainty_seg.data.selection.run import vectors_of
from uncertainty_seg.storage.score_rows import SCORE_PREFIX, SHARE_PREFIX, TableInfo

# Dots of frames that are not in the page; and rows that the axes of the plot are fitted to.
MAX_DOTS, MAX_FITTED = 3000, 20000
# Of all frames of a page, those that suspected labels and a selection may take.
_FIRST_SHARE = 3
AGREEMENT = 'agreement with the label'


def rows_of_page(
    scores: NDArray[np.float64], keys: Sequence[str], most: int, suspects: Sequence[str],
    selected: Collection[str], seed: int = 0,
) -> NDArray[np.int64]:
    """
    Return the rows that are in the page, at most so many, in the order of the table.

    `suspects` are the keys of frames with contradicted labels, the first first.
    """
    place = {key: row for row, key in enumerate(keys)}
    taken: dict[int, None] = {}
    for group in (suspects, sorted(selected)):
        rows = dict.fromkeys(place[key] for key in group if key in place)
        taken.update(dict.fromkeys(list(rows)[:max(1, most // _FIRST_SHARE)]))
    by_score = np.argsort(np.where(np.isnan(scores), -np.inf, -scores), kind='stable').tolist()
    by_lot = np.argsort(lots(keys, seed), kind='stable').tolist()
    left = max(0, most - len(taken))
    for order, end in ((by_score, len(taken) + math.ceil(left / 2)), (by_lot, most)):
        for row in order:
            if len(taken) >= end:
                break
            taken[row] = None
    return np.array(sorted(list(taken)[:most]), np.int64)


@dataclass(frozen=True)
class PlotAxes:
    """
    Places of all frames in the plane of their two principal components.

    Attributes
    ----------
    places : ndarray of float64, shape (n, 2)
        0..1; NaN where a vector is not finite.
    explained : float
        Share of the variance that the plane has.
    column : str
        Of the table: 'embedding' or 'features'; empty if it has neither.

    """

    places: NDArray[np.float64]
    explained: float
    column: str


def plot_axes(table: Any, keys: Sequence[str]) -> PlotAxes:
    """Project the embeddings of a table to a plane; without them its features."""
    for column in ('embedding', 'features'):
        vectors = vectors_of(table, column)
        if vectors is not None and np.isfinite(vectors).all(1).sum() > 1:
            return PlotAxes(*_principal(vectors.astype(np.float64), lots(keys, 0)), column)
    return PlotAxes(np.full((len(keys), 2), np.nan), math.nan, '')


def _principal(
    vectors: NDArray[np.float64], drawn: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    is_finite = np.isfinite(vectors).all(1)
    fitted = np.flatnonzero(is_finite)
    fitted = fitted[np.argsort(drawn[fitted], kind='stable')[:MAX_FITTED]]
    centre = vectors[fitted].mean(0)
    _, sizes, axes = np.linalg.svd(vectors[fitted] - centre, full_matrices=False)
    axes = axes[:2]
    # The sign of an axis is nobody's: the largest weight is positive, so that it stays.
    largest = np.abs(axes).argmax(1)
    axes *= np.sign(axes[np.arange(len(axes)), largest])[:, None]
    places = np.full((len(vectors), 2), np.nan)
    found = (vectors[is_finite] - centre) @ axes.T
    places[is_finite] = 0.5
    span = np.ptp(found, axis=0)
    places[np.ix_(is_finite, np.arange(found.shape[1]))] = (found - found.min(0)) / np.where(
        span > 0, span, 1)
    total = float((sizes**2).sum())
    return places, float((sizes[:2]**2).sum()) / total if total > 0 else math.nan


@dataclass(frozen=True)
class ShownFrames:
    """
    What the page knows of its frames beside the table.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        Of the table.
    pictures : mapping of int to list of str
        Row -> ``data:`` addresses of image, mask, heatmap and truth; empty where there is none.
    truth : Truth
        Labels.
    reasons : mapping of str to str
        Frame key -> why it was selected.
    has_selection : bool
        Whether it is known which frames were selected.

    """

    rows: NDArray[np.int64]
    pictures: Mapping[int, Sequence[str]]
    truth: Truth
    reasons: Mapping[str, str]
    has_selection: bool


def page_json(
    table: Any, info: TableInfo, score: str, axes: PlotAxes, shown: ShownFrames
) -> str:
    """
    Return all that the script of the page reads, safe within a script element.

    Numbers that are not finite are null. `score` is the column that the page begins with.
    """
    cut = table.take(shown.rows)
    keys = cut.column('frame_key').to_pylist()
    truth = shown.truth
    scores = {'score_ratio': cut.column('score_ratio').to_pylist(),
              **{name: cut.column(f'{SCORE_PREFIX}{name}').to_pylist()
                 for name in info.score_names}}
    if truth.agreement:
        scores[AGREEMENT] = [truth.agreement.get(key) for key in keys]
    others = np.setdiff1d(np.arange(len(table)), shown.rows)
    dots = others[np.argsort(lots(table.column('frame_key').take(others).to_pylist(), 1),
                             kind='stable')[:MAX_DOTS]] if len(others) else others
    index = {key: place for place, key in enumerate(keys)}
    suspects = [{'frame': index[one.frame], 'given': one.given, 'predicted': one.predicted,
                 'margin': _short(one.margin), 'evidence': _short(one.evidence),
                 'share': _short(one.share),
                 'box': scaled_box(one, (cut.column('height')[index[one.frame]].as_py(),
                                         cut.column('width')[index[one.frame]].as_py()))}
                for one in truth.suspects if one.frame in index]
    return script_text({
        'score': score.removeprefix(SCORE_PREFIX),
        'classes': [{'name': name, 'rgb': list(rgb)} for name, rgb in
                    zip(info.share_names, info.palette, strict=True)],
        'scores': {name: [_short(value) for value in values] for name, values in scores.items()},
        'shares': [[_short(value) for value in cut.column(f'{SHARE_PREFIX}{name}').to_pylist()]
                   for name in info.share_names],
        'frames': [{
            'key': key, 'dive': dive, 'time': stamp_ns / 1e9 if kind != 'folder' else None,
            'flag': bool(flag), 'verdict': verdict,
            'at': [_short(value) for value in axes.places[row]],
            'label': truth.stems.get(key), 'reviewed': truth.reviewed.get(key),
            'selected': shown.reasons.get(key), 'pictures': list(shown.pictures.get(int(row), ())),
        } for row, key, dive, stamp_ns, kind, flag, verdict in zip(
            shown.rows, keys, *(cut.column(name).to_pylist() for name in (
                'dive', 'stamp_ns', 'kind', 'confident', 'verdict')), strict=True)],
        'dots': [[_short(value) for value in place] for place in axes.places[dots]
                 if np.isfinite(place).all()],
        'suspects': suspects, 'hasTruth': bool(truth.stems), 'hasSelection': shown.has_selection,
    })


def _short(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f'{value:.5g}')


def script_text(values: Any) -> str:
    """Write JSON so that it can end no script element and begin no comment, whatever is in it."""
    text = json.dumps(values, allow_nan=False, separators=(',', ':'))
    return text.replace('&', '\\u0026').replace('<', '\\u003c').replace('>', '\\u003e')
