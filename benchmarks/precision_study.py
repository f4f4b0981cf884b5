# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What do 16 and 8 bits cost: mask and uncertainty of one bundle in every precision and runtime.

Each variant is measured on the validation split at the temperature of the fp32 calibration: mIoU,
calibration error, how well entropy and mutual information (MI) rank wrong pixels; and against
fp32 in ONNX Runtime: mask pixels that changed, mean change of the entropy, correlation of MI. The
yardstick is the row "other masks": the same network with T masks of another seed. A precision is
harmless where it changes less than that. Frame times are medians of interleaved rounds.

    python benchmarks/precision_study.py [suim] DATA [--frames 180] [--rounds 15]

The included `suim` has seen both splits: differences between precisions hold, its figures do not.
int8 scales are measured on the training split. Prints a table and, last, one JSON line.

"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import contextlib
from dataclasses import dataclass, field
import json
from pathlib import Path
import tempfile

import numpy as np

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.calibration.labelled_pairs import bgr_pairs, Pair
from uncertainty_seg.calibration.statistics.evaluation import evaluate
from uncertainty_seg.compiler.request import convert
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.pipeline import FrameResult, Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.storage.labelled_folder import load_folder
from uncertainty_seg.storage.model_bundle import load_bundle


@dataclass(frozen=True)
class Variant:
    """Graphs (a key of `bundles`), runtime, what it is asked to compute in, seed of the masks."""

    graphs: str
    backend: str
    precision: str = 'bundle'
    seed: int = 0


REFERENCE = 'fp32, onnxruntime'
VARIANTS = {
    REFERENCE: Variant('fp32', 'onnxruntime'),
    'other masks (seed 1)': Variant('fp32', 'onnxruntime', seed=1),
    'fp32, openvino': Variant('fp32', 'openvino'),
    'fp16 graphs, onnxruntime': Variant('fp16', 'onnxruntime'),
    'bf16 asked for, openvino': Variant('fp32', 'openvino', 'bf16'),
    'bf16 graphs, openvino': Variant('bf16', 'openvino'),
    'int8 trunk (ORT), onnxruntime': Variant('int8 onnxruntime', 'onnxruntime'),
    'int8 trunk (ORT), openvino': Variant('int8 onnxruntime', 'openvino'),
    'int8 trunk (ORT) + bf16, openvino': Variant('int8 onnxruntime', 'openvino', 'bf16'),
    'int8 trunk (NNCF), onnxruntime': Variant('int8 nncf', 'onnxruntime'),
    'int8 trunk (NNCF), openvino': Variant('int8 nncf', 'openvino'),
    'int8 trunk (NNCF) + bf16, openvino': Variant('int8 nncf', 'openvino', 'bf16'),
}


@dataclass
class Recorder:
    """A pipeline that remembers the maps of each frame, without padding."""

    pipeline: Pipeline
    labels: list[np.ndarray] = field(default_factory=list)
    entropy: list[np.ndarray] = field(default_factory=list)
    information: list[np.ndarray] = field(default_factory=list)

    @property
    def card(self) -> object:
        """Return the card of the bundle."""
        return self.pipeline.card

    def measure(self, image: np.ndarray, stamp_ns: int) -> FrameResult:
        """Measure one frame."""
        result = self.pipeline.measure(image, stamp_ns)
        maps = result.maps.cut(result.geometry.rows, result.geometry.columns)
        self.labels.append(maps.label.ravel().copy())
        self.entropy.append(maps.entropy.ravel().copy())
        self.information.append(maps.mutual_information.ravel().copy())
        return result


def bundles(bundle: ModelBundle, folder: Path) -> dict[str, ModelBundle]:
    """Convert a bundle to every precision; what cannot be made is left out, with the reason."""
    made = {'fp32': bundle}
    for name in ('fp16', 'bf16'):
        try:
            made[name] = convert(bundle, folder / name, name)
        except UncertaintySegError as err:
            print(f'{name}: {err}')
    return made


def opened(variant: Variant, bundle: ModelBundle, temperature: float, threads: int) -> Pipeline:
    """Open a variant's pipeline."""
    settings = Settings(threads=threads, seed=variant.seed, precision=variant.precision)
    backend = open_backend(variant.backend, bundle, settings)
    return Pipeline(bundle, backend, settings, temperature=temperature)


def compared(found: Recorder, right: Recorder) -> dict[str, float]:
    """Compare all frames of a variant with the reference's."""
    label, other = (np.concatenate(r.labels) for r in (found, right))
    information = [np.concatenate(r.information) for r in (found, right)]
    entropy = [np.concatenate(r.entropy) for r in (found, right)]
    return {
        'mask %': 100 * float((label != other).mean()),
        'dH': float(np.abs(entropy[0] - entropy[1]).mean()),
        'MI corr': float(np.corrcoef(*information)[0, 1]),
        'MI': float(information[0].mean()),
    }


def frame_times(pipelines: dict[str, Pipeline], pairs: list[Pair], rounds: int) -> dict[str, dict]:
    """Return the median time of trunk and frame, in interleaved rounds."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in pipelines}
    for image, _ in pairs[:rounds]:
        for name, pipeline in pipelines.items():
            pipeline.measure(image, 0)  # the caches belong to the one before
            timings = pipeline.measure(image, 0).timings_ms
            times[name].append((timings['trunk'], sum(timings.values())))
    return {name: dict(zip(('trunk ms', 'frame ms'), np.median(rows, 0).tolist(), strict=True))
            for name, rows in times.items()}


def study(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the row of every variant that can run here."""
    bundle = load_bundle(args.bundle)
    temperature = bundle.calibration.temperature if bundle.calibration else 1.0
    every = bgr_pairs(bundle, load_folder(args.data, 'val'))
    pairs = every[:: max(1, len(every) // args.frames)]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        graphs = bundles(bundle, folder)
        pipelines = {}
        for name, variant in VARIANTS.items():
            if variant.graphs not in graphs:
                continue
            try:
                pipelines[name] = opened(variant, graphs[variant.graphs], temperature,
                                         args.threads)
                pipelines[name].check_masks()
            except UncertaintySegError as err:
                print(f'{name}: {err}')
                pipelines.pop(name, None)
                continue
            stack.callback(pipelines[name].close)
        times = frame_times(pipelines, pairs, args.rounds)
        right = None
        for name, pipeline in pipelines.items():
            recorder = Recorder(pipeline)
            found = evaluate(recorder, pairs, bundle.card.ignore_index)
            right = right or recorder
            yield name, {
                'mIoU': found.mean_iou, 'ECE': found.ece,
                'AUROC H': found.error_auroc['entropy'],
                'AUROC MI': found.error_auroc['mutual_information'],
                **compared(recorder, right), **times[name],
            }


def main() -> None:
    """Measure every variant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundle', nargs='?', default='suim')
    parser.add_argument('data', type=Path)
    parser.add_argument('--frames', type=int, default=180)
    parser.add_argument('--limit', type=int, default=100, help='calibration images [100]')
    parser.add_argument('--rounds', type=int, default=15, help='frames that are timed [15]')
    parser.add_argument('--threads', type=int, default=1)
    rows = {}
    for name, row in study(parser.parse_args()):
        if not rows:
            print('| variant | ' + ' | '.join(row) + ' |')
            print('|' + '---|' * (len(row) + 1))
        rows[name] = row
        cells = [f'{v:.2f}' if k == 'mask %' or k.endswith('ms') else f'{v:.4f}'
                 for k, v in row.items()]
        print(f'| {name} | ' + ' | '.join(cells) + ' |', flush=True)
    print(json.dumps(rows))


if __name__ == '__main__':
    main()
