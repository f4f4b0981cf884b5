# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Build the ament_python package: what is installed, and where."""

from pathlib import Path
import sys

from setuptools import find_packages, setup

PACKAGE = 'uncertainty_seg'
# colcon --symlink-install runs a link to this file in another folder.
REQUIREMENTS = Path(__file__).resolve().parent / 'scripts' / 'requirements'
# Folders copied whole to share/uncertainty_seg, sub-folders (config/models/<bundle>) included.
SHARED_FOLDERS = ('launch', 'config', 'examples')
# Extra -> files of scripts/requirements, which scripts/demo and scripts/test install.
EXTRAS = {
    'runtime': ('runtime',),
    'openvino': ('openvino',),
    'calibrate': ('calibrate',),
    'score': ('score',),
    'ray': ('ray', 'score'),
    'labels': ('labels',),
    # The loop from dives to labels and figures, without ROS and without training.
    'data': ('runtime', 'calibrate', 'score', 'labels'),
    'sign': ('sign',),
    'train': ('torch',),
    'nets': ('nets', 'torch'),
    'peers': ('peers', 'peers_alone'),
    'test': ('test',),
}


def requirements(*names):
    """List the requirements of some files, without comments."""
    lines = [line.partition('#')[0].strip() for name in names
             for line in (REQUIREMENTS / f'{name}.txt').read_text().splitlines()]
    return [line for line in lines if line]


def shared_files():
    """List (target folder, its files) for every folder below SHARED_FOLDERS."""
    by_target = {}
    for folder in SHARED_FOLDERS:
        for path in sorted(Path(folder).rglob('*')):
            if path.is_file() and '__pycache__' not in path.parts:
                target = (Path('share') / PACKAGE / path.parent).as_posix()
                by_target.setdefault(target, []).append(path.as_posix())
    return sorted(by_target.items())


def commands_elsewhere():
    """
    List programs for where only one of both puts them.

    pip writes all to bin/ and colcon to lib/PACKAGE/, where ros2 run and ros2 launch look.
    """
    is_wheel = any(word.endswith('_wheel') for word in sys.argv)
    folder, source = ('lib/' + PACKAGE, 'libexec') if is_wheel else ('bin', 'bin')
    return [(folder, sorted(path.as_posix() for path in Path('scripts', source).iterdir()))]


setup(
    name=PACKAGE,
    version='0.1.0',
    packages=find_packages(include=[PACKAGE, PACKAGE + '.*']),
    package_data={PACKAGE: ['py.typed', 'calibration/report/templates/*']},
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/' + PACKAGE]),
        ('share/' + PACKAGE, ['package.xml']),
        *shared_files(),
        *commands_elsewhere(),
    ],
    # As in every ament_python package, the run-time dependencies are in package.xml: the
    # distributions' OpenCV, for one, is not known to pip under the name it has on PyPI. Where ROS
    # does not bring them, the extra `runtime` does.
    install_requires=['setuptools'],
    # Not tests_require: with that, colcon test runs no test and passes.
    extras_require={
        **{extra: requirements(*names) for extra, names in EXTRAS.items()},
        # For a desktop: on a Jetson TensorRT comes with JetPack, see docs/guides/gpu.md.
        'tensorrt': ['tensorrt>=10.3,<12', 'cuda-bindings'],
        'tensorrt_rtx': ['tensorrt-rtx', 'cuda-bindings'],
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
            'speed_governor = uncertainty_seg.ros.entry:governor',
            'uncertainty_seg = uncertainty_seg.__main__:main',
            'uncertainty_seg_node = uncertainty_seg.ros.entry:node',
            'uncertainty_seg_play = uncertainty_seg.ros.entry:player',
        ],
    },
)
