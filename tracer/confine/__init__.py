"""Take this process's power away once everything is open, layer by layer, and prove it by trying."""
