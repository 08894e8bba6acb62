"""The .deb: what is in it, made without a network of a stand-in for the libraries; scripts/check_deb installs it."""

import gzip
import platform
import re
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

import tracer
from scripts import deb
from tests.packaging.unit import ROOT

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nLicense-Expression: {license}\n"


@pytest.fixture(scope="module", params=sorted(deb.RELEASES))
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[deb.Release, Path]:
    """A release and its package, with two libraries in it that only say their names."""
    stage, out = tmp_path_factory.mktemp("stage"), tmp_path_factory.mktemp("out")
    for name, told in (("tracer", "Apache-2.0"), ("other", "MIT")):
        deb.write(stage / deb.LIBRARIES / f"{name}-1.0.dist-info/METADATA", METADATA.format(name=name, license=told))
    deb.add_files(stage)
    release = deb.RELEASES[request.param]
    return release, deb.build(stage, release, out)


def members(package: Path, part: str) -> dict[str, tarfile.TarInfo]:
    """The entries of a part of a package: ctrl or fsys."""
    data = subprocess.run(["dpkg-deb", f"--{part}-tarfile", package], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        return {entry.name.removeprefix("./"): entry for entry in archive}


def content(package: Path, name: str, part: str = "fsys") -> bytes:
    """A file of a package."""
    data = subprocess.run(["dpkg-deb", f"--{part}-tarfile", package], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        file = archive.extractfile(f"./{name}")
        assert file is not None
        return file.read()


def field(package: Path, name: str) -> str:
    """A field of the control file."""
    return subprocess.run(["dpkg-deb", "-f", package, name], capture_output=True, text=True, check=True).stdout.strip()


def test_control(package: tuple[deb.Release, Path]) -> None:
    """It is for one version of Python, of one release, and asks for what PyPI does not have; an upgrade is newer."""
    release, path = package
    assert field(path, "Version") == f"{tracer.__version__}+deb{release.number}"
    assert field(path, "Architecture") == {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    major, minor = release.python
    depends = field(path, "Depends").split(", ")
    assert {f"python3 (>= {major}.{minor})", f"python3 (<< {major}.{minor + 1})", "libbpf1", "python3-seccomp"} < {
        *depends
    }
    assert field(path, "Recommends").split(", ")[0] == "python3-bpfcc"
    assert "bpfcc" not in field(path, "Depends")


def test_upgrade_of_the_distribution() -> None:
    """The package of the next release is newer than that of the one before, so that an upgrade takes it."""
    first, second = (f"{tracer.__version__}+deb{each.number}" for each in deb.RELEASES.values())
    assert subprocess.run(["dpkg", "--compare-versions", first, "lt", second], check=False).returncode == 0


def test_files(package: tuple[deb.Release, Path]) -> None:
    """All is root's, nobody else can write any of it, and each thing is where its reader looks for it."""
    found = members(package[1], "fsys")
    assert {(entry.uid, entry.gid) for entry in found.values()} == {(0, 0)}
    assert not [name for name, entry in found.items() if entry.mode & 0o7022]
    assert {
        "etc/tracer/tracer.toml",
        "usr/bin/tracer",
        "usr/lib/systemd/system/tracer.service",
        "usr/lib/sysusers.d/tracer.conf",
        "usr/lib/tmpfiles.d/tracer.conf",
        "usr/share/bash-completion/completions/tracer",
        "usr/share/doc/tracer/copyright",
        "usr/share/doc/tracer/examples/logrotate",
        "usr/share/fish/vendor_completions.d/tracer.fish",
        "usr/share/man/man1/tracer.1.gz",
        "usr/share/man/man5/tracer.toml.5.gz",
        "usr/share/man/man8/tracer-export.8.gz",
        "usr/share/zsh/vendor-completions/_tracer",
    } <= found.keys()
    programs = [name for name, entry in found.items() if entry.isfile() and entry.mode & 0o111]
    assert programs == ["usr/bin/tracer"]
    assert gzip.decompress(content(package[1], "usr/share/man/man1/tracer.1.gz")).startswith(b".Dd ")
    assert b" other 1.0: MIT\n" in content(package[1], "usr/share/doc/tracer/copyright")


def test_sums_and_configuration(package: tuple[deb.Release, Path]) -> None:
    """Each file but the configuration has its sum, and the configuration is known as one, so that changes are kept."""
    files = {name for name, entry in members(package[1], "fsys").items() if entry.isfile()}
    sums = content(package[1], "md5sums", "ctrl").decode()
    assert {line.split("  ", 1)[1] for line in sums.splitlines()} == files - {"etc/tracer/tracer.toml"}
    assert content(package[1], "conffiles", "ctrl") == b"/etc/tracer/tracer.toml\n"


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_scripts(package: tuple[deb.Release, Path], name: str) -> None:
    """The scripts are programs that a shell can read, end at the first failure, and name no unit but ours."""
    assert members(package[1], "ctrl")[name].mode & 0o777 == 0o755
    text = content(package[1], name, "ctrl").decode()
    assert text.startswith("#!/bin/sh\nset -e\n")
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
    assert set(re.findall(r"\S+\.service", text)) <= {"tracer.service"}


def test_wheels_of_another_release_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """pip is asked for wheels alone, of the version of Python and the C library that the release has."""
    asked: list[str] = []
    monkeypatch.setattr(deb, "pip", lambda *words: asked.extend(map(str, words)))
    deb.install(tmp_path / "tracer.whl", tmp_path, tmp_path / "lib", deb.RELEASES["trixie"])
    assert {"--only-binary=:all:", "--python-version=3.13", f"manylinux_2_28_{deb.machine()}"} <= set(asked)
    assert asked[-1] == f"tracer[geoip,service] @ file://{tmp_path}/tracer.whl"


def test_launcher_is_isolated() -> None:
    """What runs as root reads no module from where it is started, nor from the environment or the home of who does."""
    first, *_ = (ROOT / "packaging/debian/launcher").read_text().splitlines()
    assert first == "#!/usr/bin/python3 -I"


def test_logrotate_example() -> None:
    """The example rotates by rename and reopen, for the file and the signal that the documents name."""
    text = (ROOT / "packaging/logrotate/tracer").read_text()
    assert re.search(r"(?m)^\tcreate 0640 tracer tracer$", text)
    assert re.search(r"(?m)^\tnocopytruncate$", text)
    assert "--signal=SIGHUP tracer.service" in text
