"""Measures what tracing costs, beside other tools: `python -m scripts.bench`."""
