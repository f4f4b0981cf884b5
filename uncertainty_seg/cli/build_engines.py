# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Build the TensorRT engines of a bundle ahead of time, so that the node starts at once.

An engine fits this GPU, this driver, this TensorRT and this model; one that is there already is
left as it is. TensorRT-RTX also builds for GPUs that are not here.

"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
import re
from typing import Any

from uncertainty_seg.cli.arguments import add_settings, print_json, settings_from_args
from uncertainty_seg.errors import BackendError

_log = logging.getLogger(__name__)
SHOW_EVERY_S = 0.1
# For the next report of progress; TensorRT makes none for seconds.
STOP_S = 0.5


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
    from uncertainty_seg.backends.gpu.bundle_engines import work_ahead, work_here
    from uncertainty_seg.backends.gpu.engine_cache import EngineCache
    from uncertainty_seg.backends.gpu.self_check_record import check_remark
    from uncertainty_seg.core.settings import precision_of
    from uncertainty_seg.storage.model_bundle import load_bundle

    settings = settings_from_args(args)
    bundle = load_bundle(args.bundle, trusted_keys=settings.trusted_keys)
    works = [work_ahead(bundle, settings, one) for one in args.compute_capability] \
        or [work_here(bundle, settings)]
    cache = EngineCache(args.cache)
    engines = [entry for index, work in enumerate(works)
               for entry in _build(work, cache, f'{index + 1}/{len(works)}')]
    first = works[0]
    if precision_of(bundle.card, settings.precision) == 'bf16' and \
            (remark := check_remark(bundle.card, 'bf16', cache.folder)):
        _log.warning('%s', remark)
    print_json({
        'bundle': bundle.card.name, 'precision': precision_of(bundle.card, settings.precision),
        'tensorrt': f'{first.trt.name} {first.trt.version}',
        'chunk': first.engines.chunking.passes, 'cache': str(cache.folder), 'engines': engines,
    })
    return 0


def _build(work: Any, cache: Any, number: str) -> list[dict[str, object]]:
    """Build what one target lacks, with a bar; return all it has."""
    from tqdm import tqdm

    form = '{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}'
    with tqdm(total=1.0, desc=f'engines {number}', bar_format=form, leave=False) as bar:
        built = {engine.role for engine in _wait(work, cache, bar)}
    return [_entry(engine, work.target, cache, engine.role in built)
            for engine in work.engines.all]


def _wait(work: Any, cache: Any, bar: Any) -> list[Any]:
    """Build in a thread; a signal ends the build, whose engine is whole or not there."""
    from uncertainty_seg.backends.gpu.engine_thread import EngineBuild
    from uncertainty_seg.cli.main import say_stopped

    built: list[Any] = []
    build = EngineBuild(lambda tell: built.extend(work.build(cache, tell)))
    try:
        while not build.wait(SHOW_EVERY_S):
            bar.set_postfix_str(build.state.phase, refresh=False)
            bar.update(build.state.share - bar.n)
    except BackendError as err:
        if isinstance(err.__cause__, OSError):  # such as a full disk
            raise err.__cause__ from None
        raise
    except KeyboardInterrupt as err:
        if build.stop(STOP_S):
            raise
        bar.close()
        # The thread stays in TensorRT for seconds: to take that apart meanwhile would crash.
        os._exit(say_stopped(err))
    return built


def _entry(engine: Any, target: Any, cache: Any, is_built: bool) -> dict[str, object]:
    path = cache.plan_path(engine.key(target))
    return {'role': engine.role, 'compute_capability': target.compute_capability,
            'gpu': target.gpu, 'path': str(path), 'mb': round(path.stat().st_size / 1e6, 2),
            'is_built': is_built}


def _capabilities(text: str) -> tuple[str, ...]:
    """Read '8.6,8.9'; an argparse type."""
    found = tuple(part.strip() for part in text.split(','))
    for part in found:
        if not re.fullmatch(r'\d+\.\d', part):
            raise argparse.ArgumentTypeError(f'{part!r}, expected a number such as 8.6')
    return found
