# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Build the TensorRT engines of a bundle ahead of time, so that the node starts at once.

An engine fits this GPU, this driver, this TensorRT and this model; one that is there already is
left as it is. TensorRT-RTX also builds for GPUs that are not here.

"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import re

from uncertainty_seg.cli.arguments import add_settings, print_json, settings_from_args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundle', help='shipped name or folder')
    parser.add_argument('--cache', type=Path, metavar='DIR',
                        help='folder of the engines; the node looks there if '
                        'UNCERTAINTY_SEG_ENGINE_CACHE names it [that of this user]')
    parser.add_argument('--compute-capability', type=_capabilities, default=(), metavar='LIST',
                        help='for GPUs that are not here, as 8.6,8.9 (TensorRT-RTX only)')
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Build what is missing, and say what is there."""
    from tqdm import tqdm

    from uncertainty_seg.backends.gpu.engine_build import build_engines, is_building
    from uncertainty_seg.cli.main import say_stopped
    from uncertainty_seg.storage.model_bundle import load_bundle

    settings = settings_from_args(args)
    bundle = load_bundle(args.bundle, trusted_keys=settings.trusted_keys)
    form = '{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}'
    with tqdm(total=1.0, desc='engines', bar_format=form, leave=False) as bar:
        def show(share: float, phase: str) -> None:
            bar.set_postfix_str(phase, refresh=False)
            bar.update(share - bar.n)

        try:
            engines = build_engines(bundle, settings, args.compute_capability, args.cache, show)
        except KeyboardInterrupt as err:
            if not is_building():
                raise
            bar.close()
            # The thread stays in TensorRT for seconds: to take that apart meanwhile would crash.
            os._exit(say_stopped(err))
    print_json({'bundle': bundle.card.name, 'engines': engines})
    return 0


def _capabilities(text: str) -> tuple[str, ...]:
    """Read '8.6,8.9'; an argparse type."""
    found = tuple(part.strip() for part in text.split(','))
    for part in found:
        if not re.fullmatch(r'\d+\.\d', part):
            raise argparse.ArgumentTypeError(f'{part!r}, expected a number such as 8.6')
    return found
