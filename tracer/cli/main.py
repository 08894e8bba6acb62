"""The command line: all commands, and how each of them ends."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Any, NoReturn

import typer
from typer._click.exceptions import ClickException, UsageError

from tracer.cli import session_commands, tool_commands  # noqa: F401 - they add themselves
from tracer.cli.app import app
from tracer.cli.errors import CommandError, Exit
from tracer.formats.text import visible

__all__ = ["COMPLETE", "app", "run"]

COMPLETE = "_TRACER_COMPLETE"
"""The variable by which a shell asks for completions."""


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
