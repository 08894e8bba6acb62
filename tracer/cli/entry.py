"""Start the command line, so that Ctrl-C is quiet from the first import on."""

from __future__ import annotations

import gc
import signal
from typing import NoReturn

__all__ = ["run"]


def run() -> NoReturn:
    """Run a command and exit with its code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until a command takes it
    gc.disable()  # what is imported stays: to look through it again and again takes a tenth of the time
    from tracer.cli.main import run as run_command

    run_command()
