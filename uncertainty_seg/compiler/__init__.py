# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From a network to a bundle: capture from torch, one form of graph, its algebra, and the checks.

`request` is the way in: it loads a network, compiles it, compares the result with the network and
writes the bundle. `capture` finds the dropout of a torch net and exports it with markers,
`frontend` brings any ONNX graph into one form, `algebra` makes masks of dropout and cuts the graph
into trunk and head, `checks` run what was compiled. `self_check` holds a backend against the
definitions.

"""

__all__ = ['algebra.ensemble', 'capture.export', 'checks.grid_checks', 'compile', 'head_graphs',
           'onnx_tools', 'plan', 'request', 'self_check']
