# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Green values of the centre pixel that trigger the faults of `ros_fault_node`."""

ENDS, FAILS, GIVES_NAN, WAITS, SURPRISES = 250, 251, 252, 253, 254
