"""Compile the probes on this machine: find BCC and the headers of exactly this kernel, and keep what came of it.

BCC is the distribution's python3-bpfcc, whose module is called bcc; the bcc of PyPI is an unrelated package. It works
in another process (bcc_compiler.py), which may be another interpreter's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracer.probes import code_cache

__all__ = ["BuildError", "Built", "binding", "build", "headers"]

MODULES: Final = Path("/lib/modules")
_COMPILER: Final = Path(__file__).with_name("bcc_compiler.py")
# With the package, or in the checkout.
_SOURCE_PLACES: Final = (Path(__file__).with_name("bpf"), Path(__file__).parents[2] / "bpf")
_SOURCES: Final = ("process.bpf.c", "tcp.bpf.c")
_INTERPRETERS: Final = (sys.executable, "/usr/bin/python3", "/usr/libexec/platform-python")
_COMPILE_SECONDS: Final = 600  # on an emulated machine it takes half a minute
_BINDING_SECONDS: Final = 120
_ARCHITECTURES: Final = {"x86_64": "x86", "aarch64": "arm64"}
_WARNINGS: Final = ("-Wno-int-conversion",)  # BPF_PROG casts a context's words to what they are
_ERROR: Final = re.compile(r"^(.*?\b(?:fatal )?error: .*)$", re.MULTILINE)
_RELEASE: Final = re.compile(r'^#define UTS_RELEASE "([^"]+)"', re.MULTILINE)


class BuildError(Exception):
    """The probes can't be compiled here: one line, with the fix where there is one."""

    def __init__(self, message: str, fix: str = "") -> None:
        """``fix`` is a command, or advice."""
        super().__init__(f"{message}; {fix}" if fix else message)
        self.reason = message
        self.fix = fix


class Built(NamedTuple):
    """Compiled programs: instructions by name, the version of BCC, seconds, and whether they were kept from before."""

    code: dict[str, bytes]
    version: str
    seconds: float
    cached: bool


def headers() -> Path:
    """The headers of exactly the running kernel; with others the reads are silently wrong. Raises BuildError."""
    release = os.uname().release
    place = MODULES / release / "build"
    fix = f"install them (Debian: apt-get install linux-headers-{release}; Fedora: dnf install kernel-devel-{release})"
    if not (place / "include").is_dir():
        raise BuildError(f"the headers of this kernel are missing: no {place}", fix)
    found = _release_of(place)
    if found is None:
        raise BuildError(f"{place} does not say which kernel it is of", fix)
    if found != release:
        raise BuildError(f"{place} holds the headers of another kernel, {found}", fix)
    return place


def _release_of(place: Path) -> str | None:
    try:
        text = (place / "include/generated/utsrelease.h").read_text(errors="replace")
    except OSError:
        text = ""
    if match := _RELEASE.search(text):
        return match[1]
    try:
        return (place / "include/config/kernel.release").read_text(errors="replace").strip()
    except OSError:
        return None


def binding() -> dict[str, str]:
    """``version``, ``path`` and ``interpreter`` of a usable BCC. Raises BuildError."""
    given, interpreter, _ = _ask({}, _BINDING_SECONDS)
    return {"version": str(given["version"]), "path": str(given["path"]), "interpreter": interpreter}


