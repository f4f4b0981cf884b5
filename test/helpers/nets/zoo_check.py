# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compile a network and compare the bundle with the network itself, run by torch.

The comparison uses none of the compiler's own checks. The reference is a copy of the network that
is never passed to the package: `net.eval()` for dropout off, and for the passes every module
except the norms in training mode, with masks drawn by torch. The passes can therefore only be
compared in distribution: Welch's t-test compares means of the maps, over the image and over groups
of passes, with those of the bundle run in a `Pipeline`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
import math
from pathlib import Path
import re
import time
from typing import Any

import numpy as np
from scipy import stats

from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import ones_masks, pass_inputs
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.storage.model_bundle import load_bundle
from written import Written

AGREES, WRONG, REFUSED, CRASHED, NOT_BUILT = 'agrees', 'WRONG', 'refused', 'crashed', 'not built'
# Passes per group. Equal on both sides, since the bias of mutual information depends on it.
GROUP = 8
# Dropout off: largest difference as a share of the logits' range; share of labels that differ.
MOST_LOGITS, MOST_LABELS = 5e-3, 5e-3
MAPS = ('mutual_information', 'total_variance', 'variation_ratio', 'entropy')
# Differences of means below these are ignored. They are shares of a map's mean, since the grid of
# the sums is chosen with that accuracy and stored weights are rounded. The entropy, and the mean
# probabilities of each image quarter, get more: the softmax of upsampled means is not the mean of
# upsampled softmaxes.
RELATIVE_FLOORS, ABSOLUTE_FLOOR, PROBABILITY_FLOOR = (0.03, 0.03, 0.03, 0.04), 1e-4, 0.02
# Smallest p-value of the worst comparison (Bonferroni); a lower one must occur twice in a row.
LEAST_CHANCE = 1e-4
# Fragments of messages of Python or torch, which an error written for a user does not contain.
_DUMPED = re.compile(r'report this as a bug|Traceback|object has no attribute|object is not |'
                     r'unexpected keyword|missing \d+ required|ATen|c10::|\w+\.cpp:|0x[0-9a-f]{8}|'
                     r'list index out of range|KeyError|AssertionError|InferenceError')
_LONGEST_SENTENCE = 900
Array = np.ndarray
# A normalised image (1, 3, h, w) to logits (C, H, W) of its size; one pass, dropout off or on.
Eager = Callable[[Array, bool], Array]


@dataclass(frozen=True)
class Case:
    """A network as the compiler gets it, and its reference."""

    net: Any  # The argument of the compiler: a module or a path.
    eager: Eager  # The same network, never passed to the compiler.
    size: tuple[int, int]  # Width and height.
    classes: int
    options: Mapping[str, Any]  # Further arguments of `compile_network`.


@dataclass(frozen=True)
class Effort:
    """Number of compared passes, CPU seconds for torch's, and whether costs are measured."""

    passes: int = 256
    eager_s: float = 5.0
    has_cost: bool = True


def check(case: Case, folder: Path, effort: Effort) -> dict[str, Any]:
    """Compile into a folder and compare; return the outcome with its figures."""
    from uncertainty_seg.compiler.request import compile_network

    # Disables the compiler's own comparison of passes; this module makes an independent one.
    options = {'compare_passes': 0, **case.options}
    start_s = time.process_time()
    try:
        made = compile_network(case.net, folder / 'bundle', case.size,
                               [f'class {i}' for i in range(case.classes)], **options)
    except UncertaintySegError as err:
        return refusal(str(err))
    except Exception as err:  # this check exists to find crashes
        return {'outcome': CRASHED, 'why': f'{type(err).__name__}: {err}'[:500]}
    said: dict[str, Any] = {'compile_s': round(time.process_time() - start_s, 1)}
    ours = load_bundle(str(folder / 'bundle'))
    said |= {'sites': len(ours.card.dropout_sites), 'grid': grid_said(ours, made),
             **still_errors(ours, case)}
    said |= distribution(ours, case, effort)
    said |= verdict(said)
    return said | (costs(ours, case) if effort.has_cost else {})


def grid_said(ours: ModelBundle, made: Any) -> dict[str, Any]:
    """Return the grid where the passes are summed, and the compiler's reason for it."""
    grid = ours.card.grid
    return {'cells': [grid.rows, grid.columns], 'offset': list(grid.offset),
            'error': ours.card.grid_error, 'is_image': grid.is_image, 'reason': ' '.join(
                d.reason for d in made.compiled.plan.decisions if d.step == 'grid')}


def refusal(sentence: str) -> dict[str, Any]:
    """Classify an error: a sentence for the user is REFUSED, a passed-on message CRASHED."""
    is_dump = bool(_DUMPED.search(sentence)) or len(sentence) > _LONGEST_SENTENCE
    return {'outcome': CRASHED if is_dump else REFUSED, 'why': sentence[:600]}


