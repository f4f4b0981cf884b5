# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Train networks, your own or the included architecture, and measure selection strategies.

A recipe defines the training; the result is a bundle without a calibration. Only this package and
the compiler's capture import torch.
"""

import os

# Read when torch is loaded. By default its threads spin while they wait for each other: with two
# threads and other programs running, a step took five times the CPU time, and longer than with one
# thread.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

__all__ = ['active_learning', 'recipes', 'train']
