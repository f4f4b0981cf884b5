# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What may change while a node is unconfigured, and the quality of service by ROS's parameters."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import Client, needs_ros, node_arguments, own_domain, Process, values_of

pytestmark = needs_ros
IDLE = ('model', 'backend', 'threads', 'precision', 'reduction')


@pytest.fixture(scope='module')
def domain() -> Iterator[int]:
    with own_domain() as number:
        yield number


@contextmanager
def running(
    folder: Path, domain: int, *words: str, **parameters: Any
) -> Iterator[tuple[Client, Process]]:
    arguments = node_arguments(make_tiny_bundle(folder / 'tiny'), **parameters)
    process = Process([*arguments, *words], domain, folder / 'log')
    client = Client(domain, process)
    try:
        yield client, process
    finally:
        client.close()
        process.end()


def test_a_failed_configure_is_mended_by_setting_parameters(tmp_path: Path, domain: int) -> None:
    from diagnostic_msgs.msg import DiagnosticArray

    bundle = tmp_path / 'tiny'
    with running(tmp_path, domain, autostart=False, model='dolphin',
                 reduction='coarse') as (client, process):
        health = client.listen('/diagnostics', DiagnosticArray)
        assert not client.change_state('configure')
        assert client.state() == 'unconfigured'
        assert "no model 'dolphin'" in process.output
        # Judged as at the start, and together with all others.
        (refused,) = client.set_parameters(threads=-1)
        assert not refused.successful and 'threads' in refused.reason
        results = client.set_parameters(
            model=str(bundle), threads=1, backend='onnxruntime', reduction='exact')
        assert all(result.successful for result in results)
        assert client.change_state('configure') and client.change_state('activate')
        client.wait_for_camera_match()
        health.clear()
        client.wait_until(lambda: health and values_of(health[-1])['state'] == 'active', 'active')
        values = values_of(health[-1])
        assert values['model'] == values['model_folder'] == str(bundle)
        assert values['model_source'] == 'a parameter that was set'
        for name in IDLE:
            values = {'threads': 2, 'precision': 'fp16', 'reduction': 'coarse'}
            (refused,) = client.set_parameters(**{name: values.get(name, 'openvino')})
            assert not refused.successful
            assert f'{name} cannot be changed while the node is configured' in refused.reason
        assert client.change_state('deactivate') and client.change_state('cleanup')
        assert client.set_parameters(threads=2)[0].successful
        assert client.change_state('configure') and client.change_state('activate')


def qos_of(client: Client, topic: str, is_publisher: bool) -> Any:
    look = (client.node.get_publishers_info_by_topic if is_publisher
            else client.node.get_subscriptions_info_by_topic)
    (info,) = client.wait_until(
        lambda: [one for one in look(topic) if one.node_name == 'uncertainty_seg'], topic)
    return info.qos_profile


def test_quality_of_service_is_overridden_as_ros_means_it(tmp_path: Path, domain: int) -> None:
    from rclpy.qos import QoSDurabilityPolicy, QoSReliabilityPolicy

    mask = 'qos_overrides./uncertainty_seg/mask.publisher'
    late = [word for name in ('score', 'status', 'verdict', 'confident') for word in (
        '-p', f'qos_overrides./uncertainty_seg/{name}.publisher.durability:=transient_local',
        '-p', f'qos_overrides./uncertainty_seg/{name}.publisher.depth:=9')]
    words = ['-p', 'qos_overrides./cam.subscription.reliability:=reliable',
             '-p', f'{mask}.durability:=transient_local',
             '-p', f'{mask}.reliability:=best_effort',
             '-p', 'qos_overrides./uncertainty_seg/confident.publisher.reliability:=best_effort']
    with running(tmp_path, domain, *words, *late,
                 reliability='best_effort') as (client, process):
        client.wait_for_camera_match()
        for _ in range(2):  # the parameters are declared once, the topics come again
            camera = qos_of(client, '/cam', False)
            assert camera.reliability == QoSReliabilityPolicy.RELIABLE
            published = qos_of(client, '/uncertainty_seg/mask', True)
            assert published.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
            assert published.reliability == QoSReliabilityPolicy.BEST_EFFORT
            for name in ('score', 'status', 'verdict', 'confident'):  # no old one for who is late
                others = qos_of(client, f'/uncertainty_seg/{name}', True)
                assert others.reliability == QoSReliabilityPolicy.RELIABLE
                assert others.durability == QoSDurabilityPolicy.VOLATILE
            # What subscribers of the flag rely on stays.
            flag = qos_of(client, '/uncertainty_seg/confident', True)
            assert flag.reliability == QoSReliabilityPolicy.RELIABLE
            for transition in ('deactivate', 'cleanup', 'configure', 'activate'):
                assert client.change_state(transition), process.output


@pytest.mark.parametrize(('word', 'named'), [
    pytest.param('reliability:=perfect', '/cam', marks=pytest.mark.release),
    pytest.param('depth:=many', '/cam', marks=pytest.mark.release),
    ('history:=keep_all', 'keep_all'),
    pytest.param('depth:=-4', '/cam', marks=pytest.mark.release),
    pytest.param('durability:=transient_local', 'transient_local', marks=pytest.mark.release),
])
def test_an_override_that_cannot_be_is_one_sentence(
    tmp_path: Path, domain: int, word: str, named: str
) -> None:
    words = ['-p', f'qos_overrides./cam.subscription.{word}',
             '-p', 'max_age_s:=1.0', '-p', 'gate.rise_frames:=1']
    with running(tmp_path, domain, *words) as (client, process):
        client.watched = None
        assert process.wait() == 1, process.output
        said = [line for line in process.output.splitlines() if '[ERROR]' in line]
        assert len(said) == 1 and named in said[0]
        assert 'Traceback' not in process.output


