# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a calibration rests on: as facts for calibration.json, and as sentences for a person.

A promise is as good as the frames behind it, and these are often few: of 70 frames that are all
good, nothing is learnt about bad ones. So `calibrate` and `evaluate` say how many frames, blocks
and bad frames there were, how far that allows to rely on the flag, and what would improve it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
import math
from typing import Any

import numpy as np

from uncertainty_seg.calibration.stats.conformal import blocks_needed
from uncertainty_seg.calibration.stats.evaluation import FrameTable
from uncertainty_seg.calibration.stats.promise_verdict import spread
from uncertainty_seg.core.arrays import Column
from uncertainty_seg.core.calibration import FEWEST_BAD, Promise
from uncertainty_seg.core.gate import GUARDS

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
# Alphas that a user may want, from the largest.
_ALPHAS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)


def split_facts(frames: FrameTable, has_blocks: bool) -> dict[str, Any]:
    """Return the numbers of frames, of bad ones, and of blocks; None if blocks are unknown."""
    return {'frames': len(frames), 'bad': int(frames.is_bad.sum()),
            'blocks': len(np.unique(frames.blocks)) if has_blocks else None}


def iou_facts(frame_iou: Column) -> dict[str, Any]:
    """Return quantiles of the frames' mean IoU, and the rule that makes a tenth of them bad."""
    known = frame_iou[np.isfinite(frame_iou)]
    if not known.size:
        return {'iou_quantiles': {}, 'rule_of_a_tenth': None}
    found = {f'{share:g}': round(float(np.quantile(known, share)), 3) for share in QUANTILES}
    # A tenth of the frames is below the value of the frame that follows them.
    place = min(math.ceil(len(known) / 10), len(known) - 1)
    limit = math.ceil(float(np.sort(known)[place]) * 1000) / 1000
    return {'iou_quantiles': found, 'rule_of_a_tenth': f'iou<{min(max(limit, 0.001), 1.0):g}'}


def promise_facts(
    promises: Sequence[Promise], halves: Mapping[float, tuple[float, float]]
) -> dict[str, Any]:
    """Return by alpha, as text, what is accepted and how far chance moves what is also bad."""
    return {f'{one.alpha:g}': {
        'accepted': one.accepted, 'accepted_and_bad': one.accepted_and_bad,
        **{f'halves_{word}': share if math.isfinite(share) else None for word, share in zip(
            ('accepted', 'accepted_and_bad'), halves[one.alpha], strict=True)},
        'spread': list(spread(one))} for one in promises}


def guard_facts(limits: Mapping[str, float], frames: FrameTable) -> dict[str, Any]:
    """Return by guard the shares of all frames, and of the good ones, that it alone refuses."""
    found = {}
    for name in (name for name in limits if name in GUARDS):
        over = ~(frames.scores[name] <= limits[name])
        good = over[~frames.is_bad]
        found[name] = {'threshold': limits[name], 'refused': float(over.mean()),
                       'good_refused': float(good.mean()) if good.size else None}
    return found


# -------------------------------------------------------------------------------------------------
# Sentences.


def basis_sentences(
    basis: Mapping[str, Any], promises: Sequence[Promise], gate: Sequence[str]
) -> list[str]:
    """Return the facts of `calibrate` in sentences, the one on whether to rely on it first."""
    promise = promises[0]
    few = (f'Warning: {promise.num_bad} of the frames of the split limits count as bad by '
           f'{promise.bad!r}; at least {FEWEST_BAD} are needed. {iou_sentence(basis)}')
    return [reliance(promise, basis['splits']['limits']['blocks'] is not None),
            *(_split_sentence(name, facts) for name, facts in basis['splits'].items()),
            *([few] if promise.weakness else []),
            _gate_sentence(gate, promise, basis['guards']),
            *(_promise_sentence(one, basis['promises'][f'{one.alpha:g}']) for one in promises),
            _improvement(promises)]


