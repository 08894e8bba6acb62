"""An interpreter whose module bcc is what a test says: it runs the real compiler program over it."""

import sys
from pathlib import Path

# What BCC's module has, as far as it is used; `answer(text, flags)` is the test's: it may raise, print to stderr, or
# give the instructions of every program.
BCC = """
import ctypes, sys
__version__ = "9.9"
class BPF:
    module = None
    def __init__(self, text, cflags):
        self.code = ctypes.create_string_buffer(answer(text, cflags))
        lib.code = self.code
class lib:
    code = None
    @staticmethod
    def bpf_function_start(module, name):
        return ctypes.addressof(lib.code)
    @staticmethod
    def bpf_function_size(module, name):
        return len(lib.code) - 1
"""


def interpreter_with(place: Path, module: str) -> str:
    """An executable that stands for a Python interpreter, and that has this module called bcc."""
    modules = place / "modules"
    modules.mkdir(exist_ok=True)
    (modules / "bcc.py").write_text(module)
    executable = place / "python3"
    executable.write_text(
        f"#!{sys.executable}\n"
        "import runpy, sys\n"
        "assert sys.argv[1] == '-I', sys.argv\n"
        f"sys.path.insert(0, {str(modules)!r})\n"
        "runpy.run_path(sys.argv[2], run_name='__main__')\n"
    )
    executable.chmod(0o755)
    return str(executable)


def fake_bcc(answer: str) -> str:
    """A module like BCC's whose compiler does what the body of ``answer(text, flags)`` says."""
    return BCC + "def answer(text, flags):\n" + "".join(f"    {line}\n" for line in answer.splitlines())
