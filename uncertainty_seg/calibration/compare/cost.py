# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a contender costs: its time against the baseline's, frame by frame in turn, and its memory.

Another program on the machine slows both sides of a pair alike, so that the ratio is steadier than
any millisecond. Memory is the peak of a process that does nothing but run a few frames.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
import json
import logging
import os
from pathlib import Path
import subprocess
import sys
import time

import numpy as np

from uncertainty_seg.calibration.compare.contenders import Contender
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings, settings_from_dict, settings_to_dict
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.storage.whole_files import replace_file

ROUNDS = 15
# Until the threads of the call before have stopped to spin.
_PAUSE_S = 0.05
# The least of several equal passes is what the machine can do; so far above it the median may be.
_CALM_SPREAD = 1.25
_MEMORY_FRAMES = 3
_STATUS = Path('/proc/self/status')
_NOT_NETWORK = ('preprocess', 'scores')
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasuredCost:
    """
    Of one contender.

    Attributes
    ----------
    ratio : float
        Median over pairs of its time for network and maps over the baseline's.
    least_ratio : float
        The least of its times over the least of the baseline's.
    time_ms, baseline_ms : float
        Medians.
    spread : float
        Median over least of the baseline's times: 1 on a machine that does nothing else.
    load : float
        Runnable processes a processor when it was measured, this one among them; NaN if unknown.
    memory_mb : float
        Peak of a process that runs it; NaN where it cannot be read.

    """

    ratio: float
    least_ratio: float
    time_ms: float
    baseline_ms: float
    spread: float
    load: float
    memory_mb: float

    @property
    def is_busy(self) -> bool:
        """Whether the machine did other things besides."""
        return self.spread > _CALM_SPREAD or self.load > 1.0

    def describe(self) -> str:
        """Say how the time was measured, and on how busy a machine."""
        state = 'The machine was busy' if self.is_busy else 'The machine was calm'
        return (f'{state} (load {self.load:.1f} a processor, one pass took {self.spread:.2f} '
                f'times its least): {self.time_ms:.1f} ms against {self.baseline_ms:.1f} ms, '
                f'ratio {self.ratio:.2f} by medians and {self.least_ratio:.2f} by the least.')


def measure_cost(
    baseline: Contender, contender: Contender, images: Sequence[ImageU8], settings: Settings,
    rounds: int = ROUNDS,
) -> MeasuredCost:
    """
    Time a contender and the baseline in turn on the same images, and take its peak memory.

    Raises what opening the bundles raises.
    """
    with baseline.opened(settings) as first, contender.opened(settings) as second:
        for image in images[:2]:
            _network_ms(first, image)
            _network_ms(second, image)
        pairs = np.array([_pair(first, second, images[i % len(images)], i % 2 == 1)
                          for i in range(rounds)])
    one, other = pairs.T
    return MeasuredCost(
        float(np.median(other / one)), float(other.min() / one.min()), float(np.median(other)),
        float(np.median(one)), float(np.median(one) / one.min()), _load(),
        peak_memory_mb(contender, settings))


def _pair(
    first: Pipeline, second: Pipeline, image: ImageU8, is_turned: bool
) -> tuple[float, float]:
    if is_turned:
        later = _network_ms(second, image)
        return _network_ms(first, image), later
    return _network_ms(first, image), _network_ms(second, image)


def _network_ms(pipeline: Pipeline, image: ImageU8) -> float:
    time.sleep(_PAUSE_S)
    stages = pipeline.measure(image).timings_ms
    return sum(value for name, value in stages.items() if name not in _NOT_NETWORK)


def _load() -> float:
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return float('nan')


def peak_memory_mb(contender: Contender, settings: Settings) -> float:
    """Return the peak resident memory of a process that runs a few frames; NaN if unknown."""
    code = 'from uncertainty_seg.calibration.compare.cost import print_peak; print_peak()'
    facts = {'folder': str(contender.bundle.folder), 'is_still': contender.is_still,
             'settings': settings_to_dict(settings)}
    root = str(Path(__file__).resolve().parents[3])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get('PYTHONPATH')])])
    done = subprocess.run([sys.executable, '-c', code], input=json.dumps(facts), text=True,
                          capture_output=True, check=False,
                          env={**os.environ, 'PYTHONPATH': paths})
    try:
        return float(done.stdout.split()[-1])
    except (IndexError, ValueError):
        _log.warning('the memory of %s could not be measured: %s', contender.label,
                     ' '.join(done.stderr.split())[-200:] or 'no answer')
        return float('nan')


def print_peak() -> None:
    """Run frames of noise with the contender that stdin describes, and print the peak in MB."""
    facts = json.load(sys.stdin)
    bundle = load_bundle(facts['folder'])
    settings = settings_from_dict({name: tuple(value) if isinstance(value, list) else value
                                   for name, value in facts['settings'].items()})
    spec = bundle.card.input
    rng = np.random.default_rng(0)
    with Contender('', bundle, facts['is_still']).opened(settings) as pipeline:
        for _ in range(_MEMORY_FRAMES):
            pipeline.measure(rng.integers(0, 256, (spec.height, spec.width, 3), np.uint8))
    # Of this program alone: what getrusage says includes the process it was forked from.
    peak = next((line.split()[1] for line in _STATUS.read_text().splitlines()
                 if line.startswith('VmHWM')), 'nan') if _STATUS.exists() else 'nan'
    print(float(peak) / 1024)


def save_cost(path: Path, cost: MeasuredCost) -> None:
    """Write a cost, whole or not at all; OSError if the disk refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(asdict(cost)))


def load_cost(path: Path) -> MeasuredCost | None:
    """Read what `save_cost` wrote; None if there is none, or it cannot be read."""
    try:
        facts = json.loads(path.read_text())
        return MeasuredCost(**{name: float(value) for name, value in facts.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
