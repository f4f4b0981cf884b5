# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure the ways to T dropout passes that a user has, all in one run and interleaved.

Every way has a process of its own, so that peak memory and threads are its own, and computes all
maps from the same image of the network's size. Where torch builds the network it is that of
`pipeline`, with random weights: time does not care. Of other bundles only the runtimes are
measured. The parent asks one after the other, round by round: a busy minute hits all of them.

* ``ours``: the backend that the node takes by itself, T passes and all maps; with a runtime's
  name behind it that one.
* ``one pass``, by four runtimes: trunk, head, upsampling and argmax as one graph, dropout off:
  what is deployed without uncertainty.
* ``torch loop``: T passes of the whole network one after the other.
* ``torch, trunk once``: what is before the first dropout once, the rest T times, as one batch.
* ``baal`` and ``torch-uncertainty``: their wrapper of the network, its own loop or batch.

The ratios of one run count, and of these the ones of CPU time on one thread are the steadiest.
With more threads those of ONNX Runtime and of OpenMP spin between their tasks, which counts as
CPU time.

    python benchmarks/bench_peers.py [BUNDLE] [--passes 20] [--threads 1 2] [--rounds 7]
        [--only WAY...]

"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

from common import Call, graph_pass, machine, numpy_maps, picture
import numpy as np
from plain_graph import deterministic_graph

from uncertainty_seg.backends.registry import AUTO, open_backend
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.settings import BUNDLE_PRECISION, Settings
from uncertainty_seg.storage.model_bundle import load_bundle

PAUSE_S = 0.03
# A way that takes longer than this is asked less often.
SLOW_S, SLOW_ROUNDS = 2.0, 3


@dataclass(frozen=True)
class Task:
    """What every way is given."""

    bundle: ModelBundle
    passes: int
    threads: int

    @property
    def image(self) -> Any:
        """Return the image, the same in every process."""
        return picture(self.bundle)


def ours(name: str = AUTO, precision: str = BUNDLE_PRECISION) -> Callable[[Task], Call]:
    """Return a way: a backend of the package."""
    def way(task: Task) -> Call:
        settings = Settings(threads=task.threads, precision=precision)
        backend = open_backend(name, task.bundle, settings)
        masks, image = pass_inputs(task.bundle.card, task.passes, 0), task.image
        return lambda: backend.run(image, masks, 1.0)

    return way


def one_pass_of(backend: str, precision: str) -> Callable[[Task], Call]:
    """Return a way: one pass of a runtime, dropout off."""
    def way(task: Task) -> Call:
        graph = deterministic_graph(task.bundle).SerializeToString()
        return graph_pass(graph, task.image, task.threads, backend, precision)

    return way


def torch_net(task: Task) -> tuple[Any, Any]:
    """Return torch and the network of the bundle with random weights, dropout on."""
    import torch

    from uncertainty_seg.training.networks import PyramidNet
    from uncertainty_seg.training.recipes import DropoutPlan

    if task.bundle.card.name != 'pipeline':
        raise ValueError(f'torch would build the network of pipeline, not {task.bundle.card.name}')
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    net = PyramidNet(task.bundle.card.num_classes, DropoutPlan(head=0.5)).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.train()
    return torch, net


def torch_image(task: Task) -> Any:
    """Normalise as the network was trained with."""
    from uncertainty_seg.training.batches import normalise

    return normalise(task.image[None])


def full_probabilities(torch: Any, logits: Any, task: Task) -> Any:
    """Upsample logits (T, C, h/4, w/4) to the image and return probabilities."""
    full = torch.nn.functional.interpolate(logits, task.image.shape[:2], mode='bilinear',
                                           align_corners=False)
    return full.softmax(1)


def torch_one_pass(task: Task) -> Call:
    """Return a way: one pass in torch with dropout off, and the class ids."""
    torch, net = torch_net(task)
    net.eval()

    def run() -> object:
        with torch.inference_mode():
            return full_probabilities(torch, net(torch_image(task)), task).argmax(1).numpy()

    return run


