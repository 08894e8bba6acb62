"""Tests of what files of events tell of one process."""
