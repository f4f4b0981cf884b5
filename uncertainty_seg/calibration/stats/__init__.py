# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Figures of frames and pixels, how far they would move, and what they promise."""
