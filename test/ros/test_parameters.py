# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Settings as ROS parameters, on a node in this process."""

from collections.abc import Iterator
import math
from types import SimpleNamespace
from typing import Any

from cases import for_each
import pytest
import rclpy
from rclpy.parameter import Parameter

from uncertainty_seg.core.settings import iter_parameters, Settings
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros.parameters import ParameterServer


@pytest.fixture
def context() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context, args=[])
    yield context
    context.try_shutdown()


class Served:
    """A parameter server on a node, and the settings that it applied."""

    def __init__(self, context: Any, overrides: dict[str, Any]) -> None:
        self.applied: list[Settings] = []
        self.refusal: ConfigError | None = None
        self.node = rclpy.create_node(
            'served', context=context, enable_rosout=False, start_parameter_services=False,
            parameter_overrides=[Parameter(name, value=v) for name, v in overrides.items()],
        )
        self.server = ParameterServer(self.node, self._apply)

    def _apply(self, settings: Settings) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.applied.append(settings)

    def set(self, **values: Any) -> Any:  # noqa: A003
        changes = [Parameter(name.replace('__', '.'), value=v) for name, v in values.items()]
        return self.node.set_parameters_atomically(changes)


def test_every_parameter_is_described_ranged_and_only_live_and_idle_ones_change(
    context: Any
) -> None:
    node = Served(context, {}).node
    for setting in iter_parameters(Settings):
        descriptor = node.describe_parameter(setting.name)
        assert setting.description in descriptor.description
        assert setting.unit in descriptor.description
        assert descriptor.additional_constraints == setting.wanted()
        assert descriptor.read_only is not (setting.live or setting.idle)
        ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
        bounds = [(r.from_value, r.to_value) for r in ranges]
        has_bounds = setting.lower is not None
        assert bounds == ([(setting.lower, setting.upper)] if has_bounds else [])


def test_a_whole_number_is_accepted_for_a_floating_point_parameter(context: Any) -> None:
    served = Served(context, {'stale_timeout_s': 7, 'cameras': ['a', 'b'], 'max_rate_hz': [3]})
    assert served.server.settings.stale_timeout_s == 7.0
    assert served.server.settings.max_rate_hz == (3.0,)
    assert served.set(gate__threshold_scale=2, max_rate_hz=[5, 6]).successful
    assert served.applied == [served.server.settings]
    assert served.applied[0].max_rate_hz == (5.0, 6.0)
    assert isinstance(served.applied[0].gate.threshold_scale, float)


@pytest.mark.parametrize(
    ('overrides', 'named'),
    [
        ({'passes': 2.5}, 'passes is 2.5'), ({'stale_timeout_s': math.nan}, 'stale_timeout_s'),
        ({'autostart': 'maybe'}, 'autostart'), ({'gate.fall_frames': 3}, 'gate.fall_frames'),
        ({'gate.rise_frame': 2}, 'gate.rise_frame'),
    ],
)
def test_a_bad_value_at_the_start_is_one_sentence(
    context: Any, overrides: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        Served(context, overrides)


@for_each('setting', iter_parameters(Settings))
def test_nothing_of_another_type_or_out_of_range_is_taken_and_nothing_is_deleted(
    context: Any, setting: Any
) -> None:
    served = Served(context, {})
    before = served.node.get_parameter(setting.name).value
    values: list[Any] = [math.nan, [b'a'], [math.nan], 10**12]
    if not isinstance(setting.default, (str, tuple)):
        values += ['soon', '', ['a', 'b']]
    if setting.upper is not None:
        values += [setting.upper * 2, setting.lower - 1]
    if isinstance(setting.default, bool) or not isinstance(setting.default, (int, float)):
        values.append(2.5)
    for value in values:
        (result,) = served.node.set_parameters([Parameter(setting.name, value=value)])
        assert not result.successful and setting.name in result.reason, value
    (result,) = served.node.set_parameters([Parameter(setting.name, Parameter.Type.NOT_SET)])
    assert not result.successful and served.node.get_parameter(setting.name).value == before
    assert not served.applied
    served.node.destroy_node()


def test_values_that_contradict_each_other_are_judged_together(context: Any) -> None:
    served = Served(context, {})
    assert not served.set(gate__fall_frames=2).successful
    assert served.set(gate__fall_frames=2, gate__fall_window=3).successful
    result = served.set(gate__fall_window=1)
    assert not result.successful
    assert 'would never fall' in result.reason


def test_a_parameter_of_another_node_is_named(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    logger = SimpleNamespace(warning=said.append)
    monkeypatch.setattr('rclpy.node.Node.get_logger', lambda node: logger)
    Served(context, {'exposure': 2})
    assert 'exposure' in said[0]


def test_no_attribute_of_ours_hides_one_of_rclpy(context: Any) -> None:
    from rclpy.lifecycle import LifecycleNode

    from uncertainty_seg.ros.node import UncertaintySegNode

    bare = LifecycleNode('bare', namespace='', context=context, start_parameter_services=False)
    rclpy.init(args=[])
    try:
        ours = UncertaintySegNode()
        for name, value in vars(bare).items():
            assert type(value) in (type(None), type(getattr(ours, name))), name
        ours.destroy_node()
    finally:
        rclpy.try_shutdown()
