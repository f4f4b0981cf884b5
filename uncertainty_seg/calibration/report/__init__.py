# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""HTML pages with figures, plots and frames."""
