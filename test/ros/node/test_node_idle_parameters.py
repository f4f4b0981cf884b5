# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Parameters that may change while a node is unconfigured, and ROS's QoS override parameters."""

from pathlib import Path
from typing import Any

from conftest import make_tiny_bundle
from ros_helpers import Client, NODE, node_arguments, Process, values_of
from ros_node_rig import node_rig

IDLE = ('model', 'backend', 'threads', 'precision')


def test_a_failed_configure_is_mended_by_setting_parameters(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    with node_rig(tmp_path, autostart=False, model='dolphin', precision='bf16') as rig:
        client, health = rig.client, rig.health
        assert not client.change_state('configure')
        assert client.state() == 'unconfigured'
        assert "no model 'dolphin'" in rig.process.output
        # Validated as at the start, together with all other parameters.
        (refused,) = client.set_parameters(threads=-1)
        assert not refused.successful and 'threads' in refused.reason
        results = client.set_parameters(
            model=str(bundle), threads=1, backend='onnxruntime', precision='fp32')
        assert all(result.successful for result in results)
        assert client.change_state('configure') and client.change_state('activate')
        client.wait_for_camera_match()
        health.clear()
        client.wait_until(lambda: health and values_of(health[-1])['state'] == 'active', 'active')
        values = values_of(health[-1])
        assert values['model'] == values['model_folder'] == str(bundle)
        for name in IDLE:
            values = {'threads': 2, 'precision': 'fp16'}
            (refused,) = client.set_parameters(**{name: values.get(name, 'openvino')})
            assert not refused.successful
            assert name in refused.reason
        assert client.change_state('deactivate') and client.change_state('cleanup')
        assert client.set_parameters(threads=2)[0].successful
        assert client.change_state('configure') and client.change_state('activate')


def qos_of(client: Client, topic: str, is_publisher: bool) -> Any:
    look = (client.node.get_publishers_info_by_topic if is_publisher
            else client.node.get_subscriptions_info_by_topic)
    (info,) = client.wait_until(
        lambda: [one for one in look(topic) if one.node_name == 'uncertainty_seg'], topic)
    return info.qos_profile


def test_quality_of_service_is_overridden_as_ros_means_it(tmp_path: Path) -> None:
    from rclpy.qos import QoSDurabilityPolicy, QoSReliabilityPolicy

    mask = 'qos_overrides./uncertainty_seg/mask.publisher'
    late = [word for name in ('score', 'status', 'verdict', 'confident') for word in (
        '-p', f'qos_overrides./uncertainty_seg/{name}.publisher.durability:=transient_local',
        '-p', f'qos_overrides./uncertainty_seg/{name}.publisher.depth:=9')]
    words = ['-p', 'qos_overrides./cam.subscription.reliability:=reliable',
             '-p', f'{mask}.durability:=transient_local',
             '-p', f'{mask}.reliability:=best_effort',
             '-p', 'qos_overrides./uncertainty_seg/confident.publisher.reliability:=best_effort']
    with node_rig(tmp_path, [*NODE, '--ros-args', *words, *late, '--'],
                  reliability='best_effort') as rig:
        client = rig.client
        client.wait_for_camera_match()
        for _ in range(2):  # topics are created again, parameters are not
            camera = qos_of(client, '/cam', False)
            assert camera.reliability == QoSReliabilityPolicy.RELIABLE
            published = qos_of(client, '/uncertainty_seg/mask', True)
            assert published.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
            assert published.reliability == QoSReliabilityPolicy.BEST_EFFORT
            for name in ('score', 'status', 'verdict', 'confident'):  # volatile
                others = qos_of(client, f'/uncertainty_seg/{name}', True)
                assert others.reliability == QoSReliabilityPolicy.RELIABLE
                assert others.durability == QoSDurabilityPolicy.VOLATILE
            # The reliability of the flag cannot be overridden, since subscribers rely on it.
            flag = qos_of(client, '/uncertainty_seg/confident', True)
            assert flag.reliability == QoSReliabilityPolicy.RELIABLE
            for transition in ('deactivate', 'cleanup', 'configure', 'activate'):
                assert client.change_state(transition)


def test_an_override_that_cannot_be_is_one_sentence(tmp_path: Path, domain: int) -> None:
    words = ['-p', 'qos_overrides./cam.subscription.history:=keep_all', '-p', 'max_age_s:=1.0']
    words = [*node_arguments(make_tiny_bundle(tmp_path / 'tiny')), *words]
    with Process(words, domain, tmp_path / 'log') as process:
        assert process.wait() == 2, process.output
    said = [line for line in process.output.splitlines() if '[ERROR]' in line]
    assert len(said) == 1 and 'keep_all' in said[0] and 'Traceback' not in process.output
