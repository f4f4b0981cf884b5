# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The real Label Studio: tasks go in by its API, a person sees the masks, labels come out again.

UNCERTAINTY_SEG_LABEL_STUDIO is the path of its executable, which lives in an environment of its
own (docs/labels.md). It is started once, on this machine alone, with a data folder that is thrown
away; Chromium opens a task as a person would and presses Submit.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
import json
import os
from pathlib import Path
import shutil
import time
from typing import Any

import cv2
from label_sample import make_frame
from label_studio_server import LabelStudio
import numpy as np
import pytest

from uncertainty_seg.data.label_formats import READERS, write_export
from uncertainty_seg.data.label_frames import LabelFrame, read_table
from uncertainty_seg.sim.pipe import CLASS_NAMES, PALETTE
from uncertainty_seg.sim.scene import render_scene
from uncertainty_seg.storage.labelled_folder import ClassTable

pytestmark = pytest.mark.release

CLASSES = ClassTable(tuple(CLASS_NAMES), tuple(PALETTE), 255)
REASON = 'flagged: entropy.mean 0.31 > 0.27'
_PAGE_S = 60.0
_BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
_IS_READY = """(() => { const text = document.body?.innerText ?? '';
    return text.includes('Submit') && text.includes(REASON) &&
        NAMES.every(n => text.split(n).length > 2); })()"""
_SUBMIT = """[...document.querySelectorAll('button')].find(
    b => b.innerText.trim() === 'Submit').click()"""


@pytest.fixture(scope='module')
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    executable = os.environ.get('UNCERTAINTY_SEG_LABEL_STUDIO', '')
    if not executable:
        pytest.skip('no Label Studio is here (set UNCERTAINTY_SEG_LABEL_STUDIO)')
    started = LabelStudio(executable, tmp_path_factory.mktemp('label_studio'))
    try:
        started.log_in()
        yield started
    finally:
        started.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    binary = os.environ.get('UNCERTAINTY_SEG_CHROMIUM') or next(
        filter(None, map(shutil.which, _BROWSERS)), None)
    if binary is None:
        pytest.skip('no Chromium is here (set UNCERTAINTY_SEG_CHROMIUM)')
    from chromium import Browser

    opened = Browser(binary, tmp_path / 'profile')
    yield opened
    opened.close()


def wait_for(what: str, is_there: Callable[[], Any]) -> Any:
    end = time.monotonic() + _PAGE_S
    while not (found := is_there()):
        assert time.monotonic() < end, f'no {what} in {_PAGE_S:g} s'
        time.sleep(0.5)
    return found


def frame_of_a_dive() -> LabelFrame:
    scene = render_scene(5, size=(640, 480), turbidity=0.1)
    _, png = cv2.imencode('.png', scene.image)
    frame = make_frame(0, scene.mask.shape, 'dive_7', scene.mask, reason=REASON)
    return replace(frame, image_file=png.tobytes())


def test_a_person_sees_the_masks_and_submits_them(
    server: LabelStudio, browser: Any, tmp_path: Path
) -> None:
    frame = frame_of_a_dive()
    write_export(tmp_path / 'out', 'label-studio', [frame], CLASSES)
    project = server.ask('POST', '/api/projects/', {
        'title': 'dive 7', 'label_config': (tmp_path / 'out' / 'config.xml').read_text(),
        'show_collab_predictions': True, 'model_version': 'uncertainty_seg'})['id']
    said = server.ask('POST', f'/api/projects/{project}/import',
                      json.loads((tmp_path / 'out' / 'tasks.json').read_text()))
    assert (said['task_count'], said['prediction_count']) == (1, 1)
    task = server.ask('GET', f'/api/tasks/?project={project}')['tasks'][0]['id']

    browser.ask('Network.setCookie', name='sessionid', value=server.cookie('sessionid'),
                url=server.url)
    browser.ask('Emulation.setDeviceMetricsOverride', width=1280, height=800,
                deviceScaleFactor=1, mobile=False)
    browser.ask('Page.navigate', url=f'{server.url}/projects/{project}/data?task={task}')
    ready = _IS_READY.replace('NAMES', json.dumps(CLASSES.names)).replace(
        'REASON', json.dumps(REASON))
    wait_for('reason and regions', lambda: browser.run(ready))

    browser.run(_SUBMIT)
    wait_for('annotation', lambda: server.ask('GET', f'/api/tasks/{task}')['annotations'])
    exported = tmp_path / 'export.json'
    exported.write_text(json.dumps(
        server.ask('GET', f'/api/projects/{project}/export?exportType=JSON')))
    (one,) = READERS['label-studio'](exported, read_table(tmp_path / 'out'))
    np.testing.assert_array_equal(one.mask, frame.mask)
    assert (one.stem, one.mark) == (frame.row.stem, 'submitted in Label Studio')