def reliance(promise: Promise, has_blocks: bool) -> str:
    """Return in a sentence whether the flag may be relied on."""
    if not promise.num_bad:
        return (f'Do not rely on this flag: it is {promise.weakness}, so nothing is known about '
                'the scores of bad frames.')
    if promise.weakness:
        return f'Rely on this flag with care: it is {promise.weakness}.'
    kind = '' if has_blocks else \
        ', if its frames are independent of each other, as those of a video are not'
    return (f'This flag may be relied on for frames like the {promise.num_frames} of the split '
            f'limits{kind}.')


def _split_sentence(name: str, facts: Mapping[str, Any]) -> str:
    blocks = 'blocks unknown' if facts['blocks'] is None else f'{facts["blocks"]} blocks'
    return (f'Split {name}: {facts["frames"]} frames ({blocks}), of which {facts["bad"]} are bad '
            f'({facts["bad"] / facts["frames"]:.0%}).')


def iou_sentence(facts: Mapping[str, Any]) -> str:
    """Return the quantiles of the frames' IoU, and the rule of a tenth, in a sentence."""
    known = facts['iou_quantiles']
    if not known:
        return 'The IoU of no frame is known.'
    values = ', '.join(f'{value:.2f}' for value in known.values())
    shares = ', '.join(f'{float(share):.0%}' for share in known)
    return (f'The IoU of the frames is {values} (quantiles {shares}); the rule '
            f'{facts["rule_of_a_tenth"]!r} would make a tenth of them bad.')


def _gate_sentence(
    gate: Sequence[str], promise: Promise, guards: Mapping[str, Mapping[str, Any]]
) -> str:
    order = [name for name in gate if name not in guards]
    words = [f'Gate: frames are ordered by {" and ".join(order)}']
    words += [f'{name} refuses {facts["refused"]:.1%} of the split limits as unlike '
              f'{GUARDS[name]:.0%} of the training frames' for name, facts in guards.items()]
    if not any(name in GUARDS for name in gate):
        words.append('no guard refuses foreign water, so do not rely on the flag there')
    return '; '.join(words) + '.'


def _promise_sentence(promise: Promise, facts: Mapping[str, Any]) -> str:
    lower, upper = facts['spread']
    halves = facts['halves_accepted']
    told = 'too few blocks to test that by halves' if halves is None else (
        f'thresholds of one half accept {halves:.1%} of the other half, '
        f'{facts["halves_accepted_and_bad"]:.1%} accepted and bad')
    return (f'Alpha {promise.alpha:g}: {promise.accepted:.1%} of the split limits are accepted, '
            f'{promise.accepted_and_bad:.1%} accepted and bad; {told}. For new frames like these '
            f'chance may make it {lower:.1%} to {upper:.1%}.')


def _improvement(promises: Sequence[Promise]) -> str:
    """Return what more blocks, or more bad frames, would improve."""
    promise, found = promises[0], []
    blocks = promise.num_blocks
    if promise.num_bad < FEWEST_BAD:
        found.append(f'{FEWEST_BAD - promise.num_bad} more bad frames would make the promise more '
                     'than a formality: label frames on which the network errs')
    smaller = next((alpha for alpha in _ALPHAS if alpha < promise.alpha), None)
    if smaller and blocks_needed(smaller) > blocks:
        found.append(f'{blocks_needed(smaller) - blocks} more blocks would allow alpha '
                     f'{smaller:g}')
    lower, upper = spread(replace(promise, num_blocks=4 * blocks))
    found.append(f'{3 * blocks} more blocks would narrow the range at alpha {promise.alpha:g} to '
                 f'{lower:.1%} to {upper:.1%}')
    return f'What would improve it: {"; ".join(found)}.'


def evaluated_sentence(frames: FrameTable, has_blocks: bool, rule: str) -> str:
    """Return what the figures of an evaluation rest on, with a warning if few frames are bad."""
    facts = split_facts(frames, has_blocks)
    of = 'blocks unknown' if facts['blocks'] is None else f'{facts["blocks"]} blocks'
    found = (f'{facts["frames"]} frames ({of}) were measured, of which {facts["bad"]} are bad by '
             f'{rule!r}.')
    if facts['bad'] >= FEWEST_BAD:
        return found
    return (f'{found} Less than {FEWEST_BAD} are too few to say how bad frames are ranked or '
            f'refused. {iou_sentence(iou_facts(frames.mean_iou))}')
