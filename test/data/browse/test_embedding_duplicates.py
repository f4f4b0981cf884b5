# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Embeddings from score to select: what is stored, and duplicates that the hash does not find."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import make_tiny_bundle
import cv2
import numpy as np
import pytest

pq = pytest.importorskip('pyarrow.parquet', reason='pyarrow is not installed: no score table')

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.data.selection.run import vectors_of  # noqa: E402
from uncertainty_seg.sim.scene import render_scene  # noqa: E402
from uncertainty_seg.storage.perceptual_hash import hash_distance, perceptual_hash  # noqa: E402
from uncertainty_seg.storage.score_rows import read_rows  # noqa: E402


def textured(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def scored(folder: Path, model: str, pictures: list[np.ndarray]) -> Path:
    """Score pictures as a folder; a table."""
    (folder / 'seen').mkdir(parents=True)
    for k, picture in enumerate(pictures):
        cv2.imwrite(str(folder / 'seen' / f'{k:03}.png'), picture)
    assert main(['score', str(folder / 'seen'), '--out', str(folder / 'table'), '--model', model,
                 '--backend', 'onnxruntime']) == 0
    return folder / 'table'


def chosen(table: Path, out: Path, *options: str) -> list[int]:
    assert main(['select', str(table), '-o', str(out), '--sheet', '0', *options]) == 0
    return sorted(pq.read_table(out / 'selection.parquet').column('index').to_pylist())


def test_a_table_holds_mean_and_deviation_of_the_trunk_without_the_padding(tmp_path: Path) -> None:
    # Wide, so that the network gets it with rows of padding above and below.
    pictures = [textured(k, 24, 64) for k in range(3)]
    table = scored(tmp_path, str(make_tiny_bundle(tmp_path / 'tiny')), pictures)
    found = vectors_of(read_rows(table), 'embedding')
    assert found is not None and found.shape == (3, 6)
    for vector, picture in zip(found, pictures, strict=True):
        # The tiny trunk: means of blocks of 4x4 pixels.
        blocks = picture.reshape(6, 4, 16, 4, 3).mean((1, 3)).reshape(-1, 3) / 255
        wanted = np.concatenate([blocks.mean(0), blocks.std(0)])
        np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), atol=1e-4)


def test_mirrored_frames_are_one_to_the_network_and_two_to_the_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [picture for k in range(6)
                for picture in (textured(k), np.ascontiguousarray(textured(k)[:, ::-1]))]
    table = scored(tmp_path, str(make_tiny_bundle(tmp_path / 'tiny')), pictures)
    words = ('-n', '12', '--strategy', 'top-k')
    assert chosen(table, tmp_path / 'plain', *words) == list(range(12))
    capsys.readouterr()
    kept = chosen(table, tmp_path / 'out', *words, '--min-feature-distance', '1e-5')
    assert [k // 2 for k in kept] == list(range(6))
    got = capsys.readouterr()
    facts = json.loads(got.out.splitlines()[-1])
    assert facts['near_duplicates'] == 6 and facts['min_feature_distance'] == 1e-5
    header = (tmp_path / 'out' / 'selection.csv').read_text().splitlines()[0]
    assert 'embedding' not in header and 'phash' in header
    # With 0 bits only the network joins frames, and a random draw says what it is not.
    assert [k // 2 for k in chosen(table, tmp_path / 'only', *words, '--min-distance', '0',
                                   '--min-feature-distance', '1e-5')] == list(range(6))
    capsys.readouterr()
    chosen(table, tmp_path / 'drawn', '-n', '6', '--strategy', 'random', '--min-distance', '0',
           '--min-feature-distance', '1e-5')
    assert '6 near duplicates were left out (--min-feature-distance)' in capsys.readouterr().err


def moved(image: np.ndarray, share: float) -> np.ndarray:
    """Return what the camera sees when it turns: the edge that comes in is new."""
    down, right = (round(share * side) for side in image.shape[:2])
    return cv2.copyMakeBorder(image[down:, right:], 0, down, 0, right, cv2.BORDER_REFLECT)


