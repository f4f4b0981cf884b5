# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure strategies of active learning against random: choose, label, train, measure, again.

The masks of the pool play the labeller. Every strategy and seed is a task; the random start of a
seed and its training on all labels are shared by its strategies. The same command goes on with a
study that was stopped. With --mode label people label a pool without masks: each round is exported
and waits for its labels.

"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
import sys
import time
from typing import TYPE_CHECKING

from uncertainty_seg.cli.arguments import (
    image_size,
    positive_number,
    print_json,
    rate,
    whole_number,
)
from uncertainty_seg.errors import (
    ConfigError,
    DatasetError,
    ModelBundleError,
    require_libraries,
    TrainingError,
)
from uncertainty_seg.storage.progress import progress
from uncertainty_seg.storage.whole_files import replace_file

if TYPE_CHECKING:
    from uncertainty_seg.training.active.prepared import PreparedImages
    from uncertainty_seg.training.active.results import Row, StudySummary
    from uncertainty_seg.training.active.rounds import NetPlan
    from uncertainty_seg.training.active.study import StudyFolders, StudySettings

MISUSE = (ConfigError, DatasetError, ModelBundleError, TrainingError)
# As study.STRATEGIES has them, which imports OpenCV; a test compares.
STRATEGY_NAMES = ('random', 'threshold', 'top-k', 'entropy', 'margin', 'mi', 'power-bald',
                  'uncertainty-diversity', 'k-centre', 'ensemble-mi', 'full')
MODES = ('oracle', 'label')
# As labels.formats.READERS has them.
LABEL_FORMATS = ('coco', 'cvat', 'label-studio', 'labelme', 'folder', 'fiftyone')
DEFAULT_LABELS = ['5%', '12.5%', '25%', '50%', '100%']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('study', metavar='STUDY', type=Path, help='folder of the study')
    parser.add_argument('--mode', default='oracle', metavar='MODE',
                        help='oracle: the masks of the pool play the labeller; label: people do '
                        '[oracle]')
    parser.add_argument('--pool', required=True, metavar='DIR[:SPLIT]',
                        help='labelled folder to choose from [its split train]; with --mode label '
                        'also a folder of images')
    parser.add_argument('--test', required=True, metavar='DIR[:SPLIT]',
                        help='labelled folder to measure on [its split test]')
    parser.add_argument('--val', metavar='DIR[:SPLIT]',
                        help='labelled folder to measure on too, for choices [its split val]')
    parser.add_argument('--strategy', nargs='+', default=['random', 'entropy'], metavar='NAME',
                        help=f'{", ".join(STRATEGY_NAMES)} [random entropy]')
    parser.add_argument('--seeds', nargs='+', type=whole_number(0, 9999), default=[0, 1, 2],
                        metavar='S', help='of start, training and lots [0 1 2]')
    parser.add_argument('--labels', nargs='+', default=[], metavar='N',
                        help='labelled frames after each round, the start first: shares of the '
                        f'pool, or counts [{" ".join(DEFAULT_LABELS).replace("%", "%%")}]')
    parser.add_argument('--start', default='', metavar='N|FILE',
                        help='frames of the start: with --rounds their number or share; or a file '
                        'that names them, one a line or as a JSON list')
    parser.add_argument('--rounds', type=whole_number(1, 999), default=0, metavar='R',
                        help='instead of --labels: so many rounds of --budget frames')
    parser.add_argument('--budget', type=whole_number(1), default=0, metavar='N',
                        help='frames that each of the --rounds labels')
    parser.add_argument('--extra', nargs='+', default=[], metavar='DIR[:SPLIT]',
                        help='labelled folders that are always trained on and cost no label, as '
                        'synthetic ones [their split train]')
    parser.add_argument('--extra-share', type=rate, default=0.5, metavar='P',
                        help='share of --extra in what is trained on [0.5]')
    _add_choice(parser)
    _add_network(parser)
    place = parser.add_argument_group('where it runs, and what it writes')
    place.add_argument('--jobs', type=whole_number(1, 256), default=1, help='processes [1]')
    place.add_argument('--ray', metavar='ADDRESS',
                       help='run on a Ray cluster: auto, HOST:PORT or local; STUDY is shared')
    place.add_argument('--threads', type=whole_number(1, 256), default=1,
                       help='CPU threads of each process [1]')
    place.add_argument('--label-format', default='coco', metavar='FORMAT',
                       help='of what --mode label exports: coco, cvat, label-studio, labelme, '
                       'folder or fiftyone [coco]')
    place.add_argument('--report', type=Path, metavar='FILE',
                       help='write a page with curves, tables and what was chosen')
    place.add_argument('--markdown', type=Path, metavar='FILE',
                       help='write the summary as Markdown')


