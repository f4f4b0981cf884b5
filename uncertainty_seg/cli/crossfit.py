# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Train K networks that each did without one fold of the images, and calibrate a bundle by them.

The bundle is the one that ships, trained on all images; the networks stand for it, so they must be
trained as it was. A task is one network: a fold and a seed. Give --train with the words of
uncertainty_seg train, or --command with a command of your own. Tasks run in --jobs processes here,
or on a Ray cluster. The same command again does only what is not finished, and then calibrates.

"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import shlex
import sys
from typing import TYPE_CHECKING

from uncertainty_seg.cli import calibrate as calibrate_gate
from uncertainty_seg.cli.arguments import call_with, print_json, settings_from_args, whole_number
from uncertainty_seg.errors import ConfigError, require_libraries

if TYPE_CHECKING:
    from uncertainty_seg.calibration.fold_tasks import FoldTask

MISUSE = calibrate_gate.MISUSE


def train_folds(
    data: Path | str,
    out: Path | str,
    command: str,
    *,
    num_folds: int = 5,
    seeds: Sequence[int] = (0,),
    blocks: Path | str | None = None,
    jobs: int = 1,
    ray: str | None = None,
    cpus: int = 1,
    gpus: float = 0.0,
) -> list[FoldTask]:
    """
    Train the networks of the folds that are not trained yet.

    Parameters
    ----------
    data : Path or str
        Folder of labelled images; the splits 'train' and 'val' where it has a splits.json.
    out : Path or str
        Gets folds.json and the bundles fold-0 ...
    command : str
        Of one task, with the fields {fold}, {folds}, {seed}, {out}, {data} and {folder} ({out}
        without the bundle's name). It trains on the images that folds.json has in another fold,
        and writes a bundle to {out}.
    num_folds : int
        K, 2 or more.
    seeds : sequence of int
        As many networks a fold.
    blocks : Path or str, optional
        File with the block of each image; a block is never divided.
    jobs : int
        Processes on this machine.
    ray : str, optional
        Address of a Ray cluster, whose machines share all paths, instead of `jobs`.
    cpus, gpus : int, float
        Of one task on the cluster.

    Returns
    -------
    list of FoldTask
        All of them, finished.

    Raises
    ------
    UncertaintySegError
        If the images, the folds or the command are wrong, or a training failed; what is finished
        by then is kept.

    """
    from uncertainty_seg.calibration.cross_fitted import all_images
    from uncertainty_seg.calibration.fold_tasks import keep_folds, plan_tasks, run_tasks, TaskPlace
    from uncertainty_seg.storage.folds import fold_of
    from uncertainty_seg.storage.labelled_folder import blocks_path, read_blocks

    if len(set(seeds)) < len(seeds) or not seeds:
        raise ConfigError(f'the seeds {list(seeds)}', 'at least one, each once')
    require_libraries(*(['ray'] if ray else []))
    folder = Path(out)
    tasks = plan_tasks(command, Path(data), folder, num_folds, seeds)
    stems = all_images(Path(data)).stems
    found = read_blocks(blocks_path(data, blocks), stems).tolist()
    block_of = dict(zip(stems, found, strict=True))
    fold_by_block = fold_of(sorted(set(block_of.values())), num_folds)
    folder.mkdir(parents=True, exist_ok=True)
    keep_folds(folder, {stem: fold_by_block[block] for stem, block in block_of.items()})
    run_tasks(tasks, folder, TaskPlace(jobs, ray, cpus, gpus))
    return tasks


def train_command(words: str) -> str:
    """Return the command of a task from the words of ``uncertainty_seg train``."""
    return (f'{shlex.quote(sys.executable)} -m uncertainty_seg train {words} --data {{data}} '
            '--split all --folds {folds} --fold {fold} --seed {seed} --weights {out}.pt '
            '--out {out}')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('bundle', help='bundle trained on all images of DIR; gets calibrated')
    parser.add_argument('--data', type=Path, metavar='DIR', required=True,
                        help='labelled images; train and val if DIR has a splits.json')
    parser.add_argument('--out', type=Path, metavar='FOLDER', required=True,
                        help='folder of folds.json and the networks; what is finished is kept')
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--train', metavar='WORDS',
                      help="words of uncertainty_seg train: 'suim --imagenet DIR'")
    what.add_argument('--command', metavar='TEMPLATE',
                      help='any command with {fold} and {out}, and maybe {folds}, {seed}, {data}, '
                      '{folder}')
    parser.add_argument('--num-folds', type=whole_number(2, 1000), default=5, metavar='K',
                        help='folds [5]')
    parser.add_argument('--seeds', type=whole_number(0), nargs='+', default=(0,), metavar='S',
                        help='one network for each fold and seed [0]')
    machines = parser.add_mutually_exclusive_group()
    machines.add_argument('--jobs', type=whole_number(1, 256), default=1, metavar='N',
                          help='networks trained at once on this machine [1]')
    machines.add_argument('--ray', metavar='auto|ADDRESS',
                          help='train on a Ray cluster; its machines must share all paths')
    parser.add_argument('--cpus', type=whole_number(1, 1024), default=1,
                        help='processors of one task on the cluster [1]')
    parser.add_argument('--gpus', type=float, default=0.0,
                        help='GPUs of one task on the cluster [0]')
    parser.add_argument('--train-only', action='store_true', help='do not calibrate')
    calibrate_gate.add_gate_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """
    Train what is not trained, calibrate and print what was found.

    Raises UncertaintySegError as `train_folds` and `calibrate_on_folds` do.
    """
    from uncertainty_seg.storage.model_bundle import find_bundle

    folder = find_bundle(args.bundle)
    settings = settings_from_args(args, calibrate_gate.SETTINGS)
    if not args.train_only:  # hours before it would come up
        call_with(calibrate_gate.require_request, args)
    tasks = call_with(train_folds, args, command=args.command or train_command(args.train))
    done = {'bundle': str(folder), 'networks': [Path(task.out).name for task in tasks]}
    if args.train_only:
        print_json(done)
        return 0
    found = call_with(calibrate_gate.calibrate_on_folds, args, folds=args.out, settings=settings)
    print_json({**done, **found.summary()})
    return 0
