"""The figures of a session as text for the textfile collector of Prometheus' node exporter.

Loaded by the process that writes the file, and by no other: the package takes 9 MB and 50 ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["render"]

_FATES: Final = ("delivered", "aggregated", "filtered", "lost")


def render(facts: bytes) -> bytes:
    """The file, from what Measured.facts() gives. Raises ValueError, KeyError or TypeError for anything else."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(orjson.loads(facts)))
    text: bytes = generate_latest(registry)
    return text


class _Figures(Collector):
    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        """The metrics, as the package wants them."""
        facts = self._facts
        info = InfoMetricFamily("tracer", "what traces, with which backend, since which boot")
        info.add_metric([], facts["info"])
        yield info
        yield _gauge("running", "1 while it traces, 0 once it has ended in order", float(facts["running"]))
        yield _gauge("start_time_seconds", "when it started, since 1970", facts["started"])
        yield _gauge(
            "updated_boottime_seconds", "when this was written, since the machine was started", facts["updated_s"]
        )
        yield _gauge("update_interval_seconds", "how often this is written", facts["interval_s"])
        yield _gauge("hooks_refused", "probes that this kernel does not take", facts["hooks_refused"])
        confined = GaugeMetricFamily("tracer_confined", "1 for each layer of the sandbox that is on", labels=["layer"])
        for layer, is_on in facts["layers"].items():
            confined.add_metric([layer], float(is_on))
        yield confined
        yield _counter("events", "events that were shown", facts["events"])
        yield from _of_the_ledger(facts["ledger"])
        yield _gauge(
            "lag_seconds", "how far reading was behind the kernel at most since the last update", facts["lag_s"]
        )
        yield _gauge("resident_memory_bytes", "resident memory of the process that traces", facts["memory"])
        yield _gauge("cpu_share", "share of one CPU since the last update", facts["cpu_share"])
        yield _counter("cpu_seconds", "CPU time of the process that traces", facts["cpu_s"])


def _of_the_ledger(ledger: Mapping[str, Any]) -> Iterator[Metric]:
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
