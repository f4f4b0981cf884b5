# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One frame: image in, maps, scores and verdict out, in numpy (OpenCV where images are handled).

`pipeline` knows the order of the steps, `frame_loop` what is done with each frame of a camera.

Nothing that is done for every frame calls BLAS, here or in another room: products are by
`np.einsum`, which does not. The threads of a BLAS library wait for more by spinning, 30 ms and
more after each small product, which is a core that does nothing from one frame to the next.

"""

__all__ = [
    'arrays', 'bundle', 'calibration', 'dropout_masks', 'frame_guard', 'frame_loop', 'gate',
    'grid', 'image_codec', 'model_card', 'pipeline', 'plausibility', 'preprocess', 'render',
    'scores.density', 'scores.image', 'scores.vector', 'settings', 'status', 'uncertainty',
]
