# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One frame: image in; maps, scores and verdict out, in numpy (OpenCV where images are handled).

`pipeline` defines the order of the steps, `frame_loop` how each frame of a camera is handled.

No per-frame code calls BLAS, here or in another subpackage: products use `np.einsum`, which does
not. After each small product the threads of a BLAS library spin for 30 ms or more while they wait
for the next one, which keeps a core busy between frames.
"""

__all__ = [
    'arrays', 'bundle', 'calibration', 'dropout_masks', 'frame_guard', 'frame_loop', 'gate',
    'grid', 'image_codec', 'image_damage', 'model_card', 'pipeline', 'plausibility', 'preprocess',
    'render', 'scores.density', 'scores.vector', 'settings', 'status', 'uncertainty',
]
