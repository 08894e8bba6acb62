"""Tests of what lies under scripts."""
