# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Bundles in the layout before passes.onnx, and bundles that were changed inconsistently."""

import hashlib
import json
from pathlib import Path
from typing import Any

from conftest import make_tiny_bundle, tiny_head


def rewrite(folder: Path, *names: str, **facts: Any) -> None:
    """Change a bundle's card, which then hashes the named files only, and update SHA256SUMS."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
               for path in folder.iterdir()}
    card = json.loads((folder / 'card.json').read_text())
    card |= {'sha256': {name: digests[name] for name in names}, **facts}
    (folder / 'card.json').write_text(json.dumps(card))
    digests['card.json'] = hashlib.sha256((folder / 'card.json').read_bytes()).hexdigest()
    title = (folder / 'SHA256SUMS').read_text().splitlines()[0]
    lines = [f'{digest}  {name}' for name, digest in sorted(digests.items())
             if name != 'SHA256SUMS']
    (folder / 'SHA256SUMS').write_text('\n'.join([title, *lines]) + '\n')


def old_bundle(folder: Path) -> Path:
    """Write the tiny bundle in the layout of schema 1: head.onnx and head_stats.onnx."""
    make_tiny_bundle(folder)
    for name in ('head.onnx', 'head_stats.onnx'):
        (folder / name).write_bytes(tiny_head().SerializeToString())
    (folder / 'passes.onnx').unlink()
    rewrite(folder, 'trunk.onnx', 'head.onnx', 'head_stats.onnx', schema=1, reduction='coarse')
    return folder
