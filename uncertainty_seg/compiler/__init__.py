# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compile a network to a bundle: capture from torch, a standard graph form, its algebra, the checks.

`request` is the entry point: it loads a network, compiles it, compares the result with the network
and writes the bundle. `capture` finds the dropout of a torch net and exports it with markers,
`frontend` converts any ONNX graph to the standard form, `algebra` replaces dropout by masks and
splits the graph into trunk and head, and `checks` runs the compiled graphs. `self_check` compares
a backend with the definitions.
"""

__all__ = ['algebra.ensemble', 'capture.export', 'checks.grid_checks', 'compile', 'head_graphs',
           'onnx_tools', 'plan', 'request', 'self_check']
