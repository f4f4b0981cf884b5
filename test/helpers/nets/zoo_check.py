# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compile a network and compare what was written with the network itself, as torch runs it.

Nothing of the compiler's own checks is used. The reference is a copy of the network that is
never handed to the package: `net.eval()` for dropout off, and the same net with every module but
the norms in training mode for its passes, drawn by torch's own generator. So passes are compared
in distribution: means over regions of the image and over groups of passes, by Welch's t-test.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
import math
from pathlib import Path
import re
import time
from typing import Any

import numpy as np
import onnxruntime
from scipy import stats

from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import make_masks, ones_masks, pass_inputs
from uncertainty_seg.core.grid import upsample_bilinear
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.storage.model_bundle import load_bundle

AGREES, WRONG, REFUSED, CRASHED, NOT_BUILT = 'agrees', 'WRONG', 'refused', 'crashed', 'not built'
# Passes of a group; the estimates of mutual information have the same bias on both sides.
GROUP = 8
# Dropout off: largest difference as a share of the logits' range, and of labels that differ.
MOST_LOGITS, MOST_LABELS = 5e-3, 5e-3
# Differences that are not held against a network: rounding of the stored weights.
PROBABILITY_FLOOR, RELATIVE_FLOOR = 1e-3, 0.02
# Chance of the worst of all comparisons under the same distribution, twice in a row.
LEAST_CHANCE = 1e-4
# A sentence with one of these is a message of Python or torch, not one written for a user.
_DUMPED = re.compile(r'report this as a bug|Traceback|object has no attribute|object is not |'
                     r'unexpected keyword|missing \d+ required|ATen|c10::|\w+\.cpp:|0x[0-9a-f]{8}|'
                     r'list index out of range|KeyError|AssertionError|InferenceError')
_LONGEST_SENTENCE = 900
Array = np.ndarray
# A normalised image (1, 3, h, w) to logits (C, H, W) of its size; one pass, still or dropping.
Eager = Callable[[Array, bool], Array]


@dataclass(frozen=True)
class Case:
    """
    A network on both sides.

    Attributes
    ----------
    net : Module or Path
        What is handed to the compiler.
    eager : callable
        The same network, never handed to it.
    size : (int, int)
        Width and height.
    classes : int
        C.
    options : mapping
        More arguments of `compile_network`.

    """

    net: Any
    eager: Eager
    size: tuple[int, int]
    classes: int
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Effort:
    """How many passes are compared, within how many CPU seconds of torch, and whether timed."""

    passes: int = 256
    eager_s: float = 5.0
    has_cost: bool = True


def check(case: Case, folder: Path, effort: Effort) -> dict[str, Any]:
    """Compile into a folder and compare; return the outcome with its figures."""
    from uncertainty_seg.compiler.request import compile_network

    start_s = time.process_time()
    try:
        compile_network(case.net, folder / 'bundle', case.size,
                        [f'class {i}' for i in range(case.classes)], **case.options)
    except UncertaintySegError as err:
        return refusal(str(err))
    except Exception as err:  # a crash is what this looks for
        return {'outcome': CRASHED, 'why': f'{type(err).__name__}: {err}'[:500]}
    said: dict[str, Any] = {'compile_s': round(time.process_time() - start_s, 1)}
    ours = Written(load_bundle(str(folder / 'bundle')))
    said |= {'sites': len(ours.card.dropout_sites), **still_errors(ours, case)}
    said |= distribution(ours, case, effort)
    said |= verdict(said)
    return said | (costs(ours, case) if effort.has_cost else {})


def refusal(sentence: str) -> dict[str, Any]:
    """Tell a sentence for a user from a message of Python that was passed on."""
    is_dump = bool(_DUMPED.search(sentence)) or len(sentence) > _LONGEST_SENTENCE
    return {'outcome': CRASHED if is_dump else REFUSED, 'why': sentence[:600]}


