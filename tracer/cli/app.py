"""The application that commands are added to."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(
    name="tracer",
    help="Which process talks to whom, and what does it run? Ask the kernel.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
