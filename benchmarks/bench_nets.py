# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compare T passes of every network of the test zoo with inference without this package.

Each network is compiled with the command line. The variants then run interleaved, round by round
in one process, with the same image and T:

* ``torch``: torch eager, dropout on, T passes in a loop, the maps in numpy.
* ``one``: the network without dropout as one graph, uint8 image to class ids, including upsampling
  and argmax, in ONNX Runtime, OpenVINO in float32 and OpenVINO in bfloat16.
* ``ours``: the bundle with T passes and all maps, in the same three runtimes.

Compare ratios of the same run, not milliseconds. On a busy machine CPU time with ``--threads 1``
varies least. The weights are random, which does not affect the times.

    python benchmarks/bench_nets.py [--nets fpn,unet_dropout] [--threads N] [--rounds 7]
"""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import dataclass
import io
import json
import os
from pathlib import Path
import sys
import tempfile
import time
from typing import Any
import warnings

from common import Call, graph_pass, machine, measure, numpy_maps
import numpy as np
import torch
from torch import nn, Tensor

sys.path[:0] = [str(Path(__file__).parents[1] / 'test/helpers' / n) for n in ('', 'nets')]
from uncertainty_seg.backends.registry import open_backend  # noqa: E402, I100
from uncertainty_seg.cli.main import main as command_line  # noqa: E402
from uncertainty_seg.core.bundle import ModelBundle  # noqa: E402
from uncertainty_seg.core.dropout_masks import pass_inputs  # noqa: E402
from uncertainty_seg.core.settings import Settings  # noqa: E402
from uncertainty_seg.errors import UncertaintySegError  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402
import zoo  # noqa: E402

SMALL = {'fc_densenet56': ((320, 256), 8)}  # dropout in its first block leaves almost no trunk
SIZE, PASSES, TORCH_ROUNDS = (512, 384), 20, 2


@dataclass(frozen=True)
class Case:
    """A network with its input size, number of passes and threads."""

    name: str
    size: tuple[int, int]
    passes: int
    threads: int

    @property
    def recipe(self) -> zoo.Recipe:
        """Return the network's entry in the zoo."""
        return zoo.NETS[self.name]


def compile_case(case: Case, folder: Path) -> tuple[ModelBundle, float, dict[str, Any]]:
    """Compile with the command line; return the bundle, the seconds, and the verb's JSON."""
    classes = folder / 'classes.json'
    classes.write_text(json.dumps({'classes': [
        {'id': i, 'name': f'class {i}', 'rgb': [40 * i, 0, 0]} for i in range(zoo.NUM_CLASSES)]}))
    out = folder / case.name
    words = ['compile', f'zoo:{case.name}', '--input', '{}x{}'.format(*case.size),
             '--classes', str(classes), '-o', str(out), '--passes', str(case.passes)]
    if case.recipe.inject:
        words += ['--inject-dropout', str(case.recipe.inject), '--at', case.recipe.at]
    start_s = time.perf_counter()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = command_line(words)
    if code:
        raise SystemExit(f'{case.name} was not compiled')
    took_s = time.perf_counter() - start_s
    return load_bundle(str(out)), took_s, json.loads(said.getvalue().splitlines()[-1])


