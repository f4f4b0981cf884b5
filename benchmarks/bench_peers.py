# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compare the ways to compute T dropout passes: this package, other libraries, and code by hand.

The unit is one pass in ONNX Runtime up to the mask, as deployed without uncertainty: trunk, head,
upsampling and argmax in one graph, dropout off; for an ensemble, one member. Every way runs in its
own process, with its own threads and memory. The parent times one call of each in turn, so that a
busy phase affects all ways. The library's API limits the threads, not environment variables.

* ``sums``: the network and the sums over T passes.
* ``frame``: from a camera message, raw bgr8 of 640x480, to the verdict.
* ``replay``: one frame of a bag that is read, replayed and written: the difference of a long and a
  short bag, per frame.
* ``trunk once, numpy``: trunk once in ONNX Runtime, T passes at the size of the image, the maps in
  numpy.
* ``torch``: T passes of the whole network in a loop (``loop``); or the layers before the first
  dropout once, the rest as a batch of T (``trunk once``).
* ``baal``, ``torch-uncertainty``: the library's wrapper of the network, with its loop or batch.
* ``laplace-torch``: the closed form for the last layer, diagonal, at the size of the logits. It
  gives mean and entropy only; its network has no dropout.

The torch ways use the network of `pipeline` with random weights, which does not affect the times.
For other bundles only the runtimes are measured. Compare ratios of the same run; those of CPU time
on one thread vary least.

    python benchmarks/bench_peers.py [BUNDLE] [--passes T] [--threads 1] [--rounds 7]
        [--only WAY...] [--write MACHINE]

--write MACHINE, a key of machines.json, writes the ratios to benchmarks/results/peers_BUNDLE.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import datetime
from functools import cached_property
import itertools
import json
from pathlib import Path
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from common import Call, camera_pictures, graph_pass, machine, numpy_maps, picture
import numpy as np
from plain_graph import deterministic_graph, only, probability_graph

from uncertainty_seg.backends.registry import open_backend, open_pipeline
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.frame_guard import FrameGuard
from uncertainty_seg.core.frame_loop import FrameLoop
from uncertainty_seg.core.image_codec import decode, RawImage
from uncertainty_seg.core.settings import BUNDLE_PRECISION, Settings
from uncertainty_seg.storage.model_bundle import load_bundle

PAUSE_S = 0.03
# A way whose call takes longer than SLOW_S is timed in SLOW_ROUNDS rounds only.
SLOW_S, SLOW_ROUNDS = 2.0, 3
MANY = 100
UNIT = 'onnxruntime: one pass'
# Numbers of frames in the two bags of `replay`, and the row of their difference.
SHORT, LONG, REPLAY = 10, 50, 'onnxruntime: replay'
START_NS, FRAME_NS = 1_700_000_000 * 10**9, 33_000_000


@dataclass(frozen=True)
class Task:
    """The arguments of every way."""

    bundle: ModelBundle
    passes: int
    threads: int

    @cached_property
    def image(self) -> Any:
        """Return the image, which is the same in every process."""
        return picture(self.bundle)


Way = Callable[[Task], Call]


def one_pass_of(backend: str, precision: str = 'fp32') -> Way:
    """Return a way: one pass in a runtime, dropout off."""
    def way(task: Task) -> Call:
        graph = deterministic_graph(task.bundle).SerializeToString()
        return graph_pass(graph, task.image, task.threads, backend, precision)

    return way


def sums_of(name: str, precision: str = BUNDLE_PRECISION, passes: int = 0) -> Way:
    """Return a way: the sums in a backend of the package, over T or another number of passes."""
    def way(task: Task) -> Call:
        backend = open_backend(name, task.bundle, Settings(threads=task.threads,
                                                           precision=precision))
        masks, image = pass_inputs(task.bundle.card, passes or task.passes, 0), task.image
        return lambda: backend.run(image, masks, 1.0)

    return way


