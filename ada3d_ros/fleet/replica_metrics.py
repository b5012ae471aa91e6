"""A replica's numbers for Prometheus, through Ray."""

from __future__ import annotations

from dataclasses import asdict

from ray.serve import metrics

from ada3d_ros.fleet.scene_host import SceneHost

SECONDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
GAUGES = {  # of HostCounts
    "scenes": "scenes that are kept",
    "prefixes": "scenes whose keys and values are cached",
    "image_bytes": "bytes of all kept keyframes",
    "kv_bytes": "bytes of all cached keys and values",
}
COUNTERS = {
    "answers": "questions answered",
    "failed": "questions that ended in an error",
    "canceled": "answers that ended early, since nobody waited for them any more",
    "canceled_tokens": "tokens of those",
    "cache_hits": "questions answered from a cached scene",
    "missing": "questions about a scene that was not here: robots then send it again",
    "keyframes": "keyframes received",
    "keyframe_bytes": "bytes of keyframes received",
    "freed_prefixes": "cached scenes that made room for others",
    "freed_scenes": "scenes that made room for others",
}


class ReplicaMetrics:
    """`update` now and then; names begin with ada3d_."""

    def __init__(self, host: SceneHost) -> None:
        self._host, self._last = host, asdict(host.counts())
        self._gauges = {
            name: metrics.Gauge(f"ada3d_{name}", description=text) for name, text in GAUGES.items()
        }
        self._counters = {
            name: metrics.Counter(f"ada3d_{name}_total", description=text)
            for name, text in COUNTERS.items()
        }
        self._seconds = metrics.Histogram(
            "ada3d_answer_seconds",
            description="from a question's arrival to its answer, waiting included",
            boundaries=SECONDS,
            tag_keys=("kind",),
        )
        self._hung_up = metrics.Counter(
            "ada3d_hung_up_total", description="questions whose robot hung up"
        )

    def answered(self, kind: str, seconds: float, is_fine: bool) -> None:
        """A question ended."""
        if is_fine:
            self._seconds.observe(seconds, tags={"kind": kind})
        self.update()

    def hung_up(self) -> None:
        self._hung_up.inc()

    def update(self) -> None:
        """Tell what is now."""
        now = asdict(self._host.counts())
        for name, gauge in self._gauges.items():
            gauge.set(now[name])
        for name, counter in self._counters.items():
            if now[name] > self._last[name]:
                counter.inc(now[name] - self._last[name])
        self._last = now
