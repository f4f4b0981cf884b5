# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The verb active-learn on plain images, of which it is known what each strategy must choose."""

from __future__ import annotations

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
parquet = pytest.importorskip('pyarrow.parquet')
pytest.importorskip('scipy')

from ramp_nets import GREY, WHITE, write_greys  # noqa: E402

from uncertainty_seg.cli import active_learn as learn_actively  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.errors import ConfigError  # noqa: E402
from uncertainty_seg.storage import whole_files  # noqa: E402
from uncertainty_seg.training.active import study  # noqa: E402
from uncertainty_seg.training.active.chain import limit_of, parse_rule  # noqa: E402

HELPERS = Path(__file__).resolve().parents[2] / 'helpers' / 'nets'
# Trains so slowly that the network stays what it is.
STILL = ['--net', 'ramp_nets:ramp', '--size', '64x64', '--steps', '2', '--batch', '2',
         '--learning-rate', '1e-9', '--passes', '128']
GREYS = {f'grey_{k}': GREY + k % 2 for k in range(5)}
WHITES = {f'white_{k}': WHITE - k for k in range(3)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the disk alone: hundreds of small files are flushed otherwise."""
    monkeypatch.setattr(whole_files, 'sync', lambda path: None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a pool of five grey and three white images, and some to measure on."""
    return write_greys(tmp_path / 'data', {
        'train': {**GREYS, **WHITES}, 'val': {'v': 60}, 'test': {'t': 40, 'u': 90}})


def words(study: Path, data: Path, *more: str, seeds: str = '0') -> list[str]:
    return ['active-learn', str(study), '--pool', str(data), '--test', str(data), '--val',
            str(data), '--seeds', *seeds.split(), *STILL, *more]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return list(parquet.read_table(folder / 'results.parquet').to_pylist())


def picked(rows: list[dict[str, Any]], strategy: str, number: int = 1) -> set[str]:
    return {pick['frame'] for row in rows for pick in row['picks']
            if row['strategy'] == strategy and row['round'] == number}


def start(folder: Path, *names: str) -> list[str]:
    (folder / 'start.txt').write_text('\n'.join(names) + '\n')
    return ['--start', str(folder / 'start.txt')]


# --- what is chosen ------------------------------------------------------------------------------


def test_each_strategy_takes_the_frames_that_its_score_is_high_of(
    data: Path, tmp_path: Path
) -> None:
    begin = start(tmp_path, 'grey_0', 'white_0')
    names = ['random', 'entropy', 'margin', 'mi', 'threshold', 'power-bald', 'k-centre',
             'uncertainty-diversity']
    assert main(words(tmp_path / 's', data, '--strategy', *names, *begin,
                      '--labels', '4', '8')) == 0
    rows = rows_of(tmp_path / 's')
    whites, greys = {'white_1', 'white_2'}, {f'grey_{k}' for k in range(1, 5)}
    assert picked(rows, 'mi') == picked(rows, 'threshold') == whites
    assert picked(rows, 'uncertainty-diversity') <= whites | greys
    assert picked(rows, 'entropy') <= greys and picked(rows, 'margin') <= greys
    for name in names:
        assert len(picked(rows, name)) == 2, name
    last = {row['strategy']: row for row in rows if row['round'] == 2}
    # Nothing grey is above the limit, the mean of a grey and a white frame.
    assert 'threshold' not in last and last['entropy']['num_labelled'] == 8
    limit = next(row['limit'] for row in rows if row['strategy'] == 'threshold'
                 and row['round'] == 1)
    scores = [pick['score'] for row in rows if row['strategy'] == 'mi' for pick in row['picks']
              if pick['frame'] in whites]
    assert 0.3 * min(scores) < limit < 0.7 * max(scores)
    reasons = [pick['reason'] for row in rows if row['strategy'] == 'threshold'
               for pick in row['picks'] if pick['frame'] in whites]
    assert all('above the limit' in reason for reason in reasons)


def test_the_coreset_takes_the_outlier_first(tmp_path: Path) -> None:
    levels = {f'g{k}': 100 + k for k in range(8)} | {'outlier': 255}
    data = write_greys(tmp_path / 'data', {'train': levels, 'test': {'t': 40}, 'val': {'v': 3}})
    assert main(words(tmp_path / 's', data, '--strategy', 'k-centre', '--labels', '2', '4',
                      *start(tmp_path, 'g0'))) == 0
    rows = rows_of(tmp_path / 's')
    assert picked(rows, 'k-centre', 1) == {'outlier'}
    assert 'g7' in picked(rows, 'k-centre', 2)  # the farthest of the rest from g0


def test_an_uncapped_threshold_takes_all_above_the_limit(data: Path, tmp_path: Path) -> None:
    begin = start(tmp_path, 'grey_0', 'white_0')
    more = ['--strategy', 'threshold', '--labels', '3', '8', *begin]
    assert main(words(tmp_path / 'a', data, *more)) == 0
    assert main(words(tmp_path / 'b', data, *more, '--uncapped')) == 0
    assert len(picked(rows_of(tmp_path / 'a'), 'threshold')) == 1
    assert picked(rows_of(tmp_path / 'b'), 'threshold') == {'white_1', 'white_2'}


def test_an_ensemble_of_equal_networks_agrees_and_different_ones_do_not(
    data: Path, tmp_path: Path
) -> None:
    assert main(words(tmp_path / 's', data, '--strategy', 'ensemble-mi', '--members', '2',
                      '--labels', '2', '4')) == 0
    scores = [pick['score'] for row in rows_of(tmp_path / 's') for pick in row['picks']
              if row['strategy'] == 'ensemble-mi' and row['round'] == 1]
    assert scores == pytest.approx([0, 0], abs=1e-9)  # though each has dropout
    assert not list((tmp_path / 's').rglob('*member*'))


# --- rows ----------------------------------------------------------------------------------------


def test_the_rows_say_what_labels_cost_and_the_quality_is_that_of_the_untouched_network(
    data: Path, tmp_path: Path
) -> None:
    assert main(words(tmp_path / 's', data, '--strategy', 'random', '--labels', '25%', '50%',
                      '--seeds', '3', '4')) == 0
    rows = rows_of(tmp_path / 's')
    assert [(row['strategy'], row['seed'], row['round'], row['num_labelled']) for row in rows] == [
        ('random', 3, 0, 2), ('random', 3, 1, 4), ('random', 4, 0, 2), ('random', 4, 1, 4),
        ('full', 3, 0, 8), ('full', 4, 0, 8)]
    for row in rows:
        assert row['label_pixels'] == row['num_labelled'] * 64 * 64
        assert row['regions'] == row['num_labelled'] * 2
        # Dark images are all of the second class to this network: half of the pixels are right.
        assert row['test_iou.left'] == 0 and row['test_iou.right'] == 0.5
        assert row['test_mean_iou'] == row['val_mean_iou'] == 0.25
    assert parquet.read_table(tmp_path / 's' / 'times.parquet').num_rows == 6
    assert {row['seed']: [p['frame'] for p in row['picks']] for row in rows
            if row['round'] == 0 and row['strategy'] == 'random'} != {}


def test_the_full_set_at_the_end_of_a_schedule_is_trained_once(
    data: Path, tmp_path: Path
) -> None:
    assert main(words(tmp_path / 's', data, '--strategy', 'random', '--labels', '2', '8')) == 0
    assert not (tmp_path / 's' / 'rounds' / 'random' / 'seed-0' / 'round-1.pt').exists()
    rows = rows_of(tmp_path / 's')
    ours, full = (next(row for row in rows if row['num_labelled'] == 8 and row['strategy'] == s)
                  for s in ('random', 'full'))
    assert ours['loss'] == full['loss'] and len(ours['picks']) == 6


def test_the_page_and_the_summary_hold_the_figures(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('matplotlib')
    pytest.importorskip('jinja2')
    page, text = tmp_path / 'page.html', tmp_path / 'summary.md'
    more = ['--strategy', 'random', 'entropy', '--labels', '25%', '50%', '--seeds', '0', '1',
            '--report', str(page), '--markdown', str(text)]
    assert main(words(tmp_path / 's', data, *more)) == 0
    assert 'All labels give 25.0 ± 0.0.' in text.read_text()
    assert '| entropy | +0.0 ± 0.0 | +0.0 ± 0.0 |' in text.read_text()
    assert '| random | 25.0 ± 0.0 % |' in text.read_text()  # reached at the start
    html = page.read_text()
    assert html.count('data:image/svg+xml') == 3 and 'one of the most uncertain' in html
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said['rows'] == 10 and said['full'] == 0.25
    before = page.read_bytes()
    assert main(words(tmp_path / 's', data, *more)) == 0
    assert page.read_bytes() == before


# --- resume --------------------------------------------------------------------------------------

REAL = ['--strategy', 'random', 'entropy', 'mi', '--labels', '2', '4', '6',
        '--learning-rate', '0.05', '--steps', '12']


@pytest.mark.release
def test_equal_seeds_give_equal_bytes_and_other_seeds_others(data: Path, tmp_path: Path) -> None:
    for name, seed in (('a', '5'), ('b', '5'), ('c', '6')):
        assert main(words(tmp_path / name, data, *REAL, seeds=seed)) == 0
    a, b, c = ((tmp_path / name / 'results.parquet').read_bytes() for name in 'abc')
    assert a == b and a != c


@pytest.mark.parametrize('after', [1, 4, 7])
def test_a_study_that_is_broken_off_goes_on_to_the_same_bytes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    from uncertainty_seg.training.active import chain

    assert main(words(tmp_path / 'whole', data, *REAL)) == 0
    whole_write, count = chain.replace_file, 0

    def break_off(path: Path, content: str) -> None:
        nonlocal count
        count += 1
        if count == after:
            raise KeyboardInterrupt
        whole_write(path, content)

    monkeypatch.setattr(chain, 'replace_file', break_off)
    assert main(words(tmp_path / 'broken', data, *REAL)) == 130
    monkeypatch.setattr(chain, 'replace_file', whole_write)
    before = {path: path.stat().st_mtime_ns
              for path in (tmp_path / 'broken').rglob('round-?.json')}
    assert main(words(tmp_path / 'broken', data, *REAL)) == 0
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())
    one, other = ((tmp_path / name / 'results.parquet').read_bytes()
                  for name in ('whole', 'broken'))
    assert one == other


@pytest.mark.release
def test_a_study_whose_processes_are_killed_goes_on_to_the_same_bytes(
    data: Path, tmp_path: Path
) -> None:
    assert main(words(tmp_path / 'whole', data, *REAL)) == 0
    command = [sys.executable, '-m', 'uncertainty_seg',
               *words(tmp_path / 'killed', data, *REAL, '--jobs', '2')]
    path = os.pathsep.join([str(HELPERS), str(HELPERS.parents[2]), *filter(None, sys.path)])
    run = subprocess.Popen(command, env={**os.environ, 'PYTHONPATH': path},
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                           start_new_session=True)
    waited_s = time.monotonic() + 300
    while not list((tmp_path / 'killed').rglob('round-0.json')) and time.monotonic() < waited_s:
        assert run.poll() is None, run.stderr.read() if run.stderr else ''
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert main(words(tmp_path / 'killed', data, *REAL)) == 0
    one, other = ((tmp_path / name / 'results.parquet').read_bytes()
                  for name in ('whole', 'killed'))
    assert one == other


def test_strategies_and_seeds_are_added_to_a_study(data: Path, tmp_path: Path) -> None:
    assert main(words(tmp_path / 's', data, '--strategy', 'random', '--labels', '2', '4')) == 0
    kept = tmp_path / 's' / 'rounds' / 'random' / 'seed-0' / 'round-1.json'
    before = kept.stat().st_mtime_ns
    assert main(words(tmp_path / 's', data, '--strategy', 'random', 'mi', '--labels', '2', '4',
                      '--seeds', '0', '1')) == 0
    assert kept.stat().st_mtime_ns == before
    assert len(rows_of(tmp_path / 's')) == 2 * 2 * 2 + 2


# --- bad input -----------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], command: list[str], code: int = 2) -> str:
    assert main(command) == code
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith('uncertainty_seg active-learn: ') and 'bug' not in said
    return said


@pytest.mark.parametrize(('more', 'sentence'), [
    (['--strategy', 'mi', '--net', 'ramp_nets:still'],
     'has no dropout and --strategy mi, expected passes that can disagree'),
    (['--strategy', 'best'], '--strategy best, expected one of random'),
    (['--labels', '2', '9'], '9 labelled frames of a pool of 8, expected at most 8'),
    (['--labels', '4', '4'], 'expected numbers that grow'),
    (['--labels', 'many'], "'many' as a number of labels"),
    (['--labels', '120%'], "'120%' as a number of labels"),
    (['--labels', '0', '4'], 'a start without any label, expected something else to start from'),
    (['--rounds', '2'], 'one of --rounds and --budget'),
    (['--rounds', '2', '--budget', '2', '--labels', '2'], '--labels and --rounds'),
    (['--rounds', '9', '--budget', '2'], '9 labelled frames of a pool of 8'),
    (['--start', '2'], '--start 2 without --rounds and --budget'),
    (['--threshold-rule', 'median'], '--threshold-rule median, expected mean, mean+K'),
    (['--threshold-on', 'test'], '--threshold-on test'),
    (['--score', 'entropy.most', '--labels', '2', '4'], "no score 'entropy.most'"),
    (['--net', 'resnet'], '--net resnet, expected pyramid, fc-densenet56 or MODULE:FUNCTION'),
    (['--size', '60x64'], '--size 60x64'),
    (['--init', 'a', '--imagenet', 'b'], '--init and --imagenet'),
    (['--net', 'pyramid', '--encoder', 'vgg'], 'vgg'),
])
def test_what_contradicts_itself_is_refused_in_a_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    assert sentence in refused(capsys, words(tmp_path / 's', data, *more))
    assert not (tmp_path / 's' / 'results.parquet').exists()


def test_an_empty_pool_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = json.loads((data / 'splits.json').read_text())
    (data / 'splits.json').write_text(json.dumps({**splits, 'train': []}))
    assert "split 'train'" in (said := refused(capsys, words(tmp_path / 's', data)))
    assert 'is empty, expected at least one image' in said


@pytest.mark.parametrize('split', ['val', 'test'])
def test_pixels_of_the_pool_are_not_measured_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    again = data / 'images' / ('v.png' if split == 'val' else 'u.png')
    again.write_bytes((data / 'images' / 'grey_2.png').read_bytes())
    said = refused(capsys, words(tmp_path / 's', data))
    assert f'images of --{split} are in --pool too, pixel for pixel' in said
    assert "is 'grey_2' there" in said


def test_pixels_that_choices_are_made_on_are_not_tested_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / 'images' / 'u.png').write_bytes((data / 'images' / 'v.png').read_bytes())
    assert '1 of 1 images of --val are in --test too, pixel for pixel' in (
        said := refused(capsys, words(tmp_path / 's', data)))
    assert "'v' is 'u' there" in said
    again = words(tmp_path / 's', data)
    again[again.index('--val') + 1] = f'{data}:test'
    assert '2 of 2 images of --val are in --test too' in refused(capsys, again)


