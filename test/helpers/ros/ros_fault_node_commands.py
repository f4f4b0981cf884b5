# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Green values of the middle pixel that make `ros_fault_node` misbehave."""

ENDS, FAILS, GIVES_NAN, WAITS, SURPRISES = 250, 251, 252, 253, 254
