# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every setting of the package, with its meaning, unit, range and when to change it.

A setting is a dataclass field made by `parameter`. The node's parameters,
config/uncertainty_seg.yaml and docs/reference/parameters.md are generated from these fields only.
Each value is checked against its field, combinations of settings in `Settings`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
import dataclasses
from dataclasses import dataclass, field
import math
import re
from typing import Any, get_type_hints, TypeVar

from uncertainty_seg.core.model_card import ModelCard, PRECISIONS
from uncertainty_seg.core.uncertainty import MAP_NAMES
from uncertainty_seg.errors import ConfigError

Value = bool | int | float | str | tuple[str, ...] | tuple[float, ...]
_T = TypeVar('_T')


@dataclass(frozen=True)
class Parameter:
    """
    One setting: its meaning and the values it may have.

    `name` is dotted, as in ROS. The type is that of the default; an empty tuple is a list of
    strings. The bounds are included; without `choices` any string is allowed. A `live` setting may
    change while the node runs, an `idle` one while it is not configured.
    """

    name: str
    default: Value
    description: str
    unit: str = ''
    lower: float | None = None
    upper: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    idle: bool = False

    @property
    def is_numbers(self) -> bool:
        """Return whether it is a list of numbers."""
        return isinstance(self.default, tuple) and bool(self.default) and isinstance(
            self.default[0], float)

    def checked(self, value: object) -> Value:
        """Return `value` in the setting's type, or raise ConfigError with what is wrong."""
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)  # `rate: 7` in a YAML file is meant as 7.0
        if kind is tuple and isinstance(value, (list, tuple)):
            value = tuple(float(v) if self.is_numbers and type(v) is int else v for v in value)
        if type(value) is not kind or not self._accepts(value):
            shown = list(value) if isinstance(value, tuple) else value
            raise ConfigError(f'{self.name} is {shown!r}', self.wanted())
        return value

    def _accepts(self, value: object) -> bool:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self._inside(value)
        words = value if isinstance(value, tuple) else (value,)
        if self.is_numbers:
            return bool(words) and all(type(v) is float and self._inside(v) for v in words)
        if isinstance(value, tuple) and not all(isinstance(word, str) for word in words):
            return False
        return not self.choices or all(word in self.choices for word in words)

    def _inside(self, value: float) -> bool:
        # Written so that NaN, for which every comparison is false, is refused.
        low = -float('inf') if self.lower is None else self.lower
        high = float('inf') if self.upper is None else self.upper
        return low <= value <= high and abs(value) != float('inf')

    def wanted(self) -> str:
        """Return in words what is accepted."""
        if self.choices:
            return ('any of ' if isinstance(self.default, tuple) else 'one of ') + ', '.join(
                self.choices)
        kind = {bool: 'true or false', int: 'a whole number', float: 'a finite number',
                str: 'a string', tuple: 'a list of strings'}[type(self.default)]
        kind = 'a list of finite numbers' if self.is_numbers else kind
        if self.lower is None or self.upper is None:
            return kind
        return f'{kind} from {self.lower:.10g} to {self.upper:.10g}'


def parameter(
    default: _T, description: str, *, unit: str = '', lower: float | None = None,
    upper: float | None = None, choices: tuple[str, ...] = (), live: bool = False,
    idle: bool = False,
) -> _T:
    """Declare a dataclass field with the attributes of a `Parameter`."""
    facts = {'description': description, 'unit': unit, 'lower': lower, 'upper': upper,
             'choices': choices, 'live': live, 'idle': idle}
    return dataclasses.field(default=default, metadata=facts)


def iter_parameters(cls: Any, prefix: str = '') -> Iterator[Parameter]:
    """
    Yield the settings of a dataclass and of the dataclasses inside it, in the order of fields.

    Each name begins with `prefix`.
    """
    hints = get_type_hints(cls)
    for one in dataclasses.fields(cls):
        kind: Any = hints[one.name]
        if dataclasses.is_dataclass(kind):
            yield from iter_parameters(kind, f'{prefix}{one.name}.')
        else:
            default: Any = one.default
            yield Parameter(f'{prefix}{one.name}', default, **one.metadata)


