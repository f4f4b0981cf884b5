# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Passes over a graph with dropout: from random nodes to masks, and from one graph to trunk and head.

Every pass takes a model, which it does not modify, and the dropout sites, whose names are the mask
inputs. A pass that weighs costs also takes T, the number of forward passes. It returns a model
that computes the same up to rounding, and a `Decision` for each place examined, applied or not.
"""
