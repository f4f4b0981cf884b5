# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The verb select without its files: read the tables, choose, and say what is worth saying."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
import math
from typing import Any

import numpy as np

from uncertainty_seg.core.selection import select, Selection
from uncertainty_seg.core.selection_pool import Candidates, SelectionRequest
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.storage.score_rows import info_of, TableInfo
from uncertainty_seg.tools.select_table import candidates_of, name_dives, read_table, score_column

RATIO = 'score_ratio'


@dataclass(frozen=True)
class SelectionOutcome:
    """
    What was chosen, from what, and how.

    Attributes
    ----------
    table : pyarrow.Table
        All rows; dives of one name are told apart.
    info : TableInfo
        Of the table.
    candidates : Candidates
        The same rows.
    request : Request
        What was asked for.
    selection : Selection
        What was chosen.
    remarks : list of str
        Sentences for who asked.

    """

    table: Any
    info: TableInfo
    candidates: Candidates
    request: SelectionRequest
    selection: Selection
    remarks: list[str]

    def summary(self) -> dict[str, Any]:
        """Return the line for scripts, and what the written table remembers."""
        chosen = self.selection
        return {**asdict(self.request), 'model': self.info.model,
                'model_sha256': self.info.model_sha256, 'chosen': len(chosen.rows),
                'candidates': chosen.num_candidates, 'near_duplicates': chosen.num_duplicates,
                'unscored': chosen.num_unscored, 'over_limit': chosen.num_over_limit,
                'dives': len(set(self.candidates.dives)),
                'dives_chosen': len(set(self.candidates.dives[chosen.rows]))}


def select_frames(args: argparse.Namespace) -> SelectionOutcome:
    """
    Choose as the arguments say; see the verb.

    Raises
    ------
    TableError
        If a table cannot be read, or is of another model.
    ConfigError
        If an option does not fit the table, or no frame is left to choose.

    """
    remarks: list[str] = []
    table = read_table(args.tables, remarks)
    if args.count > len(table):
        raise ConfigError(f'{args.count} frames were asked of {len(table)}',
                          f'at most {len(table)}', 'give a smaller -n, or more tables')
    info = info_of(table.schema)
    column = score_column(args.score, info)
    known = None
    if args.labelled:
        known = read_table(args.labelled, remarks, of=(info, args.tables[0]))
    table, known = name_dives(table, known, remarks)
    pool = candidates_of(table, info, column)
    labelled = None if known is None else candidates_of(known, info, column)
    request = _request(args, column, labelled)
    chosen = select(pool, request, labelled)
    if not len(chosen.rows):
        raise _nothing_left(pool, request, chosen)
    return SelectionOutcome(table, info, pool, request, chosen, remarks + _remarks(request, chosen))


def _request(args: argparse.Namespace, column: str, labelled: Candidates | None) -> SelectionRequest:
    cap = args.per_dive
    if isinstance(cap, float):
        cap = max(1, math.ceil(cap * args.count - 1e-9))
    return SelectionRequest(
        args.strategy, args.count, column.removeprefix('score.'), args.seed, args.beta,
        _limit(args, column, labelled) if args.strategy == 'threshold' else None, cap,
        args.min_gap, args.min_distance, args.unscored == 'skip')


def _limit(args: argparse.Namespace, column: str, labelled: Candidates | None) -> float:
    if args.limit is not None:
        return float(args.limit)
    if labelled is not None:
        known = labelled.scores[np.isfinite(labelled.scores)]
        if not len(known):
            raise ConfigError(f'no labelled frame has a {column}', 'some', 'give a --limit')
        return float(np.quantile(known, args.limit_quantile))
    if column == RATIO:
        return 1.0  # where the gate's own limit is
    raise ConfigError(f'the strategy threshold has no limit for {column}', 'a number',
                      'give --limit, or --labelled tables to take it from')


def _nothing_left(pool: Candidates, request: SelectionRequest, chosen: Selection) -> ConfigError:
    if request.strategy == 'threshold' and chosen.num_candidates > chosen.num_duplicates:
        known = pool.scores[np.isfinite(pool.scores)]
        largest = f'the largest is {known.max():.6g}' if len(known) else 'none has one'
        return ConfigError(f'no frame has a {request.score_name} above the limit '
                           f'{request.limit:.6g}: {largest}', '', 'give a lower --limit')
    return ConfigError(
        f'no frame is left of {chosen.num_candidates}: {chosen.num_duplicates} look like others, '
        f'{chosen.num_unscored} could not be scored', 'some', 'score more dives')


def _remarks(request: SelectionRequest, chosen: Selection) -> list[str]:
    said = []
    if len(chosen.rows) < request.count:
        why = [f'{chosen.num_duplicates} look like others']
        if request.limit is not None:
            why.append(f'{chosen.num_over_limit} are above the limit {request.limit:.6g}')
        if request.skips_unscored:
            why.append(f'{chosen.num_unscored} could not be scored')
        if chosen.is_capped:
            why.append(f'no dive may give more than {request.per_dive}')
        if request.min_gap_s:
            why.append(f'those of a dive are {request.min_gap_s:g} s apart')
        said.append(f'only {len(chosen.rows)} of the {request.count} frames asked for were left '
                    f'of {chosen.num_candidates}: {", ".join(why)}.')
    if chosen.num_unscored and not request.skips_unscored:
        said.append(f'{chosen.num_unscored} of the frames could not be scored: '
                    + ('drawn as any other.' if request.strategy == 'random'
                       else 'first to be chosen (--unscored skip leaves them out).'))
    return said