def from_ros(setting: Parameter, value: object) -> object:
    """Return the value of a ROS parameter in the form that settings have, unchecked."""
    if not isinstance(setting.default, tuple):
        return value
    # `scores: []` in a YAML file arrives as no value at all.
    if setting.is_numbers:
        return tuple(value) if isinstance(value, (list, tuple, array)) else value
    words = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return tuple(word for word in words if word != '')


def from_dict(cls: type[_T], values: Mapping[str, object]) -> _T:
    """
    Build settings from dotted names, checked as a whole; names left out keep their default.

    Raises ConfigError if a name is unknown, or a value is of another type, out of range or NaN.
    """
    known = {p.name: p for p in iter_parameters(cls)}
    strange = sorted(set(values) - set(known))
    if strange:
        raise ConfigError(f'unknown parameter {strange[0]!r}', f'one of {", ".join(known)}')
    return _build(cls, {name: known[name].checked(value) for name, value in values.items()}, '')


def _build(cls: type[_T], values: Mapping[str, Value], prefix: str) -> _T:
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    shape: Any = cls  # any dataclass; typing has no name for that before Python 3.11
    for one in dataclasses.fields(shape):
        name = f'{prefix}{one.name}'
        if dataclasses.is_dataclass(hints[one.name]):
            arguments[one.name] = _build(hints[one.name], values, f'{name}.')
        elif name in values:
            arguments[one.name] = values[name]
    return cls(**arguments)


def to_dict(settings: Any, prefix: str = '') -> dict[str, Value]:
    """Return the values of all settings by dotted name, in the order of the fields."""
    flat: dict[str, Value] = {}
    for one in dataclasses.fields(settings):
        value = getattr(settings, one.name)
        if dataclasses.is_dataclass(value):
            flat.update(to_dict(value, f'{prefix}{one.name}.'))
        else:
            flat[f'{prefix}{one.name}'] = value
    return flat


# -------------------------------------------------------------------------------------------------
# The settings.

IMAGE_FORMATS = ('received', 'png', 'jpeg')
MEGABYTE = 10**6
BUNDLE_PASSES, BUNDLE_PRECISION = -1, 'bundle'
# Precisions in which graphs may be computed. No graph is stored in tf32: the runtime rounds the
# factors of each float32 product to 10 bits.
COMPUTED = (*PRECISIONS, 'tf32')
# Twice an 8K frame; 200 MB as BGR. No larger file is decoded, whatever the settings.
MAX_PIXELS = 2**26
MASK_POLICIES = ('fixed', 'per_frame')
REFUSE_UNCALIBRATED, RUN_UNCALIBRATED = 'refuse', 'run'
AUTO_RELIABILITY, RELIABILITIES = 'auto', ('best_effort', 'reliable')
SHORTEST_STUCK_S = 1.0
# Settings of the checks of frames and process: the value that switches a check off, and the
# largest safe value. A check that is off, or a larger value, voids the promise.
CHECKS: Mapping[str, tuple[Value | None, float]] = {
    'max_age_s': (0.0, 1.0), 'max_skew_s': (None, 0.5), 'max_repeats': (-1, 2),
    'damage_scale': (0.0, 1.0), 'stale_timeout_s': (None, 1.0), 'stamps': ('receipt', math.inf),
    'stuck_timeout_s': (0.0, math.inf),
}
# Placeholder for the name of the camera in the path of an ignore mask.
CAMERA_PLACE = '{camera}'
# A token of a ROS topic name.
_CAMERA_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_]*')


@dataclass(frozen=True)
class DecodeLimits:
    """The largest image to decode; by default the upper bound of the setting `max_image_px`."""

    max_px: int = MAX_PIXELS  # Of up to 4 bytes each.


WIDEST = DecodeLimits()


