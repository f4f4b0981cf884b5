# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Procedural pipeline inspections: labelled scenes, dives with events, and parts of the demo.

The same seed gives the same bytes.
"""

__all__ = ['dataset', 'demo.live', 'demo.pictures', 'demo.timeline', 'dive', 'scene']
