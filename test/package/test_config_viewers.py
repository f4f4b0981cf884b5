# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The layouts for RViz, Foxglove and Nav2 use only topics, types and fields that the node has.

The published topics are read from the running node, over DDS. The valid content of a Foxglove
layout is listed here, from the sources of Foxglove Studio 1.48, Lichtblick and foxglove-sdk; if
foxglove-sdk is installed, the layout is also checked with it.
"""

from collections.abc import Iterator
from importlib import import_module
import json
import re
from typing import Any

import pytest
from ros_helpers import needs_ros, ROOT
from ros_node_rig import node_rig
from ruamel.yaml import YAML

from uncertainty_seg.core.gate import Verdict

CONFIG = ROOT / 'config'
FOXGLOVE = json.loads((CONFIG / 'foxglove_layout.json').read_text(encoding='utf-8'))
IMAGE = 'sensor_msgs/msg/Image'
CAMERA = '/image'
Yaml = YAML(typ='safe')


def panels(kind: str, layout: Any = FOXGLOVE) -> list[dict[str, Any]]:
    """Return the settings of every panel of a kind."""
    return [settings for name, settings in layout['configById'].items()
            if name.partition('!')[0] == kind]


def message_paths(layout: Any = FOXGLOVE) -> list[str]:
    """Return every message path of a Foxglove layout."""
    series = [s['value'] for kind in ('Plot', 'StateTransitions')
              for panel in panels(kind, layout) for s in panel['paths']]
    others = [p['path'] for p in panels('Indicator', layout)]
    others += [p['topicPath'] for p in panels('RawMessages', layout)]
    return [path for path in series + others if path.startswith('/')]


def rviz_displays() -> list[dict[str, Any]]:
    layout = Yaml.load((CONFIG / 'uncertainty_seg.rviz').read_text(encoding='utf-8'))
    return list(layout['Visualization Manager']['Displays'])


def nav2_layer() -> dict[str, Any]:
    text = (CONFIG / 'nav2_semantic.yaml').read_text(encoding='utf-8')
    costmap = Yaml.load(text)['local_costmap']['local_costmap']['ros__parameters']
    assert 'semantic_layer' in costmap['plugins']
    return dict(costmap['semantic_layer'])


# --- against the node ----------------------------------------------------------------------------


class TestAgainstTheNode:
    pytestmark = needs_ros

    @pytest.fixture(scope='class')
    def published(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
        """Return topic -> type of all topics that the running node publishes."""
        # Topics may be discovered before the node's name, and one at a time.
        with node_rig(tmp_path_factory.mktemp('viewers')) as rig:
            rig.wait(lambda: 'active, waiting for images' in rig.process.output, 'the node')
            name, node = ('uncertainty_seg', '/'), rig.client.node
            rig.wait(lambda: name in node.get_node_names_and_namespaces(), 'its name')
            rig.client.spin(0.5)
            found = node.get_publisher_names_and_types_by_node(*name)
            yield {topic: types[0] for topic, types in found}

    def test_rviz_shows_pictures_that_are_published_and_takes_what_is_best_effort(
        self, published: dict[str, str]
    ) -> None:
        names = [f'/{display["Topic"]["Value"]}' for display in rviz_displays()]
        assert {'/uncertainty_seg/overlay', '/uncertainty_seg/heatmap',
                '/uncertainty_seg/mask_color', CAMERA} <= set(names)
        for display, name in zip(rviz_displays(), names, strict=True):
            assert display['Class'] == 'rviz_default_plugins/Image'
            assert name == CAMERA or published[name] == IMAGE
            # This QoS is compatible with every publisher.
            assert display['Topic']['Reliability Policy'] == 'Best Effort'
            assert display['Topic']['Durability Policy'] == 'Volatile'

    def test_foxglove_shows_pictures_and_diagnostics_that_are_published(
        self, published: dict[str, str]
    ) -> None:
        topics = [panel['imageMode']['imageTopic'] for panel in panels('Image')]
        assert CAMERA in topics
        assert {published[topic] for topic in topics if topic != CAMERA} == {IMAGE}
        (summary,) = panels('DiagnosticSummary')
        assert published[summary['topicToRender']] == 'diagnostic_msgs/msg/DiagnosticArray'

    @pytest.mark.parametrize('path', message_paths())
    def test_every_foxglove_path_leads_to_a_field(
        self, published: dict[str, str], path: str
    ) -> None:
        topic, _, rest = path.partition('.')
        kind = published[topic]
        for field in re.sub(r'\[[^]]*\]|\{[^}]*\}', '', rest).split('.'):
            package, name = kind.split('/')[0], kind.rsplit('/', 1)[-1]
            fields = getattr(import_module(f'{package}.msg'), name).get_fields_and_field_types()
            kind = re.sub(r'sequence<(.*)>', r'\1', fields[field])
        assert kind in ('boolean', 'float', 'octet', 'string')

    def test_the_kind_of_a_verdict_is_filtered_by_the_key_it_has(self) -> None:
        from uncertainty_seg.core.status import verdict_status

        wanted = re.findall(r'key=="(\w+)"', ' '.join(message_paths()))
        values = verdict_status(Verdict(True, (), 0.5, 'confident'), None, {}).values
        assert wanted
        assert set(wanted) <= values.keys()

    def test_nav2_gets_mono8_and_the_label_topic(self, published: dict[str, str]) -> None:
        from uncertainty_seg.ros.publishers import PICTURES

        source = nav2_layer()['front']
        for name, topic in (('mask', 'segmentation_topic'), ('confidence', 'confidence_topic')):
            assert source[topic] == f'/uncertainty_seg/{name}'
            assert published[source[topic]] == IMAGE
            assert PICTURES[name][0] == 'mono8'
        # Published only if vision_msgs is installed.
        labels = 'vision_msgs/msg/LabelInfo'
        assert source['labels_topic'] == '/uncertainty_seg/label_info'
        assert published.get(source['labels_topic'], labels) == labels