def torch_loop(task: Task) -> Call:
    """Return a way: the whole network T times, one after the other."""
    torch, net = torch_net(task)

    def run() -> object:
        image = torch_image(task)
        with torch.inference_mode():
            probs = [full_probabilities(torch, net(image), task)[0] for _ in range(task.passes)]
        return numpy_maps(torch.stack(probs).numpy())

    return run


def trunk_once(task: Task) -> Call:
    """Return a way: what is before the first dropout once, the rest T times."""
    torch, net = torch_net(task)
    last = net.decoder

    def run() -> object:
        with torch.inference_mode():
            merged = last.merged(net.features(torch_image(task)))
            logits = torch.cat([last.classified(merged) for _ in range(task.passes)])
            p = full_probabilities(torch, logits, task)
            mean = p.mean(0)
            entropy = torch.special.entr(mean).sum(0)
            mutual = entropy - torch.special.entr(p).sum(1).mean(0)
            top = p.argmax(1)
            votes = torch.stack([(top == c).sum(0) for c in range(p.shape[1])])
            return (mean.argmax(0), mean.amax(0), entropy, mutual,
                    1 - votes.amax(0) / len(p), (p.square().mean(0) - mean.square()).sum(0))

    return run


def baal_way(task: Task) -> Call:
    """Return a way: baal's patched module, its wrapper asked for T iterations."""
    torch, net = torch_net(task)
    from baal.bayesian.dropout import patch_module
    from baal.modelwrapper import ModelWrapper, TrainingArgs

    wrapper = ModelWrapper(patch_module(net.eval()), TrainingArgs(use_cuda=False,
                                                                  replicate_in_memory=False))

    def run() -> object:
        with torch.inference_mode():
            logits = wrapper.predict_on_batch(torch_image(task), task.passes)
            stacked = torch.as_tensor(logits)[0].permute(3, 0, 1, 2)
            return numpy_maps(full_probabilities(torch, stacked, task).numpy())

    return run


def torch_uncertainty_way(task: Task) -> Call:
    """Return a way: torch-uncertainty's mc_dropout, a batch of T copies."""
    torch, net = torch_net(task)
    from torch_uncertainty.methods import mc_dropout

    wrapper = mc_dropout(net, num_estimators=task.passes, on_batch=True).eval()

    def run() -> object:
        with torch.inference_mode():
            return numpy_maps(full_probabilities(torch, wrapper(torch_image(task)), task).numpy())

    return run


WAYS: dict[str, Callable[[Task], Call]] = {
    'ours': ours(),
    'ours, onnxruntime': ours('onnxruntime'),
    'ours, openvino': ours('openvino'),
    'ours, openvino bf16': ours('openvino', 'bf16'),
    'onnxruntime, one pass': one_pass_of('onnxruntime', 'fp32'),
    'openvino, one pass': one_pass_of('openvino', 'fp32'),
    'openvino bf16, one pass': one_pass_of('openvino', 'bf16'),
    'torch, one pass': torch_one_pass,
    'torch, trunk once': trunk_once,
    'torch loop': torch_loop,
    'baal': baal_way,
    'torch-uncertainty': torch_uncertainty_way,
}


# -------------------------------------------------------------------------------------------------
# The process of one way, and the one that asks.


def serve(way: str, task: Task) -> None:
    """Build a way, say so, and time one call for every line that comes."""
    try:
        call = WAYS[way](task)
        call()
    except Exception as err:  # a library that is missing or fails is a row that says so
        print(json.dumps({'why_not': f'{type(err).__name__}: {err}'.splitlines()[0][:200]}),
              flush=True)
        return
    print('{}', flush=True)
    for _ in sys.stdin:
        wall_s, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        call()
        wall_s, after = time.perf_counter() - wall_s, resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({
            'wall_ms': wall_s * 1e3, 'user_ms': (after.ru_utime - before.ru_utime) * 1e3,
            'system_ms': (after.ru_stime - before.ru_stime) * 1e3,
            'peak_mb': after.ru_maxrss / 1024}), flush=True)