def verdict(said: Mapping[str, Any]) -> dict[str, Any]:
    """Judge the figures; say which of them are wrong."""
    wrong = []
    if not said['logits'] <= MOST_LOGITS:
        wrong.append(f'logits differ by {said["logits"]:.1e} of their range')
    if not said['labels'] <= MOST_LABELS:
        wrong.append(f'{said["labels"]:.1%} of labels differ')
    if not said['chance'] >= LEAST_CHANCE:
        wrong.append(f'passes differ in {said["worst"]} (chance {said["chance"]:.0e})')
    return {'outcome': WRONG, 'why': '; '.join(wrong)} if wrong else {'outcome': AGREES}


# --- dropout off ---------------------------------------------------------------------------------


class Written:
    """The files of a bundle, run by ONNX Runtime alone."""

    def __init__(self, bundle: ModelBundle) -> None:
        self.bundle, self.card = bundle, bundle.card
        self._trunk, self._head = _session(bundle.trunk_path), _session(bundle.passes_path)
        self._wanted = {info.name for info in self._head.get_inputs()}

    def logits(self, image: Array, masks: Mapping[str, Array]) -> Array:
        """Return (T, C, H, W) of an image (1, H, W, 3) of bytes, at its size."""
        names = [info.name for info in self._trunk.get_outputs()]
        tensors = dict(zip(names, self._trunk.run(names, {'image': image}), strict=True))
        given = {'image': image, **tensors, **masks}
        z = self._head.run(['logits'], {k: v for k, v in given.items() if k in self._wanted})[0]
        return upsample_bilinear(z, *image.shape[1:3], self.card.upsampling)


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def pictures(size: tuple[int, int], count: int = 2) -> Array:
    """Return images (N, H, W, 3) of blobs and noise, in bytes."""
    width, height = size
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (count, -(-height // 16), -(-width // 16), 3))
    blobs = coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width]
    return np.clip(blobs + rng.normal(0, 20, blobs.shape), 0, 255).astype(np.uint8)


def normalised(image: Array, card: Any) -> Array:
    """Return the floats (1, 3, H, W) that the network takes."""
    scaled = (image / 255 - np.array(card.input.mean)) / np.array(card.input.std)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32)


def still_errors(ours: Written, case: Case) -> dict[str, float]:
    """Compare with dropout off: largest difference over the range, and the share of labels."""
    masks, logits, labels = ones_masks(ours.card.dropout_sites, 1), 0.0, []
    for image in pictures(case.size):
        mine = _centred(ours.logits(image[None], masks)[0])
        theirs = _centred(case.eager(normalised(image, ours.card), False))
        logits = max(logits, float(abs(mine - theirs).max() / np.ptp(theirs)))
        labels.append(float((mine.argmax(0) != theirs.argmax(0)).mean()))
    return {'logits': logits, 'labels': float(np.mean(labels))}


def _centred(z: Array) -> Array:
    """Take the mean over the classes away: softmax does not see it."""
    return z - z.mean(0)


# --- passes --------------------------------------------------------------------------------------


class Groups:
    """Statistics of passes, by group: means by region and class, entropy, mutual information."""

    def __init__(self) -> None:
        self._rows: list[Array] = []
        self.num_classes = 0

    def add(self, logits: Array) -> None:
        """Take the (GROUP, C, H, W) logits of a group."""
        p = softmax(logits)
        self.num_classes = p.shape[1]
        mean = p.mean(0)
        total, each = _entropy(mean), float(np.mean([_entropy(one) for one in p]))
        regions = [part.mean((1, 2)) for half in np.array_split(mean, 2, 1)
                   for part in np.array_split(half, 2, 2)]
        self._rows.append(np.concatenate([[total, total - each], *regions]))

    @property
    def rows(self) -> Array:
        """One row a group: entropy, mutual information, then probabilities."""
        return np.array(self._rows)

    @property
    def passes(self) -> int:
        """How many were taken."""
        return GROUP * len(self._rows)


