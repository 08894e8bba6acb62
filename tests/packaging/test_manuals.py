"""Manual pages and completions: nothing is missing in them, and each program that reads them has no complaint."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import manuals
from tests.packaging.unit import ROOT
from tracer.cli.config import keys_of

PAGES = manuals.pages()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_mandoc_has_nothing_to_say(name: str, tmp_path: Path) -> None:
    """mandoc's lint finds no error and no warning, and every line is rendered."""
    page = tmp_path / name
    page.write_text(PAGES[name])
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0
    assert "@" not in re.sub(r"\S+@\S+\.\S+", "", PAGES[name])


def rendered(name: str, tmp_path: Path) -> str:
    """A page as it is read, without overstrikes."""
    page = tmp_path / name
    page.write_text(PAGES[name])
    text = subprocess.run(["mandoc", "-T", "ascii", page], capture_output=True, text=True, check=True).stdout
    return re.sub(".\b", "", text)


def test_pages_that_there_are() -> None:
    """The pages are those that others refer to, and each reference between them is to one that is there."""
    assert sorted(PAGES) == ["tracer-export.8", "tracer.1", "tracer.toml.5"]
    for text in PAGES.values():
        for name, section in re.findall(r"^\.Xr (tracer\S*) (\d)", text, re.MULTILINE):
            assert f"{name}.{section}" in PAGES


def test_every_command_and_option(tmp_path: Path) -> None:
    """tracer(1) has each command with each of its options, as the page is read; --help adds nothing but itself."""
    text = rendered("tracer.1", tmp_path)
    commands = manuals.commands()
    assert {"live", "export", "status", "doctor"} <= commands.keys()
    parts = re.split(r"(?m)^ +tracer ([a-z]+) \[option \.\.\.\]", text.partition("\nCOMMANDS\n")[2])
    told = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert told.keys() == commands.keys()
    for name, command in commands.items():
        for option in command.params:
            for form in option.opts:
                shown = form if form.startswith("-") else str(option.metavar).replace("…", "...")
                assert shown in told[name], (name, form)


def test_every_option_of_export(tmp_path: Path) -> None:
    """tracer-export(8) has each option, tracer.toml(5) each key, once."""
    page, keys = rendered("tracer-export.8", tmp_path), rendered("tracer.toml.5", tmp_path)
    for option in manuals.options("export"):
        name = re.escape(max(option.opts, key=len))
        assert len(re.findall(rf"(?m)^ +(?:-\w, )?{name}\b(?!-)", page)) == 1, option.name
    found = re.findall(r"(?m)^     (\w+) \((.+?)\)", keys.partition("\nKEYS\n")[2].partition("\nEXAMPLES\n")[0])
    wanted = keys_of(manuals.options("export"))
    assert dict(found) == {name: key.takes for name, key in wanted.items()}
    assert len(found) == len(wanted)


def test_packaged_configuration_has_known_keys(tmp_path: Path) -> None:
    """The configuration that is installed is taken, also with what is commented out in it."""
    text = (ROOT / "packaging/tracer.toml").read_text()
    whole = tmp_path / "tracer.toml"
    whole.write_text(re.sub(r"(?m)^# (?=\w+ = )", "", text))
    keys = re.findall(r"(?m)^(\w+) = ", whole.read_text())
    assert set(keys) <= keys_of(manuals.options("export")).keys()
    assert "geoip" in keys
    # It ends with what comes after the configuration: an output that can't be.
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "export", "--config", whole, "--output", "/dev/null"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert "no file and no directory" in done.stderr


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    """An environment with `tracer` on its path."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "tracer").write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m tracer "$@"\n')
    (place / "tracer").chmod(0o755)
    return os.environ | {"PATH": f"{place}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb"}


def script(shell: str, tmp_path: Path) -> Path:
    """The completions of a shell, as a file of the name that they are installed by."""
    place = manuals.SHELLS[shell]
    path = tmp_path / "completions" / Path(place).name
    path.parent.mkdir()
    path.write_text(manuals.completions()[place])
    return path


def test_bash_completes(tmp_path: Path, program: dict[str, str]) -> None:
    """bash completes commands, and the options of a command."""
    words = """
        source "$0"
        function=$(complete -p tracer | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); $function tracer; }
        ask tracer expo; echo "${COMPREPLY[@]}"
        ask tracer live --sand; echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", words, script("bash", tmp_path)], capture_output=True, text=True, check=False, env=program
    )
    assert done.stdout.split("\n") == ["export", "--sandbox-strict", ""], done.stderr


def test_fish_completes(tmp_path: Path, program: dict[str, str]) -> None:
    """fish completes commands, and the options of a command."""
    ask = f"source {script('fish', tmp_path)}; complete -C 'tracer expo'; complete -C 'tracer live --sand'"
    done = subprocess.run(["fish", "-c", ask], capture_output=True, text=True, check=False, env=program)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["export", "--sandbox-strict"], done.stderr


def test_zsh_completes(tmp_path: Path, program: dict[str, str]) -> None:
    """zsh finds the file by its name, and what it runs answers with the commands, at the first time."""
    place = script("zsh", tmp_path)
    # Without a terminal there is no line to complete: what the file would call is put in its place.
    words = f"""
        fpath=({place.parent} $fpath)
        autoload -Uz compinit; compinit -u -D
        print -r -- $_comps[tracer]
        _arguments() {{ print -r -- "$@" }}
        words=(tracer expo); CURRENT=2
        _tracer
    """
    done = subprocess.run(["zsh", "-f", "-c", words], capture_output=True, text=True, check=False, env=program)
    registered, *answer = done.stdout.splitlines()
    assert registered == "_tracer", done.stderr
    assert "export" in " ".join(answer), done.stderr


def test_shells_are_there() -> None:
    """The three shells are installed by scripts/setup --tests, so that none of the above passes for want of one."""
    assert all(shutil.which(name) for name in ("bash", "fish", "zsh", "mandoc"))