@dataclass(frozen=True)
class LogSettings:
    """Which frames are kept on disk."""

    folder: str = parameter(
        '', 'Folder of the frame log, created if it is missing; empty switches the log off. Set '
        'it to keep frames for labelling.')
    dive: str = parameter(
        '', 'Name of the dive, stored with every frame. Empty: the start time, or the last dive '
        'of the log if its newest frame is less than 10 minutes old. Control frames are drawn by '
        'a hash of this name: set it to keep the same ones in a replay.',
        live=True)
    image_format: str = parameter(
        'received', 'received keeps the bytes of compressed images and writes raw images as png; '
        'png and jpeg encode every image in that format. Use jpeg if raw images fill the disk.',
        choices=IMAGE_FORMATS, live=True)
    before_s: float = parameter(
        2.0, 'Frames up to this long before a flagged frame are kept with it. Raise it to see how '
        'an event began.', unit='s', lower=0.0, upper=60.0, live=True)
    after_s: float = parameter(
        2.0, 'Frames up to this long after a flagged frame are kept with it. Raise it to see how '
        'an event ended.', unit='s', lower=0.0, upper=3600.0, live=True)
    min_interval_s: float = parameter(
        2.0, 'Minimum time between two kept frames of a camera, except control frames. Lower it '
        'on a fast vehicle.', unit='s', lower=0.0, upper=86400.0, live=True)
    control_share: float = parameter(
        0.005, 'Share of all frames that are kept at random, whatever the flag, as an unbiased '
        'sample. Raise it on short dives to get a hundred of them.', lower=0.0, upper=1.0,
        live=True)
    duplicate_bits: int = parameter(
        4, 'A frame is skipped if its perceptual hash differs in fewer than this many of 64 bits '
        'from that of a recently kept frame; 0 skips none. Raise it if kept frames look alike.',
        unit='bits', lower=0, upper=32, live=True)
    quota_mb: float = parameter(
        4096.0, 'Maximum size of the log on disk. Set it to the space for one dive.', unit='MB',
        lower=0.001, upper=1e9, live=True)
    free_disk_mb: float = parameter(
        1024.0, 'The log does not grow while less than this is free on its disk. Raise it if '
        'other recordings share the disk.', unit='MB', lower=0.0, upper=1e9, live=True)
    memory_mb: float = parameter(
        256.0, 'Memory for waiting frames: half for frames to be written, half for frames that '
        'precede a flagged one. Lower it on small boards.', unit='MB', lower=1.0, upper=1e6,
        live=True)


@dataclass(frozen=True)
class GateSettings:
    """When a frame is confident."""

    scores: tuple[str, ...] = parameter(
        (), 'Scores that the gate compares with their calibrated thresholds; empty: those that '
        'the calibration chose. Other scores void the promise.',
        live=True)
    alpha: float = parameter(
        0.0, 'Promise to keep, one of those of the calibration: at most this share of frames is '
        'accepted and bad. 0: the strictest. Raise it to accept more frames at a higher risk.',
        lower=0.0, upper=1.0, live=True)
    threshold_scale: float = parameter(
        1.0, 'Factor on every calibrated threshold. Below 1 the gate is stricter; above 1 the '
        'promise is void.', lower=0.01, upper=100.0, live=True)
    rise_frames: int = parameter(
        3, 'Good frames in a row before the flag rises. Raise it if the flag flickers.',
        unit='frames', lower=1, upper=10000, live=True)
    fall_frames: int = parameter(
        1, 'Number of bad frames among the last fall_window that makes the flag fall. Above 1, '
        'single bad frames are tolerated for at most a second, and the promise is void.',
        unit='frames', lower=1, upper=100, live=True)
    fall_window: int = parameter(
        1, 'Number of latest frames in which fall_frames are counted. Set both.', unit='frames',
        lower=1, upper=100, live=True)
    hold_s: float = parameter(
        0.0, 'Minimum time for which the flag stays false after the last bad frame or fault, by '
        'the stamps. Raise it if the mission needs longer to react.', unit='s', lower=0.0,
        upper=3600.0, live=True)


