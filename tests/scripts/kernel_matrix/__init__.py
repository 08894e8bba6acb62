"""The kernel matrix."""
