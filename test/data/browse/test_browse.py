# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The verb browse: what is in the page and the list, what is left out, a sentence a fault."""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import json
from pathlib import Path
import re
import shutil

from browse_sample import (
    HOSTILE,
    NAMES,
    page_values,
    picture,
    PLANTED,
    write_labelled,
    write_sample,
)
from conftest import make_tiny_bundle
import cv2
import numpy as np
import pytest

pytest.importorskip('pyarrow', reason='pyarrow is not installed: no score table')
pytest.importorskip('jinja2', reason='jinja2 is not installed: no page')

from uncertainty_seg.cli import browse as browse_table  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.data.browse.page_data import (
    plot_axes,
    rows_of_page,
    script_text,
)
from uncertainty_seg.data.labels.frames import write_prediction  # noqa: E402
from uncertainty_seg.data.selection.run import vectors_of  # noqa: E402
from uncertainty_seg.storage.review_record import FrameReview, write_review  # noqa: E402
from uncertainty_seg.storage.score_rows import read_rows  # noqa: E402


@pytest.fixture(scope='module')
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_sample(tmp_path_factory.mktemp('sample'))


def browsed(table: Path, out: Path, *words: object) -> dict:
    assert main(['browse', str(table), '-o', str(out), *map(str, words)]) == 0
    return page_values(out)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main(['browse', *map(str, words)]) == 2
    got = capsys.readouterr()
    assert got.out == '' and got.err.count('\n') == 1 and got.err.endswith('.\n'), got.err
    return got.err


def decoded(address: str) -> np.ndarray:
    kind, _, content = address.partition(',')
    assert kind == 'data:image/jpeg;base64'
    found = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return found


def test_every_option_is_on_its_page() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    browse_table.add_arguments(parser)
    known = {word for action in parser._actions for word in action.option_strings}
    page = (Path(__file__).resolve().parents[3] / 'docs' / 'browse.md').read_text()
    assert known <= set(re.findall(r'(?<![\w-])--?[a-z][a-z-]*', page))


