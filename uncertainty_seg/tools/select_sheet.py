# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The contact sheet of a selection: one page that needs nothing else, pictures in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from uncertainty_seg.core.selection_pool import SelectionRequest
from uncertainty_seg.tools import report_words as words
from uncertainty_seg.tools.report_style import CSS
from uncertainty_seg.tools.report_tables import facts_list, table
from uncertainty_seg.tools.select_files import SHEET, write_whole
from uncertainty_seg.tools.select_pictures import Pictures, PicturePlace, thumbnails
from uncertainty_seg.tools.select_run import SelectionOutcome

_SHEET_CSS = """
.sheet { display: grid; gap: 1rem 0.8rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); }
.sheet figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
.sheet img, .sheet .none { display: block; width: 100%; aspect-ratio: 4 / 3;
  object-fit: contain; background: #eceff2; }
.sheet .none { display: grid; place-items: center; color: var(--quiet); font-size: 0.85rem;
  background: #c9ced4; }
.sheet figcaption { padding: 0.4rem 0.6rem 0.6rem; font-size: 0.82rem; }
.sheet b { font-variant-numeric: tabular-nums; }
.sheet span { display: block; }
.sheet .why { color: var(--quiet); margin-top: 0.25rem; }
@media print { .sheet { grid-template-columns: repeat(4, 1fr); }
  .sheet figure { break-inside: avoid; } }
"""
# Dives listed in the table.
_MAX_DIVES = 60
_MAX_PROBLEMS = 20


@dataclass(frozen=True)
class Card:
    """
    One frame on the sheet.

    Attributes
    ----------
    rank : int
        From 1.
    dive, time, score, reason, key : str
        Dive, time since its first frame, the score in words, the reason, and the frame's key.
    address : str or None
        ``data:`` address of its picture; None if it could not be had.
    is_changed : bool
        Another picture is in its place now.

    """

    rank: int
    dive: str
    time: str
    score: str
    reason: str
    key: str
    address: str | None
    is_changed: bool = False


def write_sheet(folder: Path, found: SelectionOutcome, max_pictures: int) -> tuple[int, int]:
    """
    Read the pictures and write contact_sheet.html; an older one is removed if none is wanted.

    Parameters
    ----------
    folder : Path
        A folder that exists.
    found : Found
        What was chosen.
    max_pictures : int
        Frames on the sheet, the first chosen first; with 0 there is no sheet.

    Returns
    -------
    int, int
        Pictures that are grey; those of them in whose place another one is now.

    Raises
    ------
    ConfigError
        If the page cannot be written.

    """
    if not max_pictures:
        (folder / SHEET).unlink(missing_ok=True)
        return 0, 0
    rows = found.selection.rows[:max_pictures]
    places = [_place(found.table, int(row)) for row in rows]
    pictures = thumbnails(places)
    cards = _cards(found, places, pictures)
    page = sheet_page(found, cards, pictures.problems)
    write_whole(folder / SHEET, lambda draft: _write(draft, page))
    return sum(card.address is None for card in cards), len(pictures.changed)


def sheet_page(found: SelectionOutcome, cards: Sequence[Card], problems: Sequence[str]) -> str:
    """Return the page; equal choices and pictures make equal bytes."""
    count = len(found.selection.rows)
    title = f'{count} frames to label'
    parts = [f'<p class="lead">{escape(_lead(found))}</p>',
             *(f'<p class="warning">{escape(_sentence(text))}</p>' for text in found.remarks),
             _missing(cards, problems), _facts(found)]
    left = count - len(cards)
    more = f'<p>{left} more frames are in selection.csv.</p>' if left else ''
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f'<title>{escape(title)}</title>\n<style>{CSS}{_SHEET_CSS}</style>\n</head>\n<body>\n'
        f'<header>\n<h1>{escape(title)}</h1>\n' + '\n'.join(filter(None, parts))
        + '\n</header>\n<main>\n<section id="frames">\n<h2>Frames</h2>\n<div class="sheet">\n'
        + '\n'.join(map(_card, cards)) + f'\n</div>\n{more}\n</section>\n'
        f'<section id="dives">\n<h2>Dives</h2>\n{_dives(found)}\n</section>\n'
        '</main>\n</body>\n</html>\n'
    )


def clock(seconds: float) -> str:
    """Write a time as h:mm:ss."""
    whole = int(seconds)
    return f'{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}'


def _write(path: Path, page: str) -> None:
    path.write_text(page, encoding='utf-8', newline='\n')