def build(maps: Mapping[str, int], programs: Sequence[str], sys_exit_ret: int, *, fresh: bool = False) -> Built:
    """Compile ``programs``, or unless they are to be ``fresh`` take them from the cache. Raises BuildError.

    ``maps`` are the numbers that stand for the maps in the code (program.place_maps), ``sys_exit_ret`` is the position
    of the result in what the tracepoints of a system call's end hand over, in bytes.
    """
    began = time.monotonic()
    headers()
    place = next((each for each in _SOURCE_PLACES if (each / _SOURCES[0]).is_file()), None)
    if place is None:
        raise BuildError("the sources of the probes are missing from this installation")
    machine = _ARCHITECTURES.get(os.uname().machine)
    if machine is None:
        raise BuildError(f"no probes for machine {os.uname().machine}")
    flags = ["-DTRACER_BCC", f"-D__TARGET_ARCH_{machine}", f"-DSYS_EXIT_RET={sys_exit_ret}", *_WARNINGS]
    flags += [f"-DFD_{name}={number}" for name, number in maps.items()]
    key = _key(place, flags, programs)
    directory = code_cache.place()
    kept = None if fresh else code_cache.load(directory, key)
    if kept is not None:
        given = json.loads(kept)
    else:
        source = "".join(f'#line 1 "{name}"\n{(place / name).read_text()}\n' for name in _SOURCES)
        request = {"source": source, "flags": [*flags, f"-I{place}"], "programs": list(programs)}
        given, _, said = _ask(request, _COMPILE_SECONDS)
        if "code" not in given:
            raise BuildError(f"BCC can't compile the probes for this kernel: {_first_error(said) or given['message']}")
        code_cache.store(directory, key, json.dumps(given).encode())
    try:
        code = {name: b64decode(given["code"][name], validate=True) for name in programs}
    except (KeyError, TypeError, Base64Error) as wrong:
        raise BuildError(f"BCC gave no code that can be used ({wrong})") from wrong
    return Built(code, str(given.get("version", "?")), time.monotonic() - began, kept is not None)


def _key(place: Path, flags: Sequence[str], programs: Sequence[str]) -> str:
    """What the code depends on; the kernel's version besides its release, since a rebuild keeps the release."""
    system = os.uname()
    parts = [system.release, system.version, system.machine, *flags, *programs]
    digest = sha256("\0".join(parts).encode())
    for path in (*sorted(place.glob("*.[ch]")), _COMPILER):
        digest.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _ask(request: dict[str, Any], seconds: float) -> tuple[dict[str, Any], str, str]:
    """Have the first interpreter that has BCC answer; also which one that was, and its stderr. Raises BuildError."""
    install = (
        "install the distribution's binding (Debian: apt-get install python3-bpfcc; Fedora: dnf install python3-bcc)"
    )
    reasons: dict[str, str] = {}
    for interpreter in dict.fromkeys(_INTERPRETERS):
        if not Path(interpreter).is_file():
            continue
        given, said = _run(interpreter, request, seconds)
        failure = given.get("failure", "")
        if failure not in ("missing", "broken", "wrong"):
            return given, interpreter, said
        reasons.setdefault(failure, str(given["message"]))
    if "broken" in reasons:
        raise BuildError(f"import of bcc fails: {reasons['broken']}", install)
    if "wrong" in reasons:
        raise BuildError(f"the wrong bcc: {reasons['wrong']} is PyPI's, an unrelated package without BPF", install)
    raise BuildError("no module bcc", install)


def _run(interpreter: str, request: dict[str, Any], seconds: float) -> tuple[dict[str, Any], str]:
    command = [interpreter, "-I", str(_COMPILER)]
    # Nothing of the caller's environment: variables of BCC's would choose other headers.
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            errors="backslashreplace",
            env=environment,
            cwd="/",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise BuildError(f"BCC did not finish within {seconds} s") from late
    except OSError as failed:
        raise BuildError(f"{interpreter} can't be run: {failed.strerror}") from failed
    try:
        given: dict[str, Any] = json.loads(done.stdout)
    except ValueError as garbled:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        how = f"by signal {-done.returncode}" if done.returncode < 0 else f"with code {done.returncode}"
        raise BuildError(f"BCC ended {how}: {said[-1] if said else 'no message'}") from garbled
    return given, done.stderr


def _first_error(said: str) -> str:
    """clang's first error, of the attempt that it liked best."""
    attempts = [_ERROR.findall(part) for part in said.split("\f")]
    failed = [errors for errors in attempts if errors]
    return str(min(failed, key=len)[0]).strip() if failed else ""