def frame_of(backend: str) -> Way:
    """Return a way: a frame from message to verdict, with the bundle's own T."""
    def way(task: Task) -> Call:
        settings = Settings(threads=task.threads, backend=backend)
        pipeline = open_pipeline(task.bundle, settings)
        loop = FrameLoop(pipeline, guard=FrameGuard(settings))
        raw = RawImage(camera_pictures(1, 480, 640)[0].reshape(-1), 480, 640, 'bgr8', 3 * 640)
        stamps = itertools.count(START_NS, FRAME_NS)

        def run() -> object:
            raw.data[::61] ^= 1  # makes each frame differ from the one before
            stamp_ns = next(stamps)
            outcome = loop.take(lambda: decode(raw), stamp_ns, None, lambda: stamp_ns + 10**7)
            assert outcome is not None and outcome.result is not None, outcome
            return outcome

        return run

    return way


def replay_of(num_frames: int) -> Way:
    """Return a way: the replay of a whole bag with a number of frames."""
    def way(task: Task) -> Call:
        from uncertainty_seg.data.replay import replay
        from uncertainty_seg.storage.bags.writer import BagWriter

        kept = tempfile.TemporaryDirectory(prefix='bench_peers_')
        with BagWriter(Path(kept.name, 'bag')) as bag:
            for number, image in enumerate(camera_pictures(num_frames, 480, 640)):
                bag.write_image('/camera/image_raw', START_NS + number * FRAME_NS, 'camera',
                                image, 'bgr8')
        settings = Settings(model=str(task.bundle.folder), backend='onnxruntime',
                            threads=task.threads)

        def run() -> object:
            report = replay(Path(kept.name, 'bag'), Path(kept.name, 'out'), settings=settings,
                            force=True)
            assert not report.num_bad, report
            return report

        return run

    return way


def trunk_once_numpy(task: Task) -> Call:
    """Return a way: the two graphs in ONNX Runtime and numpy, as in a notebook."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    head = probability_graph(task.bundle)
    names = [info.name for info in head.graph.input]
    masks, image = pass_inputs(task.bundle.card, task.passes, 0), task.image[None]
    features = [name for name in names if name not in masks]
    trunk = only(onnx.load(str(task.bundle.trunk_path)), *features)
    first, rest = (onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=['CPUExecutionProvider'])
        for graph in (trunk, head))

    def run() -> object:
        found = dict(zip(features, first.run(features, {'image': image}), strict=True))
        return numpy_maps(rest.run(None, {**found, **masks})[0])

    return run


# -------------------------------------------------------------------------------------------------
# torch, and libraries based on it.


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
    """Return the image, normalised as in training."""
    from uncertainty_seg.training.batches import normalise

    return normalise(task.image[None])


def full_size(torch: Any, planes: Any, task: Task) -> Any:
    """Upsample (T, C, h/4, w/4) to the image."""
    return torch.nn.functional.interpolate(planes, task.image.shape[:2], mode='bilinear',
                                           align_corners=False)


def torch_maps(torch: Any, p: Any) -> tuple[Any, ...]:
    """Compute the maps of probabilities (T, C, h, w)."""
    mean, top = p.mean(0), p.argmax(1)
    entropy = torch.special.entr(mean).sum(0)
    votes = torch.stack([(top == c).sum(0) for c in range(p.shape[1])])
    return (mean.argmax(0), mean.amax(0), entropy,
            entropy - torch.special.entr(p).sum(1).mean(0), 1 - votes.amax(0) / len(p),
            (p.square().mean(0) - mean.square()).sum(0))


def torch_loop(task: Task) -> Call:
    """Return a way: the whole network T times in a loop."""
    torch, net = torch_net(task)

    def run() -> object:
        image = torch_image(task)
        with torch.inference_mode():
            probs = [full_size(torch, net(image), task)[0].softmax(0)
                     for _ in range(task.passes)]
            return torch_maps(torch, torch.stack(probs))

    return run


def torch_trunk_once(task: Task) -> Call:
    """Return a way: the layers before the first dropout once, the rest as a batch of T."""
    torch, net = torch_net(task)
    last = net.decoder

    def run() -> object:
        with torch.inference_mode():
            shared = last.final(last.merged(net.features(torch_image(task))))
            logits = torch.cat([last.classifier(last.drop_head(shared))
                                for _ in range(task.passes)])
            return torch_maps(torch, full_size(torch, logits, task).softmax(1))

    return run


def baal_way(task: Task) -> Call:
    """Return a way: baal's patched module and its wrapper with T iterations."""
    torch, net = torch_net(task)
    from baal.bayesian.dropout import patch_module
    from baal.modelwrapper import ModelWrapper, TrainingArgs

    wrapper = ModelWrapper(patch_module(net.eval()), TrainingArgs(use_cuda=False,
                                                                  replicate_in_memory=False))

    def run() -> object:
        with torch.inference_mode():
            logits = wrapper.predict_on_batch(torch_image(task), task.passes)
            stacked = torch.as_tensor(logits)[0].permute(3, 0, 1, 2)
            return torch_maps(torch, full_size(torch, stacked, task).softmax(1))

    return run


