# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
An oracle labeller: correct an export in folder format with the truth of rendered dives.

It takes the place of the person in docs/guides/loop.md. The masks are replaced by the topic
/ground_truth/mask of the bags that `uncertainty_seg simulate dive` wrote.

    python3 08_oracle_labeller.py EXPORT DIVES

EXPORT is what `uncertainty_seg labels export --format folder` wrote, DIVES contains the bags.
"""

import json
from pathlib import Path
import sys

import cv2

from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.storage.bags.reader import BagReader

TRUTH_TOPIC = '/ground_truth/mask'


def truth_of(bag):
    """Return the mask of each stamp of a bag."""
    with BagReader(bag) as reader:
        return {one.stamp_ns: decode(one.raw)[..., 0] for one in reader.images(TRUTH_TOPIC)}


def correct(export, dives):
    """Write the truth into every mask of an export; return how many there are."""
    table = json.loads((export / 'frames.json').read_text(encoding='utf-8'))
    masks = {dive: truth_of(dives / dive) for dive in {row['dive'] for row in table['frames']}}
    for row in table['frames']:
        truth = masks[row['dive']][row['stamp_ns']]
        cv2.imwrite(str(export / 'masks' / f'{row["stem"]}.png'), truth)
    return len(table['frames'])


if __name__ == '__main__':
    if len(sys.argv) != 3:
        sys.exit('usage: python3 08_oracle_labeller.py EXPORT DIVES')
    print(f'{correct(Path(sys.argv[1]), Path(sys.argv[2]))} frames corrected by the truth')
