# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The speed governor: policy turns the flag into a speed factor, node publishes it."""

__all__ = ['node', 'policy']
