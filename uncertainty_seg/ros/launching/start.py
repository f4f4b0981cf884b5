# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Starts rclpy: what is wrong with the command line or the surroundings is one sentence.

Nodes take what is for ROS only; ROS itself passes over any other word in silence.

DDS ends the process itself, in terms of its own, where the domain is out of range, and runs
without ever finding anybody where no network interface is up.

"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
from pathlib import Path
import re
import socket
import sys
import tempfile

import rclpy
from rclpy.signals import SignalHandlerOptions

from uncertainty_seg.errors import ConfigError, some_of, UncertaintySegError
from uncertainty_seg.storage.parameter_files import given_files, read_parameter_file

LARGEST_DOMAIN = 232
_REACHED = (('127.0.0.1', 7400), ('239.255.0.1', 7400))
_SOURCE_LINE = re.compile(r',? at /[^\s,]+:\d+')
# What rcl says of an argument, in terms of its lexer, and what it is to look like.
_UNPARSED = re.compile(r"Couldn't parse ([a-z ]+): ('.*?')\. Error")
_FORMS = {
    'remap rule': 'FROM:=TO, names of letters, digits and _ with / between them, a namespace with '
                  'a / before it',
    'parameter override rule': 'NAME:=VALUE, the value as in YAML',
    'log level': 'debug, info, warn, error or fatal',
}
# rcl takes others, and fails when it makes the node.
_NAMESPACE = re.compile(r'(\w+:)?__ns:=(/|(/[A-Za-z_]\w*)+)', re.ASCII)


def start_node(program: str, about: str, args: Sequence[str] | None = None) -> list[str]:
    """
    Start rclpy as `start_ros` does, for a program that takes arguments of ROS only, or --help.

    Raises ConfigError also for each other word: ROS would run the node without what it was to say.
    """
    words = list(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(
        prog=program, description=about,
        usage=f'{program} --ros-args [-p NAME:=VALUE] [-r FROM:=TO] [--params-file FILE] ...')
    _, strays = parser.parse_known_args(own_words(words))
    if strays:
        raise ConfigError(f'arguments cannot be used: {some_of(map(repr, strays))}',
                          'arguments of ROS behind --ros-args',
                          f'{program} --ros-args -p NAME:=VALUE')
    return start_ros(words)


def own_words(words: Sequence[str]) -> list[str]:
    """Return the words that are not for ROS: not between --ros-args and --."""
    found, is_for_ros = [], False
    for word in words:
        if word == '--ros-args':
            is_for_ros = True
        elif is_for_ros:
            is_for_ros = word != '--'
        else:
            found.append(word)
    return found


def start_ros(args: Sequence[str] | None = None) -> list[str]:
    """
    Start rclpy without its signal handlers.

    Those would close the context before the last messages are published.

    Parameters
    ----------
    args : sequence of str or None
        Arguments as after the program's name; those of the process if None.

    Returns
    -------
    list of str
        These arguments.

    Raises
    ------
    ConfigError
        If a parameter file, another argument or ROS_DOMAIN_ID cannot be used.
    UncertaintySegError
        If no network interface is up.

    """
    words = list(sys.argv[1:] if args is None else args)
    for path in given_files(words):
        read_parameter_file(path)
    _require_namespace(words)
    _require_domain(os.environ.get('ROS_DOMAIN_ID', ''))
    _require_network()
    _find_log_folder()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as err:  # of rcl
        raise _error(_SOURCE_LINE.sub('', str(err))) from err
    return words


def _error(text: str) -> ConfigError:
    found = _UNPARSED.search(text)
    if found is None or found[1] not in _FORMS:
        return ConfigError(f'arguments cannot be used: {text}')
    return ConfigError(f'arguments cannot be used: {found[2]}', _FORMS[found[1]])


def _require_namespace(words: Sequence[str]) -> None:
    for word in words:
        if '__ns:=' in word and not _NAMESPACE.fullmatch(word):
            raise ConfigError(f'arguments cannot be used: {word!r}', _FORMS['remap rule'])


def _require_domain(text: str) -> None:
    if text and not (text.isdecimal() and int(text) <= LARGEST_DOMAIN):
        raise ConfigError(f'ROS_DOMAIN_ID is {text!r}', f'a whole number from 0 to '
                          f'{LARGEST_DOMAIN}', 'the ports of DDS end there')


def _require_network() -> None:
    # Nothing is sent: the system looks for an interface that it would take.
    for address in _REACHED:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            try:
                link.connect(address)
            except OSError as err:
                cause = err.strerror
            else:
                return
    raise UncertaintySegError(f'no network interface is up ({cause})', 'the loopback at least',
                              'DDS finds nobody without one: ip link set lo up')


def _find_log_folder() -> None:
    """Let ROS write its log elsewhere where the home cannot be written, as in a container."""
    if os.environ.get('ROS_LOG_DIR') or os.environ.get('ROS_HOME'):
        return
    try:
        folder = Path.home() / '.ros' / 'log'
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return
    except (OSError, RuntimeError):  # the latter: there is no home
        pass
    os.environ['ROS_LOG_DIR'] = tempfile.mkdtemp(prefix='ros_log_')
    print(f'the home cannot be written: the log of ROS is in {os.environ["ROS_LOG_DIR"]}; '
          'ROS_LOG_DIR names another folder', file=sys.stderr)
