# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Process one image: print whether mission logic may rely on its mask, and draw where not.

    python3 01_one_image.py [photo.jpg] [picture.png]

Without a photo it uses a rendered scene. Needs no ROS, no torch and no GPU.
"""

import sys

import cv2

import uncertainty_seg as us
from uncertainty_seg.sim.scene import render_scene

photo, picture = (sys.argv[1:] + ['', ''])[:2]
image = cv2.imread(photo) if photo else render_scene(10).image
if image is None:
    sys.exit(f'{photo} is no image that OpenCV can read')

# A camera stream needs three good frames in a row; a single image needs one.
with us.open_pipeline('suim' if photo else 'pipeline', **{'gate.rise_frames': 1}) as pipeline:
    result = pipeline.process(image)
    palette, calibrated = pipeline.card.palette, pipeline.calibrated

print(f'confident: {result.verdict.is_confident} ({result.verdict.reasons[0]})')
print(f'largest ratio of a score to its threshold: {result.verdict.score_ratio:.2f}')

# Class colours beside the heatmap: do not trust the mask where it is bright.
span = calibrated['least_confidence.mean'] / 2, calibrated['least_confidence.top']
heat = us.heatmap(image, result.map_at_source('least_confidence'), span)
cv2.imwrite(picture or 'one_image.png',
            cv2.hconcat([us.overlay(image, result.label, palette), heat]))
print(f'picture: {picture or "one_image.png"}')
