"""Makes what is asked of a session out of what was typed, and refuses what contradicts itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.cli import options
from tracer.cli.errors import CommandError, Exit

if TYPE_CHECKING:
    from tracer.cli.asked import Options
    from tracer.cli.mode import Mode

__all__ = ["asked_of", "format_of", "mode_of"]


def format_of(name: str | None, json: bool) -> str | None:
    """The format by --format and --json, None if neither was given. Raises CommandError."""
    if json and name not in (None, "ecs"):
        raise CommandError(f"--json and --format {name} contradict each other: give one of them", Exit.USAGE)
    if name is not None and name not in ("pretty", "ecs", "ocsf"):
        raise CommandError(f"--format {name!r}: give pretty, ecs or ocsf", Exit.USAGE)
    return "ecs" if json else name


def mode_of(no_sandbox: bool, strict: bool, user: str | None = None) -> Mode:
    """How much of the sandbox is asked for. Raises CommandError."""
    from tracer.cli.mode import Mode

    if no_sandbox and (strict or user is not None):
        other = "--sandbox-strict" if strict else "--user"
        raise CommandError(f"--no-sandbox and {other} contradict each other: give one of them", Exit.USAGE)
    return Mode.OFF if no_sandbox else Mode.STRICT if strict else Mode.BEST


def asked_of(typed: dict[str, Any]) -> Options:
    """What was asked of a session, from the parameters of a command. Raises CommandError."""
    from tracer.cli.asked import Options
    from tracer.cli.backends import BACKENDS, HOOKS

    backend, hooks = typed["backend"], typed["hooks"]
    if backend not in BACKENDS:
        raise CommandError(f"--backend {backend!r}: give one of {', '.join(BACKENDS)}", Exit.USAGE)
    mode = mode_of(typed["no_sandbox"], typed["sandbox_strict"], typed["user"])
    if typed["no_payload"] and any("dns" in each.split(",") for each in typed["event"] or ()):
        raise CommandError("--event dns: there are no answers with --no-payload; leave one of them out", Exit.USAGE)
    if hooks not in HOOKS:
        raise CommandError(f"--hooks {hooks!r}: give one of {', '.join(HOOKS)}", Exit.USAGE)
    several = ("pid", "comm", "exe", "uid", "port", "cidr", "event", "netns")
    duration, aggregate = typed["duration"], typed["aggregate"]
    return Options(
        filters=options.filters(children=typed["children"], **{name: typed[name] or () for name in several}),
        backend=backend,
        hooks=hooks,
        format=format_of(typed["form"], typed.get("json", False)),
        output=_path(typed["output"]),
        duration=options.duration("--duration", duration) if duration is not None else None,
        count=typed.get("count"),
        update=options.duration("--update-every", typed["update_every"]),
        buffer=options.size("--buffer", typed["buffer"], 16 << 10, 1 << 30),
        record=_path(typed.get("record")),
        fail_on_loss=typed["fail_on_loss"],
        snapshot=not typed["no_snapshot"],
        payload=not typed["no_payload"],
        sandbox=mode,
        user=typed["user"],
        account_wire=typed["account_wire"],
        privacy=options.privacy(
            _path(typed["redact"]), truncate=typed["truncate_addresses"], key=_path(typed["hash_users"])
        ),
        geoip=[Path(each) for each in typed["geoip"] or ()],
        stats=_path(typed["stats"]),
        flood=typed["flood_budget"],
        aggregate=options.duration("--aggregate", aggregate) if aggregate is not None else 0.0,
    )


def _path(text: str | Path | None) -> Path | None:
    """The context has texts."""
    return None if text is None else Path(text)
