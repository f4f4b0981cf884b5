# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Quantise a trunk to 8-bit integers, with photographs that show what its layers see.

Convolutions and matrix products get int8 weights (one scale a channel) and int8 inputs, as pairs
of QuantizeLinear and DequantizeLinear that every runtime reads; biases and all else stay float32.
A layer that alone spoils the features stays float32 too: in MobileNetV2 the first depthwise
layers do, and leaving 4 of 73 in float cuts the change of the mask to a third.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
from dataclasses import dataclass
from functools import partial
import io
import logging
from pathlib import Path
import sys
import tempfile
from types import SimpleNamespace
from typing import Any, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from uncertainty_seg.compiler.frontend.lint import require_clean
from uncertainty_seg.compiler.frontend.static_input import IMAGE
from uncertainty_seg.compiler.precision import restore_weights
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.core.preprocess import fit_image, Geometry
from uncertainty_seg.errors import (
    BackendUnavailableError,
    ConfigError,
    DatasetError,
    GraphError,
    ImageError,
    install_command,
)
from uncertainty_seg.storage.foreign_files import read_image_file

if TYPE_CHECKING:
    import onnx

QUANTISERS = ('onnxruntime', 'nncf')
DEFAULT_LIMIT = 100
_TELEMETRY = 'openvino_telemetry'
_LAYERS = ('Conv', 'Gemm', 'MatMul')
# Share of the values of a tensor that its range holds. On suim 99.99 % beats the entropy rule,
# 99.999 % and the full range (mask pixels changed: 3.8, 3.9, 4.5 and 5.3 %).
_PERCENTILE = 99.99
# A layer stays in float if it alone moves the features by more, RMS against their deviation.
_WORST_ERROR = 0.05
_PROBES = 8
_SUFFIXES = {'.jpeg', '.jpg', '.png'}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationImages:
    """
    Images that show a quantiser what the network will see.

    Attributes
    ----------
    images : tuple of ndarray of uint8, shape (h, w, 3)
        Fitted to the network, in its colour order.
    num_unreadable : int
        Files that were no image.

    """

    images: tuple[ImageU8, ...]
    num_unreadable: int = 0


@dataclass(frozen=True)
class QuantisedTrunk:
    """
    A trunk in int8, and what became of it.

    Attributes
    ----------
    data : bytes
        The ONNX file.
    float_layers : tuple of str
        Names of layers left in float32.
    num_layers : int
        Layers that could have been quantised.
    feature_error : float
        RMS change of the features against their standard deviation, on a few of the images.

    """

    data: bytes
    float_layers: tuple[str, ...]
    num_layers: int
    feature_error: float


