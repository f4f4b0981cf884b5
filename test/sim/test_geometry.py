# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Ray intersections: known answers, and reprojection of pixels into the world."""

import math

import numpy as np
import pytest

from uncertainty_seg.sim.basics import Camera, rotation
from uncertainty_seg.sim.objects import hit_prop, meet, Prop, Thing
from uncertainty_seg.sim.pipe import (
    ANODE,
    ANODE_RAISE_M,
    FIELD_JOINT,
    GROWTH_MAX_M,
    IGNORE,
    JOINT_RAISE_M,
    MARINE_GROWTH,
    PIPELINE,
    PipePlan,
)
from uncertainty_seg.sim.surfaces import cast, ON_PIPE, trace_bed
from uncertainty_seg.sim.world import build_world, Seabed, World

SIZE = (160, 120)
PLAN = PipePlan(-6, 8, 6, burials=((2.5, 4, 0.7),), spans=((-2, 0, 0.8),), growths=((0, 3, 1.0),))


@pytest.fixture(scope='module')
def world() -> World:
    return build_world(7, PLAN)


def camera_over_pipe(world: World, x: float = -1.5, pitch: float = 0.6) -> Camera:
    i = world.pipe.index(np.array([x], np.float32))[0]
    place = np.array([x, world.pipe.y[i], world.pipe.z[i] + 1.5], np.float32)
    return Camera(place, rotation(0.0, pitch, 0.0), 120.0, SIZE)


def test_the_axes_of_a_level_camera_are_known():
    axes = rotation(0, 0, 0)
    assert np.allclose(axes[:, 0], [0, -1, 0])  # right of +x is -y
    assert np.allclose(axes[:, 1], [0, 0, -1])
    assert np.allclose(axes[:, 2], [1, 0, 0])
    turned = rotation(0.4, 0.7, 0.2)
    assert np.allclose(turned.T @ turned, np.eye(3), atol=1e-6)
    assert math.isclose(turned[2, 2], -math.sin(0.7), abs_tol=1e-6)


def test_projecting_a_point_on_a_ray_returns_its_pixel(world: World):
    camera = camera_over_pipe(world)
    rays = camera.rays()
    assert np.allclose(np.linalg.norm(rays, axis=-1), 1, atol=1e-6)
    for row, column in ((0, 0), (60, 80), (119, 31)):
        pixels, depth = camera.project((camera.position + 2.5 * rays[row, column])[None])
        assert np.allclose(pixels[0], [column, row], atol=1e-2)
        assert 0 < depth[0] <= 2.5


def test_a_flat_seabed_is_met_at_height_over_slope():
    flat = np.full((400, 400), 0.25, np.float32)
    bed = Seabed(-6, -6, flat, np.zeros((400, 400, 4), np.float32), np.ones_like(flat), 0.2, 0.3)
    camera = Camera(np.array([0, 0, 2.25], np.float32), rotation(0.3, 0.8, 0.1), 120.0, SIZE)
    rays = camera.rays()
    t = trace_bed(bed, camera.position, rays)
    expected = 2.0 / -rays[..., 2]
    near = expected < 5
    assert near.mean() > 0.5
    assert np.allclose(t[near], expected[near], atol=1e-3)


def test_pipe_pixels_lie_on_the_analytic_pipe(world: World):
    camera = camera_over_pipe(world, x=-3)
    rays = camera.rays()
    hits = cast(world, camera, rays)
    for part, least, most in ((PIPELINE, -0.004, 0.012),
                              (FIELD_JOINT, JOINT_RAISE_M - 0.004, 0.012),
                              (ANODE, 0.0, ANODE_RAISE_M + 0.01),
                              (MARINE_GROWTH, -0.005, GROWTH_MAX_M + ANODE_RAISE_M)):
        here = (hits.mask == part) & (hits.what == ON_PIPE)
        assert here.sum() > 50, part
        points = camera.position + rays[here] * hits.t[here, None]
        left, up = world.pipe.across(*(np.ascontiguousarray(points[:, i]) for i in range(3)))
        off = np.hypot(left, up) - world.pipe.radius
        assert off.min() >= least and off.max() <= most, (part, off.min(), off.max())


def straight(kind: str, half: tuple[float, float, float]) -> Prop:
    reach = float(np.linalg.norm(half))
    return Prop(kind, np.array([3, 0, 0], np.float32), np.eye(3, dtype=np.float32),
                np.array(half, np.float32), np.zeros(3, np.float32), reach)


@pytest.mark.parametrize(('kind', 'half', 'distance', 'normal'), [
    ('box', (0.5, 0.2, 0.3), 2.5, (-1, 0, 0)),
    ('drum', (0.4, 0.4, 0.3), 2.6, (-1, 0, 0)),
    ('tyre', (0.4, 0.4, 0.1), 2.5, (-1, 0, 0)),
])
def test_debris_is_met_where_it_stands(kind, half, distance, normal):
    rays = np.array([[[1, 0, 0], [0, 1, 0], [-1, 0, 0]]], np.float32)
    t, outward, hit = hit_prop(straight(kind, half), np.zeros(3, np.float32), rays)
    assert hit.tolist() == [[True, False, False]]
    assert t[0, 0] == pytest.approx(distance, abs=0.005)
    assert np.allclose(outward[0, 0], normal, atol=0.05)


@pytest.mark.parametrize('kind', ['diver', 'fish'])
def test_unknown_objects_are_met_in_one_piece_before_the_camera(world: World, kind: str):
    camera = Camera(np.array([0, 0, 30], np.float32), rotation(0, 0, 0), 120.0, SIZE)
    centre = np.array([4 if kind != 'fish' else 1, 0, 30], np.float32)
    axes = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    thing = Thing(kind, centre, axes, 0.3, 5)
    hits = cast(world, camera, camera.rays(), (thing,))
    seen = hits.mask == IGNORE
    assert 0.01 < seen.mean() < 0.6
    assert np.abs(hits.t[seen] - centre[0]).max() < 3
    assert hits.paint is not None and 0 <= hits.paint[seen].min() and hits.paint.max() < 1
    behind = Thing(kind, np.array([-4, 0, 30], np.float32), axes, 0.3, 5)
    assert meet(behind, camera, camera.rays(), world.tiles[0]) is None
