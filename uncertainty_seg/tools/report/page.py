# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The report as one page that needs nothing else: no network, no script, no font.

Equal data make equal bytes. What a reader should look for stands above every plot.

"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
import math
import os
from pathlib import Path

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.storage.whole_files import replace_file
from uncertainty_seg.tools.arguments import require_libraries
from uncertainty_seg.tools.report.data import (
    BundleFacts,
    ClassRow,
    FrameGroup,
    IntervalEntry,
    Legend,
    PromiseEntry,
    ReportData,
    ScoreEntry,
    ScoreSpread,
    SeverityLadder,
)
from uncertainty_seg.tools.report.frames import frame_tiles, heat_bar, IGNORED_RGB, Tile
from uncertainty_seg.tools.report.plots import (
    plot_ladder,
    plot_reliability,
    plot_risk_coverage,
    plot_spread,
)

# -------------------------------------------------------------------------------------------------
# The report's tables as HTML; every text that was given is escaped here or before.

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
    level = whole_percent(promise.level)
    figures = [
        (percent(promise.accepted_share), 'of frames accepted'),
        (percent(promise.accepted_bad_share), 'of frames accepted and bad'),
        (whole_percent(promise.alpha), 'accepted and bad at most: the promise'),
        (percent(promise.bound, 2), 'bound that the limits reach'),
        (percent(promise.bad_upper), f'bad among accepted, at most ({level} confidence)'),
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
              limit(row.threshold), limit(row.train_threshold),
              number(row.distance_ks, 2), number(row.aurc, 4),
              _interval(row.excess_aurc, 4), _interval(row.ood_auroc, 3))
             for row in rows]
    return table(heads, cells, [k for k, row in enumerate(rows) if row.is_gated])


def _interval(value: IntervalEntry | None, digits: int) -> str:
    figure, _, ends = interval(value, digits).partition(' ')
    return f'{figure} <small>{ends}</small>' if ends else figure


def _excess(row: ScoreEntry) -> float:
    value = math.inf if row.excess_aurc is None else row.excess_aurc.value
    return math.inf if math.isnan(value) else value


def class_table(rows: Sequence[ClassRow]) -> str:
    """Return the classes in the order given, with a bar for the IoU."""
    total = max(sum(row.num_pixels for row in rows), 1)
    cells = [(swatch(row.color_rgb) + escape(row.name), _bar(row.iou), f'{row.num_pixels:,}',
              percent(row.num_pixels / total), number(row.mean_entropy),
              limit(row.threshold)) for row in rows]
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
            f'<span class="value">{number(share)}</span>')


def ladder_table(ladders: Sequence[SeverityLadder]) -> str:
    """Return every step of every corruption."""
    cells = [(escape(ladder.kind), str(step.severity), number(step.mean_iou),
              percent(step.accepted_share), percent(step.accepted_bad_share),
              number(step.mean_ratio, 2))
             for ladder in ladders for step in ladder.steps]
    return table(['corruption', 'severity', 'mean IoU', 'accepted', 'accepted and bad',
                  'mean ratio'], cells)


# -------------------------------------------------------------------------------------------------
# The report's style sheet: dark on white, one column on a phone, and fit to be printed.

