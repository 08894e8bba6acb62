"""The file of settings: every option is a key, and every mistake is one line that names the place."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.cli.config import FLAG, LIST, TEXT, Config, Key
from tracer.cli.errors import CommandError, Exit

KEYS = {
    "rotate_size": Key("rotate_size", TEXT, "64M"),
    "event": Key("event", LIST, None),
    "no_payload": Key("no_payload", FLAG, False),
}
PATH = Path("/etc/tracer.toml")


def config(text: str) -> Config:
    """What is in a file with this text."""
    return Config(PATH, text.encode(), KEYS)


def test_values_are_what_would_be_typed() -> None:
    """Numbers become texts, one text a list where several may be given, and a switch stays one."""
    found = config('rotate_size = 65536\nevent = "exec"\nno_payload = true\n')
    assert found.values == {"rotate_size": "65536", "event": ["exec"], "no_payload": True}
    assert config('event = ["exec", "exit"]').values == {"event": ["exec", "exit"]}
    assert config("# nothing\n").values == {}


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        (
            "# a\n\nrotate_sise = 1\n",
            3,
            "there is no setting 'rotate_sise'; give one of event, no_payload, rotate_size",
        ),
        ("rotate-size = '1M'\n", 1, "there is no setting 'rotate-size'; did you mean rotate_size?"),
        ("[files]\nkeep = 1\n", 1, "there is no setting 'files'"),
        ("event = [\n 'exec',\n]\n\n# b\nno_payload = 'yes'\n", 6, "no_payload takes true or false"),
        ("rotate_size = true\n", 1, "rotate_size takes a text or a number"),
        ("rotate_size = ['1M']\n", 1, "rotate_size takes a text or a number"),
        ("\nevent = ['exec', true]\n", 2, "event takes a list of texts"),
        ("rotate_size = 2026-01-01\n", 1, "rotate_size takes a text or a number"),
        ("rotate_size = '1M'\nrotate_size = '2M'\n", 2, "no TOML: cannot overwrite a value"),
        ("rotate_size = \n", 1, "no TOML: invalid value"),
        ("event = ['exec'\n", 1, "no TOML: "),
        ("event = '''\nno_payload = 1\n'''\nno_payload = 1\n", 4, "no_payload takes true or false"),
    ],
)
def test_mistakes_are_told_with_their_line(text: str, line: int, why: str) -> None:
    """The path, the line, and what would be right."""
    with pytest.raises(CommandError) as wrong:
        config(text)
    assert wrong.value.code is Exit.USAGE
    assert str(wrong.value).startswith(f"{PATH}, line {line}: {why}")
    assert "\n" not in str(wrong.value)


def test_bytes_that_are_no_text() -> None:
    """They are told with their line, too."""
    with pytest.raises(CommandError, match=r"line 2: it is not UTF-8"):
        Config(PATH, b"# fine\nevent = '\xff'\n", KEYS)


def test_errors_of_options_are_located() -> None:
    """An error about an option that the file sets says where; one about another is left as it is."""
    found = config("\nevent = ['nope']\n")
    error = found.located(CommandError("--event 'nope': give one of exec", Exit.USAGE))
    assert (str(error), error.code) == (f"{PATH}, line 2: --event 'nope': give one of exec", Exit.USAGE)
    other = CommandError("--port '0': give a port", Exit.USAGE)
    assert found.located(other) is other
    size = CommandError("--rotate-size 'x': give a size", Exit.USAGE)
    assert str(config("rotate_size = 'x'").located(size)).startswith(f"{PATH}, line 1: --rotate-size")


def test_file_that_can_not_be_read(tmp_path: Path) -> None:
    """One line with the fix; what is far too large is no file of settings."""
    with pytest.raises(CommandError, match="No such file or directory; name another with --config"):
        Config.read(tmp_path / "none", KEYS)
    (tmp_path / "large").write_bytes(b"#" * (1 << 20))
    with pytest.raises(CommandError, match="more than 60 KiB"):
        Config.read(tmp_path / "large", KEYS)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_whatever_is_in_it(data: bytes) -> None:
    """Any bytes are settings or one line that says why not; nothing else is raised."""
    said = ""
    try:
        assert set(Config(PATH, data, KEYS).values) <= set(KEYS)
    except CommandError as wrong:
        said = str(wrong)
    assert not said or said.startswith(f"{PATH}, line ")
