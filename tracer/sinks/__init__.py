"""Sinks write lines where they belong and count what they could not write."""