CSS = """
:root { --ink: #1b1f24; --quiet: #59636e; --line: #d8dde3; --pale: #f5f7f9; --blue: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(0.9rem, 3vw, 2rem) 4rem; max-width: 72rem;
  background: #fff; color: var(--ink); line-height: 1.55; overflow-wrap: anywhere;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans",
  sans-serif; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0.5rem 0 0.75rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 2.75rem 0 0.5rem; padding-top: 0.9rem;
  border-top: 1px solid var(--line); }
p { margin: 0.5rem 0; max-width: 48rem; }
code { font: 0.88em/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
a { color: var(--blue); }
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1.1rem; margin: 1rem 0 0; font-size: 0.92rem; }
.lead { font-size: 1.14rem; line-height: 1.5; border-left: 4px solid var(--blue);
  padding: 0.2rem 0 0.2rem 0.9rem; margin: 0.9rem 0; max-width: 52rem; }
.warning { border: 2px solid #b3261e; background: #fdf2f1; padding: 0.6rem 0.9rem;
  border-radius: 4px; max-width: 52rem; }
.look { color: var(--quiet); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: 0.7rem; margin: 1rem 0; }
.tile { border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem 0.8rem; }
.tile strong { display: block; font-size: 1.5rem; line-height: 1.25; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--quiet); font-size: 0.86rem; line-height: 1.35; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr));
  gap: 0.6rem 1.2rem; margin: 0.8rem 0; }
.facts dt { color: var(--quiet); font-size: 0.86rem; }
.facts dd { margin: 0; font-weight: 550; }
.hashes { font-size: 0.9rem; margin: 0.6rem 0; }
.hashes div { margin: 0.3rem 0; }
.hashes dt { color: var(--quiet); font-size: 0.95em; }
.hashes dd { margin: 0; }
td small { color: var(--quiet); font-size: 0.92em; }
.wide { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.32rem 0.6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; overflow-wrap: normal; }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600; vertical-align: bottom; }
th:first-child { text-align: left; font-weight: 450; padding-left: 0.3rem; }
td > code { white-space: nowrap; }
tr.marked > * { background: #eaf3fa; }
tr.marked > th:first-child { font-weight: 650; }
details { margin: 0.6rem 0; }
summary { cursor: pointer; color: var(--blue); }
.swatch { display: inline-block; width: 0.85em; height: 0.85em; margin-right: 0.5em;
  border: 1px solid #59636e; vertical-align: -0.08em; print-color-adjust: exact; }
.bar { display: inline-block; width: 7rem; height: 0.7em; background: #e9edf1;
  vertical-align: baseline; margin-right: 0.6em; print-color-adjust: exact; }
.value { display: inline-block; min-width: 2.6rem; }
.bar i { display: block; height: 100%; background: var(--blue); print-color-adjust: exact; }
figure { margin: 0.8rem 0; }
figure.plot img { display: block; width: 100%; height: auto; }
figure.plot.large img { min-width: 36rem; max-width: 56rem; }
figure.plot.middle img { max-width: 38rem; }
figure.plot.large { overflow-x: auto; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr));
  gap: 0.6rem 1.2rem; }
.plots figure { margin: 0; }
figcaption { font-size: 0.9rem; line-height: 1.45; }
figure.plot figcaption { color: var(--quiet); font-size: 0.85rem; text-align: right; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; font-size: 0.9rem;
  margin: 0.6rem 0; align-items: center; }
.legend img { height: 0.8em; width: 9rem; vertical-align: -0.05em; margin: 0 0.4em; }
figure.frame { border-top: 1px solid var(--line); padding-top: 0.6rem; margin: 1rem 0; }
.strip { display: grid; grid-template-columns: repeat(4, 1fr); gap: 0.4rem; margin-top: 0.4rem; }
.strip div { min-width: 0; }
.strip img, .strip .none { display: block; width: 100%; aspect-ratio: 4 / 3;
  object-fit: contain; background: #eceff2; border: 1px solid var(--line); }
.strip .none { display: grid; place-items: center; color: var(--quiet); font-size: 0.85rem; }
.strip span { display: block; color: var(--quiet); font-size: 0.8rem; }
@media (max-width: 40rem) { .strip { grid-template-columns: repeat(2, 1fr); }
  body { font-size: 15px; } .bar { width: 4rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } nav { display: none; }
  figure, tr, .tile, .lead, .warning { break-inside: avoid; } h2 { break-after: avoid; }
  .wide { overflow: visible; } table { font-size: 7.5pt; } th, td { padding: 0.2rem 0.35rem; }
  th { white-space: normal; } thead { display: table-header-group; }
  details::details-content { content-visibility: visible; block-size: auto; }
  summary { display: none; } .bar { width: 4rem; } .plots { grid-template-columns: 1fr 1fr; }
  a { color: inherit; text-decoration: none; } }
"""


# -------------------------------------------------------------------------------------------------
# The report's sentences and numbers: what the flag promises, said so that nobody misreads it.

NOTHING = '–'
# A number and its unit stay on one line.
PERCENT = '\N{NO-BREAK SPACE}%'


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with that many decimals; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return NOTHING
    return '∞' if math.isinf(value) else f'{value:.{digits}f}'


