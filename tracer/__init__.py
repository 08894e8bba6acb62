"""Tracer shows which process does what on the network and the machine, from kernel probes, and says what it missed."""

__version__ = "0.1.0"
