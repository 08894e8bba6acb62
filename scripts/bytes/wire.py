"""Holds what the tracer says of each network device (`--account-wire`) against the device's own counters."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from scripts.attribution.check import PATIENCE
from scripts.bytes.generator import Flow

TOLERANCE = 0.01
OWNED_LEAST = 0.9  # of the payload: what a socket without connections sends first is gone when its owner gets known
OPTIONS = ("--account-wire", "--update-every", "1s")
_ACTION = b'"action":"tracer-wire"'
_WITHIN_S = 6 * min(PATIENCE, 3)  # several times as long as what OPTIONS ask for
_QUIET_S = 2
_LOOK_S = 0.05
WAYS = ("out", "in")


class Way(NamedTuple):
    """What went one way over a device: bytes of packets by whose they are, and what the device has counted itself.

    With `headers` on top it is what a device counts that cuts packets itself.
    """

    owned: int
    ownerless: int
    headers: int
    counted: int

    def since(self, before: "Way") -> "Way":
        """The difference to earlier totals."""
        return Way(*(now - then for now, then in zip(self, before, strict=True)))

    @property
    def error(self) -> float:
        """How far the sum is from the device's own count, as a share of that."""
        total = self.owned + self.ownerless
        missed = min(abs(total - self.counted), abs(total + self.headers - self.counted))
        return missed / self.counted if self.counted else float(missed > 0)


class Device(NamedTuple):
    """A device, by name, in a namespace (inode)."""

    netns: int
    name: str


Carried = dict[Device, tuple[Way, Way]]


class Tail:
    """Reads what the tracer writes about devices while it writes it."""

    def __init__(self, output: Path) -> None:
        """`output` is the tracer's file, which is there."""
        self._file = output.open("rb")
        self._rest = b""
        self._now: Carried = {}
        self._told = 0.0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def settled(self, quiet: bool = False) -> Carried:
        """The totals of all devices as the tracer tells them after this moment, or the last if nothing comes any more.

        If it is `quiet` nothing is expected.
        """
        since = time.time()
        while self._told < since and time.time() < since + (_QUIET_S if quiet else _WITHIN_S):
            time.sleep(_LOOK_S)
            for record in self._records():
                self._told = datetime.fromisoformat(record["@timestamp"][:26] + "+00:00").timestamp()
                self._learn(record)
        return dict(self._now)

    def _records(self) -> Iterator[dict[str, Any]]:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            if _ACTION in line:
                yield json.loads(line)

    def _learn(self, record: dict[str, Any]) -> None:
        own = record["tracer"]
        told = own["wire"]
        if "name" in told["interface"]:
            out, into = (
                Way(each["owned"], sum(each["ownerless"].values()), each["headers"], each["counted"])
                for each in (told[way] for way in WAYS)
            )
            self._now[Device(own["netns"], told["interface"]["name"])] = out, into


NOTHING = (Way(0, 0, 0, 0), Way(0, 0, 0, 0))


def between(before: Carried, after: Carried) -> Carried:
    """What each device has carried meanwhile; those that have carried nothing are left out."""
    found = {}
    for device, ways in after.items():
        then = before.get(device, NOTHING)
        out, into = (now.since(was) for now, was in zip(ways, then, strict=True))
        if any(out) or any(into):
            found[device] = out, into
    return found


def wire_problems(carried: Carried, flows: list[Flow]) -> Iterator[str]:
    """Each direction in which the sum is not the device's own count, and owners that are not known."""
    for device, ways in carried.items():
        for name, way in zip(WAYS, ways, strict=True):
            if way.error > TOLERANCE:
                yield f"{device.name} {name}: {way.owned + way.ownerless} bytes, itself it counted {way.counted}"
    for netns in {flow.netns for flow in flows}:
        payload = sum(flow.sent for flow in flows if flow.netns == netns)
        owned = sum(ways[0].owned for device, ways in carried.items() if device.netns == netns)
        if owned < payload * OWNED_LEAST:
            yield f"of {payload} bytes sent in namespace {netns} only {owned} have an owner on the wire"
