# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The report's sentences and numbers: what the flag promises, said so that nobody misreads it."""

from __future__ import annotations

import math

from uncertainty_seg.tools.report_parts import IntervalEntry, PromiseEntry

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
