# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What makes the networks of a deep ensemble differ, and what they share.

Full networks cost the most and differ the most. Decoders or last blocks on the frozen trunk of a
first network cost a share of it, in training and at run time: the graph computes once what is the
same bit for bit. Snapshots are taken from one training run, whose learning rate falls and rises
again, and cost nothing in training.

Packed or grouped members are not offered. They save time where a device computes M narrow
networks as fast as a wide one, which was published for mixed precision on GPUs; on a CPU their
grouped convolutions do the same multiply-adds as separate networks, and what they save in those
they save by being smaller.

References
----------
Lakshminarayanan et al., 2017, arXiv:1612.01474; Huang et al., 2017, arXiv:1704.00109 (snapshots);
Valdenegro-Toro, 2019, arXiv:1910.08168 (sub-ensembles); Laurent et al., 2023, arXiv:2210.09184
(packed).

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from uncertainty_seg.errors import TrainingError
from uncertainty_seg.storage.labelled_folder import LabelledFolder, require_classes, subset
from uncertainty_seg.training.encoders import encoder_kind
from uncertainty_seg.training.fit.run import FitSettings

_T = TypeVar('_T')
# What each member but the first has in common with it, a part that `PyramidNet.freeze` knows.
SHARED_PART = {'nets': '', 'decoders': 'encoder', 'heads': 'trunk', 'snapshots': ''}
KINDS = tuple(SHARED_PART)
# Between the seeds of members; folds are counted in between.
SEED_STEP = 1000


@dataclass(frozen=True)
class EnsemblePlan:
    """
    How the networks of a deep ensemble come about.

    Attributes
    ----------
    count : int
        M, at least 2.
    kind : str
        'nets': M full networks. 'decoders': M decoders on the encoder of the first one. 'heads':
        M last blocks and classifiers on all before them. 'snapshots': M stages of one run.
    encoders, encoder_rates, iou_weights : tuple
        Of 'nets', each by turns: names, and values of `FitSettings`; empty for the recipe's.
    has_bootstrap : bool
        Each network is trained on as many images as there are, drawn with replacement.

    Raises
    ------
    TrainingError
        If these contradict each other.

    """

    count: int
    kind: str = 'nets'
    encoders: tuple[str, ...] = ()
    encoder_rates: tuple[float, ...] = ()
    iou_weights: tuple[float, ...] = ()
    has_bootstrap: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TrainingError(f'no kind of ensemble {self.kind!r}', f'one of {", ".join(KINDS)}')
        if self.count < 2:
            raise TrainingError(f'an ensemble of {self.count}', 'at least two networks',
                                'raise --members, or take another --method')
        for what, values in (('encoders', self.encoders), ('encoder rates', self.encoder_rates),
                             ('weights of the IoU loss', self.iou_weights)):
            if len(values) > 1 and self.kind != 'nets':
                raise TrainingError(f'{len(values)} {what} for {self.kind} of one trunk',
                                    'one of them', 'take --kind nets to mix them')
            if len(values) > self.count:
                raise TrainingError(f'{len(values)} {what} for {self.count} members',
                                    'at most one a member')
        if self.has_bootstrap and self.kind == 'snapshots':
            raise TrainingError('a bootstrap of snapshots, which are of one run',
                                'another kind', 'leave --bootstrap out')
        for name in self.encoders:
            encoder_kind(name)

    def encoder(self, index: int, default: str) -> str:
        """Return the encoder of a member."""
        return _turn(self.encoders, index, default)

    def fit(self, index: int, default: FitSettings) -> FitSettings:
        """Return the settings that a member is trained with, but for its seed."""
        return replace(default,
                       encoder_rate=_turn(self.encoder_rates, index, default.encoder_rate),
                       iou_weight=_turn(self.iou_weights, index, default.iou_weight))


def _turn(values: Sequence[_T], index: int, default: _T) -> _T:
    return values[index % len(values)] if values else default


def member_file(weights: Path, index: int) -> Path:
    """Return where the weights of a member are: NAME.2.pt for member 2 of NAME.pt."""
    return weights.with_name(f'{weights.stem}.{index}{weights.suffix}')


def bootstrap(data: LabelledFolder, seed: int) -> LabelledFolder:
    """
    Draw as many images as there are, with replacement; the same seed draws the same ones.

    Raises DatasetError if a class is lost that way.
    """
    count = len(data.stems)
    drawn = np.random.default_rng(seed).integers(0, count, count)
    part = subset(data, [int(i) for i in drawn])
    require_classes(part, data, f'the images drawn by the seed {seed}')
    return part
