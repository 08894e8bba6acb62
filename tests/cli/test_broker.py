"""How the command line confines its broker, and what it says where that, or the broker itself, can't be had."""

import os
import resource
from typing import Any

import pytest

from tests.confine.forks import in_fork
from tracer.cli.errors import CommandError, Exit
from tracer.cli.live import Live, Options
from tracer.cli.sandbox import Mode, confine_broker
from tracer.confine.broker import broker_plan
from tracer.confine.plan import Layer, Plan

pytestmark = pytest.mark.live


def lacking(layer: Layer) -> Plan:
    """The plan of a broker on a machine that has no means for a layer."""
    plan = broker_plan(netlink=False, becomes=False)
    return plan._replace(without=plan.without | {layer})


def confined(mode: Mode, plan: Plan) -> tuple[dict[str, Any] | str, list[str]]:
    """What the record tells of the broker, or the code and line it ends with; and what was said."""

    def ask() -> tuple[dict[str, Any] | str, list[str]]:
        said: list[str] = []
        try:
            return confine_broker(mode, plan, said.append), said
        except CommandError as error:
            return f"{int(error.code)} {error}", said

    return in_fork(ask)


def test_record() -> None:
    """With the sandbox the layers and what is left are told; without it that there is none."""
    told, said = confined(Mode.STRICT, broker_plan(netlink=False, becomes=False))
    assert told == {
        "enabled": True,
        "layers": {"capabilities": "enforced", "no_new_privileges": "enforced", "seccomp": "enforced"},
        "capabilities": ["CAP_DAC_READ_SEARCH", "CAP_SETPCAP", "CAP_SYS_PTRACE"],
    }
    assert said == []
    told, said = confined(Mode.OFF, broker_plan(netlink=False, becomes=False))
    assert isinstance(told, dict)
    assert told["enabled"] is False
    assert "CAP_SYS_ADMIN" in told["capabilities"]


@pytest.mark.parametrize("layer", [Layer.CAPABILITIES, Layer.NO_NEW_PRIVILEGES, Layer.SECCOMP])
def test_missing_layer(layer: Layer) -> None:
    """A layer that is missing is a line, and with --sandbox-strict the end, with code 6."""
    told, said = confined(Mode.BEST, lacking(layer))
    assert isinstance(told, dict)
    assert told["layers"][layer] == "off"
    assert said[0] == f"sandbox of the broker: {layer} is off"
    told, said = confined(Mode.STRICT, lacking(layer))
    assert isinstance(told, str)
    assert told.startswith(f"{int(Exit.SANDBOX)} --sandbox-strict: the broker: {layer} is off")
    assert said == []


def test_no_worker_can_be_started() -> None:
    """Where no process can be made any more the command ends with one line that names the limit."""

    def ask() -> str:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        os.setresuid(65534, 65534, 65534)
        try:
            Live(Options(backend="procfs", sandbox=Mode.OFF)).run()
        except CommandError as error:
            return f"{int(error.code)} {error}"
        return "ran"

    told = in_fork(ask)
    assert told.startswith("1 can't start a worker: ")
    assert "ulimit -u" in told