def limit(value: float | None) -> str:
    """Write a threshold with four significant digits."""
    return NOTHING if value is None or math.isnan(value) else f'{value:#.4g}'


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share as per cent."""
    if share is None or math.isnan(share):
        return NOTHING
    return f'{100 * share:.{digits}f}{PERCENT}'


def whole_percent(share: float) -> str:
    """Write a chosen share, such as alpha, without decimals that nobody chose."""
    return f'{100 * share:.4g}{PERCENT}'


def interval(value: IntervalEntry | None, digits: int = 3) -> str:
    """Write a figure with its interval."""
    if value is None or math.isnan(value.value):
        return NOTHING
    low, high = number(value.low, digits), number(value.high, digits)
    return f'{number(value.value, digits)} [{low}, {high}]'


def headline(promise: PromiseEntry) -> str:
    """
    Say in one or two sentences what the flag is worth.

    Parameters
    ----------
    promise : Promise
        P(bad | accepted) comes first where a bound of it is known, since that is what people ask;
        what was promised is P(accepted and bad), which is another number.

    Returns
    -------
    str
        Plain text.

    """
    alpha = whole_percent(promise.alpha)
    promised = (f'at most {alpha} of all frames are both accepted and bad, on average over '
                'blocks of frames like those of the calibration.')
    if promise.bad_upper is None or math.isnan(promise.bad_upper):
        return f'When the flag is true, the frame is accepted: {promised}'
    return (f'When the flag is true, the mask is bad in at most '
            f'{percent(promise.bad_upper)} of the frames, with {whole_percent(promise.level)} '
            f'confidence. What is promised: {promised}')


def measured(promise: PromiseEntry) -> str:
    """Say what was measured of the promise, and on what."""
    where = f' on {promise.measured_on}' if promise.measured_on else ''
    return (f'Measured{where}: {percent(promise.accepted_share)} of the frames accepted, '
            f'{percent(promise.accepted_bad_share)} accepted and bad. A frame is bad if '
            f'{promise.bad_rule}.')


def warning(promise: PromiseEntry) -> str | None:
    """Say that more was accepted and bad than promised; None if it was not."""
    # Written so that NaN is a warning too.
    if promise.accepted_bad_share <= promise.alpha:
        return None
    return (f'The promise did not hold on these frames: {percent(promise.accepted_bad_share)} '
            f'were accepted and bad, and at most {whole_percent(promise.alpha)} was promised. '
            'They are not like those of the calibration, or chance was against it: a promise on '
            'average can be missed by one set of frames.')


# -------------------------------------------------------------------------------------------------

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
    try:
        replace_file(path, page)
    except OSError as err:
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
        ('bundle', 'What was measured', bundle_facts(data.bundle) if data.bundle else ''),
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
    lines = [f'<p class="lead">{escape(headline(data.promise))}</p>']
    sentence = warning(data.promise)
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
        f'<p>{escape(measured(data.promise))}</p>' + promise_tiles(data.promise)
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
    ) + score_table(data.scores)


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
        facts.append(f'KS distance {number(spread.distance_ks, 2)}.')
    return (f'<figure class="plot"><img src="{plot_spread(spread)}" alt="{escape(says)}">'
            f'<figcaption>{" ".join(facts)}</figcaption></figure>')


def _reliability(data: ReportData) -> str:
    if not data.reliability:
        return ''
    says = 'Accuracy over confidence, ' + ', '.join(
        f'{name}: ECE {number(curve.ece)}' for name, curve in data.reliability.items())
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
    ) + class_table(data.classes)


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
         f'{ladder_table(data.ladders)}</details>')


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
        facts = (f'IoU {number(frame.iou, 2)}, score over limit '
                 f'{number(frame.score_ratio, 2)}')
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
    names = ''.join(f'<span>{swatch(color)}{escape(name)}</span>'
                    for name, color in entries)
    return (f'<div class="legend">{names}<span>{escape(legend.heat_name)} 0'
            f'<img src="{heat_bar()}" alt="from dark to bright">{legend.heat_upper:.3g}'
            '</span></div>')
