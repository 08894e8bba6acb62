"""The report in a real browser: nothing is asked of anybody, nothing complains, and hostile names are text."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.report.stories import EVIL, bundle, events
from tracer.report import html

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here"),
    pytest.mark.may_skip("Ubuntu has no package of Chromium"),
]


@contextmanager
def served(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """A server of the directory's files on loopback: its address, and the paths that it is asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(directory))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


def browse(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the browser to its end, with a home of its own."""
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    command += ["--disable-background-networking", f"--user-data-dir={directory / 'profile'}"]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses to run as root
    environment = os.environ | {"HOME": str(directory)}
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=100, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(name="report")
def _report(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    with path.open("w", encoding="utf-8") as out:
        html.write(bundle(), events(), out)
    return path


def test_the_browser_asks_for_the_page_alone(report: Path, tmp_path: Path) -> None:
    """Loaded from a server, the page is the only thing that is asked for, and the console stays empty."""
    log = tmp_path / "net.json"
    with served(tmp_path) as (address, asked):
        done = browse(tmp_path, f"--log-net-log={log}", "--dump-dom", f"{address}/report.html")
    assert asked == ["/report.html"]
    assert "CONSOLE" not in done.stderr, done.stderr
    assert "Content Security Policy" not in done.stderr
    urls = {
        each["params"]["url"]
        for each in json.loads(log.read_text())["events"]
        if isinstance(each.get("params"), dict) and "url" in each["params"]
    }
    assert {url for url in urls if not url.startswith("data:")} == {f"{address}/report.html"}


def test_a_hostile_name_is_text_in_the_browser(report: Path, tmp_path: Path) -> None:
    """What the browser made of the page has no script in it, and has the name."""
    dom = browse(tmp_path, "--dump-dom", report.as_uri()).stdout
    assert "<script" not in dom
    assert "<img" not in dom
    assert EVIL.replace("<", "&lt;").replace(">", "&gt;") in dom


def test_the_console_would_tell(tmp_path: Path) -> None:
    """A page that does what the policy forbids is told of on the console: the test above can fail."""
    path = tmp_path / "bad.html"
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    path.write_text(f"<html><head>{policy}</head><body><script>1</script></body></html>")
    assert "CONSOLE" in browse(tmp_path, "--dump-dom", path.as_uri()).stderr


@pytest.mark.parametrize("size", ["1280,2000", "390,2000"])
def test_it_is_drawn_wide_and_narrow(report: Path, tmp_path: Path, size: str) -> None:
    """A picture of it can be taken at the width of a desktop and of a telephone."""
    picture = tmp_path / "report.png"
    browse(tmp_path, f"--screenshot={picture}", f"--window-size={size}", report.as_uri())
    assert picture.read_bytes().startswith(PNG)
    assert picture.stat().st_size > 20_000
