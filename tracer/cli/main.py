"""The command line: what each command takes, and how it ends."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from typer._click.core import ParameterSource
from typer._click.exceptions import ClickException, UsageError

from tracer import __version__
from tracer.cli import options
from tracer.cli.arguments import (
    AccountWire,
    Aggregate,
    Backend,
    Buffer,
    Children,
    Cidr,
    Comm,
    Duration,
    EventNames,
    Exe,
    FailOnLoss,
    FloodBudget,
    Format,
    GeoIp,
    HashUsers,
    Hooks,
    Json,
    Netns,
    NoPayload,
    NoSandbox,
    NoSnapshot,
    Output,
    Pid,
    Port,
    Redact,
    SandboxStrict,
    Stats,
    Truncate,
    Uid,
    UpdateEvery,
    User,
)
from tracer.cli.asking import asked_of, format_of, mode_of
from tracer.cli.errors import CommandError, Exit
from tracer.formats.text import visible

if TYPE_CHECKING:
    from tracer.cli.config import Config

__all__ = ["COMPLETE", "app", "run"]

COMPLETE = "_TRACER_COMPLETE"
"""The variable by which a shell asks for completions."""

app = typer.Typer(
    name="tracer",
    help="Which process talks to whom, and what does it run? Ask the kernel.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Take what is in the file for what is not on the command line. Raises CommandError."""
    if path is None:
        return None
    from tracer.cli.config import Config, keys_of

    keys = keys_of(ctx.command.params)
    ctx.obj = Config.read(path.absolute(), keys)
    ctx.default_map = {keys[key].parameter: value for key, value in ctx.obj.values.items()}
    return path.absolute()


def _fixed(ctx: typer.Context) -> frozenset[str]:
    """The parameters that were typed, by their keys in a file of settings."""
    typed = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    return frozenset(key for key, known in ctx.obj.keys.items() if known.parameter in typed)


# What a session can be asked for that `tracer pid` decides itself.
_NOT_OF_PID: Final = (
    *("pid", "children", "comm", "exe", "uid", "port", "cidr", "netns", "account_wire", "no_snapshot"),
    *("truncate_addresses", "hash_users", "geoip", "stats", "aggregate"),
)


@app.command()
def live(
    ctx: typer.Context,
    pid: Pid = None,
    children: Children = False,
    comm: Comm = None,
    exe: Exe = None,
    uid: Uid = None,
    port: Port = None,
    cidr: Cidr = None,
    event: EventNames = None,
    netns: Netns = None,
    form: Format = None,
    json: Json = False,
    output: Output = None,
    duration: Duration = None,
    count: Annotated[int | None, typer.Option(min=1, help="end after this many events", metavar="N")] = None,
    update_every: UpdateEvery = "30s",
    buffer: Buffer = "8M",
    record: Annotated[Path | None, typer.Option(help="keep the raw records for tracer replay", metavar="FILE")] = None,
    backend: Backend = "auto",
    hooks: Hooks = "auto",
    aggregate: Aggregate = None,
    flood_budget: FloodBudget = 50_000,
    account_wire: AccountWire = False,
    fail_on_loss: FailOnLoss = False,
    no_snapshot: NoSnapshot = False,
    no_payload: NoPayload = False,
    no_sandbox: NoSandbox = False,
    sandbox_strict: SandboxStrict = False,
    user: User = None,
    redact: Redact = None,
    truncate_addresses: Truncate = False,
    hash_users: HashUsers = None,
    geoip: GeoIp = None,
    stats: Stats = None,
) -> None:
    """Watch processes and what they send and receive, as it happens.

    Examples: tracer live --port 443 -- tracer live --pid 4242 --children -- tracer live --json | jq .process.name
    """
    asked = asked_of(ctx.params)
    from tracer.cli.rotation import begin_rotation

    rotation = begin_rotation(asked.output, asked.sandbox)  # while this process has little to share
    from tracer.cli import ahead

    begun = ahead.begin(asked, rotation.pids if rotation is not None else ())
    from tracer.cli.live import Live

    raise typer.Exit(int(Live(asked, rotation, ahead=begun).run()))


_OF_THE_PAST = frozenset({"process", "source", "at", "entity", "exe", "json", "output", "html"})
"""The parameters of pid that --from knows."""