def verdict(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outcome of the figures, and which of them are wrong."""
    wrong = []
    if not said['logits'] <= MOST_LOGITS:
        wrong.append(f'logits differ by {said["logits"]:.1e} of their range')
    if not said['labels'] <= MOST_LABELS:
        wrong.append(f'{said["labels"]:.1%} of labels differ')
    if not said['chance'] >= LEAST_CHANCE:
        wrong.append(f'passes differ in {said["worst"]} (chance {said["chance"]:.0e})')
    return {'outcome': WRONG, 'why': '; '.join(wrong)} if wrong else {'outcome': AGREES}


# --- dropout off ---------------------------------------------------------------------------------


def pictures(size: tuple[int, int], count: int = 2) -> Array:
    """Return images (N, H, W, 3), uint8, of blobs and noise."""
    width, height = size
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (count, -(-height // 16), -(-width // 16), 3))
    blobs = coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width]
    return np.clip(blobs + rng.normal(0, 20, blobs.shape), 0, 255).astype(np.uint8)


def normalised(image: Array, card: Any) -> Array:
    """Return the floats (1, 3, H, W) that the network takes."""
    scaled = (image / 255 - np.array(card.input.mean)) / np.array(card.input.std)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32)


def still_errors(ours: ModelBundle, case: Case) -> dict[str, float]:
    """Return the errors with dropout off, in the units of `MOST_LOGITS` and `MOST_LABELS`."""
    masks, logits, labels = ones_masks(ours.card.dropout_sites, 1), 0.0, []
    written, upsampling = Written.of(ours), ours.card.upsampling
    for image in pictures(case.size):
        mine = _centred(written.logits(image, masks, image.shape[:2], upsampling)[0])
        theirs = _centred(case.eager(normalised(image, ours.card), False))
        logits = max(logits, float(abs(mine - theirs).max() / np.ptp(theirs)))
        labels.append(float((mine.argmax(0) != theirs.argmax(0)).mean()))
    return {'logits': logits, 'labels': float(np.mean(labels))}


def _centred(z: Array) -> Array:
    """Subtract the mean over the classes, to which the softmax is invariant."""
    return z - z.mean(0)


# --- passes --------------------------------------------------------------------------------------


class Groups:
    """Means per group of passes: those of `MAPS`, then probabilities by region and class."""

    def __init__(self) -> None:
        self._rows: list[Array] = []

    def add(self, maps: Mapping[str, Array], mean: Array) -> None:
        """Add the maps (H, W) and the mean probabilities (C, H, W) of a group."""
        regions = [part.mean((1, 2), np.float64) for half in np.array_split(mean, 2, 1)
                   for part in np.array_split(half, 2, 2)]
        means = [maps[name].mean(dtype=np.float64) for name in MAPS]
        self._rows.append(np.concatenate([means, *regions]))

    @property
    def rows(self) -> Array:
        """Return one row of means per group."""
        return np.array(self._rows)

    @property
    def passes(self) -> int:
        """Return the number of passes added."""
        return GROUP * len(self._rows)


def maps_of_passes(logits: Array) -> tuple[dict[str, Array], Array]:
    """Return `MAPS` (H, W) and the mean probabilities of logits (T, C, H, W), as defined."""
    e = np.exp(np.asarray(logits, np.float64) - logits.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    mean, classes = p.mean(0), np.arange(p.shape[1])[:, None, None]
    votes = np.array([(one.argmax(0) == classes) for one in p]).mean(0)
    total = _entropy(mean)
    return {
        'mutual_information': total - np.mean([_entropy(one) for one in p], 0),
        'total_variance': p.var(0).sum(0), 'variation_ratio': 1 - votes.max(0), 'entropy': total,
    }, mean


def _entropy(p: Array) -> Array:
    """Return the entropy of each pixel divided by ln C."""
    return -(p * np.log(np.maximum(p, 1e-30))).sum(0) / math.log(len(p))


def distribution(ours: ModelBundle, case: Case, effort: Effort) -> dict[str, Any]:
    """Compare the passes of both in distribution; a significant difference must occur twice."""
    image = pictures(case.size)[0]
    floats = normalised(image, ours.card)
    found = _compare(ours, case, image, floats, effort, 1)
    if found['chance'] < LEAST_CHANCE:
        again = _compare(ours, case, image, floats, effort, 2)
        if again['chance'] >= LEAST_CHANCE:
            found = again
    return found


def _compare(
    ours: ModelBundle, case: Case, image: Array, floats: Array, effort: Effort, seed: int
) -> dict[str, Any]:
    seed_all(seed)
    theirs = Groups()
    end_s = time.process_time() + effort.eager_s
    for number, group in enumerate(_eager_groups(case.eager, floats, effort.passes)):
        theirs.add(*maps_of_passes(group))
        if time.process_time() > end_s and number >= 3:
            break
    mine = piped(ours, image, max(theirs.passes, 64), seed)
    return {'passes': theirs.passes, **agreement(mine, theirs)}


def piped(bundle: ModelBundle, image: Array, passes: int, seed: int) -> Groups:
    """Return the groups of passes of a bundle in a pipeline, for an RGB image (H, W, 3)."""
    from uncertainty_seg.backends.registry import open_backend

    # Torch draws channels independently; a stratified draw of few passes differs from that.
    bundle = replace(bundle, card=replace(bundle.card, mask_draw='independent'))
    settings = Settings(passes=GROUP, mask_policy='per_frame', seed=1000 * seed, threads=1)
    groups, bgr = Groups(), np.ascontiguousarray(image[..., ::-1])
    with Pipeline(bundle, open_backend('onnxruntime', bundle, settings), settings, 1.0) as pipe:
        for number in range(passes // GROUP):
            maps = pipe.measure(bgr, number).maps
            groups.add({name: maps.of(name) for name in MAPS}, maps.mean)
    return groups


def seed_all(seed: int) -> None:
    """Seed torch, so that it draws the same masks again."""
    import torch

    torch.manual_seed(seed)


def _eager_groups(eager: Eager, floats: Array, passes: int) -> Iterator[Array]:
    for _ in range(passes // GROUP):
        yield np.stack([eager(floats, True) for _ in range(GROUP)])


def agreement(mine: Groups, theirs: Groups) -> dict[str, Any]:
    """Return the p-value of the worst difference between the means of two lists of groups."""
    a, b = mine.rows, theirs.rows
    mean_a, mean_b = a.mean(0), b.mean(0)
    var_a, var_b = a.var(0, ddof=1) / len(a), b.var(0, ddof=1) / len(b)
    floor = np.full(a.shape[1], PROBABILITY_FLOOR)
    shown = len(MAPS)
    floor[:shown] = np.maximum(ABSOLUTE_FLOOR, RELATIVE_FLOORS * abs(mean_b[:shown]))
    error = np.sqrt(var_a + var_b) + 1e-12
    t = np.maximum(abs(mean_a - mean_b) - floor, 0) / error
    freedom = (var_a + var_b + 1e-30) ** 2 / (
        (var_a ** 2 / (len(a) - 1) + var_b ** 2 / (len(b) - 1)) + 1e-60)
    chance = 2 * stats.t.sf(t, np.clip(freedom, 1, None)) * a.shape[1]
    worst = int(chance.argmin())
    # For each map: our mean, their mean, and the standard error of the difference.
    means = {name: [float(mean_a[i]), float(mean_b[i]), float(error[i])]
             for i, name in enumerate(MAPS)}
    return {
        **means, 'probability': float(abs(mean_a - mean_b)[shown:].max()),
        'chance': min(float(chance[worst]), 1.0),
        'worst': MAPS[worst] if worst < shown else 'mean probability',
    }


# --- cost ----------------------------------------------------------------------------------------


def costs(ours: ModelBundle, case: Case, passes: int = 20) -> dict[str, float]:
    """
    Return the CPU time of T passes and their sums, on one thread, relative to other runs.

    `over_pass`: to one pass with its mask in ONNX Runtime (`sums`: the part of the sums).
    `over_one`: to one pass of torch with dropout off. `gain`: that of T torch passes to ours.
    """
    from uncertainty_seg.backends.registry import open_backend

    image = pictures(case.size)[0]
    floats = normalised(image, ours.card)
    masks, one = (pass_inputs(ours.card, count, 0) for count in (passes, 1))
    backend = open_backend('onnxruntime', ours, Settings(threads=1))
    try:
        mine = _cpu_ms(lambda: backend.run(image, masks, 1.0))
    finally:
        backend.close()
    written = Written.of(ours)
    alone, single = (_cpu_ms(lambda given=given: written.logits(image, given))
                     for given in (masks, one))
    still = _cpu_ms(lambda: case.eager(floats, False))
    live = _cpu_ms(lambda: case.eager(floats, True))
    return {'ours_ms': round(mine, 2), 'eager_ms': round(live, 2),
            'over_pass': round(mine / single, 2), 'sums': round((mine - alone) / single, 2),
            'over_one': round(mine / still, 2),
            'gain': round(passes * live / mine, 1)}


def _cpu_ms(call: Callable[[], object], rounds: int = 3) -> float:
    call()
    times = []
    for _ in range(rounds):
        start_s = time.process_time()
        call()
        times.append(time.process_time() - start_s)
    return 1e3 * float(np.median(times))
