# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The command line `uncertainty_seg`: find the verb, run it, turn errors into one sentence.

A verb is a module of this folder with ``add_arguments(parser)`` and ``run(args) -> int``, and
maybe ``GOES_ON``, what the same command does after a stop. Only the module of the verb that is
asked for is imported, and it imports heavy libraries inside functions, so that ``--help`` needs
none of them. The last line on stdout is one JSON object.

"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
from importlib import import_module
import io
import logging
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

from uncertainty_seg import __version__
from uncertainty_seg.errors import (
    BackendError,
    BagError,
    DivergedError,
    EXTRAS,
    install_command,
    UncertaintySegError,
)

# Verb -> its module in this folder, and one line of help.
VERBS = {
    'demo': ('demo', 'play a dive through the real node; contact sheet and summary'),
    'simulate': ('simulate', 'render a synthetic dive into a bag, or labelled scenes to train on'),
    'replay': ('replay', 'run the model over a bag; write mask, flag, score and status to '
               'another bag'),
    'train': ('train', 'train a network by a recipe and write its bundle'),
    'compile': ('compile', 'compile a network to a bundle, make variants of it, sign it'),
    'calibrate': ('calibrate', 'fit temperature and thresholds of a bundle that keep a promise'),
    'evaluate': ('evaluate', 'measure masks, uncertainty and flag on labelled images, or compare '
                 'bundles'),
    'score': ('score', 'score the frames of bags, folders and logs into a table, here or on a Ray '
              'cluster'),
    'self-check': ('self_check', 'check a backend on this machine; build its engines'),
    'labels': ('labels', 'export frames to a labelling tool (COCO, Label Studio, FiftyOne, a '
               'folder), and import the labels'),
    'dataset': ('dataset', 'collect reviewed labels in a dataset; a dive stays in one split'),
    'active-learn': ('active_learn', 'measure on a labelled pool what a strategy saves'),
    'select': ('select_frames', 'choose the frames of a score table that are worth a label'),
    'browse': ('browse', 'write an HTML page to browse a score table, with filters and masks'),
}
EXIT_FAILED = 1
EXIT_MISUSE = 2
# Errors that no other argument or file mends.
_NO_MISUSE = (BackendError, BagError, DivergedError)
EXIT_BY_SIGNAL = 128  # and its number, as a shell has it: 130 after Ctrl-C
# Ctrl-C, kill, a terminal that is closed, and Ctrl-\\; and what Python does by itself.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_NOT_HEEDED = (signal.SIG_DFL, signal.default_int_handler)


class _VerbStopped(KeyboardInterrupt):
    """A signal came; Python ends a process by SIGINT that has seen a KeyboardInterrupt itself."""


class SentenceParser(argparse.ArgumentParser):
    """A parser that refuses in one sentence, without its whole usage before it."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end the process."""
        self.exit(EXIT_MISUSE, f'{self.prog}: error: {message}; see {self.prog} --help\n')

    def parse_known_args(self, *args: Any) -> Any:  # type: ignore[override]
        """Refuse what is not known here, where the help of the verb can be named."""
        found, others = super().parse_known_args(*args)
        if others:
            self.error(f'unrecognized arguments: {" ".join(others)}')
        return found, others


