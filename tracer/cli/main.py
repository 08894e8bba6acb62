"""The command line: what each command takes, and how it ends."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer._click.exceptions import ClickException, UsageError

from tracer import __version__
from tracer.cli import options
from tracer.cli.errors import CommandError, Exit
from tracer.formats.text import visible

if TYPE_CHECKING:
    from tracer.cli.sandbox import Mode

__all__ = ["app", "run"]

app = typer.Typer(
    name="tracer",
    help="Which process talks to whom, and what does it run? Ask the kernel.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Format = Annotated[
    str | None,
    typer.Option("--format", help="pretty (default on a terminal), ecs (default elsewhere) or ocsf", metavar="NAME"),
]
Json = Annotated[bool, typer.Option("--json", help="the same as --format ecs")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="write to a file instead of stdout", metavar="FILE")
]
FailOnLoss = Annotated[bool, typer.Option("--fail-on-loss", help="exit with 5 unless the ledger says complete")]
NoSandbox = Annotated[bool, typer.Option("--no-sandbox", help="keep all power after the start")]
SandboxStrict = Annotated[
    bool, typer.Option("--sandbox-strict", help="exit with 6 unless every layer of the sandbox is on")
]
Redact = Annotated[
    Path | None,
    typer.Option("--redact", help="rules for secrets beside those that are built in, or none at all", metavar="FILE"),
]
Truncate = Annotated[
    bool, typer.Option("--truncate-addresses", help="tell of addresses only the network: /24, or /48 of IPv6")
]
HashUsers = Annotated[
    Path | None,
    typer.Option("--hash-users", help="tell users by pseudonyms, made with the key in this file", metavar="KEYFILE"),
]
Words = list[str] | None


def _format(name: str | None, json: bool) -> str | None:
    if json and name not in (None, "ecs"):
        raise CommandError(f"--json and --format {name} contradict each other: give one of them", Exit.USAGE)
    if name is not None and name not in ("pretty", "ecs", "ocsf"):
        raise CommandError(f"--format {name!r}: give pretty, ecs or ocsf", Exit.USAGE)
    return "ecs" if json else name


def _mode(no_sandbox: bool, strict: bool, user: str | None = None) -> Mode:
    from tracer.cli.sandbox import Mode  # with all that it takes

    if no_sandbox and (strict or user is not None):
        other = "--sandbox-strict" if strict else "--user"
        raise CommandError(f"--no-sandbox and {other} contradict each other: give one of them", Exit.USAGE)
    return Mode.OFF if no_sandbox else Mode.STRICT if strict else Mode.BEST


@app.command()
def live(
    pid: Annotated[Words, typer.Option(help="only this process (repeatable)", metavar="PID")] = None,
    children: Annotated[bool, typer.Option("--children", help="with --pid: its descendants too")] = False,
    comm: Annotated[Words, typer.Option(help="only processes of this name (glob, repeatable)", metavar="GLOB")] = None,
    exe: Annotated[Words, typer.Option(help="only this executable's path (glob, repeatable)", metavar="GLOB")] = None,
    uid: Annotated[Words, typer.Option(help="only this user, by name or number (repeatable)", metavar="USER")] = None,
    port: Annotated[Words, typer.Option(help="only sockets with this port (repeatable)", metavar="PORT")] = None,
    cidr: Annotated[Words, typer.Option(help="only sockets in this network (repeatable)", metavar="NET")] = None,
    event: Annotated[
        Words,
        typer.Option(
            help="only these: exec, exec-failed, fork, exit, connect, accept, listen, close, flow, owner, update; "
            "all but fork by itself",
            metavar="NAME,…",
        ),
    ] = None,
    netns: Annotated[Words, typer.Option(help="only this network namespace (inode or path)", metavar="NS")] = None,
    form: Format = None,
    json: Json = False,
    output: Output = None,
    duration: Annotated[str | None, typer.Option(help="end after this time (10, 1.5s, 5m)", metavar="TIME")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="end after this many events", metavar="N")] = None,
    update_every: Annotated[
        str, typer.Option(help="tell this often what open flows have moved so far, if they have", metavar="TIME")
    ] = "30s",
    buffer: Annotated[str, typer.Option(help="bytes of the kernel's buffers, over all CPUs", metavar="SIZE")] = "8M",
    record: Annotated[Path | None, typer.Option(help="keep the raw records for tracer replay", metavar="FILE")] = None,
    backend: Annotated[str, typer.Option(help="auto, core, bcc, netlink or procfs", metavar="NAME")] = "auto",
    hooks: Annotated[
        str, typer.Option(help="auto, or tracepoints: those of system calls even where others do", metavar="KIND")
    ] = "auto",
    account_wire: Annotated[
        bool, typer.Option("--account-wire", help="count what each network device carries, and whose it is")
    ] = False,
    fail_on_loss: FailOnLoss = False,
    no_snapshot: Annotated[bool, typer.Option("--no-snapshot", help="leave out what was there before")] = False,
    no_payload: Annotated[
        bool, typer.Option("--no-payload", help="take no bytes of what is sent: no names from DNS, TLS, HTTP, QUIC")
    ] = False,
    no_sandbox: NoSandbox = False,
    sandbox_strict: SandboxStrict = False,
    user: Annotated[str | None, typer.Option(help="run as this user after the start", metavar="USER")] = None,
    redact: Redact = None,
    truncate_addresses: Truncate = False,
    hash_users: HashUsers = None,
) -> None:
    """Watch processes and what they send and receive, as it happens.

    Examples: tracer live --port 443 -- tracer live --pid 4242 --children -- tracer live --json | jq .process.name
    """
    from tracer.cli import live as command

    if backend not in command.BACKENDS:
        raise CommandError(f"--backend {backend!r}: give one of {', '.join(command.BACKENDS)}", Exit.USAGE)
    mode = _mode(no_sandbox, sandbox_strict, user)
    if no_payload and any("dns" in each.split(",") for each in event or ()):
        raise CommandError("--event dns: there are no answers with --no-payload; leave one of them out", Exit.USAGE)
    if hooks not in command.HOOKS:
        raise CommandError(f"--hooks {hooks!r}: give one of {', '.join(command.HOOKS)}", Exit.USAGE)
    asked = command.Options(
        filters=options.filters(
            pid=pid or (),
            children=children,
            comm=comm or (),
            exe=exe or (),
            uid=uid or (),
            port=port or (),
            cidr=cidr or (),
            event=event or (),
            netns=netns or (),
        ),
        backend=backend,
        hooks=hooks,
        format=_format(form, json),
        output=output,
        duration=options.duration("--duration", duration) if duration is not None else None,
        count=count,
        update=options.duration("--update-every", update_every),
        buffer=options.size("--buffer", buffer, 16 << 10, 1 << 30),
        record=record,
        fail_on_loss=fail_on_loss,
        snapshot=not no_snapshot,
        payload=not no_payload,
        sandbox=mode,
        user=user,
        account_wire=account_wire,
        privacy=options.privacy(redact, truncate=truncate_addresses, key=hash_users),
    )
    raise typer.Exit(int(command.Live(asked).run()))


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

    mode = _mode(no_sandbox, sandbox_strict)
    private = options.privacy(redact, truncate=truncate_addresses, key=hash_users)
    shown = _format(form, json)
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


def _fail(message: str, code: int) -> NoReturn:
    one_line = visible(" ".join(message.split()))
    try:
        if sys.stderr is not None:
            sys.stderr.write(f"tracer: {one_line}\n")
            sys.stderr.flush()
    except OSError:
        pass  # nobody listens; the code tells
    _exit(code)


def _exit(code: int) -> NoReturn:
    """End without the interpreter's last flush, which would complain about a closed pipe."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; every known error is one line on stderr."""
    # Tables of processes and flows are large and free of cycles: look through them seldom.
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    gc.enable()
    try:
        result: Any = app(args=arguments, prog_name="tracer", standalone_mode=False)
        _exit(result if isinstance(result, int) else Exit.OK)
    except CommandError as error:
        _fail(str(error), error.code)
    except UsageError as error:
        _fail(f"{error.format_message().rstrip('.')}; see tracer --help", Exit.USAGE)
    except ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except typer.Exit as done:
        _exit(done.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _exit(128 + signal.SIGINT)
    except BrokenPipeError:
        _exit(Exit.OK)
