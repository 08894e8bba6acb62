"""Boots real kernels under QEMU and runs the trap corpus in each: `python -m scripts.kernel_matrix`."""
