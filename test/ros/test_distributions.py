# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One code base from Humble to Rolling: features that an older ROS lacks are unused or optional.

The lists are names that rclpy, launch and launch_ros of Humble (rclpy 3.3.15) lack and those of
Jazzy (7.1.3), Kilted (9.1.2) or Rolling (8.0.0) have, read from their sources.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from cases import for_each

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((*(ROOT / 'uncertainty_seg' / 'ros').rglob('*.py'),
                  *(ROOT / 'launch').glob('*.py')))
# Names that Humble lacks; keyword arguments end with `=`.
NOT_ON_HUMBLE = {
    # rclpy
    'add_post_set_parameters_callback', 'add_pre_set_parameters_callback', 'BEST_AVAILABLE',
    'BestAvailable', 'qos_profile_best_available', 'ROSOUT_DEFAULT', 'MessageInfo', 'TimerInfo',
    'matched=', 'incompatible_type=', 'get_publisher_count', 'count_clients', 'count_services',
    'CallbackType', 'ContentFilterOptions', 'content_filter_options=', 'set_content_filter',
    'EventsExecutor', 'ParameterEventHandler', 'AsyncParameterClient', 'parameter_client',
    'configure_introspection', 'ServiceIntrospectionState', 'enable_logger_service=', 'autostart=',
    'wait_for_node', 'topic_type_hash', 'InitContextManager', 'event_handler', 'EventHandler',
    'get_logger_level', 'create_future', 'get_fully_qualified_node_names',
    # launch and launch_ros
    'AllSubstitution', 'AnySubstitution', 'EqualsSubstitution', 'FileContent',
    'IfElseSubstitution', 'LaunchLogDir', 'NotEqualsSubstitution', 'LifecycleTransition',
    'PushROSNamespace', 'ROSTimer', 'SetROSLogDir',
}
# Deprecated after Humble, replaced by names that Humble has too.
NOT_ON_ROLLING = {'warn', 'QoSEventHandler'}
# Uses that check first whether the name exists; they are tested without it below.
GUARDED = {('topics.py', 'event_handler')}


def words_of(path: Path) -> Iterator[str]:
    """Yield each name, attribute, imported name and `keyword=` that a file uses."""
    for part in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr
        elif isinstance(part, ast.keyword) and part.arg:
            yield f'{part.arg}='
        elif isinstance(part, ast.ImportFrom):
            yield from (*(part.module or '').split('.'), *(alias.name for alias in part.names))
        elif isinstance(part, ast.Import):
            yield from (word for alias in part.names for word in alias.name.split('.'))


@for_each('path', SOURCES)
def test_nothing_is_used_that_a_distribution_lacks(path: Path) -> None:
    used = set(words_of(path))
    assert {word for word in used & NOT_ON_HUMBLE if (path.name, word) not in GUARDED} == set()
    assert used & NOT_ON_ROLLING == set()
