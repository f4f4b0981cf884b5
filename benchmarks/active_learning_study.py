# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run a study of active learning with the verb `active-learn`, one command each.

    python benchmarks/active_learning_study.py NAME --work DIR --imagenet DIR [--shared DIR]

NAME is one of `STUDIES`. The labelled folders that are made come from active_learning_data.py. The
summary goes to docs/studies/NAME.md, with the command, and can be made again after a kill by the
same command: rounds that are finished are kept.

"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
import os
from pathlib import Path
import shlex
import subprocess
import sys
import textwrap
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from pyarrow.parquet import read_table

matplotlib.use('Agg')
ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ('--net pyramid --encoder mobilenet_v2 --imagenet {imagenet} --size 128x96 --freeze 7 '
           '--steps 200 --batch 16 --learning-rate 0.004 '
           '--passes 20 --threads 1')
TO_REAL = '--labels 0 5% 12.5% 100%'
SEEDS = '--seeds 0 1 2'
WIDTH = 116


@dataclass(frozen=True)
class Study:
    """
    What is run.

    Attributes
    ----------
    title : str
        Of the page.
    what : str
        Data and question, for the page.
    makes : str
        What active_learning_data.py makes for it; empty for nothing.
    words : str
        Arguments of the verb; {shared}, {data} and {imagenet} are filled in.

    """

    title: str
    what: str
    makes: str
    words: str


STUDIES = {
    'camvid': Study(
        'CamVid, the included architecture',
        'The official split (367 frames to choose from, 233 to test on) and its 11 classes.',
        'camvid',
        f'{SHIPPED} {SEEDS} --pool {{data}}/camvid --val {{data}}/camvid '
        '--test {data}/camvid --labels 5% 12.5% 25% 100% '
        '--strategy random entropy threshold k-centre full'),
    'camvid_densenet': Study(
        'CamVid, FC-DenseNet56',
        "The paper's network with dropout everywhere, from random weights, at a size that two "
        'cores can train. As many labels as the abstract of the paper names. Each round goes on '
        'from the weights of the one before, so the strategies can be compared in a column; all '
        'labels had the 60 steps of one round, and what share reaches them says nothing.',
        'camvid',
        f'--net fc-densenet56 --size 96x64 --steps 60 --passes 3 --warm --threads 1 {SEEDS} '
        '--pool {data}/camvid --val {data}/camvid --test {data}/camvid '
        '--labels 5% 12.5% 100% --strategy random entropy threshold full'),
    'suim': Study(
        'SUIM from 60 labelled photographs',
        "The 60 photographs of the data set's own active learning seed, a pool of 1 020, and two "
        'thirds of the validation split to test on.', 'split',
        f'{SHIPPED} {SEEDS} --pool {{data}}/split --val {{data}}/split --test {{data}}/split '
        '--start {data}/split/start.json --labels 12.5% 100% '
        '--strategy random entropy threshold margin full'),
    'redundant': Study(
        'A dive that sees the same again and again',
        '100 photographs, each seen 1 to 40 times by a camera that hovers.', 'redundant',
        f'{SHIPPED} {SEEDS} --pool {{data}}/redundant --val {{data}}/redundant '
        '--test {data}/redundant --labels 5% 12.5% 25% 100% '
        '--strategy random entropy threshold power-bald ensemble-mi k-centre '
        'uncertainty-diversity full'),
    'water': Study(
        'From clear water to water never seen',
        'A net that was trained on 400 rendered scenes of clear water, and 400 of turbid water '
        'to choose from.', 'water',
        f'{SHIPPED} {SEEDS} --pool {{data}}/turbid --val {{data}}/turbid --test {{data}}/turbid '
        f'--extra {{data}}/clear --extra-share 0.5 {TO_REAL} '
        '--strategy random entropy threshold full'),
    'real': Study(
        'From rendered scenes to photographs',
        'Scenes and photographs of SUIM share four classes: seabed, structure, growth, other.',
        'mapped',
        f'{SHIPPED} {SEEDS} --pool {{data}}/suim --val {{data}}/suim --test {{data}}/suim '
        f'--extra {{data}}/scenes --extra-share 0.5 {TO_REAL} '
        '--strategy random entropy threshold full'),
    'real_shares': Study(
        'From rendered scenes to photographs, share by share',
        'As [real](real.md), with rounds in between.', 'mapped',
        f'{SHIPPED} {SEEDS} --pool {{data}}/suim --val {{data}}/suim --test {{data}}/suim '
        '--extra {data}/scenes --extra-share 0.5 --labels 0 1% 2% 5% 12.5% 25% 100% '
        '--strategy random entropy full'),
}


