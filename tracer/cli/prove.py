"""The command `doctor --prove`: try every escape with its layer on and off, and compare with what this kernel can."""

from __future__ import annotations

import json as json_module
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from typing import Any, Final

from tracer.cli.errors import CommandError, Exit
from tracer.confine.attest import POSSIBLE
from tracer.confine.expected import expected
from tracer.confine.plan import STRICT, Layer, Plan, State
from tracer.confine.prove import SUCCEEDED, Proof, confined, prove
from tracer.formats.text import wrapped

__all__ = ["as_json", "command", "table"]

_NEEDS_ROOT: Final = (
    "doctor --prove needs root: what a layer refuses has to succeed without it (sudo tracer doctor --prove)"
)
_RESULTS: Final = ("holds", "absent", "unproven", "broken")
_WORDS: Final = 43
_CELLS: Final = 100  # the widest line, where there is no terminal that is narrower
_REST: Final = " " * (_WORDS + 3)  # where a row goes on


def command(*, json: bool) -> int:
    """Prove the sandbox of this machine. Exit codes: 0 all is as this kernel should do it, 1 it is not, 3 no root.

    With --json one object, the same keys in every version:

    schema            1
    kernel            its release
    landlock_abi      0: none
    layers            by layer: state (enforced, partial, absent, off), detail, expected
    strict            whether --sandbox-strict would run
    tries             as tracer.confinement.tries
    escapes           name, words, layer, error, behind, on, off, whole; result: holds, absent (this kernel has no
                      such layer), unproven (refused without it, too) or broken
    counts            by layer and result
    as_expected       whether all is as it should be
    """
    if os.geteuid() != 0:
        raise CommandError(_NEEDS_ROOT, Exit.PRIVILEGE)
    try:
        found = as_json(_confined(), list(prove()))
    except OSError as error:
        raise CommandError(f"doctor --prove: {error.strerror or error}", Exit.FAILURE) from error
    lines = [json_module.dumps(found)] if json else list(table(found, _cells()))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
    return Exit.OK if found["as_expected"] else Exit.FAILURE


def _cells() -> int:
    return min(_CELLS, max(_CELLS // 2, shutil.get_terminal_size().columns)) if sys.stdout.isatty() else _CELLS


def _confined() -> dict[str, Any]:
    """What a fork that is confined as the worker is tells of itself."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            applied, tries, state = confined(Plan())
            told = {
                "landlock_abi": applied.landlock_abi,
                "layers": {layer: (verdict.state, verdict.detail) for layer, verdict in applied.verdicts.items()},
                "tries": tries,
                "capabilities": sorted(state.capabilities),
            }
            os.write(writer, json_module.dumps(told).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise CommandError("doctor --prove: a confined process could not tell of itself", Exit.FAILURE)
    found: dict[str, Any] = json_module.loads(answer)
    return found


def as_json(told: dict[str, Any], proofs: list[Proof]) -> dict[str, Any]:
    """The report as command() documents it."""
    abi = told["landlock_abi"]
    wanted = expected(abi)
    layers = {
        layer.value: {"state": told["layers"][layer][0], "detail": told["layers"][layer][1], "expected": wanted[layer]}
        for layer in Layer
    }
    escapes = [
        {
            "name": proof.escape.name,
            "words": proof.escape.words,
            "layer": proof.escape.layer.value,
            "error": proof.escape.error,
            "behind": sorted(layer.value for layer in proof.escape.behind),
            "on": proof.on,
            "off": proof.off,
            "whole": proof.whole,
            "result": _result(proof, abi),
        }
        for proof in proofs
    ]
    counts = {
        layer.value: {
            result: sum(each["layer"] == layer.value and each["result"] == result for each in escapes)
            for result in _RESULTS
        }
        for layer in Layer
    }
    strict = (
        all(told["layers"][layer][0] == State.ENFORCED for layer in STRICT) and POSSIBLE not in told["tries"].values()
    )
    return {
        "schema": 1,
        "kernel": platform.release(),
        "landlock_abi": abi,
        "layers": layers,
        "strict": strict,
        "tries": told["tries"],
        "capabilities": told["capabilities"],
        "escapes": escapes,
        "counts": counts,
        "as_expected": all(each["state"] == each["expected"] for each in layers.values())
        and all(each["result"] != "broken" for each in escapes)
        and not told["capabilities"]
        and POSSIBLE not in told["tries"].values(),
    }


def _result(proof: Proof, abi: int) -> str:
    """A layer that the kernel has not got may be absent; one that it has may not.

    What is refused without any layer, too, such as io_uring where a sysctl forbids it, proves nothing.
    """
    if proof.holds:
        return "holds"
    if SUCCEEDED not in proof[1:] and not proof.absent:
        return "unproven"
    return "absent" if proof.absent and proof.escape.abi > abi else "broken"


def table(found: dict[str, Any], cells: int = _CELLS) -> Iterator[str]:
    """The report for people, line by line, each of at most ``cells``."""
    for text in _table(found):
        yield from wrapped(text, "", _REST if text.startswith(" ") else "  ", cells=cells)


def _table(found: dict[str, Any]) -> Iterator[str]:
    abi = found["landlock_abi"]
    landlock = f"Landlock ABI {abi}" if abi else "no Landlock"
    yield f"tracer: the sandbox on {found['kernel']}, {landlock}"
    for layer, each in found["layers"].items():
        counts = found["counts"][layer]
        told = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
        yield ""
        state = each["state"] if layer != Layer.USER else "with --user, or under sudo"
        yield f"{layer}: {state}" + (f" ({each['detail']})" if each["detail"] else "") + f"; {told}"
        for escape in found["escapes"]:
            if escape["layer"] == layer:
                behind = f"  without {', '.join(escape['behind'])}" if escape["behind"] else ""
                yield (
                    f"  {escape['words']:<{_WORDS}} all: {escape['whole']:<7} on: {escape['on']:<7} "
                    f"off: {escape['off']:<10} {escape['result']}{behind}"
                )
    yield ""
    refused = [name for name, answer in found["tries"].items() if answer != POSSIBLE]
    possible = [name for name, answer in found["tries"].items() if answer == POSSIBLE]
    yield f"With everything on, {len(refused)} of {len(found['tries'])} forbidden things are refused" + (
        f"; STILL POSSIBLE: {', '.join(possible)}" if possible else ""
    )
    yield f"--sandbox-strict {'runs' if found['strict'] else 'ends with code 6'} here"
    unproven = sum(counts["unproven"] for counts in found["counts"].values())
    if unproven:
        yield f"{unproven} are refused without their layer, too, and so prove nothing of it: see what else forbids them"
    yield f"All of this is {'as' if found['as_expected'] else 'NOT AS'} it should be on this kernel"
