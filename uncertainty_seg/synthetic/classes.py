# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The classes of the pipeline scenes: ids, names, colours.

Open water counts as seabed, as does everything too dim to be seen. The colours are those of
Okabe and Ito (2008), told apart under the common forms of colour blindness.

"""

from __future__ import annotations


SEABED, PIPELINE, FIELD_JOINT, ANODE, MARINE_GROWTH, DEBRIS = range(6)
IGNORE = 255
CLASS_NAMES = ('seabed', 'pipeline', 'field_joint', 'anode', 'marine_growth', 'debris')
# RGB, one a class.
PALETTE = ((0, 0, 0), (0, 114, 178), (240, 228, 66), (204, 121, 167), (0, 158, 115), (213, 94, 0))
