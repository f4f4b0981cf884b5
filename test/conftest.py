# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Fixtures of many tests: a tiny bundle with known output, and the shared photographs.

The tiny network depends on colour only. Its trunk averages 4x4 blocks of the image; its head
multiplies the three colours by their masks and by 8 to get the logits. Class 0 is blue, 1 green,
2 red, and the output of a pixel can be computed by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
import json
import logging
import os
from pathlib import Path
import signal
import sys
import time
from typing import Any

import numpy as np
import pytest

from uncertainty_seg.core.calibration import Calibration
from uncertainty_seg.core.image_damage import STATISTICS
from uncertainty_seg.core.model_card import DropoutSite, InputSpec, ModelCard, SCHEMA_VERSION
from uncertainty_seg.storage.model_bundle import (
    load_bundle,
    model_digest,
    write_bundle,
    write_calibration,
)

# These are in no distribution's packages, so ROS's build farm, which has no network access, tests
# without them: only the folders and files of WITHOUT_PIP, skipping tests that need a package.
TEST = Path(__file__).resolve().parent
FROM_PIP = ('mcap', 'onnx', 'onnxruntime', 'rosbags')
MISSING = tuple(name for name in FROM_PIP if find_spec(name) is None)
WITHOUT_PIP = ('calibration/stats', 'core', 'sim', 'package/test_house.py',
               'package/test_package_files.py')
collect_ignore = [path for path in (file.relative_to(TEST).as_posix()
                                    for file in TEST.rglob('test_*.py'))
                  if not path.startswith(WITHOUT_PIP)] if MISSING else []
if not MISSING:
    import onnx
    from onnx import helper, numpy_helper, TensorProto

    from uncertainty_seg.compiler.head_graphs import add_sums


def pytest_report_header() -> str:
    """Return a note if packages are missing."""
    return (f'{", ".join(MISSING)} not installed: only tests that need none of them are run; '
            'pip install -r scripts/requirements/runtime.txt') if MISSING else ''


def pytest_runtest_setup() -> None:
    """Skip a test after the deadline of scripts/test; seed torch before each test."""
    until = os.environ.get('UNCERTAINTY_SEG_TESTS_UNTIL')
    if until and time.time() > float(until):
        pytest.skip('the time given for these tests is over')
    if 'torch' in sys.modules:
        sys.modules['torch'].manual_seed(0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Iterator[None]:
    """Report a failure as skipped if its cause is a missing package."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and call.excinfo and (name := missing_package(call.excinfo.value)):
        path, line, _ = report.location
        report.outcome, report.longrepr = 'skipped', (path, line or 0, f'{name} is missing')


def missing_package(err: BaseException | None) -> str:
    """Return the package of `MISSING` that caused an error; '' if none did."""
    while err is not None:
        name = str(getattr(err, 'name', None) or '').partition('.')[0]
        if isinstance(err, ModuleNotFoundError) and name in MISSING:
            return name
        if isinstance(err, NameError) and name in ('onnx', 'helper', 'numpy_helper') and MISSING:
            return 'onnx'
        err = err.__cause__ or err.__context__
    return ''


# Makes the helpers importable, here and in the processes that tests start.
SHARED = [str(TEST.parent), str(TEST), *(str(path) for path in TEST.rglob('*') if path.is_dir())]
sys.path[:0] = SHARED
os.environ['PYTHONPATH'] = os.pathsep.join(
    [*SHARED, *filter(None, [os.environ.get('PYTHONPATH')])])
pytest_plugins = ['ros_plugin']

TINY_WIDTH, TINY_HEIGHT, TINY_PASSES, TINY_P = 64, 48, 8, 0.25


@pytest.fixture(scope='session', autouse=True)
def disk_is_not_waited_for():
    """Disable fsync: tests write thousands of small files that need not survive a power loss."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'fsync', os.fstat)  # raises for an invalid descriptor, as fsync does
        yield


@pytest.fixture(autouse=True)
def log_level_stays():
    """Restore the level of the package's logger, which every command line call sets."""
    package = logging.getLogger('uncertainty_seg')
    before = package.level
    yield
    package.setLevel(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Limit torch to one thread, since its threads wait for each other on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def compressed_message(stamp_ns: int, frame_id: str, kind: str, data: bytes) -> Any:
    """Build a sensor_msgs/CompressedImage; the package has no writer of these."""
    from uncertainty_seg.storage.bags.reader import COMPRESSED_TYPE, typestore
    from uncertainty_seg.storage.bags.writer import image_message

    header = image_message(stamp_ns, frame_id, np.zeros((1, 1), np.uint8), 'mono8').header
    return typestore().types[COMPRESSED_TYPE](header, kind, np.frombuffer(data, np.uint8))


def tiny_trunk() -> onnx.ModelProto:
    """Return a graph: uint8 (1, 48, 64, 3) -> float32 (1, 3, 12, 16), 0..1, 4x4 block means."""
    nodes = [
        helper.make_node('Cast', ['image'], ['cast'], to=TensorProto.FLOAT),
        helper.make_node('Transpose', ['cast'], ['planes'], perm=[0, 3, 1, 2]),
        helper.make_node('Mul', ['planes', 'scale'], ['scaled']),
        helper.make_node('AveragePool', ['scaled'], ['features'], kernel_shape=[4, 4],
                         strides=[4, 4]),
    ]
    image = helper.make_tensor_value_info('image', TensorProto.UINT8,
                                          [1, TINY_HEIGHT, TINY_WIDTH, 3])
    features = helper.make_tensor_value_info('features', TensorProto.FLOAT, [1, 3, 12, 16])
    scale = numpy_helper.from_array(np.array(1 / 255, np.float32), 'scale')
    graph = helper.make_graph(nodes, 'trunk', [image], [features], [scale])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 20)], ir_version=9)


