"""The commands that trace: what each takes, and where it is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from typer._click.core import ParameterSource

from tracer.cli import options
from tracer.cli.app import app
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
from tracer.cli.asking import asked_of
from tracer.cli.errors import CommandError, Exit

if TYPE_CHECKING:
    from tracer.cli.config import Config


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
