"""Probes load the kernel programs, choose their hooks, read their rings and decode their records."""
