# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the compiled graphs before they are written, and compare them with the network.

Each check runs ONNX Runtime on random images, and none depends on how the graphs were made. With
the same masks the results must be equal; `check_distribution` compares passes of random masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import re
from typing import Any, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
import onnx

from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks, without_dropout
from uncertainty_seg.compiler.algebra.free_passes import one_pass
from uncertainty_seg.compiler.compile import CompiledGraphs
from uncertainty_seg.compiler.head_graphs import LARGEST_LOG_VARIANCE
from uncertainty_seg.compiler.onnx_tools import session_of
from uncertainty_seg.core.dropout_masks import num_passes, pass_inputs, still_inputs
from uncertainty_seg.core.grid import upsample_bilinear
from uncertainty_seg.core.model_card import DropoutSite, ModelCard
from uncertainty_seg.core.pipeline import ROUNDING
from uncertainty_seg.errors import GraphError, UncertaintySegError

if TYPE_CHECKING:
    from uncertainty_seg.compiler.capture.masked_reference import UntouchedNet

Array = NDArray[np.float32]
Masks = Mapping[str, Array]
# Image of normalised floats (1, 3, h, w) and masks (T, ...) to logits (T, C, hl, wl).
MaskedNetwork = Callable[[NDArray[np.float32], Masks], NDArray[np.float32]]
# The same in float64; returns None for a network that cannot run in float64.
ExactNetwork = Callable[[NDArray[np.float32], Masks], 'NDArray[np.float32] | None']
_PASSES = 3
_LEVELS = 'ENABLE_ALL', 'DISABLE_ALL'
_MOST_SAID = 200  # characters
_SWITCHED_OFF = np.float32(100)  # this far below the largest logit, p is 0 in float32


@dataclass(frozen=True)
class CheckReport:
    """Results of the checks; errors are shares of the logits' spread."""

    still_error: float  # Largest difference from the network with dropout off.
    # Largest difference from the network with the same masks, pass by pass.
    masked_error: float
    spread: float  # Largest logit minus the smallest.


def check_compiled(
    compiled: CompiledGraphs, card: ModelCard, network: MaskedNetwork | None = None,
    exact: ExactNetwork | None = None, untouched: UntouchedNet | None = None, num_images: int = 2,
) -> CheckReport:
    """
    Compare trunk and head with the network from which they were compiled.

    Raises GraphError if a difference is above `TOLERANCE` of the spread of the logits and float32
    does not explain it, if logits are NaN or infinite, or if different masks or noise give the
    same logits. Noise is compared with samples drawn in numpy.
    """
    spec = card.input
    images = np.random.default_rng(0).integers(
        0, 256, (num_images, 1, spec.height, spec.width, 3), np.uint8)
    still, masked, spread, shaken = 0.0, 0.0, 0.0, 0.0
    soft = smooth_image(spec.height, spec.width)
    try:
        runner = NetworkRunner(compiled, card, network, exact, untouched)
        if card.mask_sites:
            runner.require_differing(images[0])
        still = max(runner.still(image) for image in (*images, soft))
        for image in (*images, soft):
            if image is soft and not runner.unclear:
                break  # the random images were conclusive
            if card.mask_sites:
                error, wide = runner.masked(image)
                masked, spread = max(masked, error), max(spread, wide)
            if card.noise_sites:
                error, wide, motion = runner.sampled(image)
                masked, spread, shaken = max(masked, error), max(spread, wide), max(shaken, motion)
        runner.require_clear()
    except UncertaintySegError:
        raise
    except Exception as err:  # ONNX Runtime's errors have no narrower base class
        raise GraphError(f'the network cannot be run ({said(err)})', 'one that ONNX Runtime runs',
                         'replace the operation that it names') from err
    if card.noise_sites and not shaken > 1e-6 * spread:
        raise GraphError('the noise does not change the logits', 'a variance that changes them',
                         'train the variance head, or compile with method=mc_dropout or single')
    return CheckReport(still, masked, spread)


def smooth_image(height: int, width: int) -> NDArray[np.uint8]:
    """Return a uint8 image (1, h, w, 3) whose colours change slowly, as in photographs."""
    coarse = np.random.default_rng(1).uniform(0, 255, (1, 3, 3, 3))
    smooth = upsample_bilinear(coarse, height, width).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(np.rint(smooth), np.uint8)


