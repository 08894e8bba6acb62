"""Tests of what is packaged beside the program."""
