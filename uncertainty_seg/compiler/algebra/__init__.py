# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Passes over a graph with dropout: from random nodes to masks, and from one graph to trunk and head.

Every pass takes a model, which is left as it is, the dropout sites, whose names are the mask
inputs, and where costs are weighed T, the number of passes. It returns a model that computes the
same, to rounding, and a `Decision` for each place it looked at, applied or not.
"""
