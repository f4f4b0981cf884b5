# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Formats on disk: bundles, bags, frame log, labelled folders, score tables, parameters."""

__all__ = [
    'bags.reader',
    'bags.writer',
    'first_member',
    'foreign_files',
    'frame_log.format',
    'frame_log.log',
    'frame_sources',
    'labelled_folder',
    'model_bundle',
    'onnx_nodes',
    'parameter_files',
    'perceptual_hash',
    'progress',
    'review_record',
    'score_rows',
    'signatures',
    'whole_files',
]
