# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A folder in which the commands of the pages can be run: small files under the names they use.

Its models named suim and pipeline are the tiny bundle, so that a command that writes into a bundle
does not change a shipped one, and a run takes a second.
"""

import json
import os
from pathlib import Path
import shutil

from calibration_helpers import picture, write_folder
from conftest import make_tiny_bundle
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
import cv2
from graph_samples import net
from label_sample import write_log
import numpy as np
import onnx
from onnx import numpy_helper
import pytest

from uncertainty_seg.calibration import calibrate as calibration_run
from uncertainty_seg.storage import model_bundle
from uncertainty_seg.storage.bags.writer import BagWriter

# The names that the pages use for each kind of file or folder.
BUNDLES = ('BUNDLE', 'bundle', 'models/suim', 'models/pipeline', 'models/pipeline_fp16')
LABELLED = ('DIR', 'DATA', 'OTHER', 'SEEN', 'NEW', 'SEEN/ood', 'OTHER/ood', 'suim_dev', 'ood_dev',
            'SCENES_SEED_1', 'SCENES_SEED_1/ood', 'SCENES_SEED_1077', 'train', 'val', 'test',
            'limits')
# Folders of foreign images, which must not overlap with the labelled ones.
FOREIGN = ('OTHER', 'SEEN/ood', 'OTHER/ood', 'ood_dev', 'SCENES_SEED_1/ood')
BAGS = ('IN_BAG', 'INPUT', 'dive_bag')
NETS = ('NET.onnx', 'net.onnx', 'a.onnx', 'b.onnx', 'c.onnx')
FACTORY = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Dropout2d(0.5),
                         nn.Conv2d(8, 4, 1))


def build_with_variance():
    net = build()
    net[3] = nn.Conv2d(8, 8, 1)
    return net
"""


def make_stage(folder: Path) -> None:
    """Write all files that the pages use and do not create."""
    rng = np.random.default_rng(0)
    source = write_folder(folder / 'labelled', 90, 1, splits=True)
    foreign = write_folder(folder / 'foreign', 90, 9, splits=True)
    for name in LABELLED:
        shutil.copytree(foreign if name in FOREIGN else source, folder / name,
                        dirs_exist_ok=True, copy_function=os.link)
    for index, name in enumerate(('train', 'val', 'test', 'limits')):
        shutil.rmtree(folder / name)
        write_folder(folder / name, 45, 2 + index)
    stems = [path.stem for path in (source / 'images').iterdir()]
    (folder / 'FILE').write_text(json.dumps({stem: stem for stem in stems}))
    (folder / 'dives.csv').write_text(''.join(f'{stem},{stem}\n' for stem in stems))
    for name in BUNDLES:
        make_tiny_bundle(folder / name)
    for name in BAGS:
        with BagWriter(folder / name) as bag:
            for index in range(3):
                image, _ = picture(rng, 0.3 * index)
                bag.write_image('/cam/image_raw', 10**9 * index, 'cam', image, 'bgr8')
    for index, name in enumerate(NETS):
        model = net('element')
        weights = next(t for t in model.graph.initializer if t.name == 'w2')
        weights.CopyFrom(numpy_helper.from_array(
            numpy_helper.to_array(weights) * (1 + index), 'w2'))
        onnx.save(model, str(folder / name))
    (folder / 'classes.yaml').write_text('classes: [water, diver, wreck, fish]\n')
    (folder / 'node.yaml').write_text('/**:\n  ros__parameters:\n    model: pipeline\n')
    shutil.copytree(Path(__file__).parents[2] / 'config' / 'recipes', folder / 'recipes')
    (folder / 'my_pkg').mkdir()
    (folder / 'my_pkg' / 'nets.py').write_text(FACTORY)
    write_log(folder / 'LOG', [rng.integers(0, 3, (12, 16)).astype(np.uint8) for _ in range(4)])
    image, _ = picture(rng, 0.2)
    cv2.imwrite(str(folder / 'photo.jpg'), image)
    (folder / 'key.pem').write_bytes(Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a stage with its own models, and make calibration fast."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(model_bundle, 'models_folders', lambda: [folder / 'models'])
    monkeypatch.setattr(calibration_run, 'TEMPERATURES', (0.9, 1.0, 1.1))
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder / 'cache'))
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(folder / 'cache' / 'engines'))
