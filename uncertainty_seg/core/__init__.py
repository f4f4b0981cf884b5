# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One frame: image in, maps, scores and verdict out, in numpy (OpenCV where images are handled).

`pipeline` knows the order of the steps, `frame_loop` what is done with each frame of a camera.

"""

__all__ = [
    'arrays', 'bundle', 'calibration', 'dropout_masks', 'frame_guard', 'frame_loop', 'gate',
    'grid', 'image_codec', 'model_card', 'pipeline', 'plausibility', 'preprocess', 'render',
    'scores.density', 'scores.image', 'scores.vector', 'settings', 'status', 'uncertainty',
]
