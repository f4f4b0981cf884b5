# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every setting of the package, with its meaning, unit and range: the one source.

The node's parameters, config/uncertainty_seg.yaml and the list in docs/ros_interface.md are
made from these classes. What a field accepts is checked by `core.parameters`; what two fields
must agree on is checked here.

"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import re

from uncertainty_seg.core.model_card import ModelCard, PRECISIONS
from uncertainty_seg.core.parameters import from_dict, iter_parameters, parameter, to_dict, Value
from uncertainty_seg.core.uncertainty import MAP_NAMES, REDUCTIONS
from uncertainty_seg.errors import ConfigError

# -------------------------------------------------------------------------------------------------
# Settings of the frame log: what is kept, as what, and how much of it.
# Nested as `log` in `core.settings.Settings`.

IMAGE_FORMATS = ('received', 'png', 'jpeg')
MEGABYTE = 10**6


@dataclass(frozen=True)
class LogSettings:
    """Which frames are kept on disk."""

    folder: str = parameter(
        '', 'Folder of the frame log, created if it is missing; empty switches the log off.',
    )
    dive: str = parameter(
        '', 'Name of the dive in every frame; empty takes the time of the start, or continues '
        'the dive of the log if its newest frame was written within the last 10 minutes. The '
        'random control frames are drawn from a hash of this name, so the same dive under the '
        'same name keeps the same control frames.', live=True,
    )
    image_format: str = parameter(
        'received', 'received keeps the bytes of compressed images and writes raw images as png; '
        'png and jpeg encode every image in that format.', choices=IMAGE_FORMATS, live=True,
    )
    before_s: float = parameter(
        2.0, 'Frames up to this long before a flagged frame are kept with it.', unit='s',
        lower=0.0, upper=60.0, live=True,
    )
    after_s: float = parameter(
        2.0, 'Frames up to this long after a flagged frame are kept with it.', unit='s',
        lower=0.0, upper=3600.0, live=True,
    )
    min_interval_s: float = parameter(
        2.0, 'Least time between two kept frames of a camera; control frames are exempt.',
        unit='s', lower=0.0, upper=86400.0, live=True,
    )
    control_share: float = parameter(
        0.005, 'Share of all frames that is kept at random, whatever the flag: an unbiased '
        'control.',
        lower=0.0, upper=1.0, live=True,
    )
    duplicate_bits: int = parameter(
        4, 'A frame is skipped if its perceptual hash differs in fewer than this many of 64 bits '
        'from that of a recently kept frame; 0 skips none.',
        unit='bits', lower=0, upper=32, live=True,
    )
    quota_mb: float = parameter(
        4096.0, 'Largest size of the log on disk.', unit='MB', lower=0.001, upper=1e9,
        live=True,
    )
    free_disk_mb: float = parameter(
        1024.0, 'The log does not grow while less than this is free on its disk.', unit='MB',
        lower=0.0, upper=1e9, live=True,
    )
    memory_mb: float = parameter(
        256.0, 'Memory for waiting frames: half for those to be written, half for those from '
        'before a flagged frame, of which fewer are held if memory is short.', unit='MB',
        lower=1.0, upper=1e6, live=True,
    )

# -------------------------------------------------------------------------------------------------
# Which precision a bundle is computed in: what its card and the settings say together.
# Which of them a runtime can do is the backends' own. The reduction is float32 in all of them.

BUNDLE_PRECISION = 'bundle'
# What graphs may be computed in. No graph is written in tf32: the factors of each product of
# float32 are rounded to 10 bits on the way.
COMPUTED = (*PRECISIONS, 'tf32')
# Precision of the card -> what its graphs may be computed in. What was rounded to 16 or 8 bits
# when the bundle was made cannot become float32 again.
_ALLOWED = {
    'fp32': ('fp32', 'tf32', 'bf16'),
    'bf16': ('bf16',),
    'fp16': ('fp16',),
    'int8': ('int8', 'bf16'),
}


