"""The tests mirror the package; those under live need root and a kernel with BPF."""
