# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A labeller who is always right: correct an export for LabelMe by the truth of made dives.

It stands for the person in docs/tutorial_loop.md. Each file beside an image is written as LabelMe
saves it, with a mask for each class, and its flag `reviewed` is set. The truth is the topic
/ground_truth/mask of the bags that `uncertainty_seg simulate dive` wrote.

    python3 oracle_labeller.py EXPORT DIVES

EXPORT is what `uncertainty_seg export-labels --format labelme` wrote, DIVES has the bags.

"""

import base64
import json
from pathlib import Path
import sys

import cv2
import numpy as np

from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.storage.bags.reader import BagReader

TRUTH_TOPIC, UNKNOWN = '/ground_truth/mask', 255


def truth_of(bag):
    """Return the mask of each stamp of a bag."""
    with BagReader(bag) as reader:
        return {one.stamp_ns: decode(one.raw)[..., 0] for one in reader.images(TRUTH_TOPIC)}


def shape(name, mask):
    """Return a class as a shape of LabelMe: a box, and the pixels in it as PNG."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    crop = mask[top:bottom + 1, left:right + 1].astype(np.uint8) * 255
    png = cv2.imencode('.png', crop)[1].tobytes()
    return {'label': name, 'shape_type': 'mask', 'flags': {}, 'group_id': None, 'description': '',
            'points': [[int(left), int(top)], [int(right), int(bottom)]],
            'mask': base64.b64encode(png).decode('ascii')}


def correct(export, dives):
    """Write the truth into every file of an export; return how many there are."""
    table = json.loads((export / 'frames.json').read_text(encoding='utf-8'))
    names = {entry['id']: entry['name'] for entry in table['classes']}
    masks = {dive: truth_of(dives / dive) for dive in {row['dive'] for row in table['frames']}}
    for row in table['frames']:
        truth = masks[row['dive']][row['stamp_ns']]
        file = export / 'images' / f'{row["stem"]}.json'
        content = json.loads(file.read_text(encoding='utf-8'))
        content['shapes'] = [shape(names[int(i)], truth == i) for i in np.unique(truth)
                             if i != UNKNOWN]
        content['flags']['reviewed'] = True
        file.write_text(json.dumps(content, indent=2), encoding='utf-8')
    return len(table['frames'])


if __name__ == '__main__':
    if len(sys.argv) != 3:
        sys.exit('usage: python3 oracle_labeller.py EXPORT DIVES')
    print(f'{correct(Path(sys.argv[1]), Path(sys.argv[2]))} frames corrected by the truth')