def main() -> None:
    """Make the data, run the verb, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('name', choices=tuple(STUDIES))
    parser.add_argument('--work', type=Path, required=True, help='for data and rounds')
    parser.add_argument('--imagenet', type=Path, required=True, help='weights of the encoders')
    parser.add_argument('--shared', type=Path, default=ROOT / '../shared/data')
    parser.add_argument('--jobs', type=int, default=1)
    args = parser.parse_args()
    study = STUDIES[args.name]
    data = args.work / 'data'
    if study.makes:
        run('benchmarks/active_learning_data.py', study.makes, str(data), '--photographs',
            str(args.shared / ('camvid' if study.makes == 'camvid' else 'suim_dev')))
    words = shlex.split(study.words.format(shared=args.shared, data=data, imagenet=args.imagenet))
    summary = args.work / f'{args.name}.summary.md'
    run('-m', 'uncertainty_seg', 'active-learn', str(args.work / args.name), *words, '--jobs',
        str(args.jobs), '--markdown', str(summary))
    write_page(args.name, args.work / args.name, summary)


def write_page(name: str, folder: Path, summary: Path) -> None:
    """Write docs/studies/NAME.md and its plot from what the verb left."""
    study, place = STUDIES[name], ROOT / 'docs' / 'studies'
    place.mkdir(exist_ok=True)
    plot(read_table(folder / 'results.parquet').to_pylist(), place / f'{name}.png')
    times = read_table(folder / 'times.parquet').to_pydict()
    hours = sum(value for column in ('train_s', 'score_s') for value in times[column]
                if value) / 3600
    table = '\n'.join(line if line.startswith('|') else textwrap.fill(line, WIDTH)
                      for line in summary.read_text().partition('\n\n')[2].splitlines())
    (place / f'{name}.md').write_text(
        f'# {study.title}\n\n{textwrap.fill(study.what, WIDTH)}\n\n'
        f'    python benchmarks/active_learning_study.py {name} --work DIR --imagenet DIR\n\n'
        f'![Mean IoU over labels]({name}.png)\n\n{table}\n\n'
        f'Training and scoring took {hours:.1f} hours of one core that others used too.\n')


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw mean IoU over the share of labels: mean over seeds, and from the least to the most."""
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for strategy in dict.fromkeys(row['strategy'] for row in rows):
        found: dict[int, list[tuple[float, float]]] = {}
        for row in rows:
            if row['strategy'] == strategy:
                found.setdefault(row['round'], []).append(
                    (100 * row['share'], 100 * row['test_mean_iou']))
        points = np.array([found[number] for number in sorted(found)])  # rounds, seeds, 2
        if len(points) == 1:
            axes.axhline(points[..., 1].mean(), color='0.6', linestyle=':', label=strategy)
            continue
        shares, ious = points[..., 0].mean(1), points[..., 1]
        line, = axes.plot(shares, ious.mean(1), 'o-', label=strategy)
        axes.fill_between(shares, ious.min(1), ious.max(1), color=line.get_color(), alpha=0.15)
    axes.set(xlabel='labels, % of the pool', ylabel='mean IoU on test, %')
    axes.set_xscale('symlog', linthresh=5)
    axes.set_xticks([5, 12.5, 25, 50, 100], ['5', '12.5', '25', '50', '100'])
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=80, bbox_inches='tight', metadata={'Software': None})
    plt.close(figure)


def run(*words: str) -> None:
    """Run Python with these words, this tree first."""
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    subprocess.run([sys.executable, *words], check=True, cwd=ROOT,
                   env={**os.environ, 'PYTHONPATH': path})


if __name__ == '__main__':
    main()
