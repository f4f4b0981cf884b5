# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Studies that would give wrong figures without a word: what is shared, counted or kept twice."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
pytest.importorskip('pyarrow.parquet')
pytest.importorskip('scipy')

from ramp_nets import GREY, ramp, WHITE, write_greys  # noqa: E402
from test_active_learn import refused, rows_of, words  # noqa: E402

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.errors import ConfigError  # noqa: E402
from uncertainty_seg.storage import whole_files  # noqa: E402
from uncertainty_seg.training import encoders  # noqa: E402
from uncertainty_seg.training.active import study  # noqa: E402
from uncertainty_seg.training.active.chain import ChainTask  # noqa: E402
from uncertainty_seg.training.active.prepared import write_prepared  # noqa: E402
from uncertainty_seg.training.active.rounds import NetPlan  # noqa: E402
from uncertainty_seg.training.active.tasks import (  # noqa: E402
    require_noted_network,
    run_in_worker,
)

RANDOM = ['--strategy', 'random', '--labels', '2', '4']


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_files, 'sync', lambda path: None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a pool of five grey and three white images, and some to measure on."""
    return write_greys(tmp_path / 'data', {
        'train': {**{f'grey_{k}': GREY + k for k in range(5)},
                  **{f'white_{k}': WHITE - k for k in range(3)}},
        'val': {'v': 60}, 'test': {'t': 40, 'u': 90}})


def test_a_seed_that_is_given_twice_counts_once(data: Path, tmp_path: Path) -> None:
    assert main(words(tmp_path / 's', data, *RANDOM, seeds='0 0')) == 0
    assert len(rows_of(tmp_path / 's')) == 3


def test_frames_of_the_pool_do_not_come_for_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, words(tmp_path / 's', data, *RANDOM, '--extra', str(data)))
    assert '8 of 8 images of --extra are in --pool too' in said


def test_seeds_share_no_lots(tmp_path: Path) -> None:
    many = write_greys(tmp_path / 'many', {
        'train': {f'g{k}': k for k in range(40)}, 'val': {'v': 60}, 'test': {'t': 41}})
    assert main(words(tmp_path / 's', many, '--strategy', 'random', '--labels', '5', '10', '15',
                      seeds='0 1 2')) == 0
    rows = rows_of(tmp_path / 's')
    drawn = {(row['seed'], row['round']): {pick['frame'] for pick in row['picks']}
             for row in rows if row['strategy'] == 'random'}
    for number in (1, 2):
        before = set().union(*(drawn[0, k] for k in range(number)))
        assert not drawn[number, 0] - before <= drawn[0, number]


def test_a_threshold_that_took_everything_ends(data: Path, tmp_path: Path) -> None:
    assert main(words(tmp_path / 's', data, '--strategy', 'threshold', '--uncapped',
                      '--threshold-rule', 'mean-99', '--labels', '2', '4', '6')) == 0
    rows = [row for row in rows_of(tmp_path / 's') if row['strategy'] == 'threshold']
    assert [row['num_labelled'] for row in rows] == [2, 8]


def test_one_pass_cannot_disagree(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, words(tmp_path / 's', data, '--strategy', 'mi', '--passes', '1'))
    assert '--passes 1 and --strategy mi' in said


def test_a_limit_of_images_that_there_are_not_is_refused_before_the_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(ramp().state_dict(), tmp_path / 'w.pt')
    said = refused(capsys, words(
        tmp_path / 's', data, '--strategy', 'threshold', '--labels', '0', '2', '--init',
        str(tmp_path / 'w.pt'), '--threshold-on', 'both'))
    assert 'labelled images for its limit' in said and not (tmp_path / 's' / 'rounds').exists()


def test_a_class_of_the_extra_images_is_known_to_the_first_network(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = write_greys(tmp_path / 'extra', {'train': {'e': 10, 'f': 20}})
    assert main(words(tmp_path / 's', data, '--strategy', 'random', '--labels', '0', '2',
                      '--extra', str(extra))) == 0
    assert 'warning: no frame of the start' not in capsys.readouterr().err


def test_the_results_keep_strategies_and_seeds_of_before(data: Path, tmp_path: Path) -> None:
    assert main(words(tmp_path / 's', data, *RANDOM)) == 0
    assert main(words(tmp_path / 's', data, '--strategy', 'entropy', '--labels', '2', '4',
                      seeds='1')) == 0
    found = {(row['strategy'], row['seed']) for row in rows_of(tmp_path / 's')}
    assert found == {('random', 0), ('entropy', 1), ('full', 0), ('full', 1)}


@pytest.mark.parametrize('length', [0, 100, -30])
def test_damaged_images_are_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], length: int
) -> None:
    assert main(words(tmp_path / 's', data, *RANDOM)) == 0
    file = tmp_path / 's' / 'images' / 'pool.npz'
    file.write_bytes(file.read_bytes()[:length])
    said = refused(capsys, words(tmp_path / 's', data, '--strategy', 'entropy', '--labels', '2',
                                 '4'))
    assert 'pool.npz is missing or damaged' in said


def test_a_part_that_was_written_again_is_read_again(data: Path, tmp_path: Path) -> None:
    assert main(words(tmp_path / 's', data, *RANDOM)) == 0
    file = tmp_path / 's' / 'images' / 'pool.npz'
    whole = study.read_part(file)
    assert study.read_part(file) is whole
    turned = whole.cut(range(len(whole.stems))[::-1])  # as large, and another order
    write_prepared(file, turned)
    assert study.read_part(file).stems == turned.stems != whole.stems


def test_rounds_without_their_settings_are_not_gone_on_with(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path / 's', data, *RANDOM)) == 0
    (tmp_path / 's' / 'study.json').unlink()
    said = refused(capsys, words(tmp_path / 's', data, *RANDOM, '--beta', '2'))
    assert 'study.json is missing' in said


def test_other_weights_of_the_same_name_are_another_study(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / 'w.pt'
    torch.save(ramp().state_dict(), weights)
    more = [*RANDOM, '--init', str(weights)]
    assert main(words(tmp_path / 's', data, *more)) == 0
    net = ramp()
    with torch.no_grad():
        net.classifier.weight.neg_()
    torch.save(net.state_dict(), weights)
    assert 'holds a study of other weights of --init' in refused(
        capsys, words(tmp_path / 's', data, *more, seeds='1'))


def test_a_study_of_before_that_has_no_digest_of_its_weights_goes_on(
    data: Path, tmp_path: Path
) -> None:
    weights = tmp_path / 'w.pt'
    torch.save(ramp().state_dict(), weights)
    more = [*RANDOM, '--init', str(weights)]
    assert main(words(tmp_path / 's', data, *more)) == 0
    file = tmp_path / 's' / 'study.json'
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in kept.items()
                                if not name.startswith(('weights', 'code'))}))
    assert main(words(tmp_path / 's', data, *more)) == 0


def test_an_edited_module_of_the_network_is_another_study(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network of one file whose layers are of another: an edit of either is noticed."""
    (tmp_path / 'edited_layers.py').write_text('from ramp_nets import RampNet\n\n\n'
                                               'class Layers(RampNet):\n    pass\n')
    (tmp_path / 'edited_net.py').write_text('import edited_layers\n\n\ndef build():\n'
                                            '    return edited_layers.Layers(0.5)\n')
    monkeypatch.syspath_prepend(tmp_path)
    more = [*RANDOM, '--net', 'edited_net:build']
    assert main(words(tmp_path / 's', data, *more)) == 0
    before = (tmp_path / 's' / 'results.parquet').read_bytes()
    assert main(words(tmp_path / 's', data, *more)) == 0
    for name in ('edited_net.py', 'edited_layers.py'):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace('0.5', '0.25').replace('pass', 'alpha = 1'))
        assert 'holds a study of other code of --net, expected the study that is to go on' in (
            refused(capsys, words(tmp_path / 's', data, *more, seeds='0 1')))
        (tmp_path / name).write_text(text)
    assert (tmp_path / 's' / 'results.parquet').read_bytes() == before


