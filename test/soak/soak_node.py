# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The real node with a network that misbehaves on command, see `soak_backend`."""

from __future__ import annotations

import sys
from typing import Any

from soak_backend import MisbehavingBackend

from uncertainty_seg.backends import registry
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.ros.node import main


def open_misbehaving(name: str, bundle: Any, settings: Any) -> MisbehavingBackend:
    """Open the backend that was asked for, and spoil what it returns."""
    return MisbehavingBackend(open_backend(name, bundle, settings))


if __name__ == '__main__':
    registry.open_backend = open_misbehaving
    sys.exit(main())