def soft_image(height: int, width: int) -> NDArray[np.uint8]:
    """Return a uint8 image (1, h, w, 3) with coarse and pixel noise, as in photographs."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(20, 235, (1, 3, 6, 8)).astype(np.float32)
    smooth = np.moveaxis(upsample_bilinear(coarse, height, width), 1, -1)
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


class NetworkRunner:
    """Sessions of a compiled network and of its references."""

    def __init__(
        self, compiled: CompiledGraphs, card: ModelCard, network: MaskedNetwork | None,
        exact: ExactNetwork | None, untouched: UntouchedNet | None = None,
    ) -> None:
        self._compiled, self._card = compiled, card
        self._network, self._exact, self._untouched = network, exact, untouched
        self._trunk, self._head = session_of(compiled.trunk), session_of(compiled.head)
        self._features: tuple[Any, dict[str, Any]] = None, {}  # last image, its trunk outputs
        self._least: dict[str, float] = {}  # smallest error over the images, by comparison
        is_stepped = any(n.op_type == 'QuantizeLinear' for p in compiled.prepared
                         for n in p.model.graph.node)
        self._most = _MOST_OF_STEPS if is_stepped else _MOST

    @property
    def unclear(self) -> list[str]:
        """Return the comparisons in which rounding could have hidden an error on every image."""
        return [when for when, error in self._least.items() if error > self._most]

    def require_clear(self) -> None:
        """Raise GraphError if no image of a comparison was conclusive."""
        for when in self.unclear:
            raise _too_far(when, self._least[when], self._most)

    def _judge(self, error: float, noise: Callable[[], float], when: str) -> float:
        """Raise if float32 does not explain an error; an image of too much noise is skipped."""
        if not error <= TOLERANCE:
            found = noise()
            if found <= self._most or not np.isfinite(error):  # otherwise it is inconclusive
                require_near(error, found, when)
        self._least[when] = min(error, self._least.get(when, error))
        return error

    def ours(self, image: NDArray[np.uint8], masks: Masks) -> NDArray[np.float32]:
        """Return the logits of T passes, at the resolution of the compiled graph."""
        head = self._head
        if self._features[0] is not image:
            names = [info.name for info in self._trunk.get_outputs()]
            values = self._trunk.run(names, {'image': image})
            self._features = image, dict(zip(names, values, strict=True))
        tensors = self._features[1]
        wanted = {info.name for info in head.get_inputs()}
        given = {'image': image, **tensors}
        passes = num_passes(masks)
        logits = np.asarray(head.run(['logits'], {
            **{k: v for k, v in given.items() if k in wanted}, **masks})[0])
        if len(logits) != passes:
            raise GraphError(
                f'{passes} passes give {len(logits)} results', 'one each',
                'a step has the batch size of the part without dropout, such as a gather by '
                'indices of the image: move the dropout behind that step')
        if not np.isfinite(logits).all():  # NaN would exceed no tolerance
            raise GraphError('the network gives NaN or infinity on a random image', 'numbers',
                             'look for NaN in its weights, and check mean and std')
        return logits

    def still(self, image: NDArray[np.uint8]) -> float:
        """Compare with the network without dropout; for an ensemble, with each member."""
        passes = self._card.members or 1
        inputs = pass_inputs(self._card, passes, 0) if self._card.members \
            else still_inputs(self._card, passes)
        ours = self.ours(image, inputs)
        theirs = np.concatenate([
            session_of(without_dropout(p.float_model)).run(None, _feed(p.float_model, self.floats(
                image)))[0] for p in self._compiled.prepared])
        error = self.distance(ours, theirs)
        self._judge(error, lambda: self._noise(image), 'with dropout off')
        if self._untouched is None or self._card.noise_sites:
            return error
        return max(error, self._apart(ours[:1], image, self._untouched))

    def _apart(
        self, ours: NDArray[np.float32], image: NDArray[np.uint8], untouched: UntouchedNet
    ) -> float:
        """Compare with the network as the user gave it, in eval mode."""
        floats = self.floats(image)
        error = self.distance(ours, untouched(floats))
        exact = untouched.exact(floats) if error > TOLERANCE else None
        return self._judge(error if exact is None else self.distance(ours, exact),
                           lambda: self._noise(image),
                           'with dropout off, compared with net.eval(),')

    def require_differing(self, image: NDArray[np.uint8]) -> None:
        """Raise if all passes are equal, since no pipeline would start with them."""
        given = pass_inputs(self._card, self._card.passes, 0)
        passes = np.concatenate([softmax(self.ours(image, {
            name: rows[t:t + 1] for name, rows in given.items()}))
            for t in range(self._card.passes)])
        if self._card.passes > 1 and not passes.var(0).sum(0).max() > ROUNDING:
            rate = max((site.p for site in self._card.mask_sites), default=0)
            raise GraphError(
                f'all {self._card.passes} passes are the same on a random image',
                'passes that differ', 'something behind the dropout undoes it, or it drops too '
                f'rarely (at most {rate:.2g}): take more passes, or train with a higher rate')

    def masked(self, image: NDArray[np.uint8]) -> tuple[float, float]:
        """Compare with the network, with the same masks; return error and spread."""
        passes = self._card.members or _PASSES
        sites = {site.name for site in self._card.mask_sites}
        drawn = pass_inputs(self._card, passes, 1)
        masks = _different({name: rows for name, rows in drawn.items() if name in sites},
                           self._card.mask_sites)
        given = {**still_inputs(self._card, passes), **masks}  # `sampled` checks the noise
        ours = self.ours(image, given)
        spread = float(np.ptp(ours))
        if self._card.members:
            return 0.0, spread
        theirs = self._network(self.floats(image), masks) if self._network \
            else self._each(image, masks)
        return self._error(ours, theirs, image, masks), spread

    def sampled(self, image: NDArray[np.uint8]) -> tuple[float, float, float]:
        """Compare with samples drawn in numpy; return error, spread, and effect of the noise."""
        passes = 1 if self._card.has_one_pass else _PASSES
        given = pass_inputs(self._card, passes, 1)
        noise = given['noise']
        ours = self.ours(image, given)
        quiet = self.ours(image, {**given, 'noise': np.zeros_like(noise)})
        moments = self._moments(image, given)
        require_variance(moments)
        theirs = sampled_logits(moments, noise)
        error = self._judge(distance(ours, theirs), lambda: self._noise(image),
                            'with the same noise')
        return error, float(np.ptp(ours)), float(abs(ours - quiet).max())

    def _moments(self, image: NDArray[np.uint8], given: Masks) -> NDArray[np.float32]:
        """Run the network before any algebra: logits and log-variance (T, 2C, hl, wl)."""
        model, masks = self._compiled.prepared[0].model, [s.name for s in self._card.mask_sites]
        session = session_of(
            one_pass(*dropout_to_masks(model)) if masks else without_dropout(model))
        return np.concatenate([session.run(None, {
            'image': image, **{name: given[name][t:t + 1] for name in masks}})[0]
            for t in range(len(given['noise']))])

    def _error(
        self, ours: NDArray[np.float32], theirs: NDArray[np.float32], image: NDArray[np.uint8],
        masks: Masks,
    ) -> float:
        error = self.distance(ours, theirs)
        exact = None
        if error > TOLERANCE and self._exact is not None:
            exact = self._exact(self.floats(image), masks)
        noise = 0.0 if exact is None else distance(theirs, exact)
        if error > TOLERANCE and self._network is None:  # rounding error of these passes
            noise = distance(theirs, self._each(image, masks, _LEVELS[1]))
        return self._judge(error if exact is None else self.distance(ours, exact),
                           lambda: max(noise, self._noise(image)), 'with the same masks')

    def floats(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return an image normalised as in the trunk, float32 (1, 3, h, w)."""
        spec = self._card.input
        scaled = (image / 255 - np.array(spec.mean)) / np.array(spec.std)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)

    def distance(self, ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
        """Return the largest difference as a share of the spread, at the size of `theirs`."""
        axes = theirs.shape[1], theirs.shape[-1]
        if self._card.method == 'direct' and ours.shape[1] not in axes:
            theirs = as_planes(theirs, 2 * ours.shape[1])[:, :ours.shape[1]]
        theirs = as_planes(theirs, ours.shape[1])
        if ours.shape[2:] != theirs.shape[2:]:
            height, width = theirs.shape[2:]
            full = upsample_bilinear(ours, height, width, self._compiled.upsampling)
            ours = full.astype(np.float32)
        if theirs.shape[1] == 1 and ours.shape[1] == 2:  # one channel of logits or probabilities
            return min(distance(ours, np.concatenate([-theirs / 2, theirs / 2], 1)),
                       distance(ours, np.concatenate([1 - theirs, theirs], 1)))
        return distance(ours, theirs)

    def _noise(self, image: NDArray[np.uint8]) -> float:
        """
        Return the effect of float32 rounding on the network's logits for an image.

        It is the largest of three differences: torch in float32 and float64; the exported network
        with and without optimisation; and the exported network on an image changed in the last
        bit. None involves the compiled graphs, so their errors cannot raise the tolerance.
        """
        floats = self.floats(image)
        found = [0.0]
        if self._untouched is not None:
            exact = self._untouched.exact(floats)
            found += [] if exact is None else [distance(self._untouched(floats), exact)]
        model = without_dropout(self._compiled.prepared[0].float_model)
        optimised, plain = (session_of(model, level) for level in _LEVELS)
        given = optimised.run(None, _feed(model, floats))[0]
        found.append(distance(given, plain.run(None, _feed(model, floats))[0]))
        for seed in range(_NEIGHBOURS):
            toward = np.random.default_rng(seed).choice([-np.inf, np.inf], floats.shape)
            other = np.nextafter(floats, toward.astype(np.float32))
            found.append(distance(given, optimised.run(None, _feed(model, other))[0]))
        return max(found)

    def _each(
        self, image: NDArray[np.uint8], masks: Masks, level: str = _LEVELS[0]
    ) -> NDArray[np.float32]:
        model, sites = dropout_to_masks(self._compiled.prepared[0].float_model)
        session = session_of(one_pass(model, sites), level)
        feed = _feed(self._compiled.prepared[0].float_model, self.floats(image))
        rows = num_passes(masks)
        return np.concatenate([
            session.run(None, {**feed, **{k: v[t:t + 1] for k, v in masks.items()}})[0]
            for t in range(rows)])


def _different(
    masks: dict[str, NDArray[np.float32]], sites: Sequence[DropoutSite]
) -> dict[str, NDArray[np.float32]]:
    """Invert the masks of the last pass if all of these few passes drew the same masks."""
    if any((rows != rows[:1]).any() for rows in masks.values()):
        return masks
    scales = {site.name: np.float32(1 / (1 - site.p)) for site in sites}
    return {name: np.concatenate([rows[:-1], np.where(rows[-1:] == 0, scales[name], 0)])
            for name, rows in masks.items()}


def _feed(model: onnx.ModelProto, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {model.graph.input[0].name: image}


def run_graph(
    model: onnx.ModelProto, feeds: Sequence[Mapping[str, NDArray[Any]]]
) -> list[list[NDArray[np.float32]]]:
    """Run a graph on inputs one by one, return outputs of each; GraphError if it does not run."""
    try:
        session = session_of(model)
        return [session.run(None, dict(feed)) for feed in feeds]
    except UncertaintySegError:
        raise
    except Exception as err:  # ONNX Runtime's errors have no narrower base class
        raise GraphError(f'the network cannot be run ({said(err)})', 'one that ONNX Runtime runs',
                         'replace the operation that it names') from err


def said(err: Exception) -> str:
    """Return the runtime's message without error codes and source locations."""
    text = re.sub(r'\[ONNXRuntimeError\] : \d+ : \w+ : |(?:/\S+)?\S+\.(?:cc|h):\d+ \S+ ', '',
                  ' '.join(str(err).split()))
    return text[:_MOST_SAID]


# -------------------------------------------------------------------------------------------------
# The distance between the logits of a compiled network and those of the network, and its limits.

TOLERANCE = 1e-5
# Sums of a wide network are never exact to `TOLERANCE` in float32. So the limit is this factor
# times the effect of rounding on the network itself, for the same image. A network that amplifies
# rounding strongly would hide any error: the effect must be below `_MOST` on at least one image.
_NOISE_FACTOR, _MOST = 4.0, 1e-3
# The same for quantised networks, where the last bit of a value may decide between two steps.
_MOST_OF_STEPS = 2e-2
_NEIGHBOURS = 2  # number of images changed in the last bit


def require_near(error: float, noise: float, when: str) -> None:
    """Raise GraphError if an error exceeds both the tolerance and `_NOISE_FACTOR` * `noise`."""
    most = max(TOLERANCE, _NOISE_FACTOR * noise)
    if not error <= most:
        raise _too_far(when, error, most)


def _too_far(when: str, error: float, most: float) -> GraphError:
    return GraphError(
        f'{when} the result differs from the network by {error:.2g} of the spread of its logits',
        f'at most {most:.2g}',
        'leave out autocast, half() and what writes in place to the result of dropout, or remove '
        'layers to find the one that is compiled wrongly')


def distance(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """
    Return the largest difference of two tensors of logits, as a share of the spread of theirs.

    Both are float32 (T, C, h, w). Offsets common to all classes are ignored, as is how far a logit
    is more than 100 below the largest. If `theirs` are probabilities, the softmax of `ours` is
    compared. Raises GraphError if the shapes differ.
    """
    if ours.shape != theirs.shape:
        raise GraphError(f'the result has the shape {ours.shape}', f'{theirs.shape}')
    if theirs.min() >= 0 and np.allclose(theirs.sum(1), 1, atol=1e-4):
        return float(abs(softmax(ours) - theirs).max())
    # A class that a large constant switches off must not make the spread large.
    ours, theirs = (np.maximum(v, v.max(1, keepdims=True) - _SWITCHED_OFF) for v in (ours, theirs))
    # Softmax ignores an offset common to all classes, so the compiled graph may change it.
    ours, theirs = (v - v.mean(1, keepdims=True) for v in (ours, theirs))
    return float(abs(ours - theirs).max() / max(np.ptp(theirs), 1e-6))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities (T, C, h, w)."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def require_variance(moments: NDArray[np.float32]) -> None:
    """
    Raise GraphError if a variance head overflows, which makes every prediction random.

    This is the case if the median of the log-variances, the second half of `moments`
    (T, 2C, h, w), is above `LARGEST_LOG_VARIANCE`: noise alone then decides the class of a sample.
    """
    found = np.split(moments, 2, axis=1)[1]
    middle = float(np.median(found))
    if middle > LARGEST_LOG_VARIANCE:
        raise GraphError(
            f'the log-variance overflows: half of it is above {middle:.3g} on a random image',
            f'below {LARGEST_LOG_VARIANCE:g}, above which the noise decides alone',
            'train the variance head again, with training.losses.attenuated_loss')


def sampled_logits(
    moments: NDArray[np.float32], noise: NDArray[np.float32]
) -> NDArray[np.float32]:
    """
    Return the log of the mean softmax of sampled logits, (T, C, h, w), as `direct` defines it.

    The result includes log(sum_c exp(f)), as in `compiler.head_graphs.add_samples`. `moments`
    (T or 1, 2C, h, w) holds logits f, then log-variances s; `noise` (T, S, C, 1, 1) holds
    standard normal numbers e. The samples are f + exp(s / 2) e, computed in float64.
    """
    f, s = np.split(moments[:, None].astype(np.float64), 2, axis=2)
    z = f + np.exp(np.minimum(s, LARGEST_LOG_VARIANCE) / 2) * noise
    powers = np.exp(z - z.max(2, keepdims=True))
    mean = (powers / powers.sum(2, keepdims=True)).mean(1)
    top = f.max(2, keepdims=True)
    total = (top + np.log(np.exp(f - top).sum(2, keepdims=True)))[:, 0]
    return (np.log(mean + 1e-30) + total).astype(np.float32)


def as_planes(theirs: NDArray[np.float32], num_classes: int) -> NDArray[np.float32]:
    """
    Return the output of a network in the layout of the compiled graph's logits, (T, C, h, w).

    `theirs` is float32 (T, C, h, w), (T, h, w, C), or (T, h, w) where one channel was squeezed.
    """
    if theirs.ndim == 3:  # one channel whose axis was squeezed
        theirs = theirs[:, None]
    is_last = theirs.shape[-1] in (1, num_classes) and theirs.shape[1] not in (1, num_classes)
    return np.moveaxis(theirs, -1, 1) if is_last else theirs
