"""Compile the probes with BCC: a program of its own, run by an interpreter that has the binding, which may be another.

It imports nothing of ours, so that any Python 3 can run it, and it keeps a compiler out of the tracer's memory. A
request is one JSON object on stdin: ``source``, ``flags``, ``programs``. The answer is one on stdout: ``version`` and
``code``, each program's instructions in base64; or ``failure``, one of ``missing``, ``broken``, ``wrong`` and
``compile``, and ``message``. With an empty request it only answers for the binding. What clang has to say is on stderr.
"""

import base64
import ctypes
import json
import sys
from typing import Any, Dict  # noqa: UP035  # as old as the interpreters that may run this

# The linux/bpf.h that BCC brings may lack what newer kernel headers need; a BCC that has it refuses this flag.
_ATTEMPTS = ((), ("-DBCC_LACKS_UAPI",))


def answer(request: Dict[str, Any]) -> Dict[str, Any]:  # noqa: UP006
    """Answer a request."""
    try:
        import bcc
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name in (None, "bcc")
        return {"failure": "missing" if absent else "broken", "message": str(error)}
    if not hasattr(bcc, "BPF"):
        return {"failure": "wrong", "message": str(getattr(bcc, "__file__", "?"))}
    facts = {"version": getattr(bcc, "__version__", "?"), "path": bcc.__file__}
    if not request:
        return facts
    reason = ""
    for more in _ATTEMPTS:
        try:
            module = bcc.BPF(text=request["source"], cflags=[*request["flags"], *more])
            break
        except Exception as refused:  # noqa: BLE001  # BCC raises no other type
            reason = str(refused)
            sys.stderr.write("\f\n")  # the next attempt's messages
            sys.stderr.flush()
    else:
        return {"failure": "compile", "message": reason}
    code = {}
    for name in request["programs"]:
        start = bcc.lib.bpf_function_start(module.module, name.encode())
        size = bcc.lib.bpf_function_size(module.module, name.encode())
        if not start or not size:
            return {"failure": "compile", "message": "no program " + name}
        code[name] = base64.b64encode(ctypes.string_at(start, size)).decode()
    return {**facts, "code": code}


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
