"""Tests of the chain and of what verifies it."""