class Deployed(nn.Module):
    """The network as it is deployed without uncertainty: uint8 image to class ids."""

    def __init__(self, net: nn.Module, bundle: ModelBundle) -> None:
        super().__init__()
        self.net, spec = net, bundle.card.input
        self.size = (spec.height, spec.width)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer('mean', 255 * torch.tensor(spec.mean).reshape(1, 3, 1, 1))
        self.register_buffer('std', 255 * torch.tensor(spec.std).reshape(1, 3, 1, 1))

    def logits(self, image: Tensor) -> Tensor:
        """Return logits at the size of the image."""
        x = (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        z = zoo.logits_of(self.net(x))
        return z if z.shape[2:] == self.size else nn.functional.interpolate(
            z, self.size, mode='bilinear', align_corners=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return class ids."""
        return self.logits(image).argmax(1)


def export_deployed(net: nn.Module, image: Tensor) -> bytes:
    """Export without dropout, with torch's older exporter, or the newer one if it fails."""
    file = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        try:
            torch.onnx.export(net, (image,), file, opset_version=17, dynamo=False)
        except torch.onnx.errors.OnnxExporterError:
            program = torch.onnx.export(net, (image,), dynamo=True, verbose=False)
            assert program is not None
            return bytes(program.model_proto.SerializeToString())
    return file.getvalue()


def switch_dropout_on(net: nn.Module) -> None:
    """Set only the modules with dropout to training mode, as MC dropout tutorials do."""
    for module in net.modules():
        kind = type(module).__name__
        if kind.startswith(('Dropout', 'DropPath', 'MultiheadAttention', 'SdpaAttention')):
            module.train()


def torch_loop(net: Deployed, image: Tensor, passes: int) -> Call:
    """Return MC dropout as a user implements it in torch and numpy."""
    switch_dropout_on(net)

    def run() -> object:
        with torch.no_grad():
            probs = [net.logits(image).softmax(1)[0].numpy() for _ in range(passes)]
        return numpy_maps(np.stack(probs))

    return run


def contenders(case: Case, bundle: ModelBundle) -> tuple[dict[str, Call], dict[str, Any]]:
    """Return the calls of a case that are available on this machine, and the backends."""
    width, height = case.size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    tensor = torch.from_numpy(image[None])

    def net() -> Deployed:
        return Deployed(zoo.build_with_dropout(case.name), bundle).eval()

    graph = export_deployed(net(), tensor)
    calls: dict[str, Call] = {'torch': torch_loop(net(), tensor, case.passes)}
    masks = pass_inputs(bundle.card, case.passes, 0)
    backends: dict[str, Any] = {}
    for name, runtime, precision in (('ort', 'onnxruntime', 'fp32'), ('ov', 'openvino', 'fp32'),
                                     ('ov bf16', 'openvino', 'bf16')):
        try:
            settings = Settings(threads=case.threads, precision=precision)
            backends[f'ours {name}'] = open_backend(runtime, bundle, settings)
        except UncertaintySegError as err:
            print(f'{name} is left out: {err}', file=sys.stderr)
            continue
        calls[f'one {name}'] = graph_pass(graph, image, case.threads, runtime, precision)
        calls[f'ours {name}'] = lambda backend=backends[f'ours {name}']: (
            backend.run(image, masks, 1.0))
    return calls, backends


def run_case(case: Case, rounds: int) -> dict[str, Any]:
    """Compile and measure one network."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, compile_s, said = compile_case(case, Path(folder))
        calls, backends = contenders(case, bundle)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for index in range(rounds + 1):  # the first round is a warm-up
            for name, call in calls.items():
                if name != 'torch' or index <= TORCH_ROUNDS:
                    times[name].append(measure(call))
        for backend in backends.values():
            backend.close()
    wall, cpu = ({name: round(float(np.median([v[k] for v in values[1:]])), 2)
                  for name, values in times.items()} for k in (0, 1))
    return {
        'net': case.name, 'size': '{}x{}'.format(*case.size), 'passes': case.passes,
        'sites': len(bundle.card.dropout_sites), 'trunk_share': said['trunk_share'],
        'gflops': said['gflops'], 'compile_s': round(compile_s, 1),
        'wall_ms': wall, 'cpu_ms': cpu,
        'torch_over': {name: [round(t['torch'] / t[name], 1) for t in (wall, cpu)]
                       for name in backends},
        'over_one_pass': {name: [round(t[name] / t[name.replace('ours', 'one')], 2)
                                 for t in (wall, cpu)]
                          for name in backends},
    }


OURS = ('ours ort', 'ours ov', 'ours ov bf16')


def table(results: list[dict[str, Any]]) -> str:
    """Return the ratios of CPU time as a Markdown table."""
    head = ' | '.join(f'{c} / one pass | torch / {c}' for c in OURS)
    lines = [f'| net | {head} |', '|---' * (2 * len(OURS) + 1) + '|']
    for result in results:
        cells = [str(result[key][c][1]) if c in result[key] else '-'
                 for c in OURS for key in ('over_one_pass', 'torch_over')]
        lines.append(f'| {result["net"]}, {result["size"]}, T={result["passes"]} | '
                     + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main() -> None:
    """Measure the requested networks and print tables and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--nets', default=','.join(zoo.NETS), help='names, with commas between')
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--rounds', type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    where, results = machine(args.threads), []
    for name in args.nets.split(','):
        size, passes = SMALL.get(name, (SIZE, PASSES))
        case = Case(name, size, passes, args.threads)
        results.append(run_case(case, args.rounds))
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    print(f'{where}, torch {torch.__version__}\n\n{table(results)}\n')
    print(json.dumps({'what': where, 'nets': results}))


if __name__ == '__main__':
    main()