def calibration_images(
    folder: Path, spec: InputSpec, limit: int = DEFAULT_LIMIT
) -> CalibrationImages:
    """
    Read a folder of photographs, fitted as the pipeline fits a camera image.

    Raises DatasetError if there is no folder, or nothing in it can be read.

    Parameters
    ----------
    folder : Path
        Searched below too; labels are not needed.
    spec : InputSpec
        Size and colour order of the network.
    limit : int
        Most images to take, evenly spread over the sorted names.

    Returns
    -------
    CalibrationImages
        At least one.

    """
    wish = 'photographs like those of the camera, 30 or more'
    if not folder.is_dir():
        raise DatasetError(f'{folder} is no folder', f'one with {wish}')
    files = sorted(p for p in folder.rglob('*') if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise DatasetError(f'{folder} holds no image', wish)
    count = min(limit, len(files))
    spread = [files[i * len(files) // count] for i in range(count)]
    images, num_unreadable = [], 0
    for path in spread:
        try:
            images.append(decode(read_image_file(path)))
        except (OSError, ValueError, ImageError):
            num_unreadable += 1
    if not images:
        raise DatasetError(f'none of the {len(spread)} images of {folder} can be read', wish)
    if num_unreadable:
        _log.warning('%d of %d calibration images cannot be read and are left out',
                     num_unreadable, len(spread))
    return CalibrationImages(fitted(images, spec), num_unreadable)


def fitted(images_bgr: Sequence[ImageU8], spec: InputSpec) -> tuple[ImageU8, ...]:
    """Fit BGR images of any size to the network."""
    return tuple(fit_image(image, Geometry.of(image.shape[0], image.shape[1], spec), spec)
                 for image in images_bgr)


def quantise_trunk(
    trunk: onnx.ModelProto, spec: InputSpec, folder: Path, quantiser: str = 'onnxruntime',
    limit: int = DEFAULT_LIMIT,
) -> bytes:
    """
    Quantise a trunk with the photographs of a folder: `calibration_images`, then `quantised`.

    Returns the ONNX file. Its weights are small already: do not halve them.
    """
    return quantised(trunk, calibration_images(folder, spec, limit).images, quantiser).data


def quantised(
    trunk: onnx.ModelProto, images: Sequence[ImageU8], quantiser: str = 'onnxruntime'
) -> QuantisedTrunk:
    """
    Quantise a trunk.

    Raises ConfigError if the quantiser is unknown; DatasetError if there is no image; GraphError
    if the trunk has no layer that can be quantised, or none that stands it;
    BackendUnavailableError if the quantiser is not installed.

    Parameters
    ----------
    trunk : ModelProto
        From `split_trunk_head`, large weights in half or not; left as it is.
    images : sequence of ndarray of uint8, shape (h, w, 3)
        Fitted to the network.
    quantiser : str
        'onnxruntime' gives int8 around zero, which all runtimes read, and is fast in OpenVINO
        and TensorRT. 'nncf' corrects biases too, and gives uint8 behind a ReLU: for processors
        only, since TensorRT takes uint8 for int8.

    Returns
    -------
    QuantisedTrunk
        Opset 17, linted; image and features keep names, types and shapes.

    """
    if quantiser not in QUANTISERS:
        raise ConfigError(f'quantiser {quantiser!r}', f'one of {", ".join(QUANTISERS)}')
    if not images:
        raise DatasetError('no calibration image', 'at least one')
    model = _with_names(restore_weights(trunk))
    layers = [node.name for node in model.graph.node if node.op_type in _LAYERS]
    if not layers:
        raise GraphError('the trunk has no convolution or matrix product', 'one to quantise',
                         'compile with another precision')
    features = _Features(model, images[:: max(1, len(images) // _PROBES)][:_PROBES])
    with tempfile.TemporaryDirectory(prefix='quantise-') as temporary:
        ranges = _ranges(model, images, Path(temporary))
    errors = {name: features.error(_by_onnxruntime(model, ranges, [name]))
              for name in tqdm(layers, desc='trying each layer in int8', leave=False)}
    kept = [name for name in layers if errors[name] <= _WORST_ERROR]
    if not kept:
        raise GraphError('every layer of the trunk spoils the features in int8',
                         fix='compile with the precision fp16 or bf16')
    left = tuple(name for name in layers if name not in kept)
    result = (_by_onnxruntime(model, ranges, kept) if quantiser == 'onnxruntime'
              else _by_nncf(model, images, left))
    require_clean(result)
    error = features.error(result)
    _log.info('%s: %d of %d layers in int8, features move by %.3f; in float: %s', quantiser,
              len(kept), len(layers), error, ', '.join(left) or 'none')
    return QuantisedTrunk(result.SerializeToString(), left, len(layers), error)


class _Features:
    """What a trunk gives for a few images, and how far another is from it."""

    def __init__(self, model: onnx.ModelProto, images: Sequence[ImageU8]) -> None:
        self._images = images
        self._right = list(self._run(model))

    def error(self, model: onnx.ModelProto) -> float:
        """Return the RMS change against the standard deviation, mean over the tensors."""
        parts = [
            ((a - b).std() ** 2 + (a - b).mean() ** 2) / max(float(b.var()), 1e-12)
            for got, right in zip(self._run(model), self._right, strict=True)
            for a, b in zip(got, right, strict=True)
        ]
        return float(np.sqrt(np.mean(parts)))

    def _run(self, model: onnx.ModelProto) -> Iterator[list[NDArray[np.float32]]]:
        import onnxruntime

        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=['CPUExecutionProvider'])
        for image in self._images:
            yield session.run(None, {IMAGE: image[None]})


def _with_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Infer all types, and name each node, since both quantisers go by names."""
    import onnx

    named = onnx.shape_inference.infer_shapes(model)
    taken = [node.name for node in named.graph.node]
    for index, node in enumerate(named.graph.node):
        if not node.name or taken.count(node.name) > 1:
            node.name = f'{node.op_type}_{index}'
    return named


def _ranges(model: onnx.ModelProto, images: Sequence[ImageU8], folder: Path) -> Any:
    """Measure the range of each layer's input."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    path = folder / 'trunk.onnx'
    path.write_bytes(model.SerializeToString())
    calibrator = create_calibrator(
        str(path), list(_LAYERS), augmented_model_path=str(folder / 'augmented.onnx'),
        calibrate_method=CalibrationMethod.Percentile, extra_options={'percentile': _PERCENTILE},
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints, and stdout is for the result
        for image in tqdm(images, desc='ranges', leave=False):
            feeds = iter([{IMAGE: image[None]}])
            # One image a call: it keeps every tensor of a call in memory.
            calibrator.collect_data(SimpleNamespace(get_next=partial(next, feeds, None)))
        return calibrator.compute_data()


def _by_onnxruntime(model: onnx.ModelProto, ranges: Any, layers: Sequence[str]) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    options = {
        'ActivationSymmetric': True, 'WeightSymmetric': True, 'QuantizeBias': False,
        # Rounded once, where the next layer takes it, and not between a layer and its ReLU too:
        # 3.8 instead of 5.1 % of mask pixels change.
        'OpTypesToExcludeOutputQuantization': list(_LAYERS),
    }
    quantizer = QDQQuantizer(twin, True, False, QuantType.QInt8, QuantType.QInt8, ranges,
                             list(layers), [], list(_LAYERS), options)
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def _by_nncf(
    model: onnx.ModelProto, images: Sequence[ImageU8], float_layers: Sequence[str]
) -> Any:
    with _unreported(), contextlib.redirect_stdout(io.StringIO()):  # progress bars
        try:
            import nncf
        except ImportError as err:
            raise BackendUnavailableError(
                f'nncf cannot be imported ({err})',
                fix=f'{install_command("nncf")}, or take the quantiser onnxruntime') from err
        nncf.set_log_level(logging.ERROR)
        dataset = nncf.Dataset(images, lambda image: {IMAGE: image[None]})
        return nncf.quantize(model, dataset, subset_size=len(images),
                             ignored_scope=nncf.IgnoredScope(names=list(float_layers)))


@contextlib.contextmanager
def _unreported() -> Iterator[None]:
    """Hide the package that would report the import to its makers."""
    is_new = _TELEMETRY not in sys.modules
    if is_new:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if is_new:
            del sys.modules[_TELEMETRY]
