# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a bundle is worth, and where its flag begins: calibrate, evaluate, compare.

``calibrate`` fits temperature and thresholds with a promise, ``carried_over`` takes them to
another precision; ``evaluate`` measures one bundle and ``compare`` several. ``stats`` has the
figures, ``report`` the pages.

"""

__all__ = ['api', 'report.page', 'report.pictures', 'stats.metrics']