@dataclass(frozen=True)
class Settings:
    """All settings of a run."""

    model: str = parameter(
        '', 'Name of an included model, or folder of a bundle. Required.',
        idle=True)
    trusted_keys: tuple[str, ...] = parameter(
        (), 'Public keys (Ed25519), one of which must have signed the model: PEM files, or the '
        'base64 line of one. Empty: the model may be unsigned. Set them if others can write to '
        'the model folder.')
    uncalibrated: str = parameter(
        REFUSE_UNCALIBRATED, 'What to do with a model without a calibration. refuse: do not open '
        'it. run: publish scores and maps at temperature 1, with the flag always false. Use run '
        'to let a new network select frames for labelling.',
        choices=(REFUSE_UNCALIBRATED, RUN_UNCALIBRATED))
    cameras: tuple[str, ...] = parameter(
        (), 'Names of several cameras that share the model: front subscribes to front/image and '
        'publishes under ~/front/. Empty: one camera on image.')
    max_rate_hz: tuple[float, ...] = parameter(
        (0.0,), 'Maximum rate of processed frames per camera: one number for all cameras or one '
        'for each; 0: no limit. Set it to leave time for other cameras or programs.', unit='Hz',
        lower=0.0, upper=1000.0, live=True)
    backend: str = parameter(
        'auto', 'Runtime of the network; auto takes the first of tensorrt, openvino and '
        'onnxruntime that works on this machine. Name one to compare runtimes, or to get an error '
        'if it does not work.',
        choices=('auto', 'tensorrt', 'openvino', 'onnxruntime'), idle=True)
    precision: str = parameter(
        BUNDLE_PRECISION,
        "Precision of the network; bundle: that of the bundle's card. Faster are bf16 (openvino "
        'on CPUs that support it) and tf32 (NVIDIA GPUs from Ampere on); each needs its own '
        'calibration.',
        choices=(BUNDLE_PRECISION, *COMPUTED), idle=True)
    threads: int = parameter(
        0, 'Threads of the backend and of OpenCV; 0 uses every core that this process may use. '
        'Lower it to leave cores to other programs.', lower=0, upper=256, idle=True)
    memory_budget_mb: int = parameter(
        64, 'Memory for the passes that run at once; more passes run in chunks. Raise it if '
        'memory is free and the log reports several chunks.', unit='MB', lower=1, upper=65536)
    passes: int = parameter(
        BUNDLE_PASSES, 'T, the number of passes per frame; -1: that of the bundle. Change it only '
        'with a calibration for the new T: otherwise the node does not start, and after a live '
        'change the flag stays false.',
        unit='passes', lower=-1, upper=1000, live=True)
    seed: int = parameter(
        0, 'Seed of the dropout masks. Use that of the calibration.', lower=0,
        upper=2**31 - 1)
    mask_policy: str = parameter(
        'fixed', 'fixed: one set of masks for the whole run, so that maps change only with the '
        'scene; per_frame: new masks for each frame, drawn from seed and stamp, so that errors of '
        'one draw average out over frames. It needs its own calibration.', choices=MASK_POLICIES)
    smallest_class: float = parameter(
        -1.0, 'A class that covers a smaller share of the image is removed from the mask; its '
        'pixels get the most likely other class. -1: the share of the calibration; another needs '
        'its own calibration. Use 0 if small objects matter.', lower=-1.0, upper=0.1)
    map: str = parameter(  # noqa: A003
        'least_confidence', 'The uncertainty map that is published and drawn. mutual_information '
        'shows only where the passes disagree.', choices=MAP_NAMES, live=True)
    ignore_mask: str = parameter(
        '', 'Image file whose non-zero pixels are excluded from every score, stretched to the '
        'camera image; {camera} in the path stands for the name of the camera. Set it if the hull '
        'or a vignette is in view, and calibrate with it.')
    damage_scale: float = parameter(
        1.0, 'Factor on the limits above which an image counts as damaged (missing, repeated or '
        'alternating rows, a tear, stuck or swapped channels) and the frame is not confident. '
        'Raise it if good images of this camera are refused; 0 switches the check off.', lower=0.0,
        upper=100.0)
    stale_timeout_s: float = parameter(
        1.0, 'The flag falls after this time without a frame; also the deadline of ~/confident. '
        'Set it to the longest gap that the mission tolerates.', unit='s', lower=0.05,
        upper=3600.0, live=True)
    stamps: str = parameter(
        'camera', 'Time of an image. camera: the stamp of its header. receipt: the time at which '
        'the node received it, for drivers without stamps or with another clock; the age on '
        'arrival is then unknown, and the promise is void.',
        choices=('camera', 'receipt'))
    max_age_s: float = parameter(
        1.0, "A frame is not confident if its stamp is older than this, by the node's clock, when "
        'its flag is published. 0 switches the check off. Lower it on fast vehicles.', unit='s',
        lower=0.0, upper=3600.0)
    max_skew_s: float = parameter(
        0.5, 'A frame is not confident if its stamp is further than this in the future, by the '
        "node's clock, unless max_age_s is 0. Raise it if the clocks are only roughly "
        'synchronised.',
        unit='s', lower=0.0, upper=60.0)
    max_repeats: int = parameter(
        2, 'Number of repeats of the last picture in a row that is allowed before the camera '
        'counts as frozen; 0 until it has shown two different pictures. -1 switches the check '
        'off, for rendered scenes that stand still.', unit='frames', lower=-1, upper=1000)
    stuck_timeout_s: float = parameter(
        10.0, 'If processing a frame or a callback takes this long, and at least twice '
        'stale_timeout_s, the process ends with exit code 3, so that systemd or launch restarts '
        'it; 0: never. Raise it if a frame may take that long.',
        unit='s', lower=0.0, upper=86400.0, live=True)
    latency_budget_ms: float = parameter(
        0.0, '/diagnostics warns if the time from the arrival of a frame to its flag exceeds '
        'this; 0: half of stale_timeout_s. Set it to the latency planned for the mission.',
        unit='ms', lower=0.0, upper=3.6e6, live=True)
    reliability: str = parameter(
        AUTO_RELIABILITY, 'Reliability requested from the camera. auto: reliable if all '
        'publishers are on this computer and offer it, since best effort loses large images; '
        'otherwise best_effort, which accepts both.', choices=(AUTO_RELIABILITY, *RELIABILITIES))
    image_transport: str = parameter(
        'raw', 'raw subscribes to sensor_msgs/Image on image, compressed to CompressedImage (jpeg '
        'or png) on image/compressed. Set it to what the camera publishes.',
        choices=('raw', 'compressed'))
    max_image_px: int = parameter(
        2**25, 'Largest image that is decoded; a larger one is a fault. A pixel of more than 4 '
        'bytes (16-bit colour) counts as several. Raise it for larger cameras.',
        unit='pixels', lower=1, upper=MAX_PIXELS, live=True)
    lock_gate: bool = parameter(
        False, 'Refuse changes of gate.*, passes, use_sim_time and the checks (stale_timeout_s, '
        'stuck_timeout_s) from configure to cleanup. Set it on missions.')
    autostart: bool = parameter(
        True, 'Configure and activate at the start; set false if a lifecycle manager does that.')
    bond: bool = parameter(
        False, "Publish heartbeats on the topic bond while active. Set it under Nav2's lifecycle "
        'manager with a bond_timeout above 0; needs the ROS package bond.')
    gate: GateSettings = field(default_factory=GateSettings)
    log: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that contradict each other."""
        _require_cameras(self.cameras)
        _require_rates(self)
        require_no_history(self)
        if self.passes == 0:
            raise ConfigError(
                'passes is 0', 'at least 1', f"set {BUNDLE_PASSES} to take the bundle's own T")
        if 0 < self.stuck_timeout_s < SHORTEST_STUCK_S:
            raise ConfigError(
                f'stuck_timeout_s is {self.stuck_timeout_s:g}',
                f'at least {SHORTEST_STUCK_S:g}, or 0 for never',
                'a thread may wait that long for a busy processor')
        if self.gate.fall_frames > self.gate.fall_window:
            raise ConfigError(
                f'gate.fall_frames is {self.gate.fall_frames}',
                f'at most gate.fall_window, {self.gate.fall_window}',
                'a flag that needs more bad frames than it looks at would never fall')

    @property
    def decode_limits(self) -> DecodeLimits:
        """Return the largest size of an image."""
        return DecodeLimits(self.max_image_px)

    @property
    def budget_ms(self) -> float:
        """Return the latency budget in ms, by default half of `stale_timeout_s`."""
        return self.latency_budget_ms or self.stale_timeout_s * 500.0

    @property
    def stuck_s(self) -> float:
        """Return the time in s after which a stuck thread ends the process; 0 for never."""
        # Twice the deadline at least, so that the flag falls well before.
        return max(self.stuck_timeout_s, 2 * self.stale_timeout_s) if self.stuck_timeout_s else 0.0

    @property
    def checks_off(self) -> dict[str, str]:
        """Return by name, in words, which of `CHECKS` are switched off or looser than is safe."""
        found = {}
        for name, (off, most) in CHECKS.items():
            value = getattr(self, name)
            if value == off:
                found[name] = f'{name} is {value}: that check is off'
            elif not isinstance(value, str) and value > most:
                found[name] = f'{name} is {value:g}, above {most:g}'
        return found

    def rate_of(self, index: int) -> float:
        """Return the maximum rate of a camera, in Hz; 0 for no limit."""
        return self.max_rate_hz[index if len(self.max_rate_hz) > 1 else 0]

    def ignore_mask_of(self, camera: str) -> str:
        """Return the path of a camera's ignore mask; empty for none."""
        return self.ignore_mask.replace(CAMERA_PLACE, camera)


