"""Manual pages and completions, made of the commands as they are: python -m scripts.manuals DIRECTORY.

What packaging/man/ holds is written by hand; @COMMANDS@, @OPTIONS name@ and @KEYS name@ in there stand for what the
command line itself says, so that no option is missing or said twice.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer
from typer._completion_shared import get_completion_script

from tracer.cli.config import keys_of
from tracer.cli.main import COMPLETE, app

__all__ = ["SHELLS", "completions", "pages"]

SOURCES: Final = Path(__file__).parent.parent / "packaging/man"
SHELLS: Final = {
    "bash": "usr/share/bash-completion/completions/tracer",
    "zsh": "usr/share/zsh/vendor-completions/_tracer",
    "fish": "usr/share/fish/vendor_completions.d/tracer.fish",
}
"""Where each shell looks for the completions of packages, below the root."""
_PLACE: Final = re.compile(r"^@(COMMANDS|OPTIONS|KEYS)(?: (\S+))?@\n", re.MULTILINE)
# A file that zsh loads when it is needed first has to complete at once, too.
_ZSH_AT_ONCE: Final = '\n\nif [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n  _tracer_completion "$@"\nfi'


def main(directory: str) -> None:
    """Write them all below a directory."""
    for name, text in pages().items():
        _write(Path(directory, "man", name), text)
    for place, text in completions().items():
        _write(Path(directory, "completions", Path(place).name), text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def pages() -> dict[str, str]:
    """The text of each manual page, by its name."""
    return {path.stem: _PLACE.sub(_filled, path.read_text()) for path in sorted(SOURCES.glob("*.in"))}


def completions() -> dict[str, str]:
    """The script of each shell, by where it belongs."""
    found = {}
    for shell, place in SHELLS.items():
        script = get_completion_script(prog_name="tracer", complete_var=COMPLETE, shell=shell)
        found[place] = script + (_ZSH_AT_ONCE if shell == "zsh" else "") + "\n"
    return found


def commands() -> dict[str, Any]:
    """The commands, by name."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def options(command: str) -> Iterator[Any]:
    """What a command takes, in the order of its help."""
    yield from commands()[command].params


def _filled(place: re.Match[str]) -> str:
    what, name = place.groups()
    if what == "COMMANDS":
        return "".join(_command(name) for name in commands())
    if what == "OPTIONS":
        return "".join(map(_option, options(name)))
    return _keys(name)


def _command(name: str) -> str:
    command = commands()[name]
    told = " ".join(_synopsis(each) for each in command.params if not each.opts[0].startswith("-"))
    body = "".join(_option(each) for each in command.params)
    title = f".Ss tracer {name} Oo Ar option ... Oc{' ' + told if told else ''}"
    lines = [title, *_text((command.help or "").partition("Examples:")[0])]
    return "\n".join(lines) + "\n" + (f".Bl -tag -width Ds\n{body}.El\n" if body else "")


def _synopsis(option: Any) -> str:
    metavar = _escaped(option.metavar or option.name.upper())
    return f"Ar {metavar}" if option.required else f"Op Ar {metavar}"


def _option(option: Any) -> str:
    """An item of a list: the option with its short forms and its value, and what it says of itself."""
    if not option.opts[0].startswith("-"):
        head = f".It Ar {_escaped(option.metavar or option.name.upper())}"
    else:
        names = sorted(option.opts, key=len)
        forms = " , ".join(f"Fl {_escaped(name[1:])}" for name in names)
        head = f".It {forms}" + ("" if option.is_flag else f" Ar {_escaped(option.metavar or 'VALUE')}")
    return "\n".join([head, *_text(_help(option))]) + "\n"


def _keys(command: str) -> str:
    """What the configuration file may have, in the same form."""
    keys = keys_of(options(command))
    found = {max(each.opts, key=len).removeprefix("--").replace("-", "_"): each for each in options(command)}
    items = ["\n".join([f".It Ic {name} Pq {key.takes}", *_text(_help(found[name]))]) for name, key in keys.items()]
    return "\n".join(items) + "\n"


def _help(option: Any) -> str:
    default = option.default
    shown = default not in (None, False, ()) and not callable(default) and str(default)
    return (option.help or "") + (f" (by itself {default})" if shown else "")


def _text(words: str) -> list[str]:
    """Plain words as lines in which nothing means anything to mdoc."""
    return [_escaped(line.strip()) for line in words.splitlines() if line.strip()]


def _escaped(words: str) -> str:
    told = words.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("→", "->")
    return f"\\&{told}" if told[:1] in {".", "'"} else told


if __name__ == "__main__":
    main(*sys.argv[1:])
