"""What files of events tell of one process: how it is known, and what it did."""
