# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The report as one page that needs nothing else: no network, no script, no font.

Equal data make equal bytes. What a reader should look for stands above every plot.

"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
import os
from pathlib import Path

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.tools import report_tables as tables
from uncertainty_seg.tools import report_words as words
from uncertainty_seg.tools.libraries import require_libraries
from uncertainty_seg.tools.report_data import FrameGroup, Legend, ReportData
from uncertainty_seg.tools.report_frames import frame_tiles, heat_bar, IGNORED_RGB, Tile
from uncertainty_seg.tools.report_panels import plot_ladder, plot_spread
from uncertainty_seg.tools.report_parts import ScoreSpread
from uncertainty_seg.tools.report_plots import plot_reliability, plot_risk_coverage
from uncertainty_seg.tools.report_style import CSS

# Small plots of scores: the gated ones first.
MAX_SPREADS = 12


def write_report(path: Path, data: ReportData) -> None:
    """
    Write a report, whole or not at all.

    Parameters
    ----------
    path : Path
        File to write; its folder exists.
    data : ReportData
        What to show.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    ShapeError
        If a mask or map of a frame has not the size of its image.

    """
    page = report_page(data)
    draft = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        draft.write_text(page, encoding='utf-8', newline='\n')
        os.replace(draft, path)
    except OSError as err:
        draft.unlink(missing_ok=True)
        raise ConfigError(f'report {path} cannot be written ({err.strerror})',
                          'a folder that exists and may be written to') from err


def require_report_place(path: Path) -> None:
    """
    Refuse a file that could not be written, before minutes of work are spent on it.

    Parameters
    ----------
    path : Path
        Of the report.

    Raises
    ------
    ConfigError
        If its folder is missing or must not be written to, or it is a folder itself.
    BackendUnavailableError
        If matplotlib is not installed.

    """
    require_libraries('matplotlib')
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        why = 'it is a folder' if path.is_dir() else \
            'no permission' if path.parent.is_dir() else 'no such folder'
        raise ConfigError(f'report {path} cannot be written ({why})',
                          'a file in a folder that exists and may be written to')


def report_page(data: ReportData) -> str:
    """Return the page of a report; see `write_report`."""
    sections = [(name, title, body) for name, title, body in _sections(data) if body]
    links = ''.join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in sections)
    text = '\n'.join(f'<section id="{name}">\n<h2>{escape(title)}</h2>\n{body}\n</section>'
                     for name, title, body in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Without it a browser asks the server of the page for an icon.
        '<link rel="icon" href="data:,">\n'
        f'<title>{escape(data.title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n'
        f'<header>\n<h1>{escape(data.title)}</h1>\n{_opening(data)}\n<nav>{links}</nav>\n'
        f'</header>\n<main>\n{text}\n</main>\n</body>\n</html>\n'
    )


def _sections(data: ReportData) -> list[tuple[str, str, str]]:
    """Return id, title and body of every section; no body where nothing was given."""
    accepted, refused = _frame_sections(data)
    return [
        ('promise', 'What the flag promises', _promise(data)),
        ('bundle', 'What was measured', tables.bundle_facts(data.bundle) if data.bundle else ''),
        ('risk', 'Risk against coverage', _risk(data)),
        ('scores', 'Scores and limits', _scores(data)),
        ('spreads', 'Training against validation', _spreads(data)),
        ('reliability', 'Reliability of the confidence', _reliability(data)),
        ('classes', 'Classes', _classes(data)),
        ('ladders', 'Corruption by severity', _ladders(data)),
        ('accepted', 'Worst frames that were accepted', accepted),
        ('refused', 'Good frames that were refused', refused),
        ('notes', 'Notes', _notes(data)),
    ]


def _opening(data: ReportData) -> str:
    if data.promise is None:
        return ''
    lines = [f'<p class="lead">{escape(words.headline(data.promise))}</p>']
    sentence = words.warning(data.promise)
    if sentence:
        lines.append(f'<p class="warning">{escape(sentence)}</p>')
    return '\n'.join(lines)


def _look(text: str) -> str:
    return f'<p class="look">{escape(text)}</p>'


def _plot(address: str, says: str, size: str = '') -> str:
    return f'<figure class="plot{size}"><img src="{address}" alt="{escape(says)}"></figure>'


def _promise(data: ReportData) -> str:
    if data.promise is None:
        return ''
    return (
        f'<p>{escape(words.measured(data.promise))}</p>' + tables.promise_tiles(data.promise)
        + _look('“Accepted and bad” counts among all frames; “bad among accepted” counts among '
                'those with the flag true, and is the larger of the two. The first is promised; '
                'the bound of the second takes blocks for independent, and without a file '
                'of blocks all frames, which neighbours in a video are not. Neither says '
                'anything about water, light or things unlike those '
                'of the calibration.')
    )


def _risk(data: ReportData) -> str:
    if data.risk_coverage is None:
        return ''
    curves = data.risk_coverage.curves
    says = f'Risk over coverage of {", ".join(curve.name for curve in curves)}'
    return _look(
        'From right to left the gate gets stricter. A good score falls steeply at once: the '
        'first frames it refuses are the bad ones. A flat line is no better than refusing by '
        'lot. Left of about 15 % few frames are left, and the lines are mostly chance. In the '
        'hatched part more frames than promised are accepted and bad.'
    ) + _plot(plot_risk_coverage(data.risk_coverage), says, ' large')