def build_parser(*wanted: str) -> argparse.ArgumentParser:
    """Build the parser; of all verbs, only those wanted get their own arguments."""
    parser = SentenceParser(
        prog='uncertainty_seg',
        description='Semantic segmentation with an uncertainty for every pixel and one flag.',
        epilog='The last line on stdout is JSON. Exit code 1: failure, 2: misuse; see stderr.',
    )
    parser.add_argument('--version', action='version', version=__version__)
    verbs = parser.add_subparsers(dest='verb', metavar='VERB', required=True)
    for verb, (module_name, text) in VERBS.items():
        child = verbs.add_parser(verb, help=text,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
        if verb in wanted:
            module = import_module(f'uncertainty_seg.cli.{module_name}')
            child.description = module.__doc__
            module.add_arguments(child)
            child.set_defaults(run=module.run, goes_on=getattr(module, 'GOES_ON', ''))
    return parser


def main(
    argv: Sequence[str] | None = None, begin: Callable[[], None] = lambda: None,
) -> int:
    """
    Run one verb with these arguments, or those of the process.

    Returns the exit code: 0, 1 for a failure that was reported in a sentence, 2 for misuse, 128
    and its number for a signal. `begin` is called when the verb begins.
    """
    words = sys.argv[1:] if argv is None else argv
    # Before the verb stand options of the parser itself only.
    verb = next((word for word in words if not word.startswith('-')), '')
    # Names of files may have bytes that are no UTF-8; stderr escapes them by itself.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == 'strict':
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        args = build_parser(verb).parse_args(words)
        logging.basicConfig(level=logging.WARNING, format='%(levelname)s %(name)s: %(message)s')
        return _run(args, begin)
    except ModuleNotFoundError as err:
        return _refuse(verb, _missing(err))


def _run(args: argparse.Namespace, begin: Callable[[], None]) -> int:
    came: list[int] = []
    try:
        begin()
        with _heeded_signals(came):
            return int(args.run(args))
    except KeyboardInterrupt as err:
        return say_stopped(err, args.goes_on)
    except Exception as err:
        # Who imports or calls back in C may turn the interrupt into an error of his own.
        return say_stopped(_VerbStopped(came[0]), args.goes_on) if came else _failed(args, err)


def say_stopped(err: KeyboardInterrupt, goes_on: str = '') -> int:
    """Say that a signal ended the verb, and what goes on; returns the exit code."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        words = f'stopped; the same command goes on {goes_on}' if goes_on else 'stopped'
        print(words, file=sys.stderr, flush=True)
    # Libraries raise it with a text.
    number = next((one for one in err.args if isinstance(one, int)), signal.SIGINT)
    return EXIT_BY_SIGNAL + number


def _failed(args: argparse.Namespace, err: Exception) -> int:
    if isinstance(err, UncertaintySegError):
        # Libraries that are quoted in it write several lines.
        is_failed = isinstance(err, _NO_MISUSE) or type(err) is UncertaintySegError
        return _refuse(args.verb, ' '.join(str(err).split()),
                       EXIT_FAILED if is_failed else EXIT_MISUSE)
    if isinstance(err, OSError):
        # A full disk or a folder without permission: the text of the system says which.
        return _refuse(args.verb, _of_system(err))
    raise err


@contextlib.contextmanager
def _heeded_signals(came: list[int]) -> Iterator[None]:
    """
    Let a signal that would kill the process end its verb as Ctrl-C does, and note that it came.

    So the processes that a verb has started end with it, and drafts of files are removed. Signals
    that are ignored, as by nohup, stay so.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS if is_main}
    heeded = [number for number, handler in before.items() if handler in _NOT_HEEDED]

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        # A shell and the kernel both tell that a terminal is gone.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise _VerbStopped(number)

    for number in heeded:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])


def _refuse(verb: str, sentence: str, code: int = EXIT_FAILED) -> int:
    print(f'uncertainty_seg {verb}: {sentence}', file=sys.stderr)
    return code


def _of_system(err: OSError) -> str:
    """Say which file the system refuses, and why in its words."""
    reason = (err.strerror or str(err) or type(err).__name__).lower()
    what = f'{err.filename} cannot be used' if err.filename else 'the system refuses'
    return f'{what} ({reason}).'


def _missing(err: ModuleNotFoundError) -> str:
    package = (err.name or '').partition('.')[0]
    if package not in EXTRAS:
        return f'{err}.'
    return f'{package} is not installed: {install_command(package)}.'


if __name__ == '__main__':
    sys.exit(main())
