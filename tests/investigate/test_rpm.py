"""Packages of rpm: what rpm itself says of a database that it made."""

import os
import subprocess
from pathlib import Path

import pytest

from tracer.investigate import rpm
from tracer.investigate.packages import Package

SPEC = """
Name: {name}
Version: 1.2
Release: 3
{epoch}
Summary: a sample
License: none
BuildArch: noarch
%description
A sample.
%install
mkdir -p %{{buildroot}}{first} %{{buildroot}}{second}
touch %{{buildroot}}{first}/sample %{{buildroot}}{first}/other %{{buildroot}}{second}/sample
%files
{first}/sample
{first}/other
{second}/sample
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two packages, whose files have the same names in different directories."""
    there = tmp_path_factory.mktemp("rpm")
    for name, epoch, first, second in (
        ("sample-one", "Epoch: 4", "/usr/bin", "/opt/one"),
        ("sample-two", "", "/srv/bin", "/opt/two"),
    ):
        spec = there / f"{name}.spec"
        spec.write_text(SPEC.format(name=name, epoch=epoch, first=first, second=second))
        defined = ["--define", f"_topdir {there}/top", "--define", "__os_install_post %{nil}"]
        environment = os.environ | {"HOME": str(there)}  # Debian's rpm keeps a database there
        command = ["rpmbuild", "--quiet", "-bb", *defined, str(spec)]
        subprocess.run(command, check=True, capture_output=True, env=environment)
    (there / "root/var/lib/rpm").mkdir(parents=True)
    packages = [str(path) for path in (there / "top").rglob("*.rpm")]
    assert len(packages) == 2
    where = ["rpm", "--root", str(there / "root"), "--dbpath", "/var/lib/rpm"]
    install = ["-i", "--nodeps", "--justdb", "--force-debian", *packages]
    for command in (["--initdb"], install):
        subprocess.run([*where, *command], check=True, capture_output=True)
    return there / "root/var/lib/rpm/rpmdb.sqlite"


def asked_of_rpm(database: Path, path: str) -> str:
    """What rpm says, or nothing."""
    root = str(database.parents[3])
    command = ["rpm", "--root", root, "--dbpath", "/var/lib/rpm", "-qf", path]
    shown = "%{name} %|epoch?{%{epoch}:}|%{version}-%{release}"
    done = subprocess.run([*command, "--qf", shown], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


@pytest.mark.parametrize(
    "path",
    ["/usr/bin/sample", "/usr/bin/other", "/opt/one/sample", "/srv/bin/sample", "/opt/two/sample", "/nowhere/sample"],
)
def test_owner_is_what_rpm_says(database: Path, path: str) -> None:
    """Name, epoch, version and release are those that rpm tells of the same path; what rpm knows not is of none."""
    found = rpm.owner(path.encode(), [database])
    assert (f"{found.name} {found.version}" if found else "") == asked_of_rpm(database, path)
    assert found is None or found.manager == "rpm"


def test_either_spelling_of_usr(database: Path) -> None:
    """A path without /usr finds the package that has it with that."""
    assert rpm.owner(b"/bin/sample", [database]) == Package("sample-one", "4:1.2-3", "rpm")


def test_no_database_and_a_bad_one(tmp_path: Path) -> None:
    """Without a database nothing is of a package; one that is none is an error that can be told."""
    assert rpm.owner(b"/bin/sh", [tmp_path / "none"]) is None
    bad = tmp_path / "rpmdb.sqlite"
    bad.write_bytes(b"no database" * 1000)
    with pytest.raises(OSError, match="not a database"):
        rpm.owner(b"/bin/sh", [bad])
    assert rpm.owner(b"/bin/\xff", [tmp_path / "none"]) is None