@pytest.mark.release
def test_planted_views_that_the_hash_misses_are_found_by_the_shipped_network(
    tmp_path: Path
) -> None:
    pytest.importorskip('openvino', reason='openvino is not installed')
    scenes = [render_scene(seed, size=(320, 240), turbidity=0.1).image for seed in range(8)]
    views = [view for scene in scenes for view in (scene, moved(scene, 0.08))]
    bits = [hash_distance(perceptual_hash(a), perceptual_hash(b))
            for a, b in zip(views[::2], views[1::2], strict=True)]
    assert sum(far >= 12 for far in bits) >= 6  # the hash misses nearly all of them
    table = scored(tmp_path, 'pipeline', views)
    vectors = vectors_of(read_rows(table), 'embedding')
    assert vectors is not None
    far = 1 - vectors @ vectors.T
    mine = np.arange(16) // 2
    # Seven of eight are nearer to their own view than any two scenes are to each other.
    least = float(far[mine[:, None] != mine].min())
    assert 0.005 < least and (far[0::2, 1::2].diagonal() < 0.005).sum() >= 7
    words = ('-n', '16', '--strategy', 'top-k')
    plain = chosen(table, tmp_path / 'plain', *words)
    kept = chosen(table, tmp_path / 'out', *words, '--min-feature-distance', '0.005')
    assert len(plain) >= 14
    assert sorted({k // 2 for k in kept}) == list(range(8)) and len(kept) <= 9


def without_embeddings(table: Path, folder: Path) -> Path:
    """Write a table as an older release, or a runtime that keeps no features, does."""
    folder.mkdir()
    rows = read_rows(table)
    text = json.loads(rows.schema.metadata[b'uncertainty_seg.table'])
    del text['num_embedding']
    pq.write_table(rows.drop_columns(['embedding']).replace_schema_metadata(
        {b'uncertainty_seg.table': json.dumps(text).encode()}), folder / 'part.parquet')
    return folder


def test_tables_with_and_without_embeddings_are_of_one_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(make_tiny_bundle(tmp_path / 'tiny'))
    old = without_embeddings(scored(tmp_path / 'a', model, [textured(0), textured(1)]),
                             tmp_path / 'old')
    new = scored(tmp_path / 'b', model, [textured(2), textured(3), textured(4)])
    for k, (one, other) in enumerate(((old, new), (new, old))):
        assert main(['select', str(one), str(other), '-n', '5', '-o', str(tmp_path / f'both {k}'),
                     '--sheet', '0', '--strategy', 'top-k']) == 0
        picks = tmp_path / f'both {k}' / 'selection.parquet'
        assert len(pq.read_table(picks)) == 5
        # A selection is a table again, and says that it has none.
        assert chosen(picks, tmp_path / f'again {k}', '-n', '5', '--strategy', 'top-k') != []
        assert main(['select', str(picks), '-n', '2', '-o', str(tmp_path / 'no'),
                     '--min-feature-distance', '0.1']) == 2
    capsys.readouterr()
    assert chosen(new, tmp_path / 'out', '-n', '3', '--labelled', str(old)) == [0, 1, 2]
    assert 'another model' not in capsys.readouterr().err


def test_distances_of_a_choice_are_those_of_the_column_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two scenes and their mirrors: the features tell all four apart, the network only two.
    pictures = [textured(0), textured(0)[:, ::-1].copy(), textured(1), textured(1)[:, ::-1].copy()]
    table = scored(tmp_path, str(make_tiny_bundle(tmp_path / 'tiny')), pictures)
    words = ('-n', '2', '--strategy', 'k-centre', '--min-gap', '0', '--distances')
    assert {k // 2 for k in chosen(table, tmp_path / 'net', *words, 'embedding')} == {0, 1}
    rows = read_rows(table)
    seen = vectors_of(rows, 'features')
    assert seen is not None and np.linalg.norm(seen[0] - seen[1]) > 0.01
    # A table of an older release has no embeddings, which is said.
    old = without_embeddings(table, tmp_path / 'old')
    assert chosen(old, tmp_path / 'fine', '-n', '2') != []
    for option in (('--distances', 'embedding'), ('--min-feature-distance', '0.1')):
        capsys.readouterr()
        assert main(['select', str(old), '-n', '2', '-o', str(tmp_path / 'no'), *option]) == 2
        err = capsys.readouterr().err
        assert 'the table has no embeddings of the network' in err and err.count('\n') == 1
