"""What goes wrong before a kernel has had its say."""


class MatrixError(Exception):
    """A kernel, an image or a program could not be had; the message says what, and the fix where it is known."""
