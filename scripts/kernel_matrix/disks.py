"""Makes the ext4 images that the guests mount, without mounting anything here."""

import os
import subprocess
from pathlib import Path

from scripts.kernel_matrix.errors import MatrixError

_BLOCK = 4096
_SPARE = 24 << 20  # bytes for the file system's own tables and for what a guest writes
_MAKE_S = 300

_PLACES = ("/usr/sbin", "/sbin")  # not on the PATH of an ordinary user


def tool_path() -> str:
    """The PATH with the directories of the tools that make file systems and module tables."""
    return os.pathsep.join([os.environ.get("PATH", "/usr/bin:/bin"), *_PLACES])


def size_of(root: Path) -> tuple[int, int]:
    """How many bytes a tree takes in whole blocks, and how many files, directories and links there are."""
    size = count = 0
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            size += -(-os.lstat(Path(directory, name)).st_size // _BLOCK) * _BLOCK
            count += 1
    return size, count


def make_disk(root: Path, target: Path, label: str) -> None:
    """Write an ext4 image of the tree `root` to `target`.

    The image needs no journal: it is used for one boot and thrown away. Raises MatrixError when mke2fs is missing or
    fails.
    """
    size, count = size_of(root)
    blocks = (size + size // 20 + _SPARE + count * 512) // _BLOCK
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_BLOCK), "-m", "0", "-L", label]
    command += ["-O", "^has_journal,^metadata_csum", "-N", str(count + 4096), "-E", "root_owner=0:0"]
    try:
        done = subprocess.run(
            [*command, "-d", root, target, str(blocks)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_MAKE_S,
            env={**os.environ, "PATH": tool_path()},
        )
    except FileNotFoundError:
        raise MatrixError("mke2fs is missing: apt-get install e2fsprogs") from None
    if done.returncode:
        raise MatrixError(f"mke2fs: {done.stderr.strip()}")
