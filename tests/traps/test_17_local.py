"""Trap 17: Unix sockets and netlink share the hooks of all sockets."""

import pytest

from tests.tracing import actions
from tests.traps.checks import only
from tests.traps.conftest import MakeTrace, Start
from tests.traps.flows import check_flows, check_no_strangers

pytestmark = pytest.mark.live


# What the kernel side has a record for, of a socket.
SOCKETS = ("connect", "attempt", "accept", "listen", "close", "flow", "flow-end", "owner", "tail", "payload")


def test_filtered(trace: MakeTrace, start: Start) -> None:
    """Of 8,113 sends on sockets of no network nothing is told, and nothing comes to user space to be dropped."""
    with start("trap_17_local") as program:
        ready = only(program.wait_for("ready"), "ready")
        with trace("--buffer", "32M", "--netns", str(ready["netns"])) as seen:
            program.go()
            truth = program.finish()
    seen.assert_complete()
    local = only(truth, "local")
    assert local["sends"] == 8113
    told = actions(seen.events, local["pid"])
    assert {name for name in told if name.startswith(("connection", "socket"))} <= {
        "connection-opened",
        "connection-update",
        "connection-closed",
    }
    # None of them was an attempt to tell, which had to be thrown away later: two sockets were opened and closed.
    kinds = {kind: terms for kind, terms in seen.ledger["by_kind"].items() if kind in SOCKETS}
    assert sum(terms["attempts"] - terms["filtered"] for terms in kinds.values()) <= 4, kinds
    assert len(check_flows(truth, seen.events, label="among")) == told["connection-opened"] == 2
    check_no_strangers(truth, seen.events)
