# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Figures of pixels and frames, their bootstrap intervals, and thresholds with a promise."""