def precision_of(card: ModelCard, wanted: str) -> str:
    """
    Return the precision to compute in, one of `COMPUTED`.

    `wanted` is the setting: 'bundle' for what the card says, or a precision by name. 'bf16' of an
    'int8' card computes in bf16 what is not quantised; 'tf32' is of GPUs only. A calibration holds
    for one precision only. Raises ConfigError if the graphs cannot be computed in it.
    """
    if wanted == BUNDLE_PRECISION:
        return card.precision
    allowed = _ALLOWED[card.precision]
    if wanted not in allowed:
        raise ConfigError(
            f'precision is {wanted}, but the graphs of {card.name!r} are {card.precision}',
            ' or '.join(allowed), f'set precision to {BUNDLE_PRECISION}, or compile a bundle '
            f'with --precision {wanted}',
        )
    return wanted


# -------------------------------------------------------------------------------------------------
# Which reduction runs where nothing else is said: that of the calibration, or without one this.

AUTO_REDUCTION, NEW_REDUCTION = 'auto', 'coarse'


# -------------------------------------------------------------------------------------------------
# What an image may cost before it is decoded.

# Twice an 8K frame; 200 MB as BGR. No file is decoded above it, whatever the settings.
MAX_PIXELS = 2**26
OVERSIZED = ('refuse', 'reduce')


@dataclass(frozen=True)
class DecodeLimits:
    """
    How large an image may be to be decoded.

    Attributes
    ----------
    max_px : int
        Most pixels, of up to 4 bytes each.
    is_reducing : bool
        Decode a larger JPEG at 1/2, 1/4 or 1/8 of its sides instead of refusing it.

    """

    max_px: int = MAX_PIXELS
    is_reducing: bool = False


# For what comes without settings: every image that some node may have taken.
WIDEST = DecodeLimits()

BUNDLE_PASSES = -1
MASK_POLICIES = ('fixed', 'per_frame')
REFUSE_UNCALIBRATED, RUN_UNCALIBRATED = 'refuse', 'run'
RELIABILITIES = ('best_effort', 'reliable')
IMAGE_TRANSPORTS = ('raw', 'compressed')
STAMPS = ('camera', 'receipt')
SHORTEST_STUCK_S = 1.0
# What stands for the camera in the path of an ignore mask.
CAMERA_PLACE = '{camera}'
# A token of a ROS topic name.
_CAMERA_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_]*')


@dataclass(frozen=True)
class GateSettings:
    """When a frame is confident."""

    scores: tuple[str, ...] = parameter(
        (), "Scores that the gate compares, of those for which the bundle's calibration has a "
        "threshold; empty takes the calibration's choice.", live=True,
    )
    alpha: float = parameter(
        0.0, 'Promise of the calibration to keep: the chance that a frame is accepted and bad is '
        'at most this; 0 takes the strictest promise of the calibration.',
        lower=0.0, upper=1.0, live=True,
    )
    threshold_scale: float = parameter(
        1.0, 'Factor on every calibrated threshold; below 1 is stricter.',
        lower=0.01, upper=100.0, live=True,
    )
    rise_frames: int = parameter(
        3, 'Good frames in a row before the flag rises.', unit='frames',
        lower=1, upper=10000, live=True,
    )
    fall_frames: int = parameter(
        1, 'Bad frames among the last fall_window that make the flag fall.', unit='frames',
        lower=1, upper=100, live=True,
    )
    fall_window: int = parameter(
        1, 'Number of latest frames among which fall_frames are counted.', unit='frames',
        lower=1, upper=100, live=True,
    )
    hold_s: float = parameter(
        0.0, 'Least time that the flag stays false after the last bad frame or fault, by the '
        'stamps.',
        unit='s', lower=0.0, upper=3600.0, live=True,
    )