def test_a_worker_with_other_code_or_weights_than_the_study_refuses_its_chain(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine of a cluster has its own files; an edit of one here stands for it."""
    code, weights = tmp_path / 'far_net.py', tmp_path / 'w.pt'
    code.write_text('from ramp_nets import ramp\n')
    torch.save(ramp().state_dict(), weights)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(words(tmp_path / 's', data, *RANDOM, '--net', 'far_net:ramp', '--init',
                      str(weights))) == 0
    kept = json.loads((tmp_path / 's' / 'study.json').read_text())
    plan = replace(NetPlan(), net='far_net:ramp', init=str(weights), size=(64, 64), steps=2,
                   batch=2, learning_rate=1e-9, passes=128)
    task = ChainTask('start', 7, tmp_path / 's', study.StudySettings(plan, (2, 4)))
    for path, what in ((code, study.CODE), (weights, study.WEIGHTS)):
        before = path.read_bytes()
        if path == code:
            path.write_text('from ramp_nets import ramp  # edited\n')
        else:
            torch.save({name: 2 * value for name, value in ramp().state_dict().items()}, path)
        require_noted_network.cache_clear()
        with pytest.raises(ConfigError, match=f'a worker on .* has other {what} than .*study.json '
                           'has noted'):
            run_in_worker(task)
        path.write_bytes(before)
    assert not (tmp_path / 's' / 'rounds' / 'start' / 'seed-7').exists()
    require_noted_network.cache_clear()
    assert run_in_worker(task) == 'start-7'
    assert json.loads((tmp_path / 's' / 'study.json').read_text()) == kept


def test_other_weights_of_imagenet_are_another_study(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file that is read counts, also where a folder is given."""
    kind = encoders.encoder_kind('mobilenet_v2')
    monkeypatch.setitem(encoders.ENCODERS, 'mobilenet_v2', replace(kind, sha256_prefix=''))
    state = {f'features.{name}': value
             for name, value in encoders.new_encoder('mobilenet_v2').state_dict().items()}
    torch.save(state, tmp_path / kind.file)
    more = ['--labels', '2', '--strategy', 'random', '--net', 'pyramid', '--passes', '2',
            '--imagenet', str(tmp_path)]
    assert main(words(tmp_path / 's', data, *more)) == 0
    torch.save({name: value * 2 for name, value in state.items()}, tmp_path / kind.file)
    assert 'holds a study of other weights of --imagenet' in refused(
        capsys, words(tmp_path / 's', data, *more, seeds='1'))


def test_weights_of_imagenet_that_are_others_or_missing_are_refused_before_the_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [*RANDOM, '--net', 'pyramid', '--imagenet', str(tmp_path / 'w.pth')]
    assert 'no ImageNet weights at' in refused(capsys, words(tmp_path / 's', data, *more))
    (tmp_path / 'w.pth').write_bytes(b'others')
    assert 'w.pth has sha256' in refused(capsys, words(tmp_path / 's', data, *more))
    assert not (tmp_path / 's' / 'study.json').exists()


@pytest.mark.parametrize(('name', 'content', 'sentence'), [
    ('random/seed-0/round-1.json', '{"strategy": "random"}', 'is of another form'),
    ('start/seed-0/round-0.json', '[]', 'is of another form'),
    ('random/seed-0/round-1.picks.json', '{"frames": []}', 'is of another form'),
    ('random/seed-0/round-1.picks.json', {'scores': 7}, 'is of another form'),
    ('random/seed-0/round-1.picks.json', {'labelled': ['grey_0', 'other']},
     "names 'other', expected frames of the pool"),
    ('start/seed-0/round-0.pt', None, 'is missing, though its round is finished'),
])
def test_a_study_that_was_edited_by_hand_says_what_to_delete_and_goes_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: Any,
    sentence: str,
) -> None:
    more = ['--strategy', 'random', 'entropy', '--labels', '2', '4']
    assert main(words(tmp_path / 's', data, *more)) == 0
    before = (tmp_path / 's' / 'results.parquet').read_bytes()
    file = tmp_path / 's' / 'rounds' / name
    result = file.with_name(file.name.replace('.picks', '').replace('.pt', '.json'))
    if isinstance(content, dict):
        content = json.dumps({**json.loads(file.read_text()), **content})
    if content is None:
        file.unlink()
        for path in (tmp_path / 's' / 'rounds' / 'entropy').rglob('round-1*'):
            path.unlink()
    else:
        file.write_text(content)
        if file != result:
            result.unlink()
    said = refused(capsys, words(tmp_path / 's', data, *more))
    assert sentence in said and 'run the same command again' in said
    (result if content is None else file).unlink()
    assert main(words(tmp_path / 's', data, *more)) == 0
    again = (tmp_path / 's' / 'results.parquet').read_bytes()
    assert again == before


@pytest.mark.parametrize('more', [
    ['--freeze', '2'], ['--encoder', 'lite0'], ['--imagenet', 'somewhere'],
    ['--dropout', 'decoder'], ['--rate', '0.3']])
def test_options_of_the_shipped_architecture_are_refused_with_another(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert f'{more[0]} with --net ramp_nets:ramp' in refused(
        capsys, words(tmp_path / 's', data, *RANDOM, *more))


def test_a_share_that_some_seeds_do_not_reach_has_no_interval() -> None:
    from uncertainty_seg.training.active import results

    rows = [{'strategy': 'random', 'seed': seed, 'round': number, 'share': share,
             'test_mean_iou': value, 'label_pixels': 1, 'regions': 1, 'absent': []}
            for seed, last in ((0, 0.9), (1, 0.8), (2, 0.1))
            for number, (share, value) in enumerate(((0.1, 0.0), (0.5, last)))]
    full = [{**rows[0], 'strategy': 'full', 'seed': seed, 'test_mean_iou': 0.75}
            for seed in range(3)]
    text = results.markdown('x', results.summarise([*rows, *full]))
    line = next(line for line in text.splitlines() if 'in 2 of 3 seeds' in line)
    assert '±' not in line
