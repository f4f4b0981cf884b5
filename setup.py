# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Build the ament_python package: what is installed, and where."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'uncertainty_seg'
# Folders copied whole to share/uncertainty_seg, sub-folders (config/models/<bundle>) included.
SHARED_FOLDERS = ('launch', 'config')


def shared_files():
    """List (target folder, its files) for every folder below SHARED_FOLDERS."""
    by_target = {}
    for folder in SHARED_FOLDERS:
        for path in sorted(Path(folder).rglob('*')):
            if path.is_file() and '__pycache__' not in path.parts:
                target = (Path('share') / PACKAGE / path.parent).as_posix()
                by_target.setdefault(target, []).append(path.as_posix())
    return sorted(by_target.items())


setup(
    name=PACKAGE,
    version='0.1.0',
    packages=find_packages(include=[PACKAGE, PACKAGE + '.*']),
    package_data={PACKAGE: ['py.typed', 'tools/report/templates/*']},
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/' + PACKAGE]),
        ('share/' + PACKAGE, ['package.xml']),
        *shared_files(),
    ],
    # As in every ament_python package, the run-time dependencies stand in package.xml: the
    # distributions' OpenCV, for one, is not known to pip under the name it has on PyPI.
    install_requires=['setuptools'],
    # Not tests_require: with that, colcon test runs no test and passes.
    # The rest is optional: a faster runtime, and what compiling other people's networks takes.
    # Those of a GPU are for a desktop: on a Jetson TensorRT and torch are NVIDIA's builds, see
    # docs/jetson.md. onnxruntime-gpu takes the place of onnxruntime.
    extras_require={
        'test': ['pytest', 'pytest-timeout', 'hypothesis'],
        'openvino': ['openvino>=2025.0'],
        'calibrate': ['scikit-learn>=1.3', 'scipy>=1.9', 'matplotlib>=3.6', 'jinja2>=3.0'],
        'tensorrt': ['tensorrt>=8.6,<12', 'torch'],
        'tensorrt_rtx': ['tensorrt-rtx', 'torch'],
        'onnxruntime_gpu': ['onnxruntime-gpu>=1.18'],
        'score': ['pyarrow>=17', 'mcap>=1.1', 'jinja2>=3.0'],
        'ray': ['ray>=2.9', 'pyarrow>=17', 'mcap>=1.1'],
        'nets': ['safetensors', 'timm', 'segmentation-models-pytorch'],
        'labels': ['pycocotools>=2.0.7'],
        'peers': ['torch-uncertainty', 'lightning', 'torchmetrics', 'baal'],
    },
    zip_safe=True,
    python_requires='>=3.10',
    author='The uncertainty_seg authors',
    maintainer='The uncertainty_seg authors',
    maintainer_email='uncertainty_seg@users.noreply.github.com',
    description='Semantic segmentation that says how far to trust it, for underwater vehicles.',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            'speed_governor = uncertainty_seg.ros.governor.node:main',
            'uncertainty_seg = uncertainty_seg.tools.main:main',
            'uncertainty_seg_node = uncertainty_seg.ros.main:main',
            'uncertainty_seg_play = uncertainty_seg.ros.bag_player:main',
        ],
    },
)