def _add_choice(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('how frames are chosen')
    group.add_argument('--score', default='mutual_information.mean', metavar='NAME',
                       help='of threshold, top-k, power-bald and uncertainty-diversity; any score '
                       'of a score table [mutual_information.mean]')
    group.add_argument('--threshold-rule', default='mean', metavar='RULE',
                       help='limit from the scores of labelled images: mean, mean+K (K standard '
                       'deviations) or quantile:Q [mean]')
    group.add_argument('--threshold-on', default='train', metavar='WHICH',
                       help='labelled images of the limit: train, val or both [train]')
    group.add_argument('--uncapped', action='store_true',
                       help='threshold takes all above the limit, however many')
    group.add_argument('--beta', type=positive_number(100), default=1.0,
                       help='power of the score in power-bald and uncertainty-diversity [1]')
    group.add_argument('--members', type=whole_number(2, 100), default=4, metavar='M',
                       help='networks of ensemble-mi [4]')


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('network and training, the same in every round')
    group.add_argument('--net', default='pyramid', metavar='NAME',
                       help='pyramid, fc-densenet56, or MODULE:FUNCTION that builds one [pyramid]')
    group.add_argument('--encoder', default='', metavar='NAME',
                       help='of pyramid: mobilenet_v2, lite0, lite1 or lite2 [that of --init, or '
                       'mobilenet_v2]')
    group.add_argument('--imagenet', default='', metavar='PATH',
                       help='ImageNet weights of the encoder, a file or folder [random weights]')
    group.add_argument('--init', default='', metavar='BUNDLE|FILE',
                       help='start every round from these weights')
    group.add_argument('--size', type=image_size, default=(192, 128), metavar='WxH',
                       help='input of the network [192x128]')
    group.add_argument('--steps', type=whole_number(1), default=600,
                       help='of training in each round [600]')
    group.add_argument('--batch', type=whole_number(1, 1024), default=8,
                       help='images a step [8]')
    group.add_argument('--learning-rate', type=positive_number(), default=2e-3, metavar='RATE',
                       help='its peak [0.002]')
    group.add_argument('--passes', type=whole_number(1, 1000), default=20, metavar='T',
                       help='of dropout, to score and to measure [20]')
    group.add_argument('--dropout', default='head', metavar='WHERE',
                       help='of pyramid: head, decoder, deep_encoder, everywhere or '
                       'SITE=RATE,... [head]')
    group.add_argument('--rate', type=rate, metavar='P',
                       help='of dropout where --dropout gives none [0.5], or of fc-densenet56 '
                       '[0.2]')
    group.add_argument('--freeze', type=whole_number(0, 100), default=0, metavar='N',
                       help='train without the first N layers of the encoder [0]')
    group.add_argument('--warm', action='store_true',
                       help='go on from the weights of the round before')


def run(args: argparse.Namespace) -> int:
    """Run a study, or go on with it."""
    from uncertainty_seg.training.active.study import network_digests, prepare_study, StudyPlace
    from uncertainty_seg.training.active.tasks import locked_study

    started_s = time.monotonic()
    strategies, args.seeds = list(dict.fromkeys(args.strategy)), list(dict.fromkeys(args.seeds))
    _require(args, strategies)
    with locked_study(args.study):
        settings, parts = _settled(args, strategies)
        prepare_study(StudyPlace(args.study), settings, parts, network_digests(settings.plan))
        del parts
        if args.mode == 'label':
            return _labelled_by_people(args, settings, strategies)
        summary, num_rows = _worked_out(args, settings, strategies)
    print_json({'study': str(args.study), 'rows': num_rows, 'full': summary.full.mean,
                'reached': {name: band.mean if band.count == summary.num_seeds[name] else None
                            for name, band in summary.reached.items()},
                'seconds': round(time.monotonic() - started_s, 1)})
    return 0


def _worked_out(
    args: argparse.Namespace, settings: StudySettings, strategies: list[str]
) -> tuple[StudySummary, int]:
    """Run what is left, write the results, and return what they say."""
    from uncertainty_seg.training.active import results
    from uncertainty_seg.training.active.study import StudyPlace
    from uncertainty_seg.training.active.tasks import plan_chains, run_chains

    place = StudyPlace(args.study)
    chains = results.chains_of(place, strategies, args.seeds)
    tasks = plan_chains(args.study, settings, strategies, args.seeds, args.threads)
    try:
        for _ in progress(run_chains(tasks, args.jobs, args.ray), desc='active-learn',
                          total=len(tasks), unit='chain'):
            results.write_results(args.study, results.collect(place, chains))
    finally:
        rows = results.collect(place, chains)
        results.write_results(args.study, rows)
    summary = results.summarise(rows)
    for name, count in summary.absent.items():
        print(f'warning: no frame of the start holds {name} ({count} of '
              f'{len({row["seed"] for row in rows})} seeds): the first network cannot know it.',
              file=sys.stderr)
    print(_written(args, rows, summary))
    return summary, len(rows)


def _written(args: argparse.Namespace, rows: list[Row], summary: StudySummary) -> str:
    """Write the summary and the page where they are asked for; return the summary."""
    from uncertainty_seg.training.active.page import write_page
    from uncertainty_seg.training.active.results import markdown

    title = args.study.resolve().name
    text = markdown(title, summary)
    if args.markdown:
        replace_file(args.markdown, text)
    if args.report:
        write_page(args.report, title, rows, summary)
    return text


def _labelled_by_people(
    args: argparse.Namespace, settings: StudySettings, strategies: list[str]
) -> int:
    """Go on as far as there are labels, and say what to do then."""
    from uncertainty_seg.storage.labelled_folder import find_unlabelled
    from uncertainty_seg.training.active import results
    from uncertainty_seg.training.active.chain import ChainTask
    from uncertainty_seg.training.active.labelling import label_rounds
    from uncertainty_seg.training.active.study import StudyPlace

    task = ChainTask(strategies[0], args.seeds[0], args.study, settings, args.threads)
    notes: list[str] = []
    try:
        waiting = label_rounds(task, find_unlabelled(args.pool), args.label_format, notes)
    finally:
        rows = results.collect(StudyPlace(args.study), [(strategies[0], args.seeds[0])])
        results.write_results(args.study, rows)
        for note in notes:
            print(f'warning: {note}.', file=sys.stderr)
    if rows:
        _written(args, rows, results.summarise(rows))
    print('All rounds are finished.' if waiting is None else waiting.sentence)
    print_json({'study': str(args.study), 'rows': len(rows),
                'waits_for': None if waiting is None else str(waiting.labelled),
                'missing': 0 if waiting is None else len(waiting.missing),
                'test_mean_iou': rows[-1]['test_mean_iou'] if rows else None})
    return 0


def _require_label_mode(args: argparse.Namespace, strategies: list[str]) -> None:
    if args.mode not in MODES:
        raise ConfigError(f'--mode {args.mode}', f'one of {", ".join(MODES)}')
    if args.mode == 'label' and (len(strategies) > 1 or len(args.seeds) > 1
                                 or 'full' in strategies):
        raise ConfigError(
            f'--mode label with the strategies {", ".join(strategies)} and {len(args.seeds)} '
            'seeds', 'one strategy that chooses and one seed', 'give --strategy mi --seeds 0')
    if args.label_format not in LABEL_FORMATS:
        raise ConfigError(f'--label-format {args.label_format}',
                          f'one of {", ".join(LABEL_FORMATS)}')


def _require(args: argparse.Namespace, strategies: list[str]) -> None:
    """Refuse what cannot work, before anything is read."""
    from uncertainty_seg.calibration.report.page import require_place, require_report_place
    from uncertainty_seg.training.active.chain import parse_rule

    require_libraries('pyarrow', 'scipy', *(['ray'] if args.ray else []))
    for name in strategies:
        if name not in STRATEGY_NAMES:
            raise ConfigError(f'--strategy {name}', f'one of {", ".join(STRATEGY_NAMES)}')
    _require_label_mode(args, strategies)
    parse_rule(args.threshold_rule)
    if args.threshold_on not in ('train', 'val', 'both'):
        raise ConfigError(f'--threshold-on {args.threshold_on}', 'train, val or both')
    if args.threshold_on != 'train' and args.val is None:
        raise ConfigError(f'--threshold-on {args.threshold_on} without --val', 'both')
    if args.init and args.imagenet:
        raise ConfigError('--init and --imagenet', 'one of them')
    _require_options_of_the_net(args)
    if args.rounds and args.labels:
        raise ConfigError('--labels and --rounds', 'one of them')
    if args.report:
        require_report_place(args.report)
    if args.markdown:
        require_place(args.markdown, 'summary')


def _require_options_of_the_net(args: argparse.Namespace) -> None:
    from uncertainty_seg.training.active.study import DENSENET, PYRAMID

    if args.net == PYRAMID:
        return
    for option, is_given in (
            ('--encoder', args.encoder), ('--imagenet', args.imagenet), ('--freeze', args.freeze),
            ('--dropout', args.dropout != 'head'), ('--rate', args.rate and args.net != DENSENET)):
        if is_given:
            raise ConfigError(f'{option} with --net {args.net}', f'--net {PYRAMID}',
                              'leave it out')


def _settled(
    args: argparse.Namespace, strategies: list[str]
) -> tuple[StudySettings, dict[str, PreparedImages]]:
    """Read the images and check what is asked for; see `load_parts` for the errors."""
    from uncertainty_seg.training.active import study
    from uncertainty_seg.training.active.chain import require_score
    from uncertainty_seg.training.active.prepared import prepare
    from uncertainty_seg.training.active.rounds import recipe_of

    data = study.load_parts(_folders(args))
    plan, num_classes = _plan(args), data['pool'].num_classes
    spec = recipe_of(plan, study.builder(plan, num_classes)).input
    _require_passes(plan, strategies, num_classes)
    planned = study.schedule_of(args.labels or ([] if args.rounds else DEFAULT_LABELS),
                                args.start, args.rounds, args.budget, data['pool'].stems)
    if not planned.counts[0]:
        _require_start(args, strategies)
    parts = {name: prepare(part, spec, name in ('test', 'val')) for name, part in data.items()}
    require_score(parts['pool'], spec, args.score)
    return study.StudySettings(
        plan, planned.counts, args.score, planned.start, args.threshold_rule, args.threshold_on,
        not args.uncapped, args.beta, args.warm, args.members, args.extra_share), parts


def _require_start(args: argparse.Namespace, strategies: list[str]) -> None:
    if not (args.init or args.extra):
        raise ConfigError('a start without any label', 'something else to start from',
                          'give --init or --extra, or label at least one frame')
    if 'threshold' in strategies and args.threshold_on != 'val' and not args.extra:
        raise ConfigError('the strategy threshold after a start without any label',
                          'labelled images for its limit', 'give --threshold-on val and --val')


def _folders(args: argparse.Namespace) -> StudyFolders:
    from uncertainty_seg.storage.labelled_folder import find_unlabelled
    from uncertainty_seg.training.active.study import split_of, StudyFolders

    pool = find_unlabelled(args.pool) if args.mode == 'label' else split_of(args.pool, 'train')
    return StudyFolders(pool, split_of(args.test, 'test'),
                        None if args.val is None else split_of(args.val, 'val'),
                        tuple(split_of(text, 'train') for text in args.extra))


def _plan(args: argparse.Namespace) -> NetPlan:
    from uncertainty_seg.training.active.rounds import NetPlan, taken_of
    from uncertainty_seg.training.active.study import DENSENET

    drops = args.rate or (0.2 if args.net == DENSENET else 0.5)
    plan = NetPlan(args.net, args.encoder or NetPlan.encoder, args.imagenet, args.init, args.size,
                   args.steps, args.batch, args.learning_rate, args.dropout, drops, args.passes,
                   args.freeze)
    taken = taken_of(plan)
    if taken is not None and taken.encoder and not args.encoder:
        plan = replace(plan, encoder=taken.encoder)
    return plan


def _require_passes(plan: NetPlan, strategies: list[str], num_classes: int) -> None:
    """Refuse strategies of passes that disagree with a network that has no dropout."""
    from uncertainty_seg.training.active.rounds import require_dropout
    from uncertainty_seg.training.active.study import builder, STRATEGIES

    build = builder(plan, num_classes)
    asked = [name for name in strategies if STRATEGIES[name].needs_dropout]
    if asked and plan.passes < 2:
        raise ConfigError(f'--passes {plan.passes} and --strategy {asked[0]}',
                          'two or more, which can disagree',
                          'give more, or take entropy, margin, ensemble-mi')
    if build is not None and asked:
        require_dropout(build(), plan.net, asked[0])
