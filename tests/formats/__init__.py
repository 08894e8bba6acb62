"""The formats: what a line holds for an event, and that nothing hostile gets through it."""