def test_pixels_that_cost_no_label_are_not_measured_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ('val', 'test'):
        assert f'images of --{split} are in --extra too, pixel for pixel' in refused(
            capsys, words(tmp_path / 's', data, '--extra', f'{data}:{split}'))


def test_other_classes_are_refused_with_both_lists(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_greys(tmp_path / 'other', {'test': {'x': 3}}, ('sea', 'bed'))
    command = words(tmp_path / 's', data)
    command[command.index('--test') + 1] = str(other)
    assert '--test has the classes sea, bed (ignored: 255), and --pool left, right' in refused(
        capsys, command)


def test_frames_that_nobody_reviewed_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = {stem: {'reviewed': stem != 'grey_1', 'evidence': 'corrected'}
              for stem in [*GREYS, *WHITES, 'v', 't', 'u']}
    (data / 'review.json').write_text(json.dumps({'version': 1, 'frames': frames}))
    assert "not reviewed (the first is 'grey_1')" in refused(capsys, words(tmp_path / 's', data))


def test_a_changed_pool_and_changed_settings_are_refused_and_nothing_is_lost(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ['--strategy', 'random', '--labels', '2', '4']
    assert main(words(tmp_path / 's', data, *more)) == 0
    before = (tmp_path / 's' / 'results.parquet').read_bytes()
    assert 'holds a study of beta 1.0, not 2.0' in refused(
        capsys, words(tmp_path / 's', data, *more, '--beta', '2'))
    assert 'holds a study of labels 2,4, not 2,6' in refused(
        capsys, words(tmp_path / 's', data, '--labels', '2', '6'))
    write_greys(data, {'train': {**GREYS, **WHITES, 'new': 3}, 'val': {'v': 60},
                       'test': {'t': 40, 'u': 90}})
    assert 'holds a study of other images, masks or classes of --pool' in refused(
        capsys, words(tmp_path / 's', data, *more))
    assert (tmp_path / 's' / 'results.parquet').read_bytes() == before


def test_a_second_run_waits_its_turn(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from uncertainty_seg.training.active.tasks import locked_study

    with locked_study(tmp_path / 's'):
        assert 'another run works in' in refused(capsys, words(tmp_path / 's', data))


def test_a_start_that_names_other_frames_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, words(tmp_path / 's', data, *start(tmp_path, 'grey_0', 'red_1')))
    assert "start.txt names 'red_1', expected frames of the pool" in said


def test_a_class_that_the_start_lacks_is_a_warning(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    cv2.imwrite(str(data / 'masks' / 'grey_0.png'), np.zeros((64, 64), np.uint8))
    assert main(words(tmp_path / 's', data, '--labels', '2', '4', '--strategy', 'random',
                      *start(tmp_path, 'grey_0'))) == 0
    assert 'warning: no frame of the start holds right (1 of 1 seeds)' in capsys.readouterr().err


# --- a start without labels ----------------------------------------------------------------------


def test_a_study_starts_from_weights_without_any_label(data: Path, tmp_path: Path) -> None:
    from ramp_nets import ramp

    net = ramp()
    with torch.no_grad():
        net.classifier.weight.neg_()  # dark is the first class now
    torch.save(net.state_dict(), tmp_path / 'w.pt')
    assert main(words(tmp_path / 's', data, '--strategy', 'mi', '--labels', '0', '2', '4',
                      '--init', str(tmp_path / 'w.pt'))) == 0
    rows = [row for row in rows_of(tmp_path / 's') if row['strategy'] == 'mi']
    assert [row['num_labelled'] for row in rows] == [0, 2, 4]
    assert rows[0]['loss'] is None and rows[0]['test_iou.left'] == 0.5
    assert picked(rows, 'mi') <= set(WHITES)


def test_extra_images_are_trained_on_and_cost_nothing(data: Path, tmp_path: Path) -> None:
    extra = write_greys(tmp_path / 'extra', {'train': {'e': 10, 'f': 20}})
    more = ['--strategy', 'threshold', '--labels', '0', '2', '--extra', str(extra)]
    assert main(words(tmp_path / 's', data, *more)) == 0
    rows = [row for row in rows_of(tmp_path / 's') if row['strategy'] == 'threshold']
    assert [row['label_pixels'] for row in rows][0] == 0 and rows[0]['loss'] is not None


@pytest.mark.release
@pytest.mark.parametrize('net', ['pyramid', 'fc-densenet56'])
def test_networks_by_name_are_trained_and_are_what_a_study_starts_from(
    data: Path, tmp_path: Path, net: str
) -> None:
    small = ['--net', net, '--passes', '2', '--strategy', 'random']
    assert main(words(tmp_path / 's', data, *small, '--labels', '2')) == 0
    weights = tmp_path / 's' / 'rounds' / 'start' / 'seed-0' / 'round-0.pt'
    state = torch.load(weights, weights_only=True)
    assert ('decoder.classifier.weight' in state) == (net == 'pyramid')
    assert not list(weights.parent.glob('*.progress'))
    assert main(words(tmp_path / 't', data, *small, '--labels', '0', '--init', str(weights))) == 0
    again = torch.load(tmp_path / 't' / 'rounds' / 'start' / 'seed-0' / 'round-0.pt',
                       weights_only=True)
    assert state.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    one, other = (row for name in 'st' for row in rows_of(tmp_path / name)
                  if row['strategy'] == 'random')
    assert one['test_mean_iou'] == other['test_mean_iou']


def test_a_bundle_to_start_from_that_is_none_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, words(tmp_path / 's', data, '--init', 'no_such_bundle'))
    assert 'no_such_bundle' in said


# --- small parts ---------------------------------------------------------------------------------


def test_the_limit_follows_from_the_rule() -> None:
    scores = np.array([1.0, 2.0, 3.0])
    assert limit_of(scores, 'mean') == 2
    assert limit_of(scores, 'mean+1.5') == pytest.approx(2 + 1.5 * np.sqrt(2 / 3))
    assert limit_of(scores, 'mean-1') == pytest.approx(2 - np.sqrt(2 / 3))
    assert limit_of(scores, 'quantile:0.75') == 2.5
    for rule in ('quantile:2', 'mean+x', 'meannan', 'most'):
        with pytest.raises(ConfigError, match='--threshold-rule'):
            parse_rule(rule)
    with pytest.raises(ConfigError, match='no labelled image has a score'):
        limit_of(np.zeros(0), 'mean')


def test_rounds_and_budget_are_a_schedule() -> None:
    pool = [str(k) for k in range(100)]
    assert study.schedule_of([], '5%', 3, 20, pool).counts == (5, 25, 45, 65)
    assert study.schedule_of([], '', 1, 7, pool).counts == (5, 12)
    assert study.schedule_of(['1', '12.5%', '100%'], '', 0, 0, pool).counts == (1, 12, 100)


def test_the_strategies_that_help_names_are_those_there_are() -> None:
    assert set(learn_actively.STRATEGY_NAMES) == set(study.STRATEGIES)


def test_a_split_follows_a_colon(tmp_path: Path) -> None:
    (tmp_path / 'a:b').mkdir()
    assert study.split_of('data:seed', 'train') == (Path('data'), 'seed')
    assert study.split_of('data', 'train') == (Path('data'), 'train')
    assert study.split_of(str(tmp_path / 'a:b'), 'val') == (tmp_path / 'a:b', 'val')
