"""Trap 17: Unix sockets and netlink share the hooks of all sockets."""

import pytest

from tests.tracing import actions
from tests.traps.checks import only
from tests.traps.conftest import MakeTrace, Run
from tests.traps.flows import check_flows, check_no_strangers

pytestmark = pytest.mark.live


def test_filtered(trace: MakeTrace, run: Run) -> None:
    """Of 8,113 sends on sockets of no network nothing is told, and nothing comes to user space to be dropped."""
    with trace("--buffer", "32M") as seen:
        truth = run("trap_17_local")
    seen.assert_complete()
    assert len(check_flows(truth, seen.events, label="among")) == 2
    check_no_strangers(truth, seen.events)
    local = only(truth, "local")
    told = actions(seen.events, local["pid"])
    assert {name for name in told if name.startswith("connection")} <= {
        "connection-opened",
        "connection-update",
        "connection-closed",
    }
    assert told["connection-opened"] == 2
    # None of them was an attempt to tell, which had to be thrown away later.
    kinds = seen.ledger["by_kind"]
    sockets = sum(kinds[kind]["attempts"] for kind in kinds if kind not in {"exec", "exec_failed", "fork", "exit"})
    assert sockets < local["sends"] / 4, kinds
