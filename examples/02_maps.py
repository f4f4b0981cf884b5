# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The maps of three images: clear water, turbid water, and a diver (not in the training data).

    python3 02_maps.py [picture.png]

Draws a row for each image: class colours, heatmap, and the image without its uncertain pixels.
"""

import sys

import cv2
import numpy as np

import uncertainty_seg as us
from uncertainty_seg.sim.scene import render_scene

PICTURE = sys.argv[1] if len(sys.argv) > 1 else 'maps.png'
scenes = {
    'clear': render_scene(10, turbidity=0.1).image,
    'turbid': render_scene(10, turbidity=0.95).image,
    'diver': render_scene(10, turbidity=0.1, unknown='diver').image,
}

rows = []
with us.open_pipeline('pipeline', **{'gate.rise_frames': 1}) as pipeline:
    names, palette = pipeline.card.class_names, pipeline.card.palette
    for name, image in scenes.items():
        result = pipeline.process(image)
        # Every map but `confidence` grows with the uncertainty.
        entropy = result.map_at_source('entropy')
        share = {names[i]: f'{(result.label == i).mean():.0%}' for i in np.unique(result.label)}
        print(f'{name:7} confident: {result.verdict.is_confident!s:5}  mean entropy '
              f'{entropy.mean():.3f}  least confidence {result.confidence.min():.2f}  {share}')
        sure = np.where((entropy < 0.25)[..., None], image, 0).astype(np.uint8)
        rows.append(np.hstack([us.overlay(image, result.label, palette),
                               us.heatmap(image, entropy, (0.05, 0.6)), sure]))
if not cv2.imwrite(PICTURE, np.vstack(rows)):
    sys.exit(f'{PICTURE} cannot be written')
print(f'picture: {PICTURE}')
