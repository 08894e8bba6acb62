"""`tracer doctor --prove`: every escape is refused by its layer and works without it, as this kernel should have it."""

import json
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

from tests.cli.commands import assert_refused, run
from tracer.cli.errors import CommandError, Exit
from tracer.cli.prove import command, table
from tracer.confine.attest import TRIES
from tracer.confine.escapes import ESCAPES, Escape
from tracer.confine.expected import KERNELS, expected
from tracer.confine.plan import STRICT, Layer, State

pytestmark = pytest.mark.live

PROVE = [sys.executable, "-m", "tracer", "doctor", "--prove"]


@pytest.fixture(name="report", scope="module")
def _report() -> dict[str, Any]:
    done = subprocess.run([*PROVE, "--json"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_three_escapes_a_layer() -> None:
    """There are more than thirty, at least three for each layer, and no two have one name."""
    assert len({escape.name for escape in ESCAPES}) == len(ESCAPES) > 30
    for layer in Layer:
        assert sum(escape.layer is layer for escape in ESCAPES) >= 3, layer
        assert all(layer not in escape.behind for escape in ESCAPES if escape.layer is layer)


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda escape: escape.name)
def test_escape(report: dict[str, Any], escape: Escape) -> None:
    """Refused by all layers together; by its own alone, with the error that is named; it works without that one."""
    found = next(each for each in report["escapes"] if each["name"] == escape.name)
    if report["landlock_abi"] < escape.abi:
        assert (found["on"], found["result"]) == ("absent", "absent")
        assert escape.layer in (Layer.FILES, Layer.NETWORK, Layer.SCOPES)
        assert found["whole"] != "succeeded"  # something else stands against it
        return
    assert (found["on"], found["off"], found["result"]) == (escape.error, "succeeded", "holds"), found
    assert found["whole"] not in ("succeeded", "absent"), found


def test_layers_are_those_of_this_kernel(report: dict[str, Any]) -> None:
    """Each layer is as the table has it for this Landlock, and nothing forbidden was possible."""
    wanted = expected(report["landlock_abi"])
    assert {layer: each["state"] for layer, each in report["layers"].items()} == wanted
    assert report["tries"].keys() == TRIES.keys()
    assert "possible" not in report["tries"].values()
    assert report["capabilities"] == []
    assert report["strict"] is all(wanted[layer] is State.ENFORCED for layer in STRICT)
    assert report["as_expected"] is True


def test_kernels_of_the_table() -> None:
    """What the table says of --sandbox-strict follows from its Landlock; a release belongs to one kernel."""
    for kernel in KERNELS:
        whole = all(expected(kernel.landlock_abi)[layer] is State.ENFORCED for layer in STRICT)
        assert kernel.strict is whole, kernel
    assert len({kernel.release for kernel in KERNELS}) == len(KERNELS)


def test_this_kernel_is_as_in_the_table(report: dict[str, Any]) -> None:
    """A kernel that the table names has the Landlock that it says, and strict runs or not as it says."""
    release = ".".join(platform.release().split(".")[:2])
    for kernel in KERNELS:
        if kernel.release == release:
            assert (report["landlock_abi"], report["strict"]) == (kernel.landlock_abi, kernel.strict)


def test_table_for_people(report: dict[str, Any]) -> None:
    """Without --json there is a line for each escape, and a last line that says whether all is well."""
    done = subprocess.run(PROVE, capture_output=True, text=True, check=True, timeout=120)
    lines = done.stdout.splitlines()
    assert sum(" all: " in line for line in lines) == len(report["escapes"])
    assert max(map(len, lines)) <= 100
    assert max(map(len, table(report, 60))) <= 60
    assert "".join("".join(table(report, 60)).split()) == "".join(done.stdout.split())
    assert lines[-1] == "All of this is as it should be on this kernel"


def test_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user is told that it takes root, with the way to it."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    with pytest.raises(CommandError, match="sudo tracer doctor --prove") as refused:
        command(json=False)
    assert refused.value.code == Exit.PRIVILEGE


def test_option_is_of_doctor_alone() -> None:
    """Other commands have no --prove."""
    assert_refused(run("live", "--prove"), Exit.USAGE, "--prove")
