"""What is known without eBPF: processes and their descriptors as /proc shows them."""
