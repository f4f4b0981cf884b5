# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Networks of many kinds compile to equal networks: the part of the zoo that CI runs.

Each bundle is compared with a copy of the network that the package never gets, run by torch: with
dropout off on two images, and in the distribution of the maps of the passes. `scripts/zoo` does
the same with the whole list and more passes.
"""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
pytest.importorskip('torchvision')

from zoo_check import (  # noqa: E402
    agreement,
    AGREES,
    Effort,
    GROUP,
    Groups,
    LEAST_CHANCE,
    maps_of_passes,
    REFUSED,
)
from zoo_list import CI, CI_REFUSED, QUICK, ROWS  # noqa: E402
from zoo_run import run_row  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures('one_thread')]
# No time limit, so that every run draws the same passes.
EFFORT = Effort(passes=64, eager_s=1e9, has_cost=False)
RARE = Effort(passes=256, eager_s=1e9, has_cost=False)


@pytest.mark.parametrize('name', [name if name in QUICK else pytest.param(
    name, marks=pytest.mark.release) for name in CI])
def test_a_network_of_the_zoo_agrees_with_itself(name: str, tmp_path: Path) -> None:
    said = run_row(ROWS[name], tmp_path, RARE if name.startswith('paths') else EFFORT)
    assert said['outcome'] == AGREES, said
    # Otherwise equality would prove little.
    assert said['sites'] > 0 and said['mutual_information'][1] > 1e-4, said


@pytest.mark.parametrize('name', CI_REFUSED)
def test_what_would_be_wrong_is_refused_in_words(name: str, tmp_path: Path) -> None:
    said = run_row(ROWS[name], tmp_path, EFFORT)
    assert said['outcome'] == REFUSED and CI_REFUSED[name] in said['why'], said


# --- the check detects differences ---------------------------------------------------------------


def passes(seed: int, rate: float = 0.3, channels: int = 8, is_shared: bool = False) -> Groups:
    """Draw logits that are sums of channels, which are dropped independently or together."""
    rng, groups = np.random.default_rng(seed), Groups()
    weights = np.random.default_rng(9).normal(size=(4, channels, 6, 8))
    for _ in range(32):
        shape = (GROUP, 1 if is_shared else channels)
        masks = (rng.random(shape) >= rate) / (1 - rate) * np.ones((1, channels))
        groups.add(*maps_of_passes(np.einsum('tc,kchw->tkhw', masks, weights)))
    return groups


def test_draws_of_one_distribution_agree() -> None:
    chances = [agreement(passes(seed), passes(seed + 100))['chance'] for seed in range(20)]
    assert min(chances) > LEAST_CHANCE


def test_another_rate_and_one_mask_for_all_channels_are_found() -> None:
    assert agreement(passes(1), passes(2, rate=0.4))['chance'] < LEAST_CHANCE
    assert agreement(passes(1), passes(2, is_shared=True))['chance'] < LEAST_CHANCE
