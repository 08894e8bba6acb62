"""The figures of a running session, for the textfile collector of Prometheus' node exporter and for `tracer status`."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["NOTHING", "Figures", "Session", "render"]

NOTHING: Final[Mapping[str, Any]] = {
    "complete": True,
    "by_kind": {},
    "total": {"lost_by_stage": {}},
    "missed": {"programs": {}, "map_full": {}},
}
"""The ledger before there is any."""

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_FATES: Final = ("delivered", "aggregated", "filtered", "lost")


class Session:
    """What is said of a session once, and what a process measures of itself."""

    def __init__(self, *, version: str, backend: str, boot_id: str, hooks_refused: int, every_s: float) -> None:
        """``every_s``: how often the figures are told, s. Opens what is needed to measure."""
        self.info = {"version": version, "backend": backend, "boot_id": boot_id}
        self.hooks_refused = hooks_refused
        self.every_s = every_s
        self.started = time.time()
        self.layers: dict[str, bool] = {}
        self._memory = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._looked = (time.monotonic(), _cpu_s())

    def confined(self, record: Mapping[str, Any]) -> None:
        """Take in the record of the confinement."""
        self.layers = {name: state == "enforced" for name, state in record.get("layers", {}).items() if state != "off"}

    def resident(self) -> int:
        """Memory of this process that is resident now, bytes."""
        return int(os.pread(self._memory, 128, 0).split()[1]) * _PAGE

    def cpu(self) -> tuple[float, float]:
        """CPU time of this process, s, and its share of one CPU since this was asked last."""
        before, spent_before = self._looked
        now, spent = self._looked = time.monotonic(), _cpu_s()
        return spent, (spent - spent_before) / (now - before) if now > before else 0.0


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Figures(Collector):
    """The figures as of a ledger."""

    def __init__(
        self, session: Session, ledger: Mapping[str, Any], *, events: int, lag_s: float, running: bool
    ) -> None:
        """``ledger`` is the body of its record; ``events`` were shown; ``lag_s``: how far reading was behind, s."""
        self._session = session
        self._ledger = ledger
        self._events = events
        self._lag = lag_s
        self._running = running
        self._memory = session.resident()
        self._cpu, self._share = session.cpu()

    def collect(self) -> Iterator[Metric]:
        """The metrics, as the package wants them."""
        yield from self._of_the_session()
        yield from self._of_the_ledger()
        yield _gauge("lag_seconds", "how far reading was behind the kernel at most since the last update", self._lag)
        yield _gauge("resident_memory_bytes", "resident memory of the process that traces", self._memory)
        yield _gauge("cpu_share", "share of one CPU since the last update", self._share)
        yield _counter("cpu_seconds", "CPU time of the process that traces", self._cpu)

    def _of_the_session(self) -> Iterator[Metric]:
        session = self._session
        info = InfoMetricFamily("tracer", "what traces, with which backend, since which boot")
        info.add_metric([], session.info)
        yield info
        yield _gauge("running", "1 while it traces, 0 once it has ended in order", float(self._running))
        yield _gauge("start_time_seconds", "when it started, since 1970", session.started)
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        yield _gauge("updated_boottime_seconds", "when this was written, since the machine was started", now)
        yield _gauge("update_interval_seconds", "how often this is written", session.every_s)
        yield _gauge("hooks_refused", "probes that this kernel does not take", session.hooks_refused)
        confined = GaugeMetricFamily("tracer_confined", "1 for each layer of the sandbox that is on", labels=["layer"])
        for layer, is_on in session.layers.items():
            confined.add_metric([layer], float(is_on))
        yield confined

    def _of_the_ledger(self) -> Iterator[Metric]:
        ledger = self._ledger
        yield _counter("events", "events that were shown", self._events)
        yield _gauge("complete", "1 while nothing is missing from the stream", float(ledger["complete"]))
        records = CounterMetricFamily(
            "tracer_records", "records of the kernel, by what became of them", labels=["kind", "fate"]
        )
        flying = GaugeMetricFamily("tracer_in_flight_records", "records that are on their way", labels=["kind"])
        for kind, row in ledger["by_kind"].items():
            for fate in _FATES:
                records.add_metric([kind, fate], row[fate])
            flying.add_metric([kind], row["in_flight"])
        lost = CounterMetricFamily("tracer_lost_records", "records that were lost, by where", labels=["stage"])
        for stage, count in ledger["total"]["lost_by_stage"].items():
            lost.add_metric([stage], count)
        missed = CounterMetricFamily("tracer_missed", "what never became a record, by why", labels=["why"])
        missed.add_metric(["programs"], sum(ledger["missed"]["programs"].values()))
        missed.add_metric(["map_full"], sum(ledger["missed"]["map_full"].values()))
        missed.add_metric(["gaps"], ledger["missed"].get("gaps", 0))
        yield from (records, flying, lost, missed)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tracer_{name}", meaning, value)


def _counter(name: str, meaning: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"tracer_{name}", meaning, value)


def render(figures: Collector) -> bytes:
    """The figures as the text that a textfile collector reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(figures)
    text: bytes = generate_latest(registry)
    return text
