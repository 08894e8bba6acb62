"""Measures the accounting of bytes: traffic that counts itself, against what the tracer wrote about it."""
