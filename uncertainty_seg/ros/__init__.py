# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The ROS 2 nodes: uncertainty_seg_node, uncertainty_seg_play, and speed_governor in governor.

No other subpackage imports this one; ros.entry starts the programs (setup.py, scripts/libexec).
Only verdict_owner decides and publishes the verdict; node connects it to cameras and topics.
"""

__all__: list[str] = []
