"""What keeps the check of bytes from measuring anything."""


class BytesError(Exception):
    """A program is missing, or the generator or the network it needs could not be made: one line that says what."""
