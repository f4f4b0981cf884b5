# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The verb browse: content of the page, omitted frames, and one sentence per error."""

import base64
from collections.abc import Iterable
from contextlib import closing
import hashlib
from http.client import HTTPConnection
import json
from pathlib import Path
import re
import shutil
from threading import Thread

from browse_sample import page_values, picture, scored
from conftest import make_tiny_bundle
import cv2
import numpy as np
import pytest

pytest.importorskip('pyarrow', reason='pyarrow is not installed: no score table')
pytest.importorskip('jinja2', reason='jinja2 is not installed: no page')

import uncertainty_seg as us  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.core.render import FrameView, overlay  # noqa: E402
from uncertainty_seg.data import browse  # noqa: E402
from uncertainty_seg.data.browse import rows_of_page, script_text  # noqa: E402
from uncertainty_seg.data.selection import select  # noqa: E402
from uncertainty_seg.errors import ConfigError  # noqa: E402
from uncertainty_seg.storage.bags.writer import BagWriter  # noqa: E402
from uncertainty_seg.storage.score_rows import read_rows  # noqa: E402

# A name of a folder or dive that must not act as HTML or script of the page.
HOSTILE = '</script><script>document.title=1</script><img src=x onerror=document.title=2>&"\''


@pytest.fixture(scope='module')
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('sample')
    return scored(folder, make_tiny_bundle(folder / 'tiny'), [picture(k) for k in range(8)])


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


def require_drawn(bundle: Path, index: int, found: Iterable[np.ndarray]) -> None:
    """Compare image, mask and heatmap with newly drawn ones of a frame."""
    image = picture(index)
    with us.open_pipeline(bundle) as pipeline:
        view = FrameView(image, pipeline.measure(image), pipeline.card, pipeline.settings,
                         pipeline.calibrated)
    drawn = (image, overlay(image, view.mask, pipeline.card.palette),
             view.plain_heatmap(view.scale))
    for one, wanted in zip(found, drawn, strict=True):
        assert np.abs(one.mean((0, 1)) - wanted.mean((0, 1))).max() < 8


