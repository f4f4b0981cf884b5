# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Check that a backend computes a model correctly on this machine, and build missing engines.

Fixed images with masks drawn from a seed run on the backend and on the reference: ONNX Runtime on
the CPU in float32, with the definitions in numpy. Labels, maps and scores must agree as closely as
the precision allows, be finite and plausible, and be the same in every run; memory must not grow.
The result is kept beside the engines: a precision that failed is refused on this machine.

For the backend tensorrt missing engines are built first, so that the node starts at once. With
--compute-capability they are built for GPUs of other machines, and nothing is checked:

    uncertainty_seg self-check suim --set backend=tensorrt
    uncertainty_seg self-check suim --compute-capability 8.6,8.9 --cache engines/
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import re
from typing import Any, TYPE_CHECKING

from uncertainty_seg.cli.arguments import (
    add_settings,
    call_with,
    print_json,
    settings_from_args,
    whole_number,
)

if TYPE_CHECKING:
    from uncertainty_seg.core.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundle', help='name of an included model, or folder of a bundle')
    parser.add_argument('--frames', type=whole_number(1, 1000), default=4,
                        help='number of images to compare, one to two seconds each [4]')
    parser.add_argument('--runs', type=whole_number(4, 100000), default=40,
                        help='number of runs for repeatability, memory and times [40]')
    parser.add_argument('--cache', type=Path, metavar='DIR',
                        help='folder of the engines; to use it, set UNCERTAINTY_SEG_ENGINE_CACHE '
                        "for the node [the user's cache]")
    parser.add_argument('--compute-capability', type=_capabilities, default=(), metavar='LIST',
                        help='build for other GPUs, such as 8.6,8.9 (TensorRT-RTX only)')
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Build, check, print a table and a line of JSON; return 1 if a check failed."""
    from uncertainty_seg.compiler.self_check import self_check

    settings = settings_from_args(args)
    engines: dict[str, Any] = {}
    if settings.backend == 'tensorrt' or args.compute_capability:
        engines = {'engines': _build(args, settings)}
    if args.compute_capability:
        print('The engines are built; they are checked on their GPU.')
        print_json({'bundle': args.bundle, **engines})
        return 0
    found = call_with(self_check, args, settings=settings)
    print(found.table)
    print_json({**found.values, **engines, 'record': str(found.record)})
    return 0 if found.is_passed else 1


def _build(args: argparse.Namespace, settings: Settings) -> Any:
    """Build the missing engines, with a progress bar, and return all engines."""
    from tqdm import tqdm

    from uncertainty_seg.backends.gpu.engine_build import build_engines, is_building
    from uncertainty_seg.cli.main import say_stopped
    from uncertainty_seg.storage.model_bundle import load_bundle

    bundle = load_bundle(args.bundle, trusted_keys=settings.trusted_keys)
    form = '{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}'
    with tqdm(total=1.0, desc='engines', bar_format=form, leave=False) as bar:
        def show(share: float, phase: str) -> None:
            bar.set_postfix_str(phase, refresh=False)
            bar.update(share - bar.n)

        try:
            return build_engines(bundle, settings, args.compute_capability, args.cache, show)
        except KeyboardInterrupt as err:
            if not is_building():
                raise
            bar.close()
            # The thread stays in TensorRT for seconds: a normal exit meanwhile would crash.
            os._exit(say_stopped(err))


def _capabilities(text: str) -> tuple[str, ...]:
    """Read '8.6,8.9'; an argparse type."""
    found = tuple(part.strip() for part in text.split(','))
    for part in found:
        if not re.fullmatch(r'\d+\.\d', part):
            raise argparse.ArgumentTypeError(f'{part!r}, expected a number such as 8.6')
    return found
