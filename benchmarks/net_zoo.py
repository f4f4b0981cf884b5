# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compile every network of the zoo and compare the bundle with the network itself.

`scripts/zoo` creates the environment and runs this. Each network is checked in a separate process
with limits of time and memory. Its result is a line of JSON in the file, so that an interrupted
run resumes where it stopped. The networks are in test/helpers/nets/zoo_list.py, the comparison is
in test/helpers/nets/zoo_check.py.

    python benchmarks/net_zoo.py [--only PATTERN] [--again] [--out FILE]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
import contextlib
from fnmatch import fnmatch
from importlib import import_module
import json
import multiprocessing
import os
from pathlib import Path
import resource
import sys
import tempfile
import time
from typing import Any
import warnings

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), *(str(ROOT / 'test' / name) for name in ('helpers', 'helpers/nets'))]

# Imported once, before the processes are forked; a missing one is reported in the networks' rows.
PRELOADED = ('torch', 'torchvision', 'timm', 'segmentation_models_pytorch', 'transformers',
             'uncertainty_seg.compiler.request',
             'uncertainty_seg.compiler.capture.export', 'zoo_check', 'zoo_eager')
ORDER = ('agrees', 'WRONG', 'crashed', 'stopped', 'refused', 'not built')


def main() -> int:
    """Check the requested networks and print a summary."""
    args = arguments()
    from zoo_list import ROWS

    chosen = [name for name in ROWS if any(fnmatch(name.lower(), f'*{p.lower()}*') for p in
                                           args.only or ['*'])]
    run_all(chosen, args)
    results = read(args.out)
    print(json.dumps(summary({name: results[name] for name in chosen if name in results})))
    return 0


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', action='append', metavar='PATTERN',
                        help='networks whose name contains it, * and ? allowed; may be repeated')
    parser.add_argument('--again', action='store_true', help='also those that the file has')
    parser.add_argument('--out', type=Path, default=ROOT / 'zoo.jsonl', help='[zoo.jsonl]')
    parser.add_argument('--seconds', type=float, default=240, help='of one network [240]')
    parser.add_argument('--eager-seconds', type=float, default=4,
                        help="CPU time of torch's passes [4]")
    parser.add_argument('--memory', type=float, default=6, metavar='GB',
                        help='of one network, beyond what is loaded before [6]')
    return parser.parse_args()


def run_all(names: list[str], args: argparse.Namespace) -> None:
    """Check networks in sequence and append a line to the file for each."""
    known = {} if args.again else read(args.out)
    left = [name for name in names if name not in known]
    if left:
        preload()
    for number, name in enumerate(left, 1):
        start_s = time.monotonic()
        result = {'name': name, **in_a_process(name, args)}
        result['wall_s'] = round(time.monotonic() - start_s, 1)
        with args.out.open('a', encoding='utf-8') as file:
            file.write(json.dumps(result) + '\n')
        print(f'[{number}/{len(left)}] {line(result)}', file=sys.stderr, flush=True)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the last result of each network."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding='utf-8').splitlines()
    return {result['name']: result for result in map(json.loads, filter(None, lines))}


def preload() -> None:
    """Import the packages of `PRELOADED`, in one thread, so that forking is safe."""
    os.environ.setdefault('YOLO_CONFIG_DIR', tempfile.gettempdir())
    os.environ.setdefault('HF_HUB_OFFLINE', '1')
    warnings.simplefilter('ignore')
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            import_module(name)
    import torch

    torch.set_num_threads(1)


def in_a_process(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Check one network in a process that can be stopped and may crash."""
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(name, args, theirs))
    process.start()
    theirs.close()
    try:
        if ours.poll(args.seconds):
            return ours.recv()
        return {'outcome': 'stopped', 'why': f'not ready after {args.seconds:g} s'}
    except EOFError:
        process.join(5)
        return {'outcome': 'crashed', 'why': f'the process ended with {process.exitcode}'}
    finally:
        process.kill()
        process.join()


def _work(name: str, args: argparse.Namespace, pipe: Any) -> None:
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    limit = int(used + args.memory * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    from zoo_check import Effort
    from zoo_list import ROWS
    from zoo_run import run_row

    with tempfile.TemporaryDirectory() as folder:
        try:
            result = run_row(ROWS[name], Path(folder), Effort(eager_s=args.eager_seconds))
        except MemoryError:
            result = {'outcome': 'stopped', 'why': f'needs more than {args.memory:g} GB'}
        except Exception as err:  # an error in the comparison itself
            result = {'outcome': 'crashed', 'why': f'{type(err).__name__}: {err}'[:300]}
    pipe.send(result)
    pipe.close()
    os._exit(0)


# --- output --------------------------------------------------------------------------------------


def line(result: Mapping[str, Any]) -> str:
    """Return the progress line of one network."""
    figures = ''.join(f' {name} {result[name]:.2g}' for name in ('logits', 'labels', 'compile_s')
                      if name in result)
    return (f'{result["name"]}: {result["outcome"]}{figures} {result.get("why", "")} '
            f'({result["wall_s"]} s)')


def summary(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Count the outcomes."""
    counts = Counter(str(result['outcome']) for result in results.values())
    return {'networks': len(results), **{name: counts[name] for name in ORDER if counts[name]}}


if __name__ == '__main__':
    sys.exit(main())
