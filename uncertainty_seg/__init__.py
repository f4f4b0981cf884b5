# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Segmentation that says, for every pixel, how far to trust it.

The folders in reading order, which is also the order in which a frame flows:

``errors``     every exception of the package
``core``       arrays in, arrays out: settings, preprocess, uncertainty, scores, gate, pipeline
``graph``      ONNX in, ONNX out: dropout becomes an input, the graph is split in trunk and head
``backends``   what runs the graphs: ONNX Runtime, OpenVINO or TensorRT
``storage``    formats on disk: model bundles, bags
``synthetic``  procedural pipeline-inspection dives
``training``   the only place that imports torch
``ros``        the only place that imports rclpy
``tools``      the command line, one thin module a verb

"""

__version__ = '0.1.0'
