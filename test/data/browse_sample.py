# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Images for the tiny bundle, and the data that the script of a browse page reads."""

import base64
from collections.abc import Sequence
import json
from pathlib import Path
import re
from typing import Any

import cv2
import numpy as np

from uncertainty_seg.cli.main import main

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def picture(index: int) -> np.ndarray:
    """Return a noisy image with two parts of different colours."""
    mask = np.full((48, 64), index % 3, np.uint8)
    mask[:, 20 + 4 * (index % 5):] = (index + 1) % 3
    image = np.array(COLOURS, np.uint8)[mask]
    noise = np.random.default_rng(index).integers(-9, 10, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def scored(
    folder: Path, bundle: Path, pictures: Sequence[np.ndarray], *words: object,
    name: str = 'seen',
) -> Path:
    """Write images into a folder and score it; return the table."""
    (folder / name).mkdir(parents=True)
    for k, image in enumerate(pictures):
        cv2.imwrite(str(folder / name / f'{k:03}.png'), image)
    assert main(['score', str(folder / name), '--out', str(folder / 'table'), '--set',
                 f'model={bundle}', '--set', 'backend=onnxruntime', *map(str, words)]) == 0
    return folder / 'table'


def page_values(page: Path) -> dict[str, Any]:
    """Return the data that the script of a page reads, with the columns as rows of frames."""
    text = page.read_text(encoding='utf-8')
    start = text.index('id="data">') + len('id="data">')
    values: dict[str, Any] = json.loads(text[start:text.index('</script>', start)])
    columns = [np.frombuffer(base64.b64decode(packed), '<f4').tolist() for packed in
               re.findall('<script type="text/plain" id="column-[0-9]+">(.*?)</script>', text)]
    dives, _, flags, verdicts, *numbers = columns
    count = len(values['scores'])
    return {
        **values, 'scores': dict(zip(values['scores'], numbers, strict=False)),
        'shares': numbers[count:], 'frames': [{
            'key': key, 'dive': values['dives'][int(dives[row])], 'flag': bool(flags[row]),
            'verdict': values['verdicts'][int(verdicts[row])],
            'selected': values['selected'].get(str(row)), 'why': values['why'].get(str(row)),
            'pictures': values['pictures'].get(str(row)),
        } for row, key in enumerate(values['keys'])]}