def tiny_head() -> onnx.ModelProto:
    """Return a graph: features times mask times 8 -> logits (T, 3, 12, 16)."""
    nodes = [
        helper.make_node('Mul', ['features', 'drop'], ['masked']),
        helper.make_node('Mul', ['masked', 'gain'], ['logits']),
    ]
    inputs = [
        helper.make_tensor_value_info('features', TensorProto.FLOAT, [1, 3, 12, 16]),
        helper.make_tensor_value_info('drop', TensorProto.FLOAT, ['T', 3, 1, 1]),
    ]
    logits = helper.make_tensor_value_info('logits', TensorProto.FLOAT, ['T', 3, 12, 16])
    gain = numpy_helper.from_array(np.array(8, np.float32), 'gain')
    graph = helper.make_graph(nodes, 'head', inputs, [logits], [gain])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 20)], ir_version=9)


def tiny_files(trunk: onnx.ModelProto, head: onnx.ModelProto) -> dict[str, bytes]:
    """Return the files of a bundle."""
    return {'trunk.onnx': trunk.SerializeToString(),
            'passes.onnx': add_sums(head).SerializeToString()}


def tiny_card(**changes: object) -> ModelCard:
    """Return the card of the tiny network."""
    facts = {
        'schema': SCHEMA_VERSION, 'name': 'tiny', 'method': 'mc_dropout',
        'class_names': ('blue', 'green', 'red'),
        'palette': ((0, 0, 255), (0, 255, 0), (255, 0, 0)), 'ignore_index': 255,
        'input': InputSpec(TINY_WIDTH, TINY_HEIGHT, 'letterbox', 'bgr', (0.0, 0.0, 0.0),
                           (1.0, 1.0, 1.0)),
        'dropout_sites': (DropoutSite('drop', (3, 1, 1), TINY_P),), 'passes': TINY_PASSES,
        'opset': 20, 'logits_shape': (3, 12, 16), 'training': 'none: written by hand',
        'license': 'Apache-2.0', 'not_good_for': 'anything but tests', 'metrics': {},
        'sha256': {},
    }
    return ModelCard(**{**facts, **changes})


def make_tiny_bundle(folder: Path, calibrated: bool = True, words: str = '') -> Path:
    """
    Write the tiny bundle; its thresholds accept a saturated colour and reject grey.

    Other `words` change the files, and so the digest of the model.
    """
    trunk = tiny_trunk()
    trunk.doc_string = words
    files = tiny_files(trunk, tiny_head())
    card = write_bundle(folder, tiny_card(), files)
    if calibrated:
        limits = {'entropy.mean': 0.72, 'entropy.top': 0.9,
                  'mutual_information.mean': 0.6, 'mutual_information.top': 0.8}
        write_calibration(load_bundle(str(folder)), Calibration(
            TINY_PASSES, 0, 'fixed', 'fp32', 1.0, limits, ('entropy.mean',), 0.95, 10, 10,
            model_digest(card), 'none',
            # Tests use plain images, which real limits of damage would reject.
            damage_limits=dict.fromkeys(STATISTICS, 1e9)))
    return folder


def make_single_bundle(folder: Path, words: str = '') -> Path:
    """Write the tiny network without its dropout, not calibrated."""
    trunk, head = tiny_trunk(), tiny_head()
    trunk.doc_string = words
    del head.graph.node[0], head.graph.input[1]
    head.graph.node[0].input[0] = 'features'
    head.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    write_bundle(folder, tiny_card(method='single', passes=1, dropout_sites=()),
                 tiny_files(trunk, head))
    return folder


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the JSON line, which is the last line that a verb prints."""
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def write_key(folder: Path) -> Path:
    """Write a private key in openssl's format; skips the test without `cryptography`."""
    ed25519 = pytest.importorskip('cryptography.hazmat.primitives.asymmetric.ed25519')
    from cryptography.hazmat.primitives import serialization

    path = folder / 'key.pem'
    path.write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()))
    return path


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    """Return the folder of a new tiny bundle."""
    return make_tiny_bundle(tmp_path / 'tiny')


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Return the folder of the shared photographs; skips the test if it does not exist."""
    places = [os.environ.get('UNCERTAINTY_SEG_DATA', ''),
              str(Path(__file__).resolve().parents[2] / 'shared' / 'data')]
    for place in places:
        if place and (Path(place) / 'suim_dev' / 'classes.json').is_file():
            return Path(place)
    pytest.skip('the folder of shared photographs is not here (set UNCERTAINTY_SEG_DATA)')


def pytest_configure(config: pytest.Config) -> None:
    """Reset signal handlers, and let the ROS wheels restart Python before output is captured."""
    # Processes of tests inherit ignored signals: SIGHUP from nohup, the others from a script's &.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from ros_helpers import restart_with_ros_libraries

    restart_with_ros_libraries(config)
