"""Measures attribution: a generator whose truth is known, against what the tracer wrote about it."""