def _place(rows: Any, row: int) -> PicturePlace:
    names = ['source', 'kind', 'topic', 'index', 'stamp_ns']
    if 'phash' in rows.column_names:
        names.append('phash')
    return PicturePlace(*(rows.column(name)[row].as_py() for name in names))


def _cards(found: SelectionOutcome, places: Sequence[PicturePlace], pictures: Pictures) -> list[Card]:
    pool, selection = found.candidates, found.selection
    stamps = np.asarray(found.table.column('stamp_ns').to_numpy(), np.int64)
    starts: dict[str, int] = {}
    for dive, stamp in zip(pool.dives, stamps, strict=True):
        starts[dive] = min(stamp, starts.get(dive, stamp))
    return [Card(
        rank=rank, dive=pool.dives[row], key=pool.keys[row],
        # A picture of a folder has no time: its stamp is its place.
        time='' if place.kind == 'folder' else
        clock((int(stamps[row]) - starts[pool.dives[row]]) / 1e9),
        score=f'{found.request.score_name} {words.number(float(pool.scores[row]))}',
        reason=selection.reasons[rank - 1], address=pictures.addresses.get(place),
        is_changed=place in pictures.changed)
        for rank, (row, place) in enumerate(zip(selection.rows, places, strict=False), 1)]


def _lead(found: SelectionOutcome) -> str:
    request, selection = found.request, found.selection
    dives = found.candidates.dives
    seed = f', seed {request.seed}'
    return (f'{len(selection.rows)} of {selection.num_candidates} frames, from '
            f'{len(set(dives[selection.rows]))} of {len(set(dives))} dives, by '
            f'{request.strategy} on {request.score_name}{seed}.')


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _missing(cards: Sequence[Card], problems: Sequence[str]) -> str:
    missing = sum(card.address is None for card in cards)
    if not missing:
        return ''
    items = ''.join(f'<li>{escape(text)}</li>' for text in problems[:_MAX_PROBLEMS])
    if len(problems) > _MAX_PROBLEMS:
        items += f'<li>and {len(problems) - _MAX_PROBLEMS} more</li>'
    changed = sum(card.is_changed for card in cards)
    said = [f'{missing - changed} of {len(cards)} pictures could not be read from their sources '
            'and are grey.'] if missing > changed else []
    if changed:
        said.append(f'{changed} of {len(cards)} frames are other pictures now than those that '
                    'were scored, and are grey.')
    return f'<p class="warning">{" ".join(said)}</p>' + (f'<ul>{items}</ul>' if items else '')


def _facts(found: SelectionOutcome) -> str:
    request, chosen = found.request, found.selection
    pairs = [('model', found.info.model), ('strategy', request.strategy),
             ('score', request.score_name), ('seed', str(request.seed)),
             ('near duplicates left out', f'{chosen.num_duplicates} (fewer than '
              f'{request.min_distance} bits)' if request.min_distance else 'not looked for'),
             ('frames not scored', str(chosen.num_unscored)), *_options(request)]
    return facts_list(pairs)


def _options(request: SelectionRequest) -> list[tuple[str, str]]:
    pairs = []
    if request.limit is not None:
        pairs.append(('limit', f'{request.limit:.6g}'))
    if request.strategy in ('power-bald', 'uncertainty-diversity'):
        pairs.append(('beta', f'{request.beta:g}'))
    if request.per_dive is not None:
        pairs.append(('a dive gives at most', str(request.per_dive)))
    if request.min_gap_s:
        pairs.append(('least time between two', f'{request.min_gap_s:g} s'))
    return pairs


def _card(card: Card) -> str:
    picture = f'<img src="{card.address}" alt="frame {card.rank}" loading="lazy">' \
        if card.address else \
        f'<div class="none">{"another picture now" if card.is_changed else "no picture"}</div>'
    when = f' · {card.time}' if card.time else ''
    return (f'<figure title="{escape(card.key)}">{picture}<figcaption>'
            f'<b>{card.rank}</b> · {escape(card.dive)}{when}'
            f'<span>{escape(card.score)}</span>'
            f'<span class="why">{escape(card.reason)}</span></figcaption></figure>')


def _dives(found: SelectionOutcome) -> str:
    there = Counter(found.candidates.dives)
    chosen = Counter(found.candidates.dives[found.selection.rows])
    listed = sorted(there, key=lambda dive: (-chosen[dive], dive))
    rows = [(escape(dive), str(there[dive]), str(chosen[dive]),
             words.percent(chosen[dive] / there[dive])) for dive in listed[:_MAX_DIVES]]
    left = len(listed) - len(rows)
    more = f'<p>{left} more dives are not listed.</p>' if left else ''
    return table(('dive', 'frames', 'chosen', 'share'), rows) + more
