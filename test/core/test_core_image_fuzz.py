# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""No message ends the process: each is refused in one sentence or shown as the oracle says."""

import resource

from hypothesis import given, settings
from hypothesis import strategies as st
from image_fuzz import check_file_message, check_raw, Fuzzer, HUGE, STRANGE
from image_oracle import EVERY
import pytest

from uncertainty_seg.core.image_codec import ImageFile, RawImage

QUICK, MANY = 2500, 100_000
MAX_GROWTH_KB = 200_000
Sizes = st.one_of(st.integers(0, 9), st.sampled_from(HUGE))


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


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300), Sizes, Sizes, st.one_of(st.sampled_from([*EVERY, *STRANGE]),
                                                        st.text(max_size=20)),
       st.one_of(st.integers(0, 100), st.sampled_from(HUGE)), st.booleans())
def test_any_fields_of_an_image(
    data: bytes, height: int, width: int, encoding: str, step: int, is_bigendian: bool
) -> None:
    check_raw(RawImage(data, height, width, encoding, step, is_bigendian))


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=200),
                 st.binary(max_size=200).map(lambda tail: b'\xff\xd8\xff' + tail),
                 st.binary(max_size=200).map(lambda tail: b'\x89PNG\r\n\x1a\n' + tail)),
       st.text(max_size=40))
def test_any_bytes_as_a_file(data: bytes, text: str) -> None:
    check_file_message(ImageFile(data, text), None)
