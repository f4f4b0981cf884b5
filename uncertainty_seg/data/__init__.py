# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Work with recorded frames: replay, score, select, browse and label them, and keep them by dive.

`scoring` fills a table, and `selection` chooses from it by the functions of `strategies` and
`likeness`. `label_sources` and `label_formats` export frames for labelling; `label_review` imports
the labels into a folder that `dataset` adds to a dataset.
"""

__all__ = [
    'browse', 'dataset', 'demo', 'label_review', 'label_sources', 'likeness', 'replay', 'scoring',
    'selection', 'strategies',
]
