"""Formats turn one event into one line of output."""
