"""Traps through `tracer export`: their own tests hold, every line is valid, no required field is absent, all is proven.

`make check-corpus` does the same with all of them.
"""

from pathlib import Path

import pytest

from scripts.check_corpus import FORMS, check

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

# Processes, connections that end in each way, datagrams, names, failed execs, answers of DNS.
TESTS = (
    *("test_02_accept", "test_04_connect", "test_08_unconnected", "test_22_comm", "test_24_failed_exec"),
    *("test_28_short", "test_30_exit", "test_42_names", "test_43_dns"),
)


@pytest.mark.parametrize("form", FORMS)
def test_traps_exported(tmp_path: Path, form: str) -> None:
    """In both formats, over rotated and chained files, and six manipulations of those are each found."""
    said: list[str] = []
    right = check(form, tmp_path, [f"tests/traps/{name}.py" for name in TESTS], said.append)
    print(*said, sep="\n")
    assert right, "\n".join(said)
