"""The rules about skipping, tried on small test suites of their own."""

from pathlib import Path

import pytest

CONFTEST = (Path(__file__).parent / "conftest.py").read_text()

SUITE = """
    import pytest

    def test_plain():
        pytest.skip("no such thing here")

    @pytest.mark.may_skip("only some kernels have it")
    def test_allowed():
        pytest.skip("not this kernel")

    @pytest.mark.may_skip
    def test_allowed_without_reason():
        pytest.skip("not this kernel")

    @pytest.mark.xfail(reason="known")
    def test_known():
        assert False

    def test_good():
        pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty suite under our conftest, with TRACER_REQUIRE unset."""
    monkeypatch.delenv("TRACER_REQUIRE", raising=False)
    pytester.makeini("[pytest]\nmarkers =\n    live: x\n    may_skip: x\n")
    pytester.makeconftest(CONFTEST)
    return pytester


def test_skips_stay_skips(suite: pytest.Pytester) -> None:
    """Without TRACER_REQUIRE a skipped test is skipped."""
    suite.makepyfile(SUITE)
    suite.runpytest_inprocess().assert_outcomes(passed=1, skipped=3, xfailed=1)


def test_required_skips_fail(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under TRACER_REQUIRE=1 a skip fails and says why, unless a reason was given why it may happen."""
    monkeypatch.setenv("TRACER_REQUIRE", "1")
    suite.makepyfile(SUITE)
    result = suite.runpytest_inprocess()
    result.assert_outcomes(passed=1, skipped=1, failed=2, xfailed=1)
    result.stdout.fnmatch_lines(["*TRACER_REQUIRE=1 allows no skip. Skipped: no such thing here*"])


def test_required_module_skip_fails(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under TRACER_REQUIRE=1 a module that skips itself while it is collected is an error."""
    suite.makepyfile('import pytest\npytest.importorskip("no_such_module")')
    suite.runpytest_inprocess().assert_outcomes(skipped=1)
    monkeypatch.setenv("TRACER_REQUIRE", "1")
    suite.runpytest_inprocess().assert_outcomes(errors=1)


@pytest.mark.parametrize(
    ("uid", "btf", "reason"), [(1000, True, "needs root"), (0, False, "*no */vmlinux"), (0, True, None)]
)
def test_live(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uid: int, btf: bool, reason: str | None
) -> None:
    """A live test runs as root on a kernel with BTF, and is otherwise skipped with the missing thing as the reason."""
    vmlinux = tmp_path / "vmlinux"
    if btf:
        vmlinux.touch()
    suite.makeconftest(CONFTEST + f"\nVMLINUX_BTF = Path({str(vmlinux)!r})\n")
    suite.makepyfile("import pytest\n\n@pytest.mark.live\ndef test_it():\n    pass\n\ndef test_other():\n    pass\n")
    monkeypatch.setattr("os.geteuid", lambda: uid)
    result = suite.runpytest_inprocess("-rs")
    if reason is None:
        result.assert_outcomes(passed=2)
    else:
        result.assert_outcomes(passed=1, skipped=1)
        result.stdout.fnmatch_lines([f"SKIPPED*{reason}"])
