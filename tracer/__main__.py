"""`python -m tracer`."""

from tracer.cli.main import run

run()
