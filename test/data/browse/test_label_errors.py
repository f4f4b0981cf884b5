# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Suspected label errors: by hand, and swaps planted into made scenes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.data.browse.label_errors import LabelCheck
from uncertainty_seg.errors import ShapeError

H, W, UNKNOWN = 40, 60, 255
Boxes = list[tuple[int, int, int, int, int]]


def painted(*boxes: tuple[int, int, int, int, int]) -> NDArray[np.uint8]:
    """Return a mask with boxes of (class, left, top, width, height) on class 0."""
    mask = np.zeros((H, W), np.uint8)
    for index, left, top, width, height in boxes:
        mask[top:top + height, left:left + width] = index
    return mask


def sure(value: float, mask: NDArray[np.uint8], **of_class: float) -> NDArray[np.float32]:
    """Return a margin that is `value`, and others where a class was predicted."""
    margin = np.full(mask.shape, value, np.float32)
    for name, other in of_class.items():
        margin[mask == int(name[1:])] = other
    return margin


def test_a_region_is_named_with_its_classes_box_share_and_margin() -> None:
    check = LabelCheck(3, UNKNOWN)
    seen = painted((1, 10, 5, 20, 10))
    check.add('a', painted((2, 10, 5, 20, 10)), seen, sure(1.0, seen, c1=0.8))
    check.add('b', seen, seen, sure(1.0, seen, c1=0.8))
    (found,) = check.suspects()
    assert (found.frame, found.given, found.predicted, found.box) == ('a', 2, 1, (10, 5, 20, 10))
    assert found.margin == pytest.approx(0.8) and found.share == 200 / (H * W)
    # All pixels labelled 2 are predicted 1: nobody could tell this from the network's confusion.
    assert found.evidence == 0
    assert check.usual() == pytest.approx([1, 0.8, 0]) and check.num_frames == 2


def test_what_nobody_knows_and_what_is_only_an_edge_is_no_error() -> None:
    check = LabelCheck(3, UNKNOWN)
    given = painted((1, 10, 5, 20, 10))
    given[20:] = UNKNOWN
    # Two pixels wider on each side, and a whole object where nobody knows.
    seen = painted((1, 8, 3, 24, 14), (2, 10, 25, 20, 10))
    check.add('a', given, seen, sure(1.0, seen))
    assert check.suspects() == []


def test_two_objects_are_two_regions_and_touching_classes_are_too() -> None:
    check = LabelCheck(4, UNKNOWN)
    seen = painted((1, 2, 2, 10, 10), (1, 30, 2, 10, 10), (2, 40, 2, 10, 10))
    check.add('a', np.zeros_like(seen), seen, sure(1.0, seen))
    assert sorted((one.predicted, one.box[0]) for one in check.suspects()) == [
        (1, 2), (1, 30), (2, 40)]


def test_a_network_that_is_not_sure_accuses_nobody() -> None:
    check = LabelCheck(3, UNKNOWN)
    right, seen = painted((1, 10, 5, 20, 10)), painted((1, 10, 5, 20, 10), (1, 40, 20, 12, 12))
    margin = sure(0.9, seen)
    margin[20:32, 40:52] = 0.44  # below half of the usual 0.9
    check.add('a', right, seen, margin)
    assert check.suspects() == []
    margin[20:32, 40:52] = 0.46
    check.add('b', right, seen, margin)
    assert [one.frame for one in check.suspects()] == ['b']
    margin[20:32, 40:52] = np.nan  # a broken number is no evidence
    check.add('c', right, seen, margin)
    assert [one.frame for one in check.suspects()] == ['b']


def test_a_confusion_that_the_network_makes_anyway_counts_less_than_a_rare_one() -> None:
    check = LabelCheck(4, UNKNOWN)
    for k in range(9):  # 2 is seen as 1 in every third frame
        given = painted((2, 5, 5, 20, 20), (3, 30, 5, 20, 20))
        seen = painted((1 if k % 3 == 0 else 2, 5, 5, 20, 20), (3, 30, 5, 20, 20))
        check.add(f'f{k}', given, seen, sure(0.9, seen))
    seen = painted((1, 30, 5, 20, 20))
    check.add('planted', painted((3, 30, 5, 20, 20)), seen, sure(0.9, seen))
    found = check.suspects()
    assert [one.frame for one in found] == ['planted', 'f0', 'f3', 'f6']
    assert found[0].evidence == pytest.approx(0.9 * found[0].share**0.25 * 0.9, rel=0.01)


def test_the_order_of_frames_is_nothing() -> None:
    rng = np.random.default_rng(0)
    frames = [(f'f{k}', *(painted(*[(int(rng.integers(1, 4)), *rng.integers(0, 20, 2),
                                     *rng.integers(8, 20, 2)) for _ in range(3)])
                          for _ in range(2)), rng.random((H, W), np.float32)) for k in range(6)]
    lists = []
    for order in (frames, frames[::-1]):
        check = LabelCheck(4, UNKNOWN)
        for frame in order:
            check.add(*frame)
        lists.append(check.suspects())
    assert lists[0] == lists[1] and len(lists[0]) > 3


def test_what_does_not_fit_is_refused() -> None:
    check, seen = LabelCheck(2, UNKNOWN), painted((1, 0, 0, 9, 9))
    with pytest.raises(ShapeError, match='one size'):
        check.add('a', seen[1:], seen, sure(1.0, seen))
    with pytest.raises(ShapeError, match='a class id of 2, expected 0 to 1'):
        check.add('a', painted((2, 0, 0, 9, 9)), seen, sure(1.0, seen))
