# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The command line `uncertainty_seg`: find the verb, run it, turn errors into one sentence.

A verb is a module of this folder with ``add_arguments(parser)`` and ``run(args) -> int``, and
maybe ``GOES_ON``, what the same command does after a stop. Only the module of the verb that is
asked for is imported, and it imports heavy libraries inside functions, so that ``--help`` needs
none of them. The last line on stdout is one JSON object.
"""

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
# Errors that other arguments or files do not correct.
_NO_MISUSE = (BackendError, BagError, DivergedError)
EXIT_BY_SIGNAL = 128  # plus its number, as in a shell: 130 after Ctrl-C
# Ctrl-C, kill, a closed terminal, and Ctrl-\\; and the default handlers of Python.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_NOT_HEEDED = (signal.SIG_DFL, signal.default_int_handler)


class _VerbStopped(KeyboardInterrupt):
    """Raised on a signal: Python ends a process with SIGINT after a plain KeyboardInterrupt."""


class SentenceParser(argparse.ArgumentParser):
    """A parser that refuses in one sentence, without printing its usage first."""

    def error(self, message: str) -> NoReturn:
        """Print the error and end the process."""
        self.exit(EXIT_MISUSE, f'{self.prog}: error: {message}; see {self.prog} --help\n')

    def parse_known_args(self, *args: Any) -> Any:  # type: ignore[override]
        """Refuse unknown arguments here, where the error can name the help of the verb."""
        found, others = super().parse_known_args(*args)
        if others:
            self.error(f'unrecognized arguments: {" ".join(others)}')
        return found, others


def build_parser(*wanted: str) -> argparse.ArgumentParser:
    """Build the parser; only the wanted verbs get their own arguments."""
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
    plus its number for a signal. `begin` is called when the verb begins.
    """
    words = sys.argv[1:] if argv is None else argv
    # Only options of the parser itself precede the verb.
    verb = next((word for word in words if not word.startswith('-')), '')
    # File names may have bytes that are not UTF-8; stderr escapes them by default.
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
        # An import or a callback from C may turn the interrupt into another error.
        return say_stopped(_VerbStopped(came[0]), args.goes_on) if came else _failed(args, err)


def say_stopped(err: KeyboardInterrupt, goes_on: str = '') -> int:
    """Report that a signal ended the verb, and how to continue; return the exit code."""
    with contextlib.suppress(OSError):  # the terminal may be closed
        words = f'stopped; the same command goes on {goes_on}' if goes_on else 'stopped'
        print(words, file=sys.stderr, flush=True)
    # Libraries raise it with a text instead of a number.
    number = next((one for one in err.args if isinstance(one, int)), signal.SIGINT)
    return EXIT_BY_SIGNAL + number


def _failed(args: argparse.Namespace, err: Exception) -> int:
    if isinstance(err, UncertaintySegError):
        # Quoted messages of libraries have several lines.
        is_failed = isinstance(err, _NO_MISUSE) or type(err) is UncertaintySegError
        return _refuse(args.verb, ' '.join(str(err).split()),
                       EXIT_FAILED if is_failed else EXIT_MISUSE)
    if isinstance(err, OSError):
        # Such as a full disk or a folder without permission: the system's text tells which.
        return _refuse(args.verb, _of_system(err))
    if str(err).startswith('Symlink loop'):  # of Path.resolve, until Python 3.13
        return _refuse(args.verb, f'{err}.')
    raise err


@contextlib.contextmanager
def _heeded_signals(came: list[int]) -> Iterator[None]:
    """
    Make a signal that would kill the process end its verb as Ctrl-C does, and record it.

    So the processes that a verb has started end with it, and drafts of files are removed. Signals
    that are ignored, as by nohup, stay ignored.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS if is_main}
    heeded = [number for number, handler in before.items() if handler in _NOT_HEEDED]

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        # Both the shell and the kernel send SIGHUP when a terminal is closed.
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
    """Return which file the system refuses, with the system's reason."""
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
