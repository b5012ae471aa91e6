"""Phrases that no object has the name of, looked for in the keyframes by a detector of phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ada3d_ros.asking.object_source import SceneQuery
from ada3d_ros.asking.references import ARTICLES
from ada3d_ros.perception.detector import Detector
from ada3d_ros.perception.lifting import lift_all
from ada3d_ros.perception.object_map import ObjectMap
from ada3d_ros.types import Box3D

MIN_VIEWS = 2  # keyframes that must agree, where there are so many: who asks takes it to be there


@dataclass(frozen=True, eq=False, slots=True)
class PhraseFinder:
    """A NameFinder. detector: one whose `info.takes_phrases` is true."""

    detector: Detector
    query: SceneQuery

    @property
    def words(self) -> frozenset[str]:
        """Any may be asked for."""
        return frozenset()

    @property
    def listed_score(self) -> float:
        return self.query.config.objects.min_score

    def find(
        self, phrases: Sequence[str], max_boxes: int, min_score: float
    ) -> list[tuple[Box3D, ...]]:
        """The boxes of each phrase, best first, labelled with it; every keyframe is looked through.

        Timed as prefill_s. Raises DetectorError, what hooks.check raises.
        """
        if not phrases:
            return []
        asked = [_without_article(phrase) for phrase in phrases]
        keyframes = self.query.scene.keyframes
        views = min(MIN_VIEWS, self.query.config.detector.min_views, len(keyframes))
        maps = {phrase: ObjectMap(views, min_score) for phrase in asked}

        # Keyframe by keyframe, each phrase by itself: two may be names of one thing.
        with self.query.clock.stage("prefill_s"):
            for keyframe in keyframes:
                self.query.hooks.check()
                said = self.detector.find(keyframe.frame, list(maps))
                candidates = lift_all(keyframe.frame, said.detections).candidates
                for phrase, things in maps.items():
                    things.add(keyframe.frame, [c for c in candidates if c.label == phrase])

        boxes = {phrase: [each.detection.box for each in maps[phrase].found()] for phrase in maps}
        return [
            tuple(replace(box, label=phrase) for box in boxes[wanted][:max_boxes])
            for phrase, wanted in zip(phrases, asked, strict=True)
        ]

    def find_closer(self, name: str) -> Box3D | None:
        """None: the detector has looked as closely as it can."""
        return None


def _without_article(phrase: str) -> str:
    """As detectors of phrases have them: small letters, without article."""
    words = phrase.casefold().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ARTICLES else words)
