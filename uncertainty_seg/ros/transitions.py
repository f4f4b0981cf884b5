# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What rclpy's lifecycle leaves to be mended: errors inside transitions, impossible ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from uncertainty_seg.errors import UncertaintySegError

_NodeT = TypeVar('_NodeT', bound='SoundLifecycleNode')
_Transition = Callable[[_NodeT, LifecycleState], TransitionCallbackReturn]


def said(transition: _Transition[_NodeT]) -> _Transition[_NodeT]:
    """
    Turn what a transition raises into a sentence in the log; rclpy swallows it.

    Parameters
    ----------
    transition : callable
        An `on_...` method of a `SoundLifecycleNode`.

    Returns
    -------
    callable
        FAILURE for an error of ours, which leaves the state as it was; ERROR for any other.

    """

    @wraps(transition)
    def run(node: _NodeT, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except UncertaintySegError as err:
            node.get_logger().error(str(err))
            node.fall(str(err))
            return TransitionCallbackReturn.FAILURE
        except Exception as err:
            node.error = f'{type(err).__name__}: {err}'
            node.get_logger().error(f'{transition.__name__}: {node.error}')
            return TransitionCallbackReturn.ERROR

    return run


class SoundLifecycleNode(LifecycleNode):
    """
    A lifecycle node that survives a transition its state does not allow.

    Attributes
    ----------
    error : str
        What the last transition raised that was no error of ours.

    """

    error = ''

    def fall(self, reason: str) -> None:
        """Take note that a transition failed."""
        raise NotImplementedError

    def _LifecycleNodeMixin__change_state(self, transition: int) -> Any:
        # In Humble and Jazzy an impossible transition, such as activate before configure, raises
        # out of the service's callback: the node would end, and who asked would wait for ever.
        # The name is the private one of rclpy's mixin; where it is another, nothing is changed.
        try:
            return super()._LifecycleNodeMixin__change_state(transition)
        except RuntimeError as err:
            self.get_logger().error(f'transition {transition} is refused: {err}')
            return TransitionCallbackReturn.FAILURE
