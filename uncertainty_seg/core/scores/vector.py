# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every score of a frame in one mapping, in a fixed order, computing only what is requested.

What the scores of a map share is made once: its pixels that count, their largest ones, the
division of the frame into classes and borders. `score_table.SCORES` says what each sees and
misses.

A frame in which a pixel that counts has no finite uncertainty has NaN for every score, those of
the photograph too: nothing is known of it, and the gate takes NaN for a fault.

"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, require_shape
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.scores.aggregate import (
    area_above_score,
    class_scores,
    kept_values,
    largest_region_score,
    Parts,
    QUANTILE,
    SCORED_MAPS,
    top_count,
    TOP_SHARE,
    top_values,
    USUAL_SCORED,
    value_sum,
    Windows,
)
from uncertainty_seg.core.scores.density import DENSITY_SCORE, ScoreDensity
from uncertainty_seg.core.scores.feature_density import (
    FEATURE_SCORES,
    FeatureDensity,
)
from uncertainty_seg.core.scores.image_quality import IMAGE_SCORES, image_scores
from uncertainty_seg.core.uncertainty import FEATURE_DISTANCE, UncertaintyMaps
from uncertainty_seg.errors import ConfigError, ShapeError

# The class that is not foreground: the first.
BACKGROUND = 0
_CLASS_KINDS = ('foreground', 'class_mean', 'boundary', 'interior')
_LIMIT_KINDS = ('area_above', 'largest_region')
_KINDS = ('mean', 'top', 'worst_window', 'sum', 'max', 'quantile', *_LIMIT_KINDS, 'foreground',
          'foreground_top', *_CLASS_KINDS[1:])
_IMAGE = 'image.'


class ScoreVector:
    """
    Compute the scores of frame after frame.

    Raises ConfigError if a name is not among the scores there are, the density looks at one that
    is not, or a pixel limit is for another map or out of range.

    Parameters
    ----------
    card : ModelCard
        Names of the classes, colour order of the image.
    pixel_limits : mapping of str to float, optional
        For 'entropy' and 'mutual_information', the value in [0, 1) above which a pixel counts as
        unsure; without it the map has no `area_above` and `largest_region`.
    density : ScoreDensity, optional
        Gives 'density.scores'.
    features : FeatureDensity, optional
        Gives 'features.knn', 'features.gaussian' and the scores of the map 'feature_distance';
        the maps must then have features.
    names : collection of str, optional
        Scores to compute; all that there are if None.

    Attributes
    ----------
    names : tuple of str
        Scores that are computed, in their order.
    maps : frozenset of str
        Maps that they look at.

    """

    def __init__(
        self,
        card: ModelCard,
        pixel_limits: Mapping[str, float] | None = None,
        density: ScoreDensity | None = None,
        names: Collection[str] | None = None,
        features: FeatureDensity | None = None,
    ) -> None:
        self._card, self._limits = card, _checked_limits(pixel_limits or {})
        self._features = features
        self._maps = SCORED_MAPS if features is None else (*SCORED_MAPS, FEATURE_DISTANCE)
        self._class_keys = class_keys(card)
        possible = self._possible()
        _require_names(density.names if density else (), possible)
        if density:
            possible += (DENSITY_SCORE,)
        _require_names(possible if names is None else names, possible)
        self.names = tuple(name for name in possible if names is None or name in names)
        self._density = density if DENSITY_SCORE in self.names else None
        wanted = {*self.names, *(self._density.names if self._density else ())}
        self._needs_image = any(name.startswith(_IMAGE) for name in wanted)
        self._needs_features = any(name in wanted for name in FEATURE_SCORES)
        self._kinds = {
            map_name: frozenset(name.removeprefix(f'{map_name}.') for name in wanted
                                if name.startswith(f'{map_name}.'))
            for map_name in self._maps
        }
        self.maps = frozenset(name for name, kinds in self._kinds.items() if kinds)
        of_parts = {'foreground_top', *_CLASS_KINDS, *self._class_keys}
        self._needs_windows = any('worst_window' in kinds for kinds in self._kinds.values())
        self._needs_parts = any(of_parts & kinds for kinds in self._kinds.values())

    def compute(
        self, maps: UncertaintyMaps, image: ImageU8, ignore: NDArray[np.bool_] | None = None
    ) -> dict[str, float]:
        """
        Score one frame.

        Raises ShapeError if the maps are empty, or image or mask is not of their size.

        Parameters
        ----------
        maps : UncertaintyMaps
            Cut to the image, without padding; (h, w) each.
        image : ndarray of uint8, shape (h, w, 3)
            As the network saw it, in the card's colour order, cut alike.
        ignore : ndarray of bool, shape (h, w), optional
            True where a pixel is left out.

        Returns
        -------
        dict of str to float
            In the order of `names`, each in 0..1 and growing with uncertainty. NaN throughout if
            a pixel that counts has no finite uncertainty, or none counts; NaN for the scores of a
            map that was not computed.

        """
        size = maps.entropy.shape
        if maps.entropy.size == 0:
            raise ShapeError('maps without a pixel', 'at least 1x1')
        require_shape('image', image, (*size, 3), np.uint8)
        if self._features and self._kinds.get(FEATURE_DISTANCE) and maps.feature_distance is None:
            maps = self._features.described(maps)
        looked_at = [name for name, kinds in self._kinds.items()
                     if (kinds or name in USUAL_SCORED) and getattr(maps, name) is not None]
        kept = {name: kept_values(getattr(maps, name), ignore) for name in looked_at}
        sums = {name: value_sum(values) for name, values in kept.items()}
        if not all(np.isfinite(total) for total in sums.values()):
            return dict.fromkeys(self.names, float('nan'))
        parts = Parts.of(maps.label, self._card.num_classes, ignore) if self._needs_parts else None
        windows = Windows.of(size, ignore=ignore if self._needs_windows else None)
        found: dict[str, float] = {}
        for name in looked_at:
            kinds = self._kinds[name]
            one = _MapScores(getattr(maps, name), kept[name], sums[name], ignore, parts,
                             windows, self._limits.get(name, 1.0))
            of_map = one.plain(kinds) | one.top(kinds) | one.by_class(kinds, self._class_keys)
            found |= {f'{name}.{kind}': value for kind, value in of_map.items()}
        if self._needs_image:
            of_image = image_scores(image, self._card.input.color_order, ignore)
            found |= {f'{_IMAGE}{name}': value for name, value in of_image.items()}
        if self._features and self._needs_features:
            found |= self._features.frame_scores(maps, ignore)
        if self._density:
            found[DENSITY_SCORE] = self._density.score(found)
        return {name: found.get(name, float('nan')) for name in self.names}

    def _possible(self) -> tuple[str, ...]:
        of_maps = (
            f'{name}.{kind}' for name in self._maps for kind in (*_KINDS, *self._class_keys)
            if kind not in _LIMIT_KINDS or name in self._limits
        )
        of_image = (f'{_IMAGE}{name}' for name in IMAGE_SCORES)
        return (*of_maps, *of_image, *(FEATURE_SCORES if self._features else ()))