@dataclass(frozen=True)
class Settings:
    """All settings of a run."""

    model: str = parameter(
        '', "A shipped model's name, or the folder of a bundle. There is no default: one must be "
        'named.', idle=True,
    )
    trusted_keys: tuple[str, ...] = parameter(
        (), 'Public keys (Ed25519), one of which must have signed the model: PEM files, or the '
        'base64 line inside of one. Empty: the model may be unsigned.',
    )
    uncalibrated: str = parameter(
        REFUSE_UNCALIBRATED, 'What becomes of a model that nobody calibrated. refuse: it is not '
        'opened. run: its scores and maps are real, at temperature 1, and there is no promise: '
        'the flag is always false, so that a new network can choose frames for labelling.',
        choices=(REFUSE_UNCALIBRATED, RUN_UNCALIBRATED),
    )
    cameras: tuple[str, ...] = parameter(
        (), 'Names of several cameras that share the model: front listens to front/image and '
        'publishes under ~/front/. Empty: one camera on image.',
    )
    max_rate_hz: tuple[float, ...] = parameter(
        (0.0,), 'Largest number of frames a second taken from a camera, to leave time for the '
        'others; one number for all cameras or one for each; 0 is no limit.',
        unit='Hz', lower=0.0, upper=1000.0,
        live=True,
    )
    backend: str = parameter(
        'auto', 'Runtime that executes the network; auto takes the first of tensorrt, openvino '
        'and onnxruntime that works on this machine.',
        choices=('auto', 'tensorrt', 'openvino', 'onnxruntime'), idle=True,
    )
    precision: str = parameter(
        BUNDLE_PRECISION,
        "Precision of the network; bundle takes that of the bundle's card. bf16 is faster on "
        'processors that support it (backend openvino only; tensorrt takes a bundle compiled in '
        'bf16), tf32 on GPUs of NVIDIA from Ampere on; each needs its own calibration.',
        choices=(BUNDLE_PRECISION, *COMPUTED), idle=True,
    )
    reduction: str = parameter(
        AUTO_REDUCTION,
        'How the passes become maps: exact upsamples the logits of every pass; coarse sums the '
        'passes at the size of the logits and upsamples the logarithm of their mean, at a third '
        "of the time; auto takes what the bundle's calibration was made with. Limits hold for "
        'one of them only.',
        choices=(AUTO_REDUCTION, *REDUCTIONS), idle=True,
    )
    threads: int = parameter(
        0, 'Threads of the backend; 0 uses every core that this process may use.',
        lower=0, upper=256, idle=True,
    )
    memory_budget_mb: int = parameter(
        64, 'Memory for the passes that run at once; more passes run in chunks.', unit='MB',
        lower=1, upper=65536,
    )
    passes: int = parameter(
        BUNDLE_PASSES, "T, the number of dropout passes a frame; -1 takes the bundle's own. "
        'With a T that the bundle was not calibrated for, the node does not start; after such a '
        'change of a running node the flag stays false.',
        unit='passes', lower=-1, upper=1000, live=True,
    )
    seed: int = parameter(0, 'Seed of the dropout masks.', lower=0, upper=2**31 - 1)
    mask_policy: str = parameter(
        'fixed', 'fixed: one set of masks for the whole run; per_frame: drawn from seed and '
        'stamp.',
        choices=MASK_POLICIES,
    )
    map: str = parameter(  # noqa: A003
        'entropy', 'The uncertainty map that is published and drawn: where the mask may be wrong.',
        choices=MAP_NAMES, live=True,
    )
    ignore_mask: str = parameter(
        '', 'Image file whose non-zero pixels are left out of every score (hull, vignette), '
        'stretched to the camera image. {camera} in the path stands for the name of the camera.',
    )
    damage_scale: float = parameter(
        1.0, 'Factor on the limits beyond which an image counts as damaged (rows that are missing '
        'or repeat, a tear, alternating rows, channels that are stuck or swapped); such a frame '
        'is not confident. Above 1 is more tolerant; 0 switches the check off.',
        lower=0.0, upper=100.0,
    )
    stale_timeout_s: float = parameter(
        1.0, 'Without a frame for this long the flag falls; also the deadline of ~/confident.',
        unit='s', lower=0.05, upper=3600.0, live=True,
    )
    stamps: str = parameter(
        'camera', 'Which time of an image counts: camera takes the stamp of its header; receipt '
        'takes the time at which the node received it, for drivers that send no stamps or whose '
        'clock is another one. How old an image was when it arrived is not known then.',
        choices=STAMPS,
    )
    max_age_s: float = parameter(
        1.0, "A frame whose stamp is older than this by the node's clock when its flag is "
        'published is not confident; 0 compares no clocks.', unit='s', lower=0.0, upper=3600.0,
    )
    max_skew_s: float = parameter(
        0.5, "A frame that is stamped further than this in the future of the node's clock is not "
        'confident, unless max_age_s is 0.', unit='s', lower=0.0, upper=60.0,
    )
    max_repeats: int = parameter(
        2, 'Images in a row whose pixels came before, to the last bit, that are allowed before '
        'the camera counts as frozen; none is until it has shown two different images. Every '
        'fourth row is compared; -1 compares none (rendered scenes that stand still).',
        unit='frames', lower=-1, upper=1000,
    )
    stuck_timeout_s: float = parameter(
        10.0, 'A frame in work, or a callback, that takes this long ends the process with the '
        'cause and exit code 3, so that systemd or launch starts it again; at least twice '
        'stale_timeout_s is waited. 0 never ends it. Raise it if a frame may take that long.',
        unit='s', lower=0.0, upper=86400.0, live=True,
    )
    latency_budget_ms: float = parameter(
        0.0, 'Time from the arrival of a frame to its flag above which /diagnostics warns; 0 '
        'takes half of stale_timeout_s.', unit='ms', lower=0.0, upper=3.6e6, live=True,
    )
    reliability: str = parameter(
        'best_effort', 'Reliability requested from the camera; best_effort accepts both.',
        choices=RELIABILITIES,
    )
    image_transport: str = parameter(
        'raw', 'raw takes sensor_msgs/Image from image; compressed takes CompressedImage (jpeg or '
        'png) from image/compressed.', choices=IMAGE_TRANSPORTS,
    )
    max_image_px: int = parameter(
        2**25, 'Largest image that is decoded; a larger one is a fault of the frame. A pixel of '
        'more than 4 bytes (16-bit colour) counts as several.', unit='pixels',
        lower=1, upper=MAX_PIXELS, live=True,
    )
    oversized_images: str = parameter(
        'refuse', 'What is done with an image above max_image_px. reduce decodes a baseline jpeg '
        'at 1/2, 1/4 or 1/8 of its sides; masks, maps and camera_info then have the reduced size. '
        'All other images are refused.', choices=OVERSIZED, live=True,
    )
    lock_gate: bool = parameter(
        False, 'Once the node is configured, nobody can change gate.*, passes, stale_timeout_s '
        'or use_sim_time until it is cleaned up.',
    )
    autostart: bool = parameter(
        True, 'Configure and activate at the start; false leaves it to a lifecycle manager.',
    )
    bond: bool = parameter(
        False, "Beat on the topic bond while active, for Nav2's lifecycle manager (its "
        'bond_timeout above 0). Needs the ROS package bond.',
    )
    gate: GateSettings = field(default_factory=GateSettings)
    log: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        _require_cameras(self.cameras)
        _require_rates(self)
        require_no_history(self)
        if self.passes == 0:
            raise ConfigError(
                'passes is 0', 'at least 1', f"set {BUNDLE_PASSES} to take the bundle's own T"
            )
        if 0 < self.stuck_timeout_s < SHORTEST_STUCK_S:
            raise ConfigError(
                f'stuck_timeout_s is {self.stuck_timeout_s:g}',
                f'at least {SHORTEST_STUCK_S:g}, or 0 for never',
                'a thread may wait that long for a busy processor')
        if self.gate.fall_frames > self.gate.fall_window:
            raise ConfigError(
                f'gate.fall_frames is {self.gate.fall_frames}',
                f'at most gate.fall_window, {self.gate.fall_window}',
                'a flag that needs more bad frames than it looks at would never fall',
            )

    @property
    def decode_limits(self) -> DecodeLimits:
        """Return how large an image may be."""
        return DecodeLimits(self.max_image_px, self.oversized_images == 'reduce')

    @property
    def budget_ms(self) -> float:
        """Return the latency budget in force."""
        return self.latency_budget_ms or self.stale_timeout_s * 500.0

    @property
    def stuck_s(self) -> float:
        """Return after which standstill of a thread the process ends; 0 for never."""
        # The flag falls first, with a deadline's time to spare.
        return max(self.stuck_timeout_s, 2 * self.stale_timeout_s) if self.stuck_timeout_s else 0.0

    @property
    def checks_off(self) -> tuple[str, ...]:
        """Name the settings that switch a check of frames or of the process off."""
        off = {'max_age_s': self.max_age_s == 0, 'max_repeats': self.max_repeats < 0,
               'damage_scale': self.damage_scale == 0,
               'stuck_timeout_s': self.stuck_timeout_s == 0}
        return tuple(name for name, is_off in off.items() if is_off)

    def rate_of(self, index: int) -> float:
        """Return the most frames a second of a camera; 0 for any."""
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
    Raise ConfigError if images that waited could raise the flag.

    `depth` is how many may wait in the middleware; `is_latched`: also those of before the start.
    """
    rise_frames = settings.gate.rise_frames
    if depth < rise_frames:
        return
    found = f'{depth} images may wait and gate.rise_frames is {rise_frames}'
    if is_latched:
        raise ConfigError(f'{found} with durability transient_local', f'more than {depth}',
                          'images from before the start would raise the flag')
    # One image that waits is the least; who lets one frame raise the flag has chosen so.
    is_of_receipt = settings.stamps == 'receipt'
    if is_of_receipt or (not settings.max_age_s and depth > 1):
        raise ConfigError(
            f'{found} with {"stamps receipt" if is_of_receipt else "max_age_s 0"}',
            f'more than {depth}',
            'after a pause the node could not tell images that waited from new ones')


def passes_of(card: ModelCard, settings: Settings) -> int:
    """Return T: of the settings, or the card's where they leave it to it."""
    return card.passes if settings.passes == BUNDLE_PASSES else settings.passes


