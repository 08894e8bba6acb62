"""Tests of the confinement, each in a fork that is confined."""
