"""Commands that are forked from a warm server are what a person's would be: otherwise all tests of commands lie."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.conftest import begin, command

pytestmark = pytest.mark.skipif(not warm.POSSIBLE, reason="commands start cold on this system")

SAYS = """
import json, os, sys
import beside
print(json.dumps([sys.argv[1:], os.getcwd(), os.environ.get("MINE"), __name__, sys.stdin.read(), beside.VALUE]))
print(os.write(2, b"to the other pipe\\n"), "PATH" in os.environ, file=sys.stderr)
sys.exit(7)
"""
ENDS = {
    "raise SystemExit('a word')": (1, "a word\n"),
    "1 / 0": (1, "ZeroDivisionError: division by zero\n"),
    "import os, signal; os.kill(os.getpid(), signal.SIGTERM)": (-signal.SIGTERM, ""),
    "import os, signal; os.kill(os.getpid(), signal.SIGINT)": (-signal.SIGINT, "KeyboardInterrupt\n"),
    "import atexit, sys; atexit.register(print, 'at the end', file=sys.stderr)": (0, "at the end\n"),
}


@pytest.mark.parametrize("cold", [False, True], ids=["forked", "cold"])
def test_a_command_has_arguments_folder_environment_and_pipes_of_its_own(tmp_path: Path, cold: bool) -> None:
    (tmp_path / "says.py").write_text(SAYS)
    (tmp_path / "beside.py").write_text("VALUE = 'imported from the folder'")
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = begin("says", "a", "ü", cold=cold, cwd=tmp_path, env={**os.environ, "MINE": "own"}, **pipes)
    printed, errors = process.communicate("asked", timeout=120)
    told = f'[["a", "\\u00fc"], "{tmp_path}", "own", "__main__", "asked", "imported from the folder"]\n'
    assert (process.returncode, printed, errors) == (7, told, "to the other pipe\n18 True\n")


@pytest.mark.parametrize("code", ENDS)
def test_a_command_ends_as_an_interpreter_does(tmp_path: Path, code: str) -> None:
    (tmp_path / "ends.py").write_text(code)
    done = command("ends", cwd=tmp_path)
    status, last = ENDS[code]
    assert done.returncode == status
    assert done.stderr.endswith(last)


def test_code_is_run_as_a_program(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 3")
    done = command("-c", "import beside, sys\nprint(__name__, sys.argv, beside.VALUE)", "a", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "__main__ ['-c', 'a'] 3\n"), done.stderr


def test_a_command_gets_signals_and_a_session_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text("import os, time\nprint(os.getsid(0), flush=True)\ntime.sleep(600)")
    process = begin("waits", cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == f"{process.pid}\n"
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL


def test_commands_draw_other_random_numbers_each(tmp_path: Path) -> None:
    (tmp_path / "draws.py").write_text("import numpy, random, uuid\nprint(numpy.random.rand(), random.random())")
    first, second = (command("draws", cwd=tmp_path).stdout.split() for _ in range(2))
    assert not {*first} & {*second}


def test_what_imports_read_is_refused(tmp_path: Path) -> None:
    """A test of another backend would try the same one again."""
    with pytest.raises(ValueError, match="KERAS_BACKEND: read by imports; ask for a cold start"):
        command("search.run", cwd=tmp_path, env={"KERAS_BACKEND": "jax"})
