# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Calibrate, evaluate and compare bundles on labelled images.

``calibrate`` fits temperature and thresholds with a promise, ``carried_over`` transfers thresholds
to another precision; ``evaluate`` measures one bundle and ``compare`` several. ``stats`` computes
the figures, ``report`` writes the pages.
"""

__all__ = ['api', 'report.page', 'report.pictures', 'stats.metrics']
