# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy grants exactly the rights that the nodes use."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from conftest import make_tiny_bundle
import pytest
from ros_helpers import Client, node_arguments, Process, ROOT

POLICY = ROOT / 'config' / 'sros2' / 'policy.xml'
FLAG, NUMBERS = '/uncertainty_seg/confident', '/uncertainty_seg/verdict'
# Right -> package without which it does not exist; the first is new in Jazzy.
MAY_BE_ABSENT = {'get_type_description': 'type_description_interfaces',
                 'label_info': 'vision_msgs'}


def enclaves() -> dict[str, set[tuple[str, str]]]:
    """Return the rights of each enclave: verb and full name of a topic or service."""
    found = {}
    for enclave in ElementTree.parse(POLICY).iter('enclave'):
        rights = found[enclave.attrib['path']] = set()
        for profile in enclave.iter('profile'):
            node = f'{profile.attrib["ns"].rstrip("/")}/{profile.attrib["node"]}'
            for names in profile:
                for verb, qualifier in names.attrib.items():
                    assert qualifier == 'ALLOW', 'the shipped policy denies by not allowing'
                    rights |= {(verb, full_name(name.text, node)) for name in names}
    return found


def full_name(name: str | None, node: str) -> str:
    assert name and name[0] in '~/', f'{name} depends on the namespace'
    return node + name[1:] if name[0] == '~' else name


def test_only_the_node_may_publish_the_flag_and_only_the_governor_the_commands() -> None:
    rights = enclaves()
    assert set(rights) == {'/uncertainty_seg', '/speed_governor', '/mission'}
    for topic, speakers in ((FLAG, {'/uncertainty_seg'}), (NUMBERS, {'/uncertainty_seg'}),
                            ('/cmd_vel_limited', {'/speed_governor'}),
                            ('/speed_governor/speed_factor', {'/speed_governor'})):
        assert {name for name, one in rights.items() if ('publish', topic) in one} == speakers
    # No node may change the parameters or the lifecycle of another node.
    assert not any(verb == 'request' for one in rights.values() for verb, _ in one)
    # The node subscribes to its own flag, to detect a second publisher.
    assert {('subscribe', FLAG), ('subscribe', NUMBERS)} <= rights['/uncertainty_seg']


def used_by(node: Any, name: str) -> set[tuple[str, str]]:
    """Return the rights that a node's topics and services in the graph require."""
    found = (('publish', node.get_publisher_names_and_types_by_node),
             ('subscribe', node.get_subscriber_names_and_types_by_node),
             ('reply', node.get_service_names_and_types_by_node))
    return {(verb, topic) for verb, ask in found for topic, _ in ask(name, '/')}


@pytest.mark.release
def test_the_policy_allows_what_the_nodes_use_and_nothing_else(
    tmp_path: Path, domain: int
) -> None:
    import rclpy
    from sensor_msgs.msg import JointState
    from std_msgs.msg import Bool, Float32

    absent = {name for name, package in MAY_BE_ABSENT.items() if find_spec(package) is None}
    arguments = node_arguments(make_tiny_bundle(tmp_path / 'tiny'),
                               log__folder=str(tmp_path / 'frames'))
    arguments[arguments.index('image:=/cam')] = 'image:=/camera/image_raw'
    governor = ['-m', 'uncertainty_seg.ros.governor.node', '--ros-args', '-r',
                f'confident:={FLAG}']
    with Process(arguments, domain, tmp_path / 'node') as node, \
            Process(governor, domain, tmp_path / 'governor'), Client(domain, node) as client:
        mission = rclpy.create_node('mission', context=client.node.context)
        for topic, kind in ((FLAG, Bool), ('/speed_governor/speed_factor', Float32)):
            mission.create_subscription(kind, topic, print, 10)
        # A second publisher makes the node subscribe to its own topics.
        client.node.create_publisher(Bool, FLAG, 10)
        client.node.create_publisher(JointState, NUMBERS, 10)
        for name, rights in enclaves().items():
            optional = {right for right in rights if right[1].rpartition('/')[2] in absent
                        or name == '/mission' and right[0] == 'subscribe'}
            client.wait_until(lambda name=name: name.strip('/') in client.node.get_node_names(),
                              f'{name} on the graph')

            def differs(name: str = name, rights: Any = rights, optional: Any = optional) -> Any:
                used = used_by(client.node, name.strip('/'))
                return (used - rights) | (rights - used - optional)

            client.wait_until(lambda differs=differs: not differs(),
                              f'{name} to use what its enclave may use')
        mission.destroy_node()
