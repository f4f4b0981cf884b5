# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run a bundle's graphs: ONNX Runtime and OpenVINO in cpu/, TensorRT in gpu/.

``opening`` starts from a name or a folder, ``registry`` from a loaded bundle. ``runner`` defines
the interface of every runtime; ``check_record`` stores the results of the self-check. Engines are
built by ``gpu.engine_build`` and stored by ``gpu.engine_cache``.
"""

__all__ = ['check_record', 'gpu.engine_build', 'opening', 'registry', 'runner']
