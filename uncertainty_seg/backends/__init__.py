# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run a bundle's graphs: ONNX Runtime and OpenVINO in cpu/, TensorRT in gpu/.

``opening`` starts from a name or a folder, ``registry`` from a loaded bundle; ``runner`` is what
every runtime offers and requires; ``check_record`` is what the self-check found. Engines are built
and kept by ``gpu.engine_build`` and ``gpu.engine_cache``.

"""

__all__ = ['check_record', 'gpu.engine_build', 'opening', 'registry']
