# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Your own network: compile a torch module with dropout into a bundle, and look at its uncertainty.

    python3 03_own_network.py [FOLDER]

Needs torch. The weights are random here; docs/start/your_network.md trains and calibrates it.
"""

import sys

import torch
from torch import nn

import uncertainty_seg as us
from uncertainty_seg.sim.scene import render_scene

FOLDER = sys.argv[1] if len(sys.argv) > 1 else 'own_network'
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
    nn.Dropout2d(0.5), nn.Conv2d(32, 3, 1), nn.Upsample(scale_factor=2, mode='bilinear'))

made = us.compile(network, FOLDER, size=(160, 128), classes=['water', 'diver', 'wreck'])
print(f'{made.bundle.card.passes} passes; the same masks give the same logits as torch, '
      f'to {made.report.masked_error:.0e} of their spread')

# A new bundle has no calibration: maps and scores are valid, the flag stays false.
with us.open_pipeline(made.bundle, uncalibrated='run') as pipeline:
    result = pipeline.process(render_scene(10).image)
print(f'mutual information {result.scores["mutual_information.mean"]:.4f}, '
      f'confident: {result.verdict.is_confident} ({result.verdict.reasons[0]})')