def torch_uncertainty_way(task: Task) -> Call:
    """Return a way: torch-uncertainty's mc_dropout, a batch of T copies."""
    torch, net = torch_net(task)
    from torch_uncertainty.methods import mc_dropout

    wrapper = mc_dropout(net, num_estimators=task.passes, on_batch=True).eval()

    def run() -> object:
        with torch.inference_mode():
            logits = wrapper(torch_image(task))
            return torch_maps(torch, full_size(torch, logits, task).softmax(1))

    return run


def laplace_way(task: Task) -> Call:
    """Return a way: laplace-torch on the last layer, each pixel a sample, probit link."""
    torch, net = torch_net(task)
    from laplace import Laplace

    last, width = net.eval().decoder, net.decoder.classifier.in_channels
    linear = torch.nn.Linear(width, task.bundle.card.num_classes)
    linear.weight.data = last.classifier.weight.data[:, :, 0, 0].clone()
    linear.bias.data = last.classifier.bias.data.clone()
    closed = Laplace(torch.nn.Sequential(torch.nn.Identity(), linear), 'classification',
                     subset_of_weights='last_layer', hessian_structure='diag')
    seen = torch.utils.data.TensorDataset(
        torch.randn(256, width), torch.randint(task.bundle.card.num_classes, (256,)))
    closed.fit(torch.utils.data.DataLoader(seen, batch_size=64))

    def run() -> object:
        with torch.no_grad():
            shared = last.final(last.merged(net.features(torch_image(task))))
            pixels = shared[0].flatten(1).T.contiguous()
            p = closed(pixels, pred_type='glm', link_approx='probit').detach()
            mean = full_size(torch, p.T.reshape(1, -1, *shared.shape[2:]), task)[0]
            return mean.argmax(0).numpy(), torch.special.entr(mean).sum(0).numpy()

    return run


WAYS: dict[str, Way] = {
    UNIT: one_pass_of('onnxruntime'),
    'onnxruntime: sums': sums_of('onnxruntime'),
    f'onnxruntime: sums, T = {MANY}': sums_of('onnxruntime', passes=MANY),
    'onnxruntime: frame': frame_of('onnxruntime'),
    f'{REPLAY} of {SHORT}': replay_of(SHORT),
    f'{REPLAY} of {LONG}': replay_of(LONG),
    'openvino: one pass': one_pass_of('openvino'),
    'openvino: sums': sums_of('openvino'),
    f'openvino: sums, T = {MANY}': sums_of('openvino', passes=MANY),
    'openvino: frame': frame_of('openvino'),
    'openvino bf16: one pass': one_pass_of('openvino', 'bf16'),
    'openvino bf16: sums': sums_of('openvino', 'bf16'),
    'onnxruntime: trunk once, numpy': trunk_once_numpy,
    'torch: trunk once': torch_trunk_once,
    'torch: loop': torch_loop,
    'baal': baal_way,
    'torch-uncertainty': torch_uncertainty_way,
    'laplace-torch': laplace_way,
}


# -------------------------------------------------------------------------------------------------
# The process of one way, and the parent process.


