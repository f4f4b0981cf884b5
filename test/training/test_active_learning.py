# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Rounds of active learning on plain images, of which it is known what each strategy takes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
import shutil

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from ramp_nets import GREY, WHITE, write_greys  # noqa: E402

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.errors import ConfigError, DatasetError, UncertaintySegError  # noqa: E402
from uncertainty_seg.storage import whole_files  # noqa: E402
from uncertainty_seg.training import active_learning  # noqa: E402
from uncertainty_seg.training.active_learning import active_learn  # noqa: E402
from uncertainty_seg.training.recipes import ActiveRecipe, TrainRecipe  # noqa: E402

pytestmark = pytest.mark.torch
# Trains so slowly that the network stays what it is: middle grey is uncertain in every pass alike,
# and of white the passes disagree.
STILL = TrainRecipe(net='ramp_nets:ramp', size=(64, 64), batch=2, learning_rate=1e-9, passes=64)
GREYS = {f'grey_{k}': GREY + k for k in range(4)}
WHITES = {f'white_{k}': WHITE - k for k in range(3)}
ENTROPY = 'entropy.mean'


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the disk alone: hundreds of small files are flushed otherwise."""
    monkeypatch.setattr(whole_files, 'sync', lambda path: None)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return a folder with a pool of images alone, the same with masks, and test images."""
    write_greys(tmp_path / 'known', {'train': {**GREYS, **WHITES}, 'test': {'t': 40, 'u': 200}})
    (tmp_path / 'photos').mkdir()
    for stem in {**GREYS, **WHITES}:
        shutil.copy(tmp_path / 'known' / 'images' / f'{stem}.png', tmp_path / 'photos')
    return tmp_path


def plan(**keys: object) -> ActiveRecipe:
    return ActiveRecipe(**{'strategy': 'top-k', 'labels': (2, 4), 'steps': 2,
                           'label_format': 'folder', 'train': STILL, **keys})


def go(here: Path, recipe: ActiveRecipe, pool: str = 'known', out: str = 'out', **more: object
       ) -> tuple[list[dict], active_learning.Waiting | None]:
    return active_learn(recipe, str(here / pool), str(here / 'known'), here / out, threads=1,
                        **more)


def picks(here: Path, number: int, out: str = 'out') -> dict:
    found: dict = json.loads((here / out / f'round-{number}' / 'picks.json').read_text())
    return found


def begin(here: Path, *frames: str, out: str = 'out') -> None:
    """Write the picks of the start, as a draw might have been."""
    place = here / out / 'round-0'
    place.mkdir(parents=True, exist_ok=True)
    (place / 'picks.json').write_text(json.dumps({
        'frames': frames, 'scores': [None] * len(frames), 'reasons': [''] * len(frames),
        'threshold': None}))


# --- known labels -------------------------------------------------------------------------------


@pytest.mark.parametrize('keys, wanted', [
    ({'strategy': 'top-k'}, {'white_1', 'white_2'}),
    ({'strategy': 'top-k', 'score': ENTROPY}, {'grey_1', 'grey_2'}),
    ({'strategy': 'threshold'}, {'white_1', 'white_2'}),
    ({'strategy': 'threshold', 'threshold_sigma': 99.0}, set()),
])
def test_a_strategy_takes_the_frames_that_its_score_is_high_of(
    here: Path, keys: dict[str, object], wanted: set[str]
) -> None:
    begin(here, 'grey_0', 'white_0')
    rows, waiting = go(here, plan(**keys))
    assert waiting is None and [row['labelled'] for row in rows] == [2, 2 + len(wanted)]
    found = picks(here, 1)
    assert set(found['frames']) == wanted and len(found['reasons']) == len(wanted)
    assert (found['threshold'] is None) == (keys['strategy'] != 'threshold')
    assert rows[0]['mean_iou'] == pytest.approx(rows[1]['mean_iou'])  # it hardly learns


