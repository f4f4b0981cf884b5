# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The ROS 2 nodes: uncertainty_seg_node, uncertainty_seg_play, and speed_governor in governor.

Nothing outside imports this room; the programs start by ros.entry (setup.py, scripts/libexec).
verdict_owner alone decides and publishes the verdict; node wires it to cameras and topics.
"""

__all__: list[str] = []