class Way:
    """The process of one way, as the parent sees it."""

    def __init__(self, name: str, words: Sequence[str], threads: int) -> None:
        self.name = name
        self.times: list[dict[str, float]] = []
        command = [sys.executable, __file__, *words, '--way', name, '--threads', str(threads)]
        # A library that sets its threads from the environment gets as many as the others.
        env = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=env)
        self.why_not = str(self._answer().get('why_not', ''))

    def _answer(self) -> dict[str, Any]:
        """Return the next line of JSON; libraries print others."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{'):
                answer: dict[str, Any] = json.loads(line)
                return answer
        return {'why_not': f'ended with exit code {self._process.wait()}'}

    def run(self) -> None:
        """Time one call, unless the way is slow and has had enough."""
        slow = [t for t in self.times if t['wall_ms'] > SLOW_S * 1e3]
        if self.why_not or len(slow) >= SLOW_ROUNDS:
            return
        assert self._process.stdin is not None
        self._process.stdin.write('\n')
        self._process.stdin.flush()
        answer = self._answer()
        self.why_not = str(answer.get('why_not', ''))
        if not self.why_not:
            self.times.append(answer)

    def medians(self) -> dict[str, float]:
        """Return the median of every figure, and the peak of memory."""
        found = {key: float(np.median([t[key] for t in self.times])) for key in self.times[0]}
        return {**found, 'peak_mb': max(t['peak_mb'] for t in self.times)}

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def measured(
    words: Sequence[str], threads: int, rounds: int, names: Sequence[str]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Return the medians of every way, and why others have none."""
    ways = [Way(name, words, threads) for name in names]  # one is built after another
    for _ in range(rounds):
        for way in ways:
            time.sleep(PAUSE_S)
            way.run()
    for way in ways:
        way.close()
    return ({way.name: way.medians() for way in ways if way.times},
            {way.name: way.why_not for way in ways if way.why_not})


def print_table(found: Mapping[str, Mapping[str, float]], why_not: Mapping[str, str]) -> None:
    """Print milliseconds, memory, and each as a multiple of ours."""
    own = found['ours']
    print(f'{"":>25} {"wall ms":>9} {"CPU ms":>9} {"peak MB":>8} {"it / ours":>10} {"by CPU":>8}')
    for name, way in found.items():
        print(f'{name:>25} {way["wall_ms"]:9.1f} {cpu_ms(way):9.1f} {way["peak_mb"]:8.0f} '
              f'{way["wall_ms"] / own["wall_ms"]:10.2f} {cpu_ms(way) / cpu_ms(own):8.2f}')
    for name, reason in why_not.items():
        print(f'{name:>25} not measured: {reason}')


def cpu_ms(way: Mapping[str, float]) -> float:
    """Return time in the program and in the system for it, of all threads."""
    return way['user_ms'] + way['system_ms']


def main() -> None:
    """Run the rounds for every number of threads, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundle', nargs='?', default='pipeline')
    parser.add_argument('--passes', type=int, default=20)
    parser.add_argument('--threads', type=int, nargs='+', default=[1])
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--only', nargs='+', choices=tuple(WAYS), default=tuple(WAYS))
    parser.add_argument('--way', choices=tuple(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        serve(args.way, Task(load_bundle(args.bundle), args.passes, args.threads[0]))
        return
    names = tuple(dict.fromkeys(('ours', *args.only)))
    words = (args.bundle, '--passes', str(args.passes))
    results = []
    for threads in args.threads:
        title = f'{args.bundle}, T={args.passes}, {machine(threads)}'
        print(title)
        found, why_not = measured(words, threads, args.rounds, names)
        print_table(found, why_not)
        results.append({'what': title, 'threads': threads, 'ways': found, 'why_not': why_not})
    print(json.dumps(results))


if __name__ == '__main__':
    main()
