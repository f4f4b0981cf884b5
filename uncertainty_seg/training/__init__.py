# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Train networks, yours or the included architecture, and go round with a labeller.

A recipe says how; what comes out is a bundle, not yet calibrated. Only this room and the capture
of the compiler import torch.

"""

__all__ = ['active_learning', 'recipes', 'train']