@pytest.mark.parametrize('strategy', ['random', 'k-centre', 'uncertainty-diversity'])
def test_every_strategy_runs_and_takes_what_was_not_taken(here: Path, strategy: str) -> None:
    rows, waiting = go(here, plan(strategy=strategy))
    first, second = (picks(here, number)['frames'] for number in (0, 1))
    assert waiting is None and len(rows) == 2
    assert len({*first, *second}) == 4


def test_the_rows_say_what_labels_cost_and_one_table_has_them(here: Path) -> None:
    rows, _ = go(here, plan(labels=(0.28, 0.57)))
    assert [(row['round'], row['labelled'], row['label_pixels']) for row in rows] == [
        (0, 2, 2 * 64 * 64), (1, 4, 4 * 64 * 64)]
    assert rows[1]['share'] == pytest.approx(4 / 7)
    with (here / 'out' / 'rounds.csv').open() as file:
        table = list(csv.DictReader(file))
    assert [float(row['mean_iou']) for row in table] == [row['mean_iou'] for row in rows]
    assert {'iou.left', 'iou.right'} <= set(table[0])
    # White is the first class to the network, and half of each mask: IoU 1/2 and 0, or the other.
    assert rows[0]['mean_iou'] == pytest.approx(1 / 3)


def test_a_run_that_was_stopped_goes_on_and_gives_the_same(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = go(here, plan(), out='whole')
    trained: list[Path] = []
    train = active_learning.train_weights

    def stopping(recipe: TrainRecipe, images: object, weights: Path, *more: object) -> None:
        if len(trained) == 1:
            trained.append(weights)
            raise KeyboardInterrupt
        trained.append(weights)
        train(recipe, images, weights, *more)

    monkeypatch.setattr(active_learning, 'train_weights', stopping)
    with pytest.raises(KeyboardInterrupt):
        go(here, plan())
    rows, _ = go(here, plan())
    assert rows == whole and [path.parent.name for path in trained] == [
        'round-0', 'round-1', 'round-1']
    go(here, plan())
    assert len(trained) == 3  # nothing is trained again
    more, _ = go(here, plan(labels=(2, 4, 5)))  # but rounds may be added
    assert more[:2] == whole and more[2]['labelled'] == 5


def test_images_mixed_in_are_trained_on_and_cost_nothing(here: Path) -> None:
    write_greys(here / 'rendered', {'train': {'r': 10, 's': 20, 'q': 30}})
    rows, _ = go(here, plan(labels=(2,)), mix=[here / 'rendered'])
    assert rows[0]['label_pixels'] == 2 * 64 * 64
    card = json.loads((here / 'out' / 'round-0' / 'network' / 'card.json').read_text())
    assert '5 labelled images of known, rendered' in card['training']


def other_recipe(here: Path) -> dict:
    return {'recipe': plan(score=ENTROPY)}


def other_pool(here: Path) -> dict:
    mask = cv2.imread(str(here / 'known' / 'masks' / 'grey_1.png'), -1)
    mask[0, 0] = 1
    cv2.imwrite(str(here / 'known' / 'masks' / 'grey_1.png'), mask)
    return {}


def other_start(here: Path) -> dict:
    from ramp_nets import ramp

    torch.save(ramp().state_dict(), here / 'start.pt')
    return {'init': str(here / 'start.pt')}


@pytest.mark.parametrize('change, named', [
    (other_recipe, 'recipe'), (other_pool, 'pool'), (other_start, 'start')])
def test_rounds_of_something_else_are_not_gone_on_with(
    here: Path, change: object, named: str
) -> None:
    go(here, plan(labels=(2,)))
    more = change(here)
    with pytest.raises(ConfigError, match=named):
        go(here, more.pop('recipe', plan(labels=(2,))), **more)


def test_images_to_measure_on_are_not_trained_on(here: Path) -> None:
    shutil.copy(here / 'known' / 'images' / 't.png', here / 'known' / 'images' / 'grey_3.png')
    with pytest.raises(DatasetError, match="'t'"):
        go(here, plan())
    with pytest.raises(ConfigError, match='9'):
        go(here, plan(labels=(2, 9)), pool='photos')


def test_a_second_process_is_refused(here: Path) -> None:
    with active_learning._locked(here / 'out'), pytest.raises(ConfigError, match='out'):
        go(here, plan())


# --- people -------------------------------------------------------------------------------------


def give(here: Path, number: int, frames: list[str]) -> Path:
    """Put the known masks of frames where the round looks for them, as a folder made by hand."""
    folder = here / 'out' / f'round-{number}' / 'labelled'
    (folder / 'masks').mkdir(parents=True, exist_ok=True)
    for frame in frames:
        shutil.copy(here / 'known' / 'masks' / f'{frame}.png', folder / 'masks')
    shutil.copy(here / 'known' / 'classes.json', folder)
    return folder


def asked(here: Path, number: int) -> list[str]:
    table = json.loads((here / 'out' / f'round-{number}' / 'to_label' / 'frames.json').read_text())
    return [row['key'] for row in table['frames']]


def test_people_who_label_like_the_masks_get_what_these_get(here: Path) -> None:
    expected, _ = go(here, plan(), out='known_out')
    rows, waiting = go(here, plan(), pool='photos')
    assert rows == [] and waiting is not None
    assert 'round-0/to_label' in waiting.sentence and '2 frames' in waiting.sentence
    assert asked(here, 0) == picks(here, 0, 'known_out')['frames']
    # Days later, and nobody labelled: the same again, and nothing is lost.
    assert go(here, plan(), pool='photos')[1] == waiting
    # The labels come back as they are imported.
    export = here / 'out' / 'round-0' / 'to_label'
    for row in json.loads((export / 'frames.json').read_text())['frames']:
        shutil.copy(here / 'known' / 'masks' / f'{row["key"]}.png',
                    export / 'masks' / f'{row["stem"]}.png')
    import_labels(export)
    rows, waiting = go(here, plan(), pool='photos')
    assert len(rows) == 1 and waiting is not None
    # The mask to correct is what the network says: white is the first class.
    frame = asked(here, 1)[0]
    mask = cv2.imread(str(next((here / 'out/round-1/to_label/masks').glob(f'*{frame}.png'))), -1)
    assert mask.shape == (64, 64) and len(np.unique(mask)) == 1
    give(here, 1, asked(here, 1))
    rows, waiting = go(here, plan(), pool='photos')
    assert waiting is None and rows == expected


def import_labels(export: Path) -> None:
    verb = ['labels', 'import']
    assert main([*verb, str(export), str(export.with_name('labelled')), '--format',
                 'folder']) == 0


def test_a_round_goes_on_without_labels_that_are_missing_and_late_ones_are_used_later(
    here: Path
) -> None:
    go(here, plan(), pool='photos')
    one, other = asked(here, 0)
    give(here, 0, [one])
    rows, _ = go(here, plan(), pool='photos')
    assert [row['labelled'] for row in rows] == [1]
    give(here, 0, [other])
    give(here, 1, asked(here, 1))
    rows, waiting = go(here, plan(), pool='photos')
    assert waiting is None and [row['labelled'] for row in rows] == [1, 4]


@pytest.mark.parametrize('is_whole', [False, True])
def test_masks_copied_out_of_the_export_are_no_labels(here: Path, is_whole: bool) -> None:
    """The first class everywhere, which nobody looked at, was trained on as the truth."""
    go(here, plan(), pool='photos')
    export, labelled = (here / 'out' / 'round-0' / name for name in ('to_label', 'labelled'))
    shutil.copytree(export, labelled)
    if is_whole:
        with pytest.raises(DatasetError, match='labelled'):
            go(here, plan(), pool='photos')
        return
    (labelled / 'frames.json').unlink()
    for row in json.loads((export / 'frames.json').read_text())['frames']:
        (labelled / 'masks' / f'{row["stem"]}.png').rename(
            labelled / 'masks' / f'{row["key"]}.png')
    rows, waiting = go(here, plan(), pool='photos')
    assert rows == [] and waiting is not None


def test_labels_that_nobody_reviewed_are_waited_for(here: Path) -> None:
    go(here, plan(), pool='photos')
    folder = give(here, 0, asked(here, 0))
    (folder / 'review.json').write_text(json.dumps({'version': 1, 'frames': {
        stem: {'reviewed': False, 'evidence': 'untouched'} for stem in asked(here, 0)}}))
    assert go(here, plan(), pool='photos')[1] is not None


@pytest.mark.parametrize('damage, named', [
    ('frame', 'grey_9'), ('id', '9'), ('size', '64x32'), ('classes', 'port'), ('empty', 'mask'),
    ('export', 'frames.json')])
def test_labels_that_do_not_fit_are_refused_and_nothing_is_lost(
    here: Path, damage: str, named: str
) -> None:
    go(here, plan(), pool='photos')
    frames = asked(here, 0)
    folder = give(here, 0, frames)
    mask = folder / 'masks' / f'{frames[0]}.png'
    export = here / 'out' / 'round-0' / 'to_label' / 'frames.json'
    kept = export.read_bytes()
    if damage == 'frame':
        shutil.copy(mask, mask.with_stem('grey_9'))
    elif damage == 'classes':
        text = (folder / 'classes.json').read_text().replace('left', 'port')
        (folder / 'classes.json').write_text(text)
    elif damage == 'empty':
        mask.write_bytes(b'')
    elif damage == 'export':
        export.unlink()
    else:
        shape = (64, 64) if damage == 'id' else (32, 64)
        cv2.imwrite(str(mask), np.full(shape, 9 if damage == 'id' else 0, np.uint8))
    with pytest.raises(UncertaintySegError, match=named):
        go(here, plan(), pool='photos')
    export.write_bytes(kept)
    shutil.rmtree(folder)
    give(here, 0, frames)
    assert len(go(here, plan(), pool='photos')[0]) == 1


@pytest.mark.parametrize('names', [('a b', 'a_b'), ('\u6f5c\u6c34', '\u6d77'), ('Frame', 'frame')])
def test_names_that_become_one_are_both_asked_for_and_come_back(
    here: Path, names: tuple[str, str]
) -> None:
    for path in list((here / 'photos').iterdir()):
        path.unlink()
    for stem, name in zip(('grey_0', 'white_0'), names, strict=True):
        shutil.copy(here / 'known' / 'images' / f'{stem}.png', here / 'photos' / f'{name}.png')
    recipe = plan(labels=(2,))
    go(here, recipe, pool='photos')
    assert set(asked(here, 0)) == set(names)
    export = here / 'out' / 'round-0' / 'to_label'
    for row in json.loads((export / 'frames.json').read_text())['frames']:
        shutil.copy(here / 'known' / 'masks' / 'grey_0.png',
                    export / 'masks' / f'{row["stem"]}.png')
    import_labels(export)
    rows, waiting = go(here, recipe, pool='photos')
    assert waiting is None and rows[0]['labelled'] == 2


def test_the_verb_says_what_it_waits_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ['active-learn', 'active', '--pool', str(here / 'photos'), '--test',
               str(here / 'known'), '--out', str(here / 'out'), '--threads', '1', '--set',
               'labels=[2, 4]', '--set', 'train.net=ramp_nets:ramp', '--set', 'train.size=64x64']
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told['rounds'] == 0 and told['waits_for'].endswith('round-0/labelled')
    assert main([*command, '--set', 'strateg=random']) == 2
    assert 'strategy' in capsys.readouterr().err
