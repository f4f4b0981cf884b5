# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Random messages: each is refused with one sentence, or decoded to the oracle's pixels."""

import resource

from image_fuzz import check_file_message, check_raw, Fuzzer
import pytest

QUICK, MANY = 2500, 100_000
MAX_GROWTH_KB = 200_000


def largest_memory_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize('count', [QUICK, pytest.param(MANY, marks=pytest.mark.release)])
def test_images_at_random(count: int) -> None:
    fuzzer = Fuzzer(seed=count)
    num_shown = sum(check_raw(fuzzer.raw()) for _ in range(count))
    assert 0.2 * count < num_shown < 0.8 * count


@pytest.mark.parametrize('count', [QUICK, pytest.param(MANY, marks=pytest.mark.release)])
def test_files_at_random(count: int) -> None:
    fuzzer, before_kb = Fuzzer(seed=count), largest_memory_kb()
    num_shown = sum(check_file_message(*fuzzer.file()) for _ in range(count))
    assert largest_memory_kb() - before_kb < MAX_GROWTH_KB
    assert 0.1 * count < num_shown < 0.8 * count
