"""Everything that can be told of one process from outside, read from the kernel at one moment."""
