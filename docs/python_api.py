# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
# %% [markdown]
"""
# Uncertainty of a segmentation, from Python.

Run it as a script (`python docs/python_api.py [picture.png]`), or cell by cell in an editor that
knows percent cells (VS Code, PyCharm, Spyder, Jupytext). It needs the run-time packages of the
node, but no ROS, no torch and no GPU.

"""

# %%
import sys

import cv2
import numpy as np

import uncertainty_seg as us
from uncertainty_seg.sim.scene import render_scene

PICTURE = sys.argv[1] if len(sys.argv) > 1 else 'python_api.png'

# %% [markdown]
# ## Images
#
# The same scene of a pipeline inspection in clear water, in turbid water, and with a diver, which
# the model was never shown. For your own image: `cv2.imread('photo.jpg')`, in BGR.

# %%
scenes = {
    'clear': render_scene(10, turbidity=0.1).image,
    'turbid': render_scene(10, turbidity=0.95).image,
    'diver': render_scene(10, turbidity=0.1, unknown='diver').image,
}

# %% [markdown]
# ## Results
#
# The images are no video, so that one good frame is enough to raise the flag (`gate.rise_frames`);
# a vehicle takes three.

# %%
with us.open_pipeline('pipeline', **{'gate.rise_frames': 1}) as pipeline:
    card = pipeline.card
    results = {name: pipeline.process(image) for name, image in scenes.items()}

for name, result in results.items():
    verdict = result.verdict
    print(f'{name:7} confident: {verdict.is_confident!s:5}  worst score over its limit: '
          f'{verdict.score_ratio:.2f}  {verdict.reasons[0]}')

# %% [markdown]
# ## Maps
#
# Labels and maps have the size of the image; `result.maps` holds them at the resolution of the
# network. Every map but `confidence` grows with the uncertainty.

# %%
for name, result in results.items():
    entropy = result.map_at_source('entropy')
    share = {card.class_names[i]: f'{(result.label == i).mean():.0%}'
             for i in np.unique(result.label)}
    print(f'{name:7} mean entropy {entropy.mean():.3f}  lowest confidence '
          f'{result.confidence.min():.2f}  {share}')

# %% [markdown]
# ## Picture
#
# A row for each image: the image, class colours over it, the heatmap (do not trust what is
# bright), and the image without the pixels that the passes do not agree on.

# %%


def caption(picture, text):
    """Write a line of text into the upper left corner."""
    cv2.rectangle(picture, (0, 0), (picture.shape[1], 26), (0, 0, 0), -1)
    cv2.putText(picture, text, (8, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255, 255, 255), 1,
                cv2.LINE_AA)
    return picture


rows = []
for name, image in scenes.items():
    result = results[name]
    entropy = result.map_at_source('entropy')
    flag = 'confident' if result.verdict.is_confident else 'not confident'
    rows.append(np.hstack([
        caption(image.copy(), name),
        caption(us.overlay(image, result.label, card.palette), f'classes: {flag}'),
        caption(us.heatmap(image, entropy, (0.05, 0.6)), 'entropy, 0.05 to 0.6'),
        caption(np.where((entropy < 0.25)[..., None], image, 0).astype(np.uint8),
                'pixels with an entropy below 0.25'),
    ]))
if not cv2.imwrite(PICTURE, np.vstack(rows)):
    raise SystemExit(f'{PICTURE} cannot be written')
print(f'picture: {PICTURE}')
