"""The account of the wire: totals since it was opened, of devices that have changed, in the namespaces asked for."""

from typing import Any

import pytest

from tracer.cli import account
from tracer.cli.account import Account
from tracer.pipeline.engine import Engine
from tracer.pipeline.turns import Accounted, DeviceTotals
from tracer.pipeline.view import Filters
from tracer.probes.interfaces import Counted
from tracer.probes.wire import SORTS, Carried

HOME, OTHER = 4026531840, 4026532177
SECOND = 1_000_000_000


def carried(owned: int, arp: int = 0, headers: int = 0) -> Carried:
    """What a device has carried one way."""
    return Carried((owned, 0, arp, *[0] * (len(SORTS) - 3)), headers)


class Fake:
    """A wire, or interfaces, of which somebody says what is read."""

    def __init__(self, now: dict[Any, Any]) -> None:
        """``now`` is what read() gives."""
        self.now = now

    def keep(self, namespaces: set[int]) -> None:
        """What others keep alive."""
        self.kept = namespaces

    def read(self) -> dict[Any, Any]:
        """What there is now."""
        return dict(self.now)


@pytest.fixture
def wire() -> Fake:
    """One device in each of two namespaces, both with something that was carried before."""
    return Fake({device: (carried(1000), carried(2000)) for device in ((HOME, 2), (OTHER, 2))})


@pytest.fixture
def interfaces() -> Fake:
    """The same devices' own counters, of which that in the other namespace can't be asked."""
    return Fake({(HOME, 2): Counted("eth0", 50_000, 60_000)})


def opened(wire: Fake, interfaces: Fake, *wanted: int) -> Account:
    """An account of them."""
    return Account(wire, interfaces, frozenset(wanted), 30 * SECOND)  # type: ignore[arg-type]


def test_totals_begin_with_the_account(wire: Fake, interfaces: Fake) -> None:
    """What was carried and counted before is in neither number."""
    found = opened(wire, interfaces)
    wire.now[HOME, 2] = carried(1500, arp=42, headers=7), carried(2000)
    interfaces.now[HOME, 2] = Counted("eth0", 50_542, 60_000)
    row = DeviceTotals(HOME, 2, "eth0", [500, 0, 42, *[0] * (len(SORTS) - 3)], [0] * len(SORTS), [7, 0], [542, 0])
    assert found.take({HOME, OTHER}).rows == [row]


def test_only_what_has_changed_is_told(wire: Fake, interfaces: Fake) -> None:
    """A device comes again only when it has carried something, and then with all since the beginning."""
    found = opened(wire, interfaces)
    assert found.take({HOME, OTHER}).rows == []
    wire.now[OTHER, 2] = carried(1001), carried(2000)
    assert [(row.netns, row.out[0]) for row in found.take({HOME, OTHER}).rows] == [(OTHER, 1)]
    assert found.take({HOME, OTHER}).rows == []
    wire.now[OTHER, 2] = carried(1003), carried(2000)
    assert [(row.netns, row.out[0]) for row in found.take({HOME, OTHER}).rows] == [(OTHER, 3)]


def test_who_can_not_be_asked_has_no_count(wire: Fake, interfaces: Fake) -> None:
    """Of a namespace without a socket there is neither the name nor the interface's own count."""
    found = opened(wire, interfaces)
    wire.now[OTHER, 2] = carried(1001), carried(2000)
    (row,) = found.take({HOME, OTHER}).rows
    assert (row.name, row.counted) == ("", None)


def test_a_new_interface_counts_from_nothing(wire: Fake, interfaces: Fake) -> None:
    """One that was not there at the beginning has both numbers whole."""
    found = opened(wire, interfaces)
    wire.now[HOME, 3] = carried(70), carried(0)
    interfaces.now[HOME, 3] = Counted("veth0", 70, 0)
    (row,) = found.take({HOME, OTHER}).rows
    assert (row.interface, row.out[0], row.counted) == (3, 70, [70, 0])


def test_other_namespaces_are_left_out(wire: Fake, interfaces: Fake) -> None:
    """With a filter for namespaces only their devices are told."""
    found = opened(wire, interfaces, OTHER)
    wire.now.update({device: (carried(9999), carried(9999)) for device in wire.now})
    assert [row.netns for row in found.take({HOME, OTHER}).rows] == [OTHER]


def test_namespaces_that_nobody_is_in_are_let_go(wire: Fake, interfaces: Fake) -> None:
    """Those that processes are in, and no others, are asked from then on."""
    found = opened(wire, interfaces)
    found.take({OTHER})
    assert interfaces.kept == {OTHER}


def test_it_is_due_again_after_its_time(wire: Fake, interfaces: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once after it was opened it is not due; nor after it was told of, until the time has passed."""
    now = [100 * SECOND]
    monkeypatch.setattr(account, "boottime", lambda: now[0])
    found = opened(wire, interfaces)
    assert found.due == 130 * SECOND
    now[0] = 135 * SECOND
    assert found.take({HOME, OTHER}).now == 135 * SECOND
    assert found.due == 165 * SECOND


def test_a_record_tells_it_by_sort() -> None:
    """The engine names every sort and adds them up, and says nothing of what is not known."""
    numbers = list(range(1, len(SORTS) + 1))
    engine = Engine("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", Filters())
    rows = [DeviceTotals(HOME, 2, "eth0", numbers, [0] * len(SORTS), [3, 4], [45, 0])]
    rows.append(DeviceTotals(OTHER, 5, "", numbers, numbers, [0, 0], None))
    one, other = (event.body for event in engine.feed(Accounted(7, rows)))  # type: ignore[union-attr]
    assert one["netns"] == HOME
    assert one["wire"]["interface"] == {"index": 2, "name": "eth0"}
    sorts = dict(zip(SORTS[1:], numbers[1:], strict=True))
    assert one["wire"]["out"] == {"owned": 1, "ownerless": sorts, "total": 45, "headers": 3, "counted": 45}
    assert other["wire"]["interface"] == {"index": 5}
    assert "counted" not in other["wire"]["in"]
