"""Trap 32: close() is not the end of a connection."""

import pytest

from tests.tracing import find, one
from tests.traps.checks import ACCEPTED, CLOSED, OPENED, check_closed, check_network, lines, only
from tests.traps.conftest import MakeTrace, Run, Seen, see

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_32_closes")


def check(seen: Seen, label: str) -> None:
    """Both ends of a case: the state, the error, the bytes, the life, and one close for each."""
    truth, events = seen
    closes = lines(truth, "close", label=label)
    assert len(closes) == 2
    ids = {check_closed(events, line)["tracer"]["socket"]["id"] for line in closes}
    assert len(ids) == 2
    assert [len(find(events, CLOSED, tracer__socket__id=flow)) for flow in ids] == [1, 1]


def test_everything_is_told_once(seen: Seen) -> None:
    """All connections of the cases are opened, accepted and closed once by either end, and nobody else's."""
    truth, events = seen
    # The two of the TIME_WAIT case have the same four numbers, and a test of their own.
    twice = {line["port"] for line in lines(truth, "listen") if len(lines(truth, "listen", port=line["port"])) > 1}
    assert len(twice) == 1
    check_network(
        [line for line in truth if not twice & {line.get(k) for k in ("port", "local_port", "remote_port")}], events
    )


def test_client_closes_first(seen: Seen) -> None:
    """The end that closes first leaves from FIN_WAIT2, the other from LAST_ACK."""
    check(seen, "client-first")


def test_server_closes_first(seen: Seen) -> None:
    """The same with the roles exchanged."""
    check(seen, "server-first")


def test_shutdown_of_both_ways(seen: Seen) -> None:
    """Shutdown ends the connection; closing the descriptors later changes nothing."""
    check(seen, "shutdown")


def test_half_close(seen: Seen) -> None:
    """Bytes that come after one side said it was done are counted, and the connection lives as long as they flow."""
    check(seen, "half-close")


def test_reset_by_linger(seen: Seen) -> None:
    """SO_LINGER with no time resets: no error for who did it, ECONNRESET for the other, all bytes counted."""
    check(seen, "linger")


def test_reset_by_unread_bytes(seen: Seen) -> None:
    """Closing with bytes unread resets too; the bytes that arrived are counted though nobody read them."""
    check(seen, "peer-reset")


def test_reset_after_fin(seen: Seen) -> None:
    """A reset that meets CLOSE_WAIT leaves EPIPE."""
    check(seen, "reset-after-fin")


def test_copied_descriptor(seen: Seen) -> None:
    """The first close() of a copied descriptor ends nothing."""
    check(seen, "copied")


def test_time_wait_used_again(seen: Seen) -> None:
    """The same four numbers twice, the second time out of TIME_WAIT: two connections, each whole, each closed once."""
    truth, events = seen
    check(seen, "time-wait")
    check(seen, "time-wait-again")
    first = only(truth, "connect", label="time-wait")
    ends = {"source__port": first["local_port"], "destination__port": first["remote_port"]}
    for action, count in ((OPENED, 2), (ACCEPTED, 2), (CLOSED, 4)):
        assert len(find(events, action, first["pid"], **ends)) == count
    flows = {event["tracer"]["socket"]["id"] for event in find(events, CLOSED, first["pid"], **ends)}
    assert len(flows) == 4
    again = only(truth, "close", label="time-wait-again", local_port=first["local_port"])
    one(
        events,
        CLOSED,
        first["pid"],
        source__bytes=again["sent"],
        destination__bytes=again["received"],
        network__direction="egress",
        **ends,
    )
