"""`python -m tracer`."""

from tracer.cli.entry import run

run()
