"""Tests of the reports on one process."""