def softmax(logits: Array) -> Array:
    """Return probabilities over axis 1, in float64."""
    e = np.exp(np.asarray(logits, np.float64) - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _entropy(p: Array) -> float:
    """Return the mean entropy of pixels, over ln C."""
    return float(-(p * np.log(np.maximum(p, 1e-30))).sum(0).mean() / math.log(len(p)))


def distribution(ours: Written, case: Case, effort: Effort) -> dict[str, Any]:
    """Compare T passes of both in distribution; a strange result must come twice."""
    image = pictures(case.size)[0]
    floats = normalised(image, ours.card)
    found = _compare(ours, case, image, floats, effort, 1)
    if found['chance'] < LEAST_CHANCE:
        again = _compare(ours, case, image, floats, effort, 2)
        if again['chance'] >= LEAST_CHANCE:
            found = again
    return found


def _compare(
    ours: Written, case: Case, image: Array, floats: Array, effort: Effort, seed: int
) -> dict[str, Any]:
    seed_all(seed)
    theirs = Groups()
    end_s = time.process_time() + effort.eager_s
    for number, group in enumerate(_eager_groups(case.eager, floats, effort.passes)):
        theirs.add(group)
        if time.process_time() > end_s and number >= 3:
            break
    mine = Groups()
    sites = ours.card.dropout_sites
    for number in range(max(theirs.passes, 64) // GROUP):
        mine.add(ours.logits(image[None], make_masks(sites, GROUP, 1000 * seed + number)))
    return {'passes': theirs.passes, **agreement(mine, theirs)}


def seed_all(seed: int) -> None:
    """Let torch draw the same passes again."""
    import torch

    torch.manual_seed(seed)


def _eager_groups(eager: Eager, floats: Array, passes: int) -> Iterator[Array]:
    for _ in range(passes // GROUP):
        yield np.stack([eager(floats, True) for _ in range(GROUP)])


def agreement(mine: Groups, theirs: Groups) -> dict[str, Any]:
    """Say how likely the worst difference is between groups of one distribution."""
    a, b = mine.rows, theirs.rows
    mean_a, mean_b = a.mean(0), b.mean(0)
    var_a, var_b = a.var(0, ddof=1) / len(a), b.var(0, ddof=1) / len(b)
    floor = np.full(a.shape[1], PROBABILITY_FLOOR)
    floor[:2] = 1e-6 + RELATIVE_FLOOR * abs(mean_b[:2])
    error = np.sqrt(var_a + var_b) + 1e-12
    t = np.maximum(abs(mean_a - mean_b) - floor, 0) / error
    freedom = (var_a + var_b + 1e-30) ** 2 / (
        (var_a ** 2 / (len(a) - 1) + var_b ** 2 / (len(b) - 1)) + 1e-60)
    chance = 2 * stats.t.sf(t, np.clip(freedom, 1, None)) * a.shape[1]
    worst = int(chance.argmin())
    name = ('entropy', 'mutual information')[worst] if worst < 2 else 'mean probability'
    return {
        'entropy': [float(mean_a[0]), float(mean_b[0])],
        'mi': [float(mean_a[1]), float(mean_b[1])], 'mi_error': float(error[1]),
        'probability': float(abs(mean_a - mean_b)[2:].max()),
        'chance': min(float(chance[worst]), 1.0), 'worst': name,
    }


# --- cost ----------------------------------------------------------------------------------------


def costs(ours: Written, case: Case, passes: int = 20) -> dict[str, float]:
    """Measure T passes of ours with all maps against one eager pass, CPU time of one thread."""
    from uncertainty_seg.backends.registry import open_backend

    image = pictures(case.size)[0]
    floats = normalised(image, ours.card)
    masks = pass_inputs(ours.card, passes, 0)
    backend = open_backend('onnxruntime', ours.bundle, Settings(threads=1))
    try:
        mine = _cpu_ms(lambda: backend.run(image, masks, 1.0))
        still = _cpu_ms(lambda: case.eager(floats, False))
        live = _cpu_ms(lambda: case.eager(floats, True))
    finally:
        backend.close()
    return {'ours_ms': round(mine, 2), 'eager_ms': round(live, 2),
            'over_one': round(mine / still, 2), 'gain': round(passes * live / mine, 1)}


def _cpu_ms(call: Callable[[], object], rounds: int = 3) -> float:
    call()
    times = []
    for _ in range(rounds):
        start_s = time.process_time()
        call()
        times.append(time.process_time() - start_s)
    return 1e3 * float(np.median(times))