def require_unlocked(before: Settings, after: Settings) -> None:
    """Raise ConfigError if settings that `lock_gate` holds would change."""
    locked = [name for name, value in settings_to_dict(before).items()
              if (name.startswith('gate.') or name in ('passes', 'stale_timeout_s'))
              and settings_to_dict(after)[name] != value]
    if before.lock_gate and locked:
        raise locked_error(locked[0])


def require_idle(before: Settings, after: Settings) -> None:
    """Raise ConfigError if settings would change that a configured node has used already."""
    changed = settings_to_dict(after)
    for setting in iter_parameters(Settings):
        if setting.idle and changed[setting.name] != settings_to_dict(before)[setting.name]:
            raise ConfigError(
                f'{setting.name} cannot be changed while the node is configured',
                'a node that is unconfigured',
                'clean the node up, set it, and configure it again')


def locked_error(name: str) -> ConfigError:
    """Return the refusal of a change that `lock_gate` does not allow."""
    return ConfigError(
        f'{name} cannot be changed while the node is configured',
        'no change of gate.*, passes, stale_timeout_s and use_sim_time, since lock_gate is true',
        'clean the node up, set it, and configure it again')


def settings_from_dict(values: Mapping[str, object]) -> Settings:
    """Build checked settings from dotted names; see `core.parameters.from_dict`."""
    return from_dict(Settings, values)


def settings_to_dict(settings: Settings) -> dict[str, Value]:
    """Return dotted name to value of every setting."""
    return to_dict(settings)
