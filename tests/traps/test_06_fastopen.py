"""Trap 6: TCP Fast Open, where nobody calls connect, or where connect does nothing."""

import pytest

from tests.tracing import find
from tests.traps.checks import FAILED, OPENED, check_accepted, check_failed, check_opened, lines, only
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import check_flows, check_no_strangers

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_06_fastopen")


@pytest.mark.parametrize("label", ["sendto", "sendmsg", "deferred", "nonblocking"])
def test_one_connect(seen: Seen, label: str) -> None:
    """One connect for each, when its first bytes went, and the bytes that went with the SYN counted like all others."""
    truth, events = seen
    connects = lines(truth, "connect", label=label)
    assert len(connects) == 2
    for line in connects:
        check_opened(truth, events, line)
    for line in lines(truth, "accept", label=label):
        check_accepted(truth, events, line)
    assert len(check_flows(truth, events, label=label)) == 4


def test_refused(seen: Seen) -> None:
    """A send that was to connect, and was refused, is a connect that failed; nothing was moved."""
    truth, events = seen
    check_failed(truth, events, only(truth, "connect", label="refused"))


def test_nothing_else(seen: Seen) -> None:
    """As many connects as there were, none twice, and nobody else's."""
    truth, events = seen
    pid = only(truth, "program")["pid"]
    assert len(find(events, OPENED, pid)) == 8
    assert len(find(events, FAILED, pid)) == 1
    check_no_strangers(truth, events)
