# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Segmentation that says, for every pixel, how far to trust it.

The names below are the Python API; docs/reference/python.md has an example of each::

    import uncertainty_seg as us

    with us.open_pipeline('suim') as pipeline:
        result = pipeline.process(image_bgr)
    print(result.verdict.is_confident, result.scores)

Each name is imported when it is first used: ``import uncertainty_seg`` loads neither torch nor a
runtime nor numpy. The folders, each a room with its own imports (test/package/test_imports.py):

``errors``       every exception of the package
``core``         arrays in, arrays out: settings, preprocess, uncertainty, scores, gate, pipeline
``storage``      formats on disk: model bundles, bags, frame logs, score tables, labelled folders
``backends``     what runs the graphs: ONNX Runtime, OpenVINO or TensorRT
``ros``          the only place that imports rclpy
``sim``          procedural pipeline-inspection dives and scenes
``calibration``  thresholds and their promise: calibrate, evaluate, compare
``data``         from dives to labels: replay, score, select, browse, labels, data sets
``compiler``     a network becomes a bundle: dropout becomes an input, the graph trunk and head
``training``     the only place that imports torch to train
``cli``          the command line: a thin module for each verb
"""

from importlib import import_module
import os
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from uncertainty_seg.backends.opening import open_pipeline
    from uncertainty_seg.calibration.api import calibrate, calibrate_like, compare, evaluate
    from uncertainty_seg.calibration.stats.metrics import risk_coverage
    from uncertainty_seg.compiler.request import compile_network as compile  # noqa: A004
    from uncertainty_seg.compiler.request import convert
    from uncertainty_seg.compiler.self_check import self_check
    from uncertainty_seg.core.render import heatmap, overlay
    from uncertainty_seg.core.settings import GateSettings, Settings
    from uncertainty_seg.data.browse import browse
    from uncertainty_seg.data.dataset import dataset_add
    from uncertainty_seg.data.dataset import read_dataset as dataset_status
    from uncertainty_seg.data.demo import demo
    from uncertainty_seg.data.label_review import import_labels as labels_import
    from uncertainty_seg.data.label_sources import export_labels as labels_export
    from uncertainty_seg.data.replay import replay
    from uncertainty_seg.data.scoring import score
    from uncertainty_seg.data.selection import select
    from uncertainty_seg.errors import UncertaintySegError
    from uncertainty_seg.sim.dataset import simulate_scenes
    from uncertainty_seg.sim.dive import simulate_dive
    from uncertainty_seg.storage.labelled_folder import load_folder
    from uncertainty_seg.storage.model_bundle import load_bundle
    from uncertainty_seg.training.active_learning import active_learn
    from uncertainty_seg.training.train import train

__version__ = '0.1.0'
__all__ = [
    'GateSettings', 'Settings', 'UncertaintySegError', 'active_learn', 'browse', 'calibrate',
    'calibrate_like', 'compare', 'compile', 'convert', 'dataset_add', 'dataset_status', 'demo',
    'evaluate', 'heatmap', 'labels_export', 'labels_import', 'load_bundle', 'load_folder',
    'open_pipeline', 'overlay', 'replay', 'risk_coverage', 'score', 'select', 'self_check',
    'simulate_dive', 'simulate_scenes', 'train',
]
# Name -> the module that has it, and its name there if it is another one.
_PLACES = {
    'GateSettings': 'core.settings', 'Settings': 'core.settings',
    'UncertaintySegError': 'errors', 'active_learn': 'training.active_learning',
    'browse': 'data.browse', 'calibrate': 'calibration.api',
    'calibrate_like': 'calibration.api', 'compare': 'calibration.api',
    'compile': 'compiler.request:compile_network', 'convert': 'compiler.request',
    'dataset_add': 'data.dataset', 'dataset_status': 'data.dataset:read_dataset',
    'demo': 'data.demo', 'evaluate': 'calibration.api', 'heatmap': 'core.render',
    'labels_export': 'data.label_sources:export_labels',
    'labels_import': 'data.label_review:import_labels',
    'load_bundle': 'storage.model_bundle', 'load_folder': 'storage.labelled_folder',
    'open_pipeline': 'backends.opening', 'overlay': 'core.render', 'replay': 'data.replay',
    'risk_coverage': 'calibration.stats.metrics', 'score': 'data.scoring',
    'select': 'data.selection', 'self_check': 'compiler.self_check',
    'simulate_dive': 'sim.dive', 'simulate_scenes': 'sim.dataset', 'train': 'training.train',
}
# From 1.29 on ONNX Runtime's wheels report each model that is opened to its vendor, unless this is
# set before they are loaded. Whoever wants that sets it to 0.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')


def __getattr__(name: str) -> Any:
    """Import a name of the API when it is first used."""
    if name not in _PLACES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module, _, other_name = _PLACES[name].partition(':')
    value = getattr(import_module(f'{__name__}.{module}'), other_name or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the API."""
    return sorted([*__all__, '__version__'])