@app.command()
def pid(
    ctx: typer.Context,
    process: Annotated[
        str | None, typer.Argument(help="its pid, or its name; with --from its pid", metavar="[PID|NAME]")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="only what is there now: end before anything is followed")] = False,
    json: Annotated[bool, typer.Option("--json", help="the bundle and the events as JSON Lines (ECS)")] = False,
    output: Output = None,
    duration: Duration = None,
    show_env: Annotated[
        bool, typer.Option("--show-env", help="the environment with its values, without secrets")
    ] = False,
    pidns: Annotated[
        str | None, typer.Option("--pidns", help="the pid is of this pid namespace (inode or path)", metavar="NS")
    ] = None,
    event: EventNames = None,
    update_every: UpdateEvery = "30s",
    flood_budget: FloodBudget = 50_000,
    buffer: Buffer = "8M",
    backend: Backend = "auto",
    hooks: Hooks = "auto",
    fail_on_loss: FailOnLoss = False,
    no_payload: NoPayload = False,
    no_sandbox: NoSandbox = False,
    sandbox_strict: SandboxStrict = False,
    user: User = None,
    redact: Redact = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", help="of the past: a file of events, or a directory of export (repeatable)", metavar="PATH"
        ),
    ] = None,
    at: Annotated[str | None, typer.Option(help="with --from: who was there at this time", metavar="TIME")] = None,
    entity: Annotated[str | None, typer.Option(help="with --from: by its process.entity_id", metavar="ID")] = None,
    exe: Annotated[str | None, typer.Option(help="with --from: who ran this program", metavar="PATH")] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="a report for browsers into this file; while it is followed with --json --output", metavar="FILE"
        ),
    ] = None,
) -> None:
    """Tell everything about one process as it is now, then what it and its descendants do; or what files tell of it.

    Examples: tracer pid nginx -- tracer pid 4242 --now --json -- tracer pid 4242 --from /var/log/tracer --html a.html
    """
    from tracer.cli import pid as command

    if source:
        raise typer.Exit(int(_past(ctx, source)))
    if at is not None or entity is not None or exe is not None:
        raise CommandError("--at, --entity and --exe are for the past: name files with --from", Exit.USAGE)
    if html is not None and not now and not (json and output is not None and str(output) != "-"):
        raise CommandError("--html is made of what is written: give --json --output FILE, too, or --now", Exit.USAGE)
    if process is None:
        raise CommandError("name a process: give its pid or its name", Exit.USAGE)
    asked = asked_of({**dict.fromkeys(_NOT_OF_PID), **ctx.params, "form": "ecs" if json else "pretty"})
    namespace = options.pid_namespace("--pidns", pidns) if pidns is not None else None
    raise typer.Exit(int(command.pid(process, asked, namespace=namespace, now=now, values=show_env, html=html)))


def _past(ctx: typer.Context, source: list[Path]) -> Exit:
    """`tracer pid --from`. Raises CommandError."""
    from tracer.cli import past

    for name in ctx.params:
        if name not in _OF_THE_PAST and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            shown = name.replace("_", "-")
            raise CommandError(
                f"--from reads files, in which --{shown} can't change anything: leave it out", Exit.USAGE
            )
    given = ctx.params
    wanted, words = past.wanted(given["process"], given["entity"], given["exe"], given["at"])
    output, html = (Path(given[name]) if given[name] is not None else None for name in ("output", "html"))
    return past.past(past.Asked(source, wanted, words, given["json"], output, html))


@app.command()
def export(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(help="take options from this file (TOML)", metavar="FILE", is_eager=True, callback=_config),
    ] = None,
    pid: Pid = None,
    children: Children = False,
    comm: Comm = None,
    exe: Exe = None,
    uid: Uid = None,
    port: Port = None,
    cidr: Cidr = None,
    event: EventNames = None,
    netns: Netns = None,
    form: Annotated[str, typer.Option("--format", help="ecs or ocsf", metavar="NAME")] = "ecs",
    output: Annotated[
        str, typer.Option("--output", "-o", help="the directory, or the file, to write to", metavar="PATH")
    ] = "/var/log/tracer",
    rotate_size: Annotated[str, typer.Option(help="begin a new file at this size; 0: never", metavar="SIZE")] = "64M",
    rotate_age: Annotated[str, typer.Option(help="and at this age (1h, 1d); 0: never", metavar="TIME")] = "0",
    keep: Annotated[str, typer.Option(help="files that are done: the newest so many stay; 0: all", metavar="N")] = "16",
    compress: Annotated[
        str, typer.Option(help="none, gzip or zstd: those but the newest of them", metavar="NAME")
    ] = "none",
    fsync: Annotated[
        str, typer.Option(help="never, rotate (and at the end), second or batch", metavar="WHEN")
    ] = "rotate",
    sign: Annotated[
        Path | None, typer.Option(help="sign the files under this key of tracer keygen", metavar="FILE")
    ] = None,
    no_chain: Annotated[bool, typer.Option("--no-chain", help="leave out what tracer verify proves files by")] = False,
    duration: Duration = None,
    update_every: UpdateEvery = "30s",
    buffer: Buffer = "8M",
    backend: Backend = "auto",
    hooks: Hooks = "auto",
    aggregate: Aggregate = None,
    flood_budget: FloodBudget = 50_000,
    account_wire: AccountWire = False,
    fail_on_loss: FailOnLoss = False,
    no_snapshot: NoSnapshot = False,
    no_payload: NoPayload = False,
    no_sandbox: NoSandbox = False,
    sandbox_strict: SandboxStrict = False,
    user: User = None,
    redact: Redact = None,
    truncate_addresses: Truncate = False,
    hash_users: HashUsers = None,
    geoip: GeoIp = None,
    stats: Stats = None,
) -> None:
    """Write what happens to files, for months: rotated, synced, and going on where the last run has stopped.

    Examples: tracer export -- tracer export --output /var/log/tracer --rotate-size 100M --keep 30 --compress gzip
    """
    from tracer.cli import export as command

    found: Config | None = ctx.obj
    try:
        where = command.place(output)
        kept = command.files(ctx.params, where)
        asked = asked_of({**ctx.params, "output": where.file})
    except CommandError as error:
        raise (error if found is None else found.located(error)) from error
    reload = None
    if found is not None:
        from tracer.cli.reload import Reload

        reload = Reload(found, _fixed(ctx), asked.filters)
    raise typer.Exit(int(command.Export(asked, kept, reload).run()))


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
    if COMPLETE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
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
