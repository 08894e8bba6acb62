"""Tests of the whole program on the running kernel."""
