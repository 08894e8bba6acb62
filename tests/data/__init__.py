"""A recorded session and the lines that it gives; see make.py."""