def test_the_page_holds_the_rows_of_the_table_and_three_pictures_of_each(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = browsed(table, tmp_path / 'page.html')
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (facts['num_frames'], facts['num_shown'], facts['pictures_missing']) == (8, 8, 0)
    rows = read_rows(table)
    assert [frame['key'] for frame in values['frames']] == rows.column('frame_key').to_pylist()
    for name in ('entropy.mean', 'mutual_information.top'):
        assert values['scores'][name] == pytest.approx(
            rows.column(f'score.{name}').to_pylist(), rel=1e-4)
    assert values['shares'][1] == pytest.approx(rows.column('share.green').to_pylist(), rel=1e-4)
    for index, frame in enumerate(values['frames']):
        require_drawn(table.parent / 'tiny', index, map(decoded, frame['pictures']))


def test_which_frames_are_taken(table: Path, tmp_path: Path) -> None:
    keys = [f'k{k}' for k in range(100)]
    scores = np.arange(100.0)
    scores[5] = np.nan
    rows = rows_of_page(scores, keys, 12)
    assert len(rows) == 12 and (np.diff(rows) > 0).all()
    # Half of them by score, NaN first, and the rest at random.
    assert {5, 99, 98, 97, 96, 95} <= set(rows.tolist())
    assert rows_of_page(scores, keys, 500).tolist() == list(range(100))
    # The page has all frames, and the pictures of three; the others are read from their files.
    values = browsed(table, tmp_path / 'page.html', '--most', 3)
    assert len(values['frames']) == 8 and len(values['pictures']) == 3
    assert values['places'] == {str(table.parent / 'seen'): (table.parent / 'seen').as_uri()}


def test_a_large_table_has_the_scores_that_there_is_room_for(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, 'MOST_VALUES', 3 * 8)
    values = browsed(table, tmp_path / 'page.html', '--score', 'mutual_information.top')
    names = list(values['scores'])
    assert len(names) == 3 and names[:2] == ['mutual_information.top', 'score_ratio']
    assert len(values['shares']) == 3


@pytest.mark.parametrize('text', [HOSTILE, '<!--<script>', ']]>', '\u2028\u2029', '&lt;', '\x00'])
def test_nothing_in_a_name_can_end_the_script_element(text: str) -> None:
    written = script_text({text: [text]})
    assert json.loads(written) == {text: [text]}
    assert not set('<>&\u2028') & set(written) and written.isascii()


def test_the_page_is_the_same_bytes_again_and_allows_only_its_own_script(
    table: Path, tmp_path: Path
) -> None:
    for name in ('a', 'b'):
        browsed(table, tmp_path / f'{name}.html')
    assert (tmp_path / 'a.html').read_bytes() == (tmp_path / 'b.html').read_bytes()
    text = (tmp_path / 'a.html').read_text(encoding='utf-8')
    script = text[text.rindex('<script>') + len('<script>'):text.rindex('</script>')]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "default-src 'none'" in text
    assert not re.search(r'(?:src|href)="(?!data:)', text) and 'http' not in script
    assert "img-src data: file: 'self';" in text


def test_of_a_selection_the_reasons_are_shown(table: Path, tmp_path: Path) -> None:
    select(table, 2, tmp_path / 'sel', strategy='top-k', min_distance=0)
    values = browsed(tmp_path / 'sel', tmp_path / 'page.html')
    reasons = [frame['selected'] for frame in values['frames']]
    assert len(reasons) == 2 and all(reason.startswith('top-k: ') for reason in reasons)
    assert sorted(values['selected']) == ['0', '1']


def test_pictures_that_come_and_go_move_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = scored(tmp_path, make_tiny_bundle(tmp_path / 'tiny'), [picture(k) for k in range(4)])
    before = browsed(table, tmp_path / 'before.html')
    cv2.imwrite(str(tmp_path / 'seen' / '0000.png'), picture(20))
    (tmp_path / 'seen' / '002.png').unlink()
    after = browsed(table, tmp_path / 'after.html')
    assert not after['frames'][2]['pictures'][0]
    assert [after['frames'][k] for k in (0, 1, 3)] == [before['frames'][k] for k in (0, 1, 3)]
    # Without the model and without the sources.
    shutil.move(tmp_path / 'tiny', tmp_path / 'moved')
    shutil.move(tmp_path / 'seen', tmp_path / 'else' / 'seen')
    capsys.readouterr()
    bare = browsed(table, tmp_path / 'bare.html')
    err = capsys.readouterr().err
    assert 'Without masks' in err and f'{tmp_path}/seen' in err
    assert not any(any(frame['pictures']) for frame in bare['frames'])
    found = browsed(table, tmp_path / 'found.html', '--root', tmp_path / 'else')
    assert [len(frame['pictures']) for frame in found['frames']] == [1, 1, 1, 1]
    # Another model at its path is not the table's.
    make_tiny_bundle(tmp_path / 'tiny', words='another')
    browsed(table, tmp_path / 'other.html')
    assert 'digest' in capsys.readouterr().err


def asked(address: str, path: str, host: str = 'localhost') -> np.ndarray | None:
    """Return the response of a served page, as an image; None for 404."""
    port = int(address.rstrip('/').rpartition(':')[2])
    with closing(HTTPConnection('127.0.0.1', port, timeout=60)) as browser:
        browser.request('GET', path, headers={'Host': host})
        answer = browser.getresponse()
        content = answer.read()
    assert answer.status == (200 if content else 404)
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None


def test_a_served_page_has_the_pictures_of_every_frame_of_a_bag(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'dive') as bag:
        for k in range(40):
            bag.write_image('/image', 10**18 + k * 10**8, 'cam', picture(k), 'bgr8')
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    us.score([tmp_path / 'dive'], tmp_path / 'table', settings=us.Settings(model=str(bundle)))
    page = us.browse(tmp_path / 'table', tmp_path / 'page.html', most=1)
    with page.server() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for row in (3, 36):
            require_drawn(bundle, row, (asked(server.address, f'/frame/{row}/{place}')
                                        for place in range(3)))
        for path, host in (('/frame/40/0', 'localhost'), ('/frame/3/3', 'localhost'),
                           ('/../page.html', 'localhost'), ('/frame/3/0', 'elsewhere.example')):
            assert asked(server.address, path, host) is None
        shutil.move(tmp_path / 'dive', tmp_path / 'gone')
        assert asked(server.address, '/frame/7/0') is None
        with pytest.raises(ConfigError, match=str(server.server_port)):
            page.server(server.server_port)
        server.shutdown()


def test_faults_are_one_sentence(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'page.html'
    assert "'nothing'" in refused(capsys, table, '-o', out, '--score', 'nothing')
    assert 'no table at' in refused(capsys, tmp_path / 'none', '-o', out)
    assert 'no such folder' in refused(capsys, table, '-o', tmp_path / 'no' / 'page.html')
    out.write_text('mine')
    assert 'already' in refused(capsys, table, '-o', out)
    assert out.read_text() == 'mine'
    assert main(['browse', str(table), '-o', str(out), '--force']) == 0
    assert not list(tmp_path.glob('.*'))
