"""Decides which tests this machine can run, and lets none be skipped in silence under TRACER_REQUIRE=1."""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

# So that their assertions, too, say what they compared.
pytest.register_assert_rewrite("tests.traps.checks")

pytest_plugins = ["pytester"]
if (Path(__file__).parent / "tracing.py").exists():
    pytest_plugins.append("tests.tracing")

# Under nohup(1) what tests start would not hear of a SIGHUP either.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

VMLINUX_BTF = Path("/sys/kernel/btf/vmlinux")


def _required() -> bool:
    return os.environ.get("TRACER_REQUIRE") == "1"


def _why_not_live() -> str | None:
    if os.geteuid() != 0:
        return "needs root"
    # BCC compiles on the machine itself, and needs no BTF.
    if not VMLINUX_BTF.exists() and os.environ.get("TRACER_TEST_BACKEND") != "bcc":
        return f"needs a kernel with BTF: no {VMLINUX_BTF}"
    return None


def _fail_instead(report: pytest.TestReport | pytest.CollectReport) -> None:
    # pytest keeps the reason of a skip as (path, line, "Skipped: reason").
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"TRACER_REQUIRE=1 allows no skip. {reason}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip live tests where the probes cannot run."""
    reason = _why_not_live()
    if reason is not None:
        for item in items:
            if item.get_closest_marker("live"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test into a failure under TRACER_REQUIRE=1, unless it is marked may_skip with a reason."""
    report = yield
    # An expected failure is reported as a skip too; strict mode sees to those.
    if report.skipped and _required() and not hasattr(report, "wasxfail"):
        marker = item.get_closest_marker("may_skip")
        if marker is None or not marker.args:
            _fail_instead(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into a failure under TRACER_REQUIRE=1: single tests have may_skip."""
    report = yield
    if report.skipped and _required():
        _fail_instead(report)
    return report