def test_the_page_holds_the_rows_of_the_table_and_four_pictures_of_each(
    sample: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled, table = sample
    values = browsed(table, tmp_path / 'page.html', '--labelled', labelled)
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (facts['num_frames'], facts['num_shown'], facts['num_labelled']) == (8, 8, 8)
    rows = read_rows(table)
    assert [frame['key'] for frame in values['frames']] == rows.column('frame_key').to_pylist()
    for name in ('entropy.mean', 'mutual_information.top'):
        assert values['scores'][name] == pytest.approx(
            rows.column(f'score.{name}').to_pylist(), rel=1e-4)
    assert values['shares'][1] == pytest.approx(rows.column('share.green').to_pylist(), rel=1e-4)
    assert [one['name'] for one in values['classes']] == list(NAMES)
    for index, frame in enumerate(values['frames']):
        image, mask = picture(index)
        seen, predicted, heat, truth = map(decoded, frame['pictures'])
        assert seen.shape == predicted.shape == heat.shape == truth.shape == image.shape
        assert abs(seen.astype(int) - image).mean() < 25
        assert frame['label'] == f'frame_{index}' and frame['reviewed'] is True
    # Of the wrong label its colour is seen, and not in the prediction.
    right, wrong = (decoded(values['frames'][3]['pictures'][k])[24, 10].astype(int)
                    for k in (1, 3))
    assert abs(right - wrong).max() > 60
    agreement = values['scores']['agreement with the label']
    assert agreement[3] == min(agreement) < 0.9 < sorted(agreement)[1]


def test_the_planted_label_is_first_and_the_list_says_the_same_as_the_page(
    sample: tuple[Path, Path], tmp_path: Path
) -> None:
    labelled, table = sample
    lists = []
    for ending in ('csv', 'json'):
        path = tmp_path / f'errors.{ending}'
        values = browsed(table, tmp_path / f'{ending}.html', '--labelled', labelled,
                         '--errors', path)
        lists.append(list(csv.DictReader(path.open(newline=''))) if ending == 'csv' else
                     json.loads(path.read_text()))
    first = lists[1][0]
    assert (first['label'], first['given'], first['predicted']) == (PLANTED, 'red', 'blue')
    assert (first['left'], first['top'], first['width'], first['height']) == (2, 8, 16, 32)
    assert first['share'] == pytest.approx(16 * 32 / (48 * 64), abs=1e-5)
    assert len(lists[0]) == len(lists[1]) == len(values['suspects']) >= 1
    assert [{**row, 'reviewed': str(row['reviewed'])} for row in lists[1]] == [
        {key: type(lists[1][k][key])(value) if key != 'reviewed' else value
         for key, value in row.items()} for k, row in enumerate(lists[0])]
    shown = values['suspects'][0]
    assert values['frames'][shown['frame']]['label'] == PLANTED
    assert shown['box'] == pytest.approx([100 * 2 / 64, 100 * 8 / 48, 25, 100 * 32 / 48], abs=0.01)


def test_a_page_has_at_most_so_many_frames_and_says_what_is_left_out(
    sample: tuple[Path, Path], tmp_path: Path
) -> None:
    labelled, table = sample
    values = browsed(table, tmp_path / 'page.html', '--labelled', labelled, '--most', 3)
    assert len(values['frames']) == 3 and len(values['dots']) == 5
    assert PLANTED in [frame['label'] for frame in values['frames']]
    text = (tmp_path / 'page.html').read_text()
    assert '3 frames are in this page, and 5 more in the table are not' in text


def test_which_frames_are_taken() -> None:
    keys = [f'k{k}' for k in range(100)]
    scores = np.arange(100.0)
    scores[5] = np.nan
    rows = rows_of_page(scores, keys, 12, ['k7', 'k3', 'k7', 'gone'], {'k50'})
    assert len(rows) == 12 and (np.diff(rows) > 0).all()
    # Both kinds that go first, half of the other nine by score, NaN first, and the rest by lot.
    assert {3, 7, 50, 5, 99, 98, 97, 96} <= set(rows.tolist())
    assert rows_of_page(scores, keys, 12, ['k7', 'k3'], {'k50'}).tolist() == rows.tolist()
    # No more than a third is of one kind that goes first.
    many = rows_of_page(scores, keys, 12, [f'k{k}' for k in range(40)], ())
    assert set(range(4)) <= set(many.tolist()) and len(many) == 12
    assert rows_of_page(scores, keys, 500, [], ()).tolist() == list(range(100))


def test_the_plot_is_the_plane_of_the_two_largest_principal_components(
    sample: tuple[Path, Path]
) -> None:
    rows = read_rows(sample[1])
    axes = plot_axes(rows, rows.column('frame_key').to_pylist())
    assert axes.column == 'embedding' and axes.places.shape == (8, 2)
    vectors = vectors_of(rows, 'embedding')
    assert vectors is not None
    sizes, directions = np.linalg.eigh(np.cov(vectors.T.astype(np.float64)))
    assert axes.explained == pytest.approx(sizes[-2:].sum() / sizes.sum(), rel=1e-6)
    for k in range(2):
        wanted = (vectors - vectors.mean(0)) @ directions[:, -1 - k]
        assert abs(np.corrcoef(wanted, axes.places[:, k])[0, 1]) == pytest.approx(1, abs=1e-6)
    assert axes.places.min() == 0 and axes.places.max() == 1
    # Without embeddings it is what the frames look like, which the page says.
    assert plot_axes(rows.drop_columns(['embedding']),
                     rows.column('frame_key').to_pylist()).column == 'features'


@pytest.mark.parametrize('text', [HOSTILE, '<!--<script>', ']]>', '\u2028\u2029', '&lt;', '\x00'])
def test_nothing_in_a_name_can_end_the_script_element(text: str) -> None:
    written = script_text({text: [text]})
    assert json.loads(written) == {text: [text]}
    assert not set('<>&\u2028') & set(written) and written.isascii()


def test_the_page_is_the_same_bytes_again_and_allows_only_its_own_script(
    sample: tuple[Path, Path], tmp_path: Path
) -> None:
    labelled, table = sample
    for name in ('a', 'b'):
        browsed(table, tmp_path / f'{name}.html', '--labelled', labelled)
    assert (tmp_path / 'a.html').read_bytes() == (tmp_path / 'b.html').read_bytes()
    text = (tmp_path / 'a.html').read_text(encoding='utf-8')
    script = text[text.rindex('<script>') + len('<script>'):text.rindex('</script>')]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "default-src 'none'" in text
    assert not re.search(r'(?:src|href)="(?!data:)', text) and 'http' not in script.replace(
        'http://www.w3.org/2000/svg', '')


def test_a_selection_is_marked_and_what_nobody_reviewed_says_so(
    sample: tuple[Path, Path], tmp_path: Path
) -> None:
    labelled, table = sample
    copy = tmp_path / 'copy'
    shutil.copytree(labelled, copy)
    write_review(copy, {f'frame_{k}': FrameReview(k != 2, 'corrected') for k in range(8)})
    assert main(['select', str(table), '-n', '2', '--strategy', 'top-k', '--sheet', '0',
                 '--min-distance', '0', '-o', str(tmp_path / 'sel')]) == 0
    values = browsed(table, tmp_path / 'page.html', '--labelled', copy, '--selection',
                     tmp_path / 'sel')
    assert [frame['reviewed'] for frame in values['frames']] == [k != 2 for k in range(8)]
    reasons = [frame['selected'] for frame in values['frames'] if frame['selected']]
    assert len(reasons) == 2 and all(reason.startswith('top-k: ') for reason in reasons)
    assert values['hasSelection'] and values['hasTruth']


def as_imported(labelled: Path, folder: Path) -> Path:
    """Copy a labelled folder with the names that `import-labels` gives."""
    other = folder / 'imported'
    shutil.copytree(labelled, other)
    for place in ('images', 'masks'):
        for path in (other / place).iterdir():
            path.rename(path.with_name(f'dive__{path.name}'))
    return other


def test_frames_are_known_again_by_the_key_that_their_record_has(
    sample: tuple[Path, Path], tmp_path: Path
) -> None:
    labelled, table = sample
    other = as_imported(labelled, tmp_path)
    keys = read_rows(table).column('frame_key').to_pylist()
    write_review(other, {f'dive__frame_{k}': FrameReview(True, 'corrected', frame=keys[k])
                         for k in range(8)})
    values = browsed(table, tmp_path / 'page.html', '--labelled', other)
    assert [frame['label'] for frame in values['frames']] == [
        f'dive__frame_{k}' for k in range(8)]
    assert values['frames'][values['suspects'][0]['frame']]['label'] == f'dive__{PLANTED}'


def test_pictures_that_come_and_go_move_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled, table = write_sample(tmp_path)
    before = browsed(table, tmp_path / 'before.html', '--labelled', labelled)
    cv2.imwrite(str(labelled / 'images' / 'a.png'), picture(20)[0])
    (labelled / 'images' / 'frame_2.png').unlink()
    (labelled / 'masks' / 'frame_2.png').unlink()
    capsys.readouterr()
    after = browsed(table, tmp_path / 'after.html', '--labelled', labelled)
    assert 'other pictures now' not in capsys.readouterr().err
    for one, other in zip(before['frames'], after['frames'], strict=True):
        if one['label'] == 'frame_2':
            assert other['label'] is None and not other['pictures'][0]
        else:
            assert other == one


@pytest.mark.parametrize('form', ['images##frame_{}.png', 'images##{}'])
def test_labels_of_a_folder_that_was_scored_again_keep_their_pictures(
    sample: tuple[Path, Path], tmp_path: Path, form: str
) -> None:
    """Their record has the name of a picture; that of an older release its position."""
    labelled, table = sample
    other = as_imported(labelled, tmp_path)
    write_review(other, {f'dive__frame_{k}': FrameReview(True, 'corrected', frame=form.format(k))
                         for k in range(8)})
    if 'frame' in form:
        shutil.copytree(labelled / 'images', tmp_path / 'more' / 'images')
        cv2.imwrite(str(tmp_path / 'more' / 'images' / 'a.png'), picture(20)[0])
        table = tmp_path / 'again'
        assert main(['score', str(tmp_path / 'more' / 'images'), '--out', str(table), '--model',
                     str(make_tiny_bundle(tmp_path / 'tiny')), '--backend', 'onnxruntime']) == 0
    values = browsed(table, tmp_path / 'page.html', '--labelled', other)
    found = [frame['label'] for frame in values['frames'] if not frame['key'].endswith('#a.png')]
    assert found == [f'dive__frame_{k}' for k in range(8)]


@pytest.fixture(scope='module')
def coasts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two scored folders of one name, north/cam and south/cam, with other pictures."""
    folder = tmp_path_factory.mktemp('coasts')
    bundle = make_tiny_bundle(folder / 'tiny')
    for coast, first in (('north', 0), ('south', 4)):
        (folder / coast / 'cam').mkdir(parents=True)
        for index in range(4):  # frame_0 is the same in both, as a black first frame is
            image, _ = picture(first + index if index else 0)
            cv2.imwrite(str(folder / coast / 'cam' / f'frame_{index}.png'), image)
        assert main(['score', str(folder / coast / 'cam'), '--out', str(folder / f't_{coast}'),
                     '--model', str(bundle), '--backend', 'onnxruntime']) == 0
    return folder


def test_labels_of_one_of_two_sources_of_a_name_are_found_by_their_pictures(
    coasts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['select', str(coasts / 't_south'), '-n', '4', '--sheet', '0', '--min-distance',
                 '0', '--min-gap', '0', '-o', str(tmp_path / 'sel')]) == 0
    assert main(['export-labels', str(tmp_path / 'sel'), str(tmp_path / 'out'), '--format',
                 'folder']) == 0
    assert main(['import-labels', str(tmp_path / 'out'), str(tmp_path / 'labels'), '--format',
                 'folder', '--accept-unchanged']) == 0
    tables = [str(coasts / 't_north'), str(coasts / 't_south')]
    capsys.readouterr()
    assert main(['browse', *tables, '-o', str(tmp_path / 'page.html'), '--labelled',
                 str(tmp_path / 'labels')]) == 0
    values = page_values(tmp_path / 'page.html')
    known = {frame['key']: frame['label'] for frame in values['frames']}
    assert len(known) == 8
    # The picture that both coasts have is of neither; the others are of the south.
    assert {key: label for key, label in known.items() if label} == {
        key: f'cam_{index:06d}' for index in (1, 2, 3) for key in known
        if key.endswith(f'south/cam##frame_{index}.png')}
    assert ('The labels of 1 frames (cam_000000) are of pictures that several sources of one name '
            'have, and are left out.') in capsys.readouterr().err


def test_a_folder_beside_another_of_the_same_file_names_takes_none_of_its_labels(
    coasts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ('images', 'masks'):
        (tmp_path / 'labels' / name).mkdir(parents=True)
    for index in (1, 2):
        shutil.copy(coasts / 'south' / 'cam' / f'frame_{index}.png', tmp_path / 'labels/images')
        cv2.imwrite(str(tmp_path / 'labels' / 'masks' / f'frame_{index}.png'),
                    picture(4 + index)[1])
    shutil.copy(write_labelled(tmp_path / 'x', 1) / 'classes.json', tmp_path / 'labels')
    capsys.readouterr()
    assert main(['browse', str(coasts / 't_north'), str(coasts / 't_south'), '-o',
                 str(tmp_path / 'page.html'), '--labelled', str(tmp_path / 'labels')]) == 0
    known = {frame['key']: frame['label']
             for frame in page_values(tmp_path / 'page.html')['frames'] if frame['label']}
    assert sorted(known.values()) == ['frame_1', 'frame_2']
    assert all('/south/cam#' in key for key in known)
    assert 'another picture' not in capsys.readouterr().err


@pytest.mark.parametrize('words', [[], ['--no-masks']])
def test_another_picture_under_a_name_is_no_label_of_the_frame(
    sample: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    labelled, table = sample
    other = tmp_path / 'other'
    shutil.copytree(labelled, other)
    cv2.imwrite(str(other / 'images' / 'frame_1.png'),
                np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    values = browsed(table, tmp_path / 'page.html', '--labelled', other, *words)
    assert [frame['label'] for frame in values['frames']].count(None) == 1
    assert ('1 labelled frames have another picture than the one that was scored (frame_1)'
            in capsys.readouterr().err)


def test_a_mask_of_the_model_is_no_reviewed_label(
    sample: tuple[Path, Path], tmp_path: Path
) -> None:
    labelled, table = sample
    other = tmp_path / 'other'
    shutil.copytree(labelled, other)
    write_prediction(other / 'masks', 'frame_1', picture(1)[1])
    values = browsed(table, tmp_path / 'page.html', '--labelled', other)
    assert [frame['reviewed'] for frame in values['frames']] == [True, False, *[True] * 6]


def test_what_the_ignore_mask_covers_is_no_suspected_label(tmp_path: Path) -> None:
    covered = np.zeros((48, 64), np.uint8)
    covered[:, :20] = 255  # the planted region, and more
    cv2.imwrite(str(tmp_path / 'ignore.png'), covered)
    labelled, table = write_sample(tmp_path, more=['--ignore-mask', tmp_path / 'ignore.png'])
    values = browsed(table, tmp_path / 'page.html', '--labelled', labelled)
    assert not [one for one in values['suspects']
                if values['frames'][one['frame']]['label'] == PLANTED]
    assert values['scores']['agreement with the label'][3] > 0.9


def test_the_list_is_not_written_over_the_page(
    sample: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled, table = sample
    page = tmp_path / 'both.csv'
    assert 'is the page too' in refused(
        capsys, table, '-o', page, '--errors', page, '--labelled', labelled)
    assert not page.exists()


def test_without_the_model_labels_are_shown_and_not_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled, table = write_sample(tmp_path, count=3)
    (tmp_path / 'tiny').rename(tmp_path / 'moved')
    values = browsed(table, tmp_path / 'page.html', '--labelled', labelled)
    err = capsys.readouterr().err
    assert 'Labels are shown and not checked, without the model: ' in err
    assert values['suspects'] == [] and all(
        [bool(a) for a in frame['pictures']] == [True, False, False, True]
        for frame in values['frames'])
    again = browsed(table, tmp_path / 'again.html', '--labelled', labelled, '--bundle',
                    tmp_path / 'moved')
    assert all(all(frame['pictures']) for frame in again['frames'])
    # Another model under that name is none of the table.
    make_tiny_bundle(tmp_path / 'else', words='another')
    browsed(table, tmp_path / 'else.html', '--bundle', tmp_path / 'else')
    for text in ((tmp_path / 'else.html').read_text(), capsys.readouterr().err):
        assert text.count('is another model than the one of the table') == 1


def test_a_folder_that_lost_files_since_it_was_scored_is_a_few_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled, table = write_sample(tmp_path)
    kept = shutil.copytree(labelled, tmp_path / 'kept')
    cv2.imwrite(str(kept / 'masks' / 'frame_2.png'), np.full((48, 64), 77, np.uint8))
    (labelled / 'images' / 'frame_4.png').unlink()
    capsys.readouterr()
    values = browsed(table, tmp_path / 'page.html', '--labelled', kept)
    # What is gone has no picture in the page, and its label is known by its name all the same.
    assert [frame['label'] for frame in values['frames'] if frame['label']] == [
        f'frame_{k}' for k in (0, 1, 3, 4, 5, 6, 7)]
    err = capsys.readouterr().err
    assert "the mask of 'frame_2' has the class id 77, expected 0 to 2, or 255." in err
    assert 'another picture' not in err
    shutil.rmtree(labelled / 'images')
    browsed(table, tmp_path / 'gone.html')
    err = capsys.readouterr().err
    assert f'{labelled}/images is not here: name the folder that holds it now with --root.' in err
    assert 'Errno' not in err + (tmp_path / 'gone.html').read_text()


def test_of_hundreds_of_damaged_labels_the_first_few_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled, table = write_sample(tmp_path, count=25)
    for mask in (labelled / 'masks').iterdir():
        mask.write_bytes(b'')
    capsys.readouterr()
    browsed(table, tmp_path / 'page.html', '--labelled', labelled, '--no-masks')
    err = capsys.readouterr().err
    assert err.count('is missing or unreadable') == 20
    # One more says that there is no model to check them by.
    assert '6 more such sentences are left out.' in err


def test_splits_that_are_no_json_say_what_splits_are(
    sample: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled, table = sample
    copy = shutil.copytree(labelled, tmp_path / 'copy')
    (copy / 'splits.json').write_text('{')
    assert 'splits.json is no JSON (line 1 is not understood), expected {"train": ["NAME"' in (
        refused(capsys, table, '-o', tmp_path / 'page.html', '--labelled', copy))


def test_faults_are_one_sentence(
    sample: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled, table = sample
    out = tmp_path / 'page.html'
    assert '--errors e.csv without labels, expected --labelled' in refused(
        capsys, table, '-o', out, '--errors', 'e.csv')
    assert 'expected a file that ends with .csv or .json' in refused(
        capsys, table, '-o', out, '--labelled', labelled, '--errors', 'e.txt')
    assert "no score 'nothing'" in refused(capsys, table, '-o', out, '--score', 'nothing')
    assert 'no table at' in refused(capsys, tmp_path / 'none', '-o', out)
    assert 'classes.json' in refused(capsys, table, '-o', out, '--labelled', tmp_path)
    assert 'no such folder' in refused(capsys, table, '-o', tmp_path / 'no' / 'page.html')
    shutil.copytree(labelled, tmp_path / 'others')
    classes = json.loads((labelled / 'classes.json').read_text())
    classes['classes'][0]['name'] = 'sand'
    (tmp_path / 'others' / 'classes.json').write_text(json.dumps(classes))
    assert 'has the classes sand, green, red, expected those of the table, blue' in refused(
        capsys, table, '-o', out, '--labelled', tmp_path / 'others')
    out.write_text('mine')
    assert 'is there already' in refused(capsys, table, '-o', out)
    assert out.read_text() == 'mine'
    assert main(['browse', str(table), '-o', str(out), '--force', '--no-masks']) == 0
    assert 'Without masks and heatmaps: they were not asked for.' in out.read_text()
    assert not list(tmp_path.glob('.*'))
