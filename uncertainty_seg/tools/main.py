# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The command line `uncertainty_seg`: finds the verb, runs it, turns errors into one sentence.

A verb is a module with ``HELP``, ``add_arguments(parser)`` and ``run(args) -> int``, and maybe
``MISUSE``, the errors that another argument or file mends (exit code 2); it imports
what is heavy inside `run`, so that ``--help`` answers at once and without the libraries. Its last
line on stdout is one JSON object.

"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
import logging
import sys
from typing import NoReturn

from uncertainty_seg import __version__
from uncertainty_seg.errors import ConfigError, UncertaintySegError

VERBS = {
    'demo': 'uncertainty_seg.tools.demo_dive',
    'make-dive': 'uncertainty_seg.tools.make_dive',
    'replay': 'uncertainty_seg.tools.replay',
    'make-scenes': 'uncertainty_seg.tools.make_scenes',
    'train': 'uncertainty_seg.tools.train_model',
    'compile': 'uncertainty_seg.tools.compile_net',
    'convert': 'uncertainty_seg.tools.convert_bundle',
    'calibrate': 'uncertainty_seg.tools.calibrate_gate',
    'evaluate': 'uncertainty_seg.tools.evaluate_bundle',
    'build-engines': 'uncertainty_seg.tools.build_engines',
    'score': 'uncertainty_seg.tools.score_frames',
    'self-check': 'uncertainty_seg.tools.self_check',
    'export-labels': 'uncertainty_seg.tools.export_labels',
    'import-labels': 'uncertainty_seg.tools.import_labels',
    'select': 'uncertainty_seg.tools.select_frames',
}

EXIT_FAILED = 1
EXIT_MISUSE = 2
EXIT_INTERRUPTED = 130


class SentenceParser(argparse.ArgumentParser):
    """A parser that refuses in one sentence, without its whole usage before it."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end the process."""
        self.exit(EXIT_MISUSE, f'{self.prog}: error: {message}; see {self.prog} --help\n')


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of every verb."""
    parser = SentenceParser(
        prog='uncertainty_seg',
        description='Segmentation that says, for every pixel, how far to trust it.',
        epilog='The last line on stdout is JSON. Exit code 1: it failed, and why; 2: misuse.',
    )
    parser.add_argument('--version', action='version', version=__version__)
    verbs = parser.add_subparsers(dest='verb', metavar='VERB', required=True)
    for verb, module_name in VERBS.items():
        module = import_module(module_name)
        child = verbs.add_parser(verb, help=module.HELP, description=module.__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
        module.add_arguments(child)
        child.set_defaults(run=module.run, misuse=getattr(module, 'MISUSE', ()))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one verb.

    Parameters
    ----------
    argv : sequence of str or None
        Arguments; those of the process if None.

    Returns
    -------
    int
        Exit code: 0, 1 for a failure that was said in a sentence, 2 for misuse.

    """
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s %(name)s: %(message)s')
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        return EXIT_INTERRUPTED
    except UncertaintySegError as err:
        # Libraries that are quoted in it write several lines.
        print(f'uncertainty_seg {args.verb}: {" ".join(str(err).split())}', file=sys.stderr)
        return EXIT_MISUSE if isinstance(err, (ConfigError, *args.misuse)) else EXIT_FAILED
    except ModuleNotFoundError as err:
        print(f'uncertainty_seg {args.verb}: {err.name} is not installed: '
              f'pip install {err.name}.', file=sys.stderr)
        return EXIT_FAILED
    except OSError as err:
        # A full disk or a folder without permission: the text of the system says which.
        print(f'uncertainty_seg {args.verb}: {err}', file=sys.stderr)
        return EXIT_FAILED


if __name__ == '__main__':
    sys.exit(main())
