# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What every runtime offers, and what it requires of an image and its masks before a run.

It also decides how many passes run at once, and on how many threads.

Each runtime's file has the same methods in the same order: opening, `run`, `timings_ms`, `close`.

"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
import math
import os
from pathlib import Path

import numpy as np

from uncertainty_seg.core.arrays import FloatMap, ImageU8, require_shape
from uncertainty_seg.core.dropout_masks import Masks
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.uncertainty import MapRequest, NO_MORE, UncertaintyMaps
from uncertainty_seg.errors import ShapeError

_CPU_QUOTA_FILE = Path('/sys/fs/cgroup/cpu.max')
# Beyond this many passes a call the fixed cost of a call no longer shows.
MAX_CHUNK = 20
MEGABYTE = 2**20


class Runner(AbstractContextManager['Runner'], abc.ABC):
    """
    A bundle that is open in a runtime; a context manager that closes it.

    Attributes
    ----------
    name : str
        A key of `registry.OPENERS`.

    """

    name: str
    _timings_ms: Mapping[str, float] = {}

    @abc.abstractmethod
    def run(
        self, image: ImageU8, masks: Masks, temperature: float, request: MapRequest = NO_MORE
    ) -> UncertaintyMaps:
        """
        Compute the maps of one image.

        Parameters
        ----------
        image : ndarray of uint8, shape (h, w, 3)
            In the card's size and colour order.
        masks : mapping of str to ndarray of float32, shape (T, *site.shape)
            One array, or `LazyRows`, for each dropout site. A mapping is not changed once it was
            given: a runtime may keep the masks of the same object where they are.
        temperature : float
            The logits are divided by it.
        request : MapRequest
            What is wanted besides the maps that every frame has.

        Returns
        -------
        UncertaintyMaps
            Of shape (h, w); NaN where a logit that counts was NaN or infinite.

        Raises
        ------
        ShapeError
            If image or masks do not fit the card.
        BackendError
            If the runtime or the device fails, or the backend is closed.
        ModelBundleError
            If the graphs do not give what a map of the request is made of.

        """

    def last_features(self) -> FloatMap | None:
        """
        Return what the trunk made of the last image, float32 (1, D, hf, wf).

        It is the output `feature_map` of a bundle that has one, and else the coarsest plane that
        the head takes. None before the first image, and where the runtime keeps none.
        """
        return None

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """Milliseconds of each stage of the last run: 'trunk', 'head', 'reduction'."""
        return self._timings_ms

    @abc.abstractmethod
    def close(self) -> None:
        """Free graphs, buffers and threads; may be called twice."""

    def __exit__(self, *_error: object) -> None:
        self.close()


def require_inputs(card: ModelCard, image: ImageU8, masks: Masks) -> int:
    """
    Refuse what the network was not made for.

    Parameters
    ----------
    card : ModelCard
        Says what it was made for.
    image : ndarray of uint8, shape (h, w, 3)
        The fitted image.
    masks : mapping of str to ndarray of float32, shape (T, *site.shape)
        One array for each dropout site of the card; none for a single pass.

    Returns
    -------
    int
        T, which all masks agree on.

    Raises
    ------
    ShapeError
        If the image has another size or dtype, a mask is missing or unknown, or the masks
        disagree about T.

    """
    require_shape('image', image, (card.input.height, card.input.width, 3), np.uint8)
    wanted = {site.name: site.shape for site in card.dropout_sites}
    if set(masks) != set(wanted):
        raise ShapeError(f'masks for {sorted(masks)}', f'{sorted(wanted)}, the sites of the card')
    for name, shape in wanted.items():
        require_shape(f'mask {name!r}', masks[name], (None, *shape), np.float32)
    counts = {name: len(mask) for name, mask in masks.items()}
    passes = min(counts.values(), default=1)
    if passes < 1 or len(set(counts.values())) > 1:
        raise ShapeError(f'masks for {counts} passes', 'the same T >= 1 for every site')
    return passes


def usable_threads(wanted: int) -> int:
    """
    Return the threads asked for, or with 0 as many as this process may use.

    That is the number of cores in its affinity, or fewer where a container grants less.

    """
    if wanted > 0:
        return wanted
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_QUOTA_FILE.read_text().split()
        granted = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup, or 'max': nothing is held back
        granted = cores
    return max(1, min(cores, granted))


@dataclass(frozen=True)
class Chunking:
    """How many passes run at once (the last chunk may be shorter), and why, for the log."""

    passes: int
    reason: str


def choose_chunk(total: int, bytes_a_pass: int, budget_mb: int, fixed: int = 0) -> Chunking:
    """
    Split T passes in chunks of nearly the same size that fit in the budget.

    Parameters
    ----------
    total : int
        T.
    bytes_a_pass : int
        Memory that one more pass in a chunk takes.
    budget_mb : int
        Memory that a chunk may take.
    fixed : int
        Passes that the head takes, if it takes no other number; 0 if it takes any.

    Returns
    -------
    Chunking
        At least one pass, at most `MAX_CHUNK`, whatever the budget; `fixed` if that is given.

    """
    if fixed:
        size = f'{bytes_a_pass / MEGABYTE:.1f} MB a pass'
        return Chunking(fixed, f'the head takes no other number: {size}')
    fitting = budget_mb * MEGABYTE // max(bytes_a_pass, 1)
    limit = max(1, min(total, fitting, MAX_CHUNK))
    passes = math.ceil(total / math.ceil(total / limit))
    size = f'{bytes_a_pass / MEGABYTE:.1f} MB a pass, budget {budget_mb} MB'
    if fitting < 1:
        return Chunking(1, f'not even one pass fits: {size}')
    if limit == total:
        return Chunking(passes, f'all fit at once: {size}')
    bound = 'the budget' if fitting < MAX_CHUNK else f'the bound of {MAX_CHUNK} a chunk'
    return Chunking(passes, f'equal chunks within {bound}: {size}')