def serve(way: str, task: Task) -> None:
    """Build a way, print a line of JSON, then time one call for every line on stdin."""
    try:
        call = WAYS[way](task)
        call()
    except Exception as err:  # printed in the way's row of the table
        print(json.dumps({'why_not': f'{type(err).__name__}: {err}'.splitlines()[0][:200]}),
              flush=True)
        return
    print('{}', flush=True)
    for _ in sys.stdin:
        call()  # fills the caches, which the other ways have used since
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        call()
        print(json.dumps({
            'cpu_ms': (time.process_time() - cpu_s) * 1e3,
            'wall_ms': (time.perf_counter() - wall_s) * 1e3,
            'peak_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)


class Served:
    """The parent's handle of the process of one way."""

    def __init__(self, name: str, words: Sequence[str]) -> None:
        self.name = name
        self.times: list[dict[str, float]] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__, *words, '--way', name], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.why_not = str(self._answer().get('why_not', ''))

    def _answer(self) -> dict[str, Any]:
        """Return the next line of JSON; skips lines that libraries print."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{'):
                answer: dict[str, Any] = json.loads(line)
                return answer
        return {'why_not': f'ended with exit code {self._process.wait()}'}

    def run(self) -> None:
        """Time one call, unless the way is slow and has had its `SLOW_ROUNDS`."""
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
    words: Sequence[str], rounds: int, names: Sequence[str]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Return the medians of the ways that work, and why the others do not."""
    ways = [Served(name, words) for name in names]  # built in sequence
    for _ in range(rounds):
        for way in ways:
            time.sleep(PAUSE_S)
            way.run()
    for way in ways:
        way.close()
    found = {way.name: way.medians() for way in ways if way.times}
    bags = [found.pop(f'{REPLAY} of {count}', None) for count in (SHORT, LONG)]
    if bags[0] and bags[1]:
        found[REPLAY] = {key: (bags[1][key] - bags[0][key]) / (LONG - SHORT) for key in bags[1]}
        found[REPLAY]['peak_mb'] = bags[1]['peak_mb']
    return found, {way.name: way.why_not for way in ways if way.why_not}


def print_table(found: Mapping[str, Mapping[str, float]], why_not: Mapping[str, str]) -> None:
    """Print milliseconds, also as multiples of the unit, and memory."""
    unit = found[UNIT]
    print(f'{"":>30} {"CPU ms":>9} {"of one":>8} {"wall ms":>9} {"of one":>8} {"peak MB":>8}')
    for name, way in found.items():
        cpu, wall = way['cpu_ms'], way['wall_ms']
        print(f'{name:>30} {cpu:9.1f} {cpu / unit["cpu_ms"]:8.2f} {wall:9.1f} '
              f'{wall / unit["wall_ms"]:8.2f} {way["peak_mb"]:8.0f}')
    for name, reason in why_not.items():
        print(f'{name:>30} not measured: {reason}')


def write_figures(found: Mapping[str, Mapping[str, float]], args: argparse.Namespace) -> None:
    """Write the ratios of CPU time to benchmarks/results, replacing earlier ones."""
    unit_ms = found[UNIT]['cpu_ms']
    path = Path(__file__).parent / 'results' / f'peers_{args.bundle}.json'
    figures = [{
        'figure': f'`{args.bundle}`, {name}', 'value': round(way['cpu_ms'] / unit_ms, 2),
        'unit': 'times', 'date': datetime.date.today().isoformat(), 'machine': args.write,
        'command': 'scripts/bench bench_peers ' + args.bundle,
        'parts': f'{way["cpu_ms"]:.1f} ms / {unit_ms:.1f} ms, {way["peak_mb"]:.0f} MB',
    } for name, way in found.items() if name != UNIT]
    title = (f'T = {args.passes} over one pass of ONNX Runtime with its mask, '
             f'processor time, threads: {args.threads}')
    path.write_text(json.dumps({'title': title, 'figures': figures}, indent=1) + '\n')


def main() -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundle', nargs='?', default='pipeline')
    parser.add_argument('--passes', type=int, help="[the bundle's own]")
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--only', nargs='+', choices=tuple(WAYS), default=tuple(WAYS))
    parser.add_argument('--write', metavar='MACHINE')
    parser.add_argument('--way', choices=tuple(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        serve(args.way, Task(load_bundle(args.bundle), args.passes, args.threads))
        return
    args.passes = args.passes or load_bundle(args.bundle).card.passes
    words = (args.bundle, '--passes', str(args.passes), '--threads', str(args.threads))
    title = f'{args.bundle}, T={args.passes}, {machine(args.threads)}'
    print(title)
    found, why_not = measured(words, args.rounds, tuple(dict.fromkeys((UNIT, *args.only))))
    print_table(found, why_not)
    if args.write:
        write_figures(found, args)
    print(json.dumps({'what': title, 'ways': found, 'why_not': why_not}))


if __name__ == '__main__':
    main()