def _require_cameras(cameras: tuple[str, ...]) -> None:
    for name in cameras:
        if not _CAMERA_NAME.fullmatch(name):
            raise ConfigError(f'cameras names {name!r}', 'letters, digits and _, a letter first',
                              'it becomes a part of topic names: take front for front/image')
        if cameras.count(name) > 1:
            raise ConfigError(f'cameras names {name!r} twice', 'each camera once')


def _require_rates(settings: Settings) -> None:
    rates, cameras = settings.max_rate_hz, settings.cameras
    if len(rates) not in (1, max(len(cameras), 1)):
        raise ConfigError(f'max_rate_hz has {len(rates)} numbers',
                          f'one, or one for each of the {max(len(cameras), 1)} cameras')
    slow = [rate for rate in rates if 0 < rate <= 1 / settings.stale_timeout_s]
    if slow:
        raise ConfigError(
            f'max_rate_hz is {slow[0]:g}', f'more than 1 / stale_timeout_s = '
            f'{1 / settings.stale_timeout_s:g}, or 0',
            'the flag would fall between any two frames',
        )


def require_no_history(settings: Settings, depth: int = 1, is_latched: bool = False) -> None:
    """
    Raise ConfigError if images that waited in a queue could raise the flag.

    `depth` is how many may wait in the middleware, with `is_latched` also from before the start.
    """
    rise_frames = settings.gate.rise_frames
    if depth < rise_frames:
        return
    found = f'{depth} images may wait and gate.rise_frames is {rise_frames}'
    if is_latched:
        raise ConfigError(f'{found} with durability transient_local', f'more than {depth}',
                          'images from before the start would raise the flag')
    # A depth of 1 is the minimum, so `rise_frames` 1 is accepted as the user's choice.
    is_of_receipt = settings.stamps == 'receipt'
    if is_of_receipt or (not settings.max_age_s and depth > 1):
        raise ConfigError(
            f'{found} with {"stamps receipt" if is_of_receipt else "max_age_s 0"}',
            f'more than {depth}',
            'after a pause the node could not tell images that waited from new ones')


