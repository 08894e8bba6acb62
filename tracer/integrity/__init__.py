"""Prove later, from the files alone, that nothing of a stream is missing and nothing was changed."""
