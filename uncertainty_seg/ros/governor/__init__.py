# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The speed governor: policy, the limit that the flags allow, and node, which publishes it."""

__all__ = ['node', 'policy']
