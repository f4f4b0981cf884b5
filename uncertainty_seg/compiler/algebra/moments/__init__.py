# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Error propagation: mean and variance of the logits in one pass, as a change of the graph."""
