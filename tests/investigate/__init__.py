"""Tests of what is told of one process, held against the process itself and against other programs."""