def precision_of(card: ModelCard, wanted: str) -> str:
    """
    Return the precision to compute in, one of `COMPUTED`, by the card and the setting.

    Weights that were rounded to 16 bits in the bundle cannot become float32 again. Raises
    ConfigError if the graphs cannot be computed in the wanted precision.
    """
    if wanted == BUNDLE_PRECISION:
        return card.precision
    allowed = ('fp32', 'tf32', 'bf16') if card.precision == 'fp32' else (card.precision,)
    if wanted not in allowed:
        raise ConfigError(
            f'precision is {wanted}, but the graphs of {card.name!r} are {card.precision}',
            ' or '.join(allowed),
            f'set precision to {BUNDLE_PRECISION}, or compile a bundle in {wanted}')
    return wanted


def passes_of(card: ModelCard, settings: Settings) -> int:
    """Return T: of the settings, or by default the card's."""
    return card.passes if settings.passes == BUNDLE_PASSES else settings.passes


def require_unlocked(before: Settings, after: Settings) -> None:
    """Raise ConfigError if settings that `lock_gate` locks would change."""
    new = to_dict(after)
    for name, value in to_dict(before).items():
        is_locked = name.startswith('gate.') or name == 'passes' or name in CHECKS
        if before.lock_gate and is_locked and new[name] != value:
            raise ConfigError(
                f'{name} cannot be changed while the node is configured',
                f'no change of gate.*, passes, use_sim_time, {", ".join(CHECKS)}, since lock_gate '
                'is true', 'clean the node up, set it, and configure it again')


def require_idle(before: Settings, after: Settings) -> None:
    """Raise ConfigError if settings would change that a configured node has already used."""
    changed = to_dict(after)
    for setting in iter_parameters(Settings):
        if setting.idle and changed[setting.name] != to_dict(before)[setting.name]:
            raise ConfigError(
                f'{setting.name} cannot be changed while the node is configured',
                'a node that is unconfigured',
                'clean the node up, set it, and configure it again')


def settings_from_dict(values: Mapping[str, object]) -> Settings:
    """Build checked settings from dotted names; see `from_dict`."""
    return from_dict(Settings, values)
