"""Build hook: compiles the BPF programs and the trap programs into the wheel: a target machine needs no compiler."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# The build runs this file by its path; the module it shares with `make bpf` lies beside it.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from scripts.build_bpf import BuildError, compile_bpf, sources, target_machine  # after the path that it needs
from scripts.build_corpus import ARCHIVE, CORPUS, CompileError, corpus_files, pack_programs


class BpfBuildHook(BuildHookInterface[Any]):
    """Adds the compiled objects and the trap corpus to a wheel, tagged for their architecture and every Python 3."""

    _scratch: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files of the wheel are collected; ends the build with one line when that fails."""
        # An editable install reads the objects in the tree, and there `make bpf` keeps them fresh.
        if version == "editable":
            return
        root = Path(self.root)
        names = sources(root)
        if not names:
            self.app.abort("no BPF programs in bpf/: a wheel without probes would be of no use")
        self._scratch = Path(tempfile.mkdtemp(prefix="tracer-wheel-"))
        programs = self._scratch / "programs.tar.xz"
        try:
            machine = target_machine()
            objects = [compile_bpf(root, name) for name in names]
            pack_programs(root, programs, machine)
        except (BuildError, CompileError) as error:
            self.app.abort(str(error))
        else:
            # Named one by one: an object of a deleted source or of another architecture is not shipped.
            build_data["artifacts"] += [f"/{path}" for path in objects]
            build_data["force_include"] |= corpus_files(root) | {str(programs): f"{CORPUS}/{ARCHIVE}"}
            # BCC compiles them again on machines without BTF.
            build_data["force_include"][str(root / "bpf")] = "tracer/probes/bpf"
            # What is compiled asks for no user-space library, so any libc will do, but it is for one architecture.
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-linux_{machine}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 (hatch's)
        """Take away what was compiled beside the tree."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
