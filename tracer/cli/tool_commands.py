"""The commands that trace nothing: what each takes, and where it is done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tracer import __version__
from tracer.cli import options
from tracer.cli.app import app
from tracer.cli.arguments import (
    FailOnLoss,
    Format,
    HashUsers,
    Json,
    NoSandbox,
    Output,
    Redact,
    SandboxStrict,
    Truncate,
)
from tracer.cli.asking import format_of, mode_of
from tracer.cli.errors import CommandError, Exit

if TYPE_CHECKING:
    pass


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="what tracer live --record wrote", metavar="FILE")],
    form: Format = None,
    json: Json = False,
    output: Output = None,
    fail_on_loss: FailOnLoss = False,
    no_sandbox: NoSandbox = False,
    sandbox_strict: SandboxStrict = False,
    redact: Redact = None,
    truncate_addresses: Truncate = False,
    hash_users: HashUsers = None,
) -> None:
    """Give the output of a recorded session again."""
    from tracer.cli import replay as command

    mode = mode_of(no_sandbox, sandbox_strict)
    private = options.privacy(redact, truncate=truncate_addresses, key=hash_users)
    shown = format_of(form, json)
    raise typer.Exit(int(command.replay(file, shown, output, fail_on_loss=fail_on_loss, mode=mode, privacy=private)))


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="the same facts as one JSON object")] = False,
    prove: Annotated[
        bool, typer.Option("--prove", help="try what the sandbox must refuse, with each layer on and off (as root)")
    ] = False,
) -> None:
    """Tell what works on this machine, what doesn't, and the fix."""
    if prove:
        from tracer.cli import prove as proof

        raise typer.Exit(proof.command(json=json))
    from tracer.cli import doctor as command

    raise typer.Exit(command.doctor(json=json))


@app.command()
def selftest(
    trap: Annotated[list[int] | None, typer.Option(help="only this trap, by number (repeatable)", metavar="N")] = None,
    backend: Annotated[str, typer.Option(help="auto, core, bcc, netlink or procfs", metavar="NAME")] = "auto",
    disruptive: Annotated[
        bool, typer.Option("--disruptive", help="also what disturbs the machine: step its clock, take a CPU offline")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON Lines, one for each trap and one at the end")] = False,
) -> None:
    """Run what misleads tracers on this kernel, and tell what holds here."""
    from tracer.cli import selftest as command

    raise typer.Exit(int(command.selftest(backend, trap or [], disruptive=disruptive, json=json)))


@app.command()
def schema(
    form: Annotated[str, typer.Option("--format", help="ecs or ocsf", metavar="NAME")] = "ecs",
) -> None:
    """Print the JSON Schema of what live and replay write."""
    from tracer.cli import schema as command

    raise typer.Exit(int(command.schema(form)))


@app.command()
def status(
    file: Annotated[Path | None, typer.Argument(help="what --stats names; else the service's", metavar="FILE")] = None,
    json: Annotated[bool, typer.Option("--json", help="the same as one JSON object")] = False,
) -> None:
    """Tell how a running service is, from its stats file; the code is 1 when it does not run."""
    from tracer.cli import status as command

    if sys.stdout is None:
        raise CommandError("stdout is closed", Exit.FAILURE)
    code = command.status(file or command.DEFAULT, json_lines=json, write=sys.stdout.write)
    raise typer.Exit(int(code))


@app.command()
def verify(
    files: Annotated[
        list[Path], typer.Argument(help="files of a stream, or directories of tracer export", metavar="FILE")
    ],
    key: Annotated[
        list[Path] | None, typer.Option(help="the public key that must have certified it (repeatable)", metavar="FILE")
    ] = None,
    expect_head: Annotated[
        Path | None, typer.Option(help="what --write-head wrote: all up to there must be here", metavar="FILE")
    ] = None,
    write_head: Annotated[
        Path | None, typer.Option(help="keep how far the stream goes, if all is right", metavar="FILE")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="the report as one JSON object")] = False,
    no_sandbox: NoSandbox = False,
    sandbox_strict: SandboxStrict = False,
) -> None:
    """Prove that nothing of a stream is missing and nothing was changed, or name the first bad place."""
    from tracer.cli import verify as command

    mode = mode_of(no_sandbox, sandbox_strict)
    code = command.verify(files, keys=key or [], expect_head=expect_head, write_head=write_head, json=json, mode=mode)
    raise typer.Exit(code)


@app.command()
def explain(
    event: Annotated[
        str,
        typer.Argument(
            help="an event's number (event.sequence), RUN:NUMBER where several runs have it, or a whole line",
            metavar="EVENT_ID|LINE",
        ),
    ],
    source: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="a file, a directory of tracer export, or - (repeatable) [default: /var/log/tracer; for a line none]",
            metavar="FILE|DIR",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="the same as one JSON object")] = False,
) -> None:
    """Tell how the process of an event is known, by what the stream says.

    Examples: tracer explain 4711 -- tracer explain 23 --from events.jsonl -- tracer explain 23 --from - <events.jsonl
    """
    from tracer.cli import explain as found

    raise typer.Exit(int(found.command(event, source or [], json=json)))


@app.command()
def keygen(
    file: Annotated[Path, typer.Argument(help="for the private key; the public one goes to FILE.pub", metavar="FILE")],
) -> None:
    """Make the long-term key that tracer export --sign takes."""
    from tracer.cli import verify as command

    raise typer.Exit(command.keygen(file))


@app.command()
def version() -> None:
    """Print the version."""
    if sys.stdout is None:
        raise CommandError("stdout is closed", Exit.FAILURE)
    try:
        sys.stdout.write(f"tracer {__version__}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        return  # a normal end
    except OSError as error:
        raise CommandError(f"can't write stdout: {error.strerror}", Exit.FAILURE) from error
