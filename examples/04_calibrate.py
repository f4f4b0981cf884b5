# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Calibrate a model for your water: fit thresholds that keep a promise, then measure them.

    python3 04_calibrate.py [NUM_IMAGES]

Rendered scenes take the place of your labelled images. Needs the extra `calibrate`; with 100
images per folder it takes minutes.
"""

from pathlib import Path
import shutil
import sys

import uncertainty_seg as us


def main(num_images):
    """Render, calibrate a copy of the included model, and evaluate it."""
    # Three folders: like the training images; for the thresholds; for the evaluation.
    for seed, folder in enumerate(('known', 'limits', 'later'), 1):
        us.simulate_scenes(folder, count=num_images, seed=seed, size=(320, 240))
    for folder in ('limits', 'later'):
        Path(folder, 'splits.json').unlink()  # all of their images count

    shutil.copytree(us.load_bundle('pipeline').folder, 'mine')  # a copy of the included one
    fitted = us.calibrate('mine', train='known', val='known', limits='limits', bad='iou<0.5',
                          alphas=[0.1], scores=['entropy.class_mean', 'mutual_information.top'],
                          report='calibration.html')
    promise, = fitted.calibration.promises
    print(f'{promise.accepted:.0%} of the frames are accepted, {promise.accepted_and_bad:.1%} are '
          f'accepted and bad; promised: at most {promise.alpha:.0%}')

    found = us.evaluate('mine', 'later', report='evaluation.html')
    print(f'on other scenes: mean IoU {found.evaluation.mean_iou:.2f}, '
          f'{found.flag.accepted.value:.0%} accepted')


if __name__ == '__main__':  # the scenes are rendered in child processes
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
