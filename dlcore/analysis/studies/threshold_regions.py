"""Regions of the plane that one, two and three layers of threshold units can mark (deck K)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import jax
import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.errors import UsageError
from dlcore.nn.units import ThresholdLayer, threshold_network
from dlcore.ranges import Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Radii: of the polygon and of the star's tips, of the ring, and of the island in it.
_REACH, _HOLE, _ISLAND = 0.9, 0.6, 0.3


@dataclasses.dataclass(frozen=True)
class ThresholdRegions(study.Study):
    """Regions of the plane by depth: a half-plane, a convex polygon, a ring around an island.

    One unit answers 1 on a half-plane. In a second layer, a unit that needs all of n units
    intersects their half-planes to a convex region; a third layer unites such regions to any shape.
    Two layers can do more than convex regions, though: a unit that needs all sides of a
    pentagon but one answers 1 on a pentagram.

    Attributes:
      sides: of the polygons, at least 5.
      resolution: points on each side of the square from -1 to 1, an even number.
    """

    sides: Annotated[int, Range(least=5)] = 5
    resolution: Annotated[int, Range(least=2)] = 300

    # A pentagon within a radius r has the area 2.3776 r^2, the pentagram 1.1226 r^2.
    expectations = (
        *study.near("half_plane_area", 2, 0.01, "half of the square"),
        *study.near("polygon_area", 2.37764 * _REACH**2, 0.01, "geometry, a pentagon"),
        *study.near("star_area", 1.12257 * _REACH**2, 0.01, "geometry, a pentagram"),
        *study.near(
            "ring_area",
            2.37764 * (_REACH**2 - _HOLE**2 + _ISLAND**2),
            0.01,
            "geometry, a pentagonal ring and its island",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution % 2:
            raise UsageError(f"resolution={self.resolution}: it must be even")

    def run(self) -> study.Numbers:
        """Where each network answers 1, and the area of that region: measured and by geometry."""
        # Midpoints of cells: their share is the midpoint rule's area, and none is on an edge.
        axis = (np.arange(self.resolution) + 0.5) / self.resolution * 2 - 1
        points = np.stack(np.meshgrid(axis, axis), axis=-1).astype(np.float32)
        regions = jax.device_get(jax.jit(self._regions)(points))
        numbers: study.Numbers = {"axis": axis}
        for name, region in regions.items():
            numbers[name] = region
            numbers[f"{name}_area"] = 4 * region.mean()
        unit = self.sides / 2 * np.sin(2 * np.pi / self.sides)
        # On each side of the star's core stands a tip, whose base angles are the core's outer ones.
        core = self._core()
        tip = (core * np.sin(np.pi / self.sides)) ** 2 * np.tan(2 * np.pi / self.sides)
        return numbers | {
            "half_plane_area_exact": 2.0,
            "polygon_area_exact": unit * _REACH**2,
            "star_area_exact": unit * core**2 + self.sides * tip,
            "ring_area_exact": unit * (_REACH**2 - _HOLE**2 + _ISLAND**2),
        }

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """A panel for each network, its region colored."""
        titles = {
            "half_plane": "one unit: a half-plane",
            "polygon": f"two layers, all {self.sides} sides: convex",
            "star": f"two layers, {self.sides - 1} of {self.sides} sides: a star",
            "ring": "three layers: any shape",
        }
        axis = numbers["axis"]
        return plots.contour_panels(
            [
                plots.Contour(title, axis, axis, numbers[name], (), "x1", "x2", filled=True)
                for name, title in titles.items()
            ],
            columns=2,
        )

    def _regions(self, points: jax.Array) -> dict[str, jax.Array]:
        networks = self._networks()
        return {name: threshold_network(points, own)[..., 0] for name, own in networks.items()}

    def _networks(self) -> dict[str, list[ThresholdLayer]]:
        any_side = np.ones((self.sides, 1))
        outer, inner = self._corners(_REACH), self._corners(_HOLE)
        ring = [
            np.array([outer[i - 1], outer[i], inner[i], inner[i - 1]]) for i in range(self.sides)
        ]
        return {
            "half_plane": [(np.array([[-1.0], [2.0]]), np.array([0.0]))],
            "polygon": [half_planes(outer), (any_side, np.array([self.sides]))],
            "star": [
                half_planes(self._corners(self._core())),
                (any_side, np.array([self.sides - 1])),
            ],
            "ring": union_of_convex([*ring, self._corners(_ISLAND)]),
        }

    def _core(self) -> float:
        """Radius of the polygon whose prolonged sides meet at the star's tips."""
        half = np.pi / self.sides
        return float(_REACH / (np.cos(half) + np.sin(half) * np.tan(2 * half)))

    def _corners(self, radius: float) -> np.ndarray:
        """Corners of the regular polygon, counter-clockwise from the top: `[sides, 2]`."""
        angles = np.pi / 2 + 2 * np.pi * np.arange(self.sides) / self.sides
        return radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def half_planes(corners: np.ndarray) -> ThresholdLayer:
    """A layer with a unit for each side of a convex polygon, which answers on the polygon's side.

    Args:
      corners: `[corners, 2]`, counter-clockwise.
    """
    sides = np.roll(corners, -1, axis=0) - corners
    inwards = np.stack([-sides[:, 1], sides[:, 0]])
    return inwards, (inwards.T * corners).sum(-1)


def union_of_convex(polygons: Sequence[np.ndarray]) -> list[ThresholdLayer]:
    """Three layers that answer where any of some convex polygons is: sides, then all, then any."""
    weights, thresholds = zip(*map(half_planes, polygons), strict=True)
    sides = [len(corners) for corners in polygons]
    return [
        (np.concatenate(weights, axis=1), np.concatenate(thresholds)),
        (np.repeat(np.eye(len(sides)), sides, axis=0), np.array(sides)),
        (np.ones((len(sides), 1)), np.array([1])),
    ]


study.register("threshold_regions", ThresholdRegions)
