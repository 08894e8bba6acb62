"""The pipeline orders, attributes and counts events without doing any I/O, so that recorded bytes replay exactly."""