def class_keys(card: ModelCard) -> tuple[str, ...]:
    """Return what follows the map in the name of each class's score; ids where names repeat."""
    names = card.class_names
    return tuple(f'class.{name}' if names.count(name) == 1 else f'class.{name} {index}'
                 for index, name in enumerate(names))


def feature_score_names(card: ModelCard) -> tuple[str, ...]:
    """Return the scores that features give a calibrated bundle; none if its trunk gives none."""
    if card.feature_shape is None:
        return ()
    of_map = (kind for kind in (*_KINDS, *class_keys(card)) if kind not in _LIMIT_KINDS)
    return (*(f'{FEATURE_DISTANCE}.{kind}' for kind in of_map), *FEATURE_SCORES)


def _checked_limits(limits: Mapping[str, float]) -> dict[str, float]:
    for name, limit in limits.items():
        if name not in SCORED_MAPS or not 0 <= limit < 1:
            raise ConfigError(f'pixel limit {limit} of {name!r}',
                              f'0 or more and below 1, of {" or ".join(SCORED_MAPS)}')
    return dict(limits)


def _require_names(names: Collection[str], possible: Collection[str]) -> None:
    for name in names:
        if name not in possible:
            raise ConfigError(f'no score {name!r}', f'one of {", ".join(possible)}')


@dataclass(frozen=True)
class _MapScores:
    """One map of one frame: its pixels that count, all finite, their sum, and the division."""

    values: FloatMap
    kept: FloatMap
    total: float
    ignore: NDArray[np.bool_] | None
    parts: Parts | None
    windows: Windows
    limit: float

    def plain(self, kinds: Collection[str]) -> dict[str, float]:
        """Return those asked for that share nothing."""
        scores: dict[str, Callable[[], float]] = {
            'mean': lambda: self.total / self.kept.size,
            'sum': lambda: self.total / self.values.size,
            'max': lambda: float(self.kept.max()),
            'worst_window': lambda: self.windows.worst(self.values),
            'area_above': lambda: area_above_score(self.kept, self.limit),
            'largest_region': lambda: largest_region_score(self.values, self.limit, self.ignore),
        }
        return {kind: score() for kind, score in scores.items() if kind in kinds}

    def top(self, kinds: Collection[str]) -> dict[str, float]:
        """Return those asked for that look at the largest values."""
        size = self.kept.size
        front = round(self.parts.foreground_share(BACKGROUND) * size) if self.parts else 0
        counts = {'top': top_count(TOP_SHARE, size), 'foreground_top': front,
                  'quantile': top_count(round(1 - QUANTILE, 9), size)}
        asked = [kind for kind, count in counts.items() if kind in kinds and count]
        found = top_values(self.kept, [counts[kind] for kind in asked])
        none = {'foreground_top': 0.0} if 'foreground_top' in kinds else {}
        return none | {kind: pair[kind == 'quantile']
                       for kind, pair in zip(asked, found, strict=True)}

    def by_class(self, kinds: frozenset[str], keys: tuple[str, ...]) -> dict[str, float]:
        """Return all of the classes, if one of them is asked for."""
        if self.parts is None or not kinds & {*_CLASS_KINDS, *keys}:
            return {}
        scores, means = class_scores(self.values, self.parts, BACKGROUND)
        return scores | dict(zip(keys, means.tolist(), strict=True))
