# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Embeddings of a trunk: by hand, mixed, and as what joins frames that look alike."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.data.scoring.embedding import embedding_length, frame_embedding, MOST_VALUES
from uncertainty_seg.data.selection import near_duplicates
from uncertainty_seg.data.selection.near_duplicates import stand_ins
from uncertainty_seg.data.selection.pool import Candidates, SelectionRequest
from uncertainty_seg.data.selection.strategies import select
from uncertainty_seg.errors import ConfigError, ShapeError

Vectors = NDArray[np.float32]


def test_it_is_mean_and_deviation_of_each_channel_at_unit_length() -> None:
    planes = np.array([[[1, 3], [1, 3]], [[0, 0], [0, 0]]], np.float32)[None]
    # Means 2 and 0, deviations 1 and 0.
    np.testing.assert_allclose(frame_embedding(planes), np.array([2, 0, 1, 0]) / 5**0.5)
    assert embedding_length(2) == 4 and embedding_length(0) == 0


def test_many_channels_are_mixed_to_fewer_and_their_angles_stay() -> None:
    rng = np.random.default_rng(0)
    frames = [rng.gamma(1.0, size=(1, 900, 3, 4)).astype(np.float32) * rng.gamma(
        0.3, size=(1, 900, 1, 1)).astype(np.float32) for _ in range(12)]
    mixed = np.stack([frame_embedding(frame) for frame in frames])
    assert mixed.shape == (12, embedding_length(900)) == (12, MOST_VALUES)
    np.testing.assert_allclose(np.linalg.norm(mixed, axis=1), 1, rtol=1e-5)
    flat = [np.concatenate([f[0].mean((1, 2)), f[0].std((1, 2))]) for f in frames]
    whole = np.stack([vector / np.linalg.norm(vector) for vector in flat])
    above = np.triu_indices(12, 1)
    near, far = ((1 - vectors @ vectors.T)[above] for vectors in (mixed, whole))
    assert 0.85 < np.median(near / far) < 1.15


@pytest.mark.parametrize('value', [np.nan, np.inf, 0.0])
def test_what_is_no_direction_is_nan(value: float) -> None:
    assert np.isnan(frame_embedding(np.full((1, 3, 2, 2), value, np.float32))).all()


def by_all_pairs(
    hashes: NDArray[np.uint64], vectors: Vectors, order: NDArray[np.int64], bits: int, angle: float
) -> list[int]:
    """Go down the list and compare with all that stay, in float64."""
    staying: list[int] = []
    owners = list(range(len(hashes)))
    for row in order:
        alike = [k for k in staying if bin(int(hashes[k]) ^ int(hashes[row])).count('1') < bits
                 or 1 - float(vectors[k].astype(float) @ vectors[row].astype(float)) < angle]
        if alike:
            owners[row] = alike[0]
        else:
            staying.append(int(row))
    return owners


def frames(seed: int, count: int) -> tuple[NDArray[np.uint64], Vectors]:
    """Frames of a few scenes, by two sights of them that do not agree."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, 8, np.uint64)[rng.integers(0, 8, count)]
    hashes ^= np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)
    angles = rng.choice(rng.uniform(0, np.pi / 2, 6), count) + rng.normal(0, 0.01, count)
    return hashes, np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


@pytest.mark.parametrize('block', [3, 1024])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), bits=st.sampled_from([0, 2, 9]),
       angle=st.sampled_from([1e-4, 0.01, 0.2]))
def test_hash_and_embedding_together_are_what_comparing_all_pairs_finds(
    block: int, seed: int, count: int, bits: int, angle: float
) -> None:
    hashes, vectors = frames(seed, count)
    order = np.random.default_rng(seed + 1).permutation(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, '_BLOCK', block)
        patch.setattr(near_duplicates, '_PAIRS', 4 * block)
        found = stand_ins(hashes, order, bits, vectors, angle)
    wanted = by_all_pairs(hashes, vectors, order, bits, angle)
    # A pair at the very limit may fall on either side in float32.
    cosines = (vectors.astype(float) @ vectors.T.astype(float))[np.triu_indices(count, 1)]
    if not (abs(1 - cosines - angle) < 1e-6).any():
        assert found.tolist() == wanted


def test_a_frame_without_an_embedding_is_like_no_other() -> None:
    vectors = np.array([[1, 0], [np.nan, np.nan], [1, 0], [np.nan, np.nan]], np.float32)
    assert stand_ins(np.arange(4, dtype=np.uint64), np.arange(4), 0, vectors, 0.1).tolist() == [
        0, 1, 0, 3]


def test_what_cannot_be_asked_is_refused() -> None:
    hashes, order = np.arange(3, dtype=np.uint64), np.arange(3)
    with pytest.raises(ConfigError, match='a least distance of embeddings of 1.5, expected 0 to'):
        stand_ins(hashes, order, 1, np.zeros((3, 2), np.float32), 1.5)
    with pytest.raises(ShapeError, match='2 embeddings of 3 frames'):
        stand_ins(hashes, order, 1, np.zeros((2, 2), np.float32), 0.5)


def pool(vectors: Vectors | None, first: int = 0) -> Candidates:
    """Frames whose hashes are far apart, the later the more uncertain."""
    count = 4 if vectors is None else len(vectors)
    rng = np.random.default_rng(first)
    return Candidates(
        keys=np.array([f'k{first + i}' for i in range(count)], object),
        dives=np.array(['dive'] * count, object), scores=np.arange(count) + 1.0,
        hashes=rng.integers(0, 2**64, count, np.uint64), embeddings=vectors)


TURNS = np.array([0.0, 0.01, 1.0, 1.01])
PAIRS = np.stack([np.cos(TURNS), np.sin(TURNS)], 1).astype(np.float32)
ASKED = SelectionRequest('top-k', 4, min_distance=12, min_feature_distance=0.001)


def test_of_frames_alike_to_the_network_the_most_uncertain_stays() -> None:
    found = select(pool(PAIRS), ASKED)
    assert found.rows.tolist() == [3, 1] and found.stands_for.tolist() == [1, 1]
    assert found.num_duplicates == 2
    plain = select(pool(PAIRS), replace(ASKED, min_feature_distance=0.0))
    assert plain.rows.tolist() == [3, 2, 1, 0]


def test_what_the_network_sees_as_a_labelled_frame_is_left_out() -> None:
    found = select(pool(PAIRS), ASKED, pool(PAIRS[:1], first=100))
    assert found.rows.tolist() == [3]
    # Of another model, whose embeddings say nothing of these.
    for other in (None, np.ones((4, 5), np.float32)):
        assert select(pool(PAIRS), ASKED, pool(other, first=100)).rows.tolist() == [3, 1]


def test_a_table_without_embeddings_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match='no embeddings of the network, .*--min-feature-dist'):
        select(pool(None), ASKED)
