"""Tests of the fallback backends."""
