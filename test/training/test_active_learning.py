# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Rounds of active learning on plain images, for which each strategy's choice is known."""

import csv
import json
from pathlib import Path
import shutil

import cv2
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from ramp_nets import GREY, WHITE, write_greys  # noqa: E402

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.errors import ConfigError, DatasetError  # noqa: E402
from uncertainty_seg.storage import whole_files  # noqa: E402
from uncertainty_seg.training import active_learning  # noqa: E402
from uncertainty_seg.training.active_learning import active_learn  # noqa: E402
from uncertainty_seg.training.recipes import ActiveRecipe, TrainRecipe  # noqa: E402

pytestmark = pytest.mark.torch
# Trains so slowly that the network does not change: middle grey is equally uncertain in every
# pass, and for white the passes disagree.
STILL = TrainRecipe(net='ramp_nets:ramp', size=(64, 64), batch=2, learning_rate=1e-9, passes=64)
GREYS = {f'grey_{k}': GREY + k for k in range(4)}
WHITES = {f'white_{k}': WHITE - k for k in range(3)}
ENTROPY = 'entropy.mean'


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the syncs of hundreds of small files."""
    monkeypatch.setattr(whole_files, 'sync', lambda path: None)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return a folder with a labelled pool and test images."""
    write_greys(tmp_path / 'known', {'train': {**GREYS, **WHITES}, 'test': {'t': 40, 'u': 200}})
    return tmp_path


def plan(**keys: object) -> ActiveRecipe:
    return ActiveRecipe(**{'strategy': 'top-k', 'labels': (2, 4), 'steps': 2,
                           'train': STILL, **keys})


def go(here: Path, recipe: ActiveRecipe, out: str = 'out', **more: object) -> list[dict]:
    return active_learn(recipe, str(here / 'known'), str(here / 'known'), here / out, threads=1,
                        **more)


def picks(here: Path, number: int, out: str = 'out') -> dict:
    found: dict = json.loads((here / out / f'round-{number}' / 'picks.json').read_text())
    return found


def begin(here: Path, *frames: str, out: str = 'out') -> None:
    """Write the initial picks, as a draw could have given them."""
    place = here / out / 'round-0'
    place.mkdir(parents=True, exist_ok=True)
    (place / 'picks.json').write_text(json.dumps({
        'frames': frames, 'scores': [None] * len(frames), 'reasons': [''] * len(frames),
        'threshold': None}))


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
    rows = go(here, plan(**keys))
    assert [row['labelled'] for row in rows] == [2, 2 + len(wanted)]
    found = picks(here, 1)
    assert set(found['frames']) == wanted and len(found['reasons']) == len(wanted)
    assert (found['threshold'] is None) == (keys['strategy'] != 'threshold')
    assert rows[0]['mean_iou'] == pytest.approx(rows[1]['mean_iou'])  # it almost does not learn


@pytest.mark.parametrize('strategy', ['random', 'k-centre', 'uncertainty-diversity'])
def test_every_strategy_runs_and_takes_what_was_not_taken(here: Path, strategy: str) -> None:
    rows = go(here, plan(strategy=strategy))
    first, second = (picks(here, number)['frames'] for number in (0, 1))
    assert len(rows) == 2
    assert len({*first, *second}) == 4


def test_the_rows_say_what_labels_cost_and_one_table_has_them(here: Path) -> None:
    rows = go(here, plan(labels=(0.28, 0.57)))
    assert [(row['round'], row['labelled'], row['label_pixels']) for row in rows] == [
        (0, 2, 2 * 64 * 64), (1, 4, 4 * 64 * 64)]
    assert rows[1]['share'] == pytest.approx(4 / 7)
    with (here / 'out' / 'rounds.csv').open() as file:
        table = list(csv.DictReader(file))
    assert [float(row['mean_iou']) for row in table] == [row['mean_iou'] for row in rows]
    assert {'iou.left', 'iou.right'} <= set(table[0])
    # Each image gets one class, which is half of its mask; over both, the IoU of a class is 1/3.
    assert rows[0]['mean_iou'] == pytest.approx(1 / 3)


def test_a_run_that_was_stopped_goes_on_and_gives_the_same(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = go(here, plan(), out='whole')
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
    rows = go(here, plan())
    assert rows == whole and [path.parent.name for path in trained] == [
        'round-0', 'round-1', 'round-1']
    go(here, plan())
    assert len(trained) == 3  # nothing is trained again
    more = go(here, plan(labels=(2, 4, 5)))  # rounds may be added
    assert more[:2] == whole and more[2]['labelled'] == 5


def test_images_mixed_in_are_trained_on_and_cost_nothing(here: Path) -> None:
    write_greys(here / 'rendered', {'train': {'r': 10, 's': 20, 'q': 30}})
    rows = go(here, plan(labels=(2,)), mix=[here / 'rendered'])
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
    with pytest.raises(ConfigError, match='9'):
        go(here, plan(labels=(2, 9)))
    shutil.copy(here / 'known' / 'images' / 't.png', here / 'known' / 'images' / 'grey_3.png')
    with pytest.raises(DatasetError, match="'t'"):
        go(here, plan())


def test_a_second_process_is_refused(here: Path) -> None:
    with whole_files.one_at_a_time(here / 'out', ConfigError, '.lock'), \
            pytest.raises(ConfigError, match='out'):
        go(here, plan())


def test_the_verb_ends_in_the_result_and_names_a_key_that_there_is_not(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ['active-learn', 'active', '--pool', str(here / 'known'), '--test',
               str(here / 'known'), '--out', str(here / 'out'), '--threads', '1', '--set',
               'labels=[2]', '--set', 'train.net=ramp_nets:ramp', '--set', 'train.size=64x64',
               '--set', 'steps=2']
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told['rounds'] == 1 and told['mean_iou'] == pytest.approx(1 / 3, abs=0.34)
    assert main([*command, '--set', 'strateg=random']) == 2
    assert 'strategy' in capsys.readouterr().err