def _scores(data: ReportData) -> str:
    if data.scores is None:
        return ''
    return _look(
        'Stressed rows are what the gate looks at; a frame is accepted only if each of them is '
        'within its limit. The limits come from the validation and from the training frames, KS '
        'is the distance between the two sets of values, and intervals stand in brackets. Small '
        'is good for AURC and E-AURC, which is AURC less that of the '
        'best possible order; near 1 is good for OOD AUROC. A large KS distance, or a training '
        'limit far below, means that the network knows its training frames by heart, and that '
        'only the validation limit counts.'
    ) + tables.score_table(data.scores)


def _spreads(data: ReportData) -> str:
    if data.spreads is None:
        return ''
    ordered = sorted(data.spreads, key=lambda spread: not spread.is_gated)
    shown = ordered[:MAX_SPREADS]
    figures = ''.join(_spread(spread) for spread in shown)
    left = len(ordered) - len(shown)
    more = f'<p>{left} more scores are not drawn.</p>' if left else ''
    return _look(
        'Frames right of the limit are refused. Training and validation should lie on each '
        'other, and foreign frames, where there are any, right of the limit. The last bin also '
        'holds what lies beyond it.'
    ) + f'<div class="plots">{figures}</div>{more}'


def _spread(spread: ScoreSpread) -> str:
    says = f'Values of {spread.name}'
    facts = ['In the gate.'] if spread.is_gated else []
    if spread.distance_ks is not None:
        facts.append(f'KS distance {words.number(spread.distance_ks, 2)}.')
    return (f'<figure class="plot"><img src="{plot_spread(spread)}" alt="{escape(says)}">'
            f'<figcaption>{" ".join(facts)}</figcaption></figure>')


def _reliability(data: ReportData) -> str:
    if not data.reliability:
        return ''
    says = 'Accuracy over confidence, ' + ', '.join(
        f'{name}: ECE {words.number(curve.ece)}' for name, curve in data.reliability.items())
    return _look(
        'On the diagonal a confidence of 80 % is right in 80 % of the pixels. Below it the '
        'network is too sure. The lower plot says how many pixels each point stands for: a point '
        'far off that stands for few matters little.'
    ) + _plot(plot_reliability(data.reliability), says, ' middle')


def _classes(data: ReportData) -> str:
    if data.classes is None:
        return ''
    return _look(
        'A class with a low IoU and a low entropy is the one to worry about: there the network '
        'is wrong and does not know it.'
    ) + tables.class_table(data.classes)


def _ladders(data: ReportData) -> str:
    if data.ladders is None:
        return ''
    figures = ''.join(
        _plot(plot_ladder(ladder), f'Mean IoU, accepted frames and ratio under {ladder.kind}')
        for ladder in data.ladders)
    return _look(
        'As the IoU falls, the share accepted should fall before it, and the share that is '
        'accepted and bad should stay low all along. Below: the mean of the largest score over '
        'its limit, which should climb.'
    ) + (f'<div class="plots">{figures}</div><details><summary>All figures</summary>'
         f'{tables.ladder_table(data.ladders)}</details>')


def _notes(data: ReportData) -> str:
    if data.notes is None:
        return ''
    return '<ul>' + ''.join(f'<li>{escape(note)}</li>' for note in data.notes) + '</ul>'


def _frame_sections(data: ReportData) -> list[str]:
    given = (data.worst_accepted, data.wrongly_refused)
    groups = [group for group in given if group is not None]
    if not groups or data.legend is None:
        return ['', '']
    tiles = iter(frame_tiles(groups, data.legend))
    looks = ('The flag was true and the mask is bad: what did the scores not see? Compare '
             'prediction and truth, and look whether the heatmap is bright where they differ.',
             'The flag was false and the mask is good: what made the gate shy? The reason names '
             'the score.')
    return ['' if group is None else _group(group, next(tiles), data.legend, look)
            for group, look in zip(given, looks, strict=True)]


def _group(
    group: FrameGroup, tiles: Sequence[tuple[Tile, ...]], legend: Legend, look: str
) -> str:
    if not tiles:
        return '<p>There is none.</p>'
    count = f'<p>{len(tiles)} of {group.total} such frames.</p>'
    figures = []
    for k, (frame, row) in enumerate(zip(group.frames, tiles, strict=False), start=1):
        facts = (f'IoU {words.number(frame.iou, 2)}, score over limit '
                 f'{words.number(frame.score_ratio, 2)}')
        reason = f'; {escape(frame.reason)}' if frame.reason else ''
        figures.append(f'<figure class="frame"><figcaption><strong>{k}. {escape(frame.source)}'
                       f'</strong>: {facts}{reason}</figcaption><div class="strip">'
                       + ''.join(_tile(tile, frame.source) for tile in row) + '</div></figure>')
    return _look(look) + count + _legend(legend) + '\n'.join(figures)


def _tile(tile: Tile, source: str) -> str:
    caption = escape(tile.caption)
    if tile.address is None:
        return f'<div><div class="none">not known</div><span>{caption}</span></div>'
    return (f'<div><img src="{tile.address}" alt="{caption} of {escape(source)}">'
            f'<span>{caption}</span></div>')


def _legend(legend: Legend) -> str:
    entries = [*zip(legend.class_names, legend.palette, strict=False), ('ignored', IGNORED_RGB)]
    names = ''.join(f'<span>{tables.swatch(color)}{escape(name)}</span>'
                    for name, color in entries)
    return (f'<div class="legend">{names}<span>{escape(legend.heat_name)} 0'
            f'<img src="{heat_bar()}" alt="from dark to bright">{legend.heat_upper:.3g}'
            '</span></div>')
