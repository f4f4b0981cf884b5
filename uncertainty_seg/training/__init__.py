# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Train networks, yours or the included architecture, and measure what strategies save.

A recipe says how; what comes out is a bundle, not yet calibrated. Only this room and the capture
of the compiler import torch.

"""

import os

# Read when torch is loaded. Its threads else wait by spinning until all have come: with two of
# them beside other programs a step took five times the processor time, and longer than with one.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

__all__ = ['active_learning', 'recipes', 'train']
