# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What each kind of score is, what it sees, and what hides from it.

No score sees everything; a gate is chosen so that what one misses another sees. The table of
docs/scores.md is made from this one, and a test holds them together.

"""

from __future__ import annotations

from dataclasses import dataclass

from uncertainty_seg.core.region_scores import BOUNDARY_PX
from uncertainty_seg.core.score_density import DENSITY_SCORE

TABLE_BEGIN = '<!-- scores: made by python -m uncertainty_seg.tools.score_docs -->'
TABLE_END = '<!-- end of scores -->'


@dataclass(frozen=True)
class ScoreKind:
    """
    One kind of score.

    Attributes
    ----------
    name : str
        ``<map>`` and ``<class>`` stand for each map and each class.
    meaning : str
        How it is computed.
    sees, misses : str
        What raises it, and what does not although it should.

    """

    name: str
    meaning: str
    sees: str
    misses: str


SCORES = (
    ScoreKind('<map>.mean', 'mean over the image',
              'a whole image that is unsure', 'a small region: 1 % of the pixels moves it by 1 %'),
    ScoreKind('<map>.top', 'mean of the most uncertain 5 % of the pixels',
              'the worst pixels, wherever they lie',
              'a region below 5 % is diluted; many borders look like one unknown thing'),
    ScoreKind('<map>.worst_window',
              'largest mean of a square of 15 % of the shorter side',
              'a compact unsure thing, however sure the rest is',
              'what is thin or smaller than the square'),
    ScoreKind('<map>.sum', 'sum over the pixels that count, as a share of all pixels of the image',
              "how much of the camera's picture is unsure, if part of it is ignored",
              'as the mean; without an ignore mask it is the mean'),
    ScoreKind('<map>.max', 'largest value',
              'a single pixel', 'everything else: nearly every image has one unsure pixel'),
    ScoreKind('<map>.quantile', 'value that 95 % of the pixels do not exceed',
              'that at least 5 % are as unsure as this',
              'how unsure these are, and any region below 5 %'),
    ScoreKind('<map>.area_above', "share of the pixels above the map's pixel limit",
              'how much is unsure, compact or not', 'how far above the limit; anything below it'),
    ScoreKind('<map>.largest_region',
              'share of the pixels in the largest connected region above the pixel limit',
              'one unsure thing of any form', 'many small ones; anything below the limit'),
    ScoreKind('<map>.foreground', 'mean over the pixels of any class but the first',
              'unsure objects in a wide and sure background',
              'an object that was taken for background; 0 without foreground'),
    ScoreKind('<map>.foreground_top',
              'mean of as many of the top pixels as there is foreground (QFR)',
              'unsure pixels beside the objects too, in proportion to them',
              'an object that was taken for background; 0 without foreground'),
    ScoreKind('<map>.class_mean', 'mean of the class means, each predicted class once (BCA)',
              'a rare class that is unsure', 'a class that is not predicted; a small part of a '
              'large class. A new class that is sure lowers it'),
    ScoreKind('<map>.boundary', f'mean within {BOUNDARY_PX} px of a border between classes',
              'borders that are blurred or in dispute',
              'everything else; nearly always high; 0 without a border'),
    ScoreKind('<map>.interior', f'mean farther than {BOUNDARY_PX} px from any border',
              'areas that are unsure as such, without what every border adds',
              'thin things, which are border throughout'),
    ScoreKind('<map>.class.<class>', 'mean over the pixels predicted as one class',
              'an unsure class, with a threshold of its own',
              'that the class was missed: 0 where it is not predicted'),
    ScoreKind('image.darkness', 'one minus the mean of the brightest channel',
              'night, a lamp that is out', 'a dark half beside a bright one'),
    ScoreKind('image.overexposure', 'share of the pixels with a channel at its end',
              'glare, a lamp too near', 'light that is nearly too much'),
    ScoreKind('image.blur', 'lack of fine detail in the sharpest tenth of the blocks',
              'motion, focus, a dirty port over all of it',
              'blur of a part; noise looks like detail'),
    ScoreKind('image.low_contrast', 'lack of contrast in the tenth of the blocks with most of it',
              'turbid water, fog of particles', 'turbid water around one thing of high contrast'),
    ScoreKind('image.specks', 'how far small bright things outweigh small dark ones, 0.5 if not',
              'marine snow, sediment stirred up before a lamp, bubbles',
              'particles larger than a fiftieth of the height; a bottom of bright pebbles has it'),
    ScoreKind('image.haze', 'brightness of the veil: what even the darkest of a neighbourhood has',
              'scattered light', 'haze in the dark; bright sand looks like haze'),
    ScoreKind('image.flat_color', 'lack of difference between colours',
              'water that leaves one colour', 'a cast that moves all colours alike'),
    ScoreKind('image.green_cast', 'mean colour between red and green, 0.5 is neutral',
              'coastal water, algae', 'grows one way only: a red cast lowers it'),
    ScoreKind('image.blue_cast', 'mean colour between yellow and blue, 0.5 is neutral',
              'open and deep water', 'grows one way only: a yellow cast lowers it'),
    ScoreKind(DENSITY_SCORE, 'how rare several scores are together, by a Gaussian mixture '
              'fitted on frames of known kind',
              'combinations never seen, though each value is usual',
              'whether rare is bad: a clearer image than any it was fitted on is rare too'),
)


def scores_table() -> str:
    """Return the table as Markdown."""
    lines = ['| score | is the | sees | misses |', '|---|---|---|---|']
    lines += [f'| `{kind.name}` | {kind.meaning} | {kind.sees} | {kind.misses} |'
              for kind in SCORES]
    return '\n'.join(lines) + '\n'


def with_table(page: str) -> str:
    """Return a page with the table between its markers renewed."""
    head, _, rest = page.partition(TABLE_BEGIN)
    _, _, tail = rest.partition(TABLE_END)
    return f'{head}{TABLE_BEGIN}\n{scores_table()}{TABLE_END}{tail}'
