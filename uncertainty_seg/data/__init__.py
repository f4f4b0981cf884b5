# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What becomes of recorded frames: replayed, scored, chosen, looked at, labelled, and kept by dive.

`scoring` fills a table, `selection` chooses from it by the functions of `strategies` and
`likeness`; labels go out by `label_sources` and `label_formats` and come back by `label_review`
into a folder that `dataset` grows by.

"""

__all__ = [
    'browse', 'dataset', 'demo', 'label_review', 'label_sources', 'likeness', 'replay', 'scoring',
    'selection', 'strategies',
]
