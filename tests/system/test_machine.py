"""What differs between systems: which process lives, and what a container may take."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from search.system import machine


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    """A killed search would count as running, because another program got its number."""
    me = machine.this_process()
    assert me.lives() is True
    assert replace(me, started=me.started - 60).lives() is False


def test_a_process_that_waits_to_be_reaped_is_dead() -> None:
    """A killed search whose parent does not look after it would run for ever."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = replace(machine.this_process(), pid=child.pid, started=machine._started(child.pid))
    assert process.lives() is True
    child.kill()
    while machine._started(child.pid) is not None:  # a zombie until `wait`
        pass
    assert process.lives() is False
    child.communicate()
    assert process.lives() is False


@pytest.mark.parametrize(
    "elsewhere", [{"host": "other"}, {"boot_id": "other"}, {"namespace": "pid:[1]"}, {"started": 0}]
)
def test_of_a_process_in_another_container_or_machine_nothing_is_said(elsewhere: dict[str, object]) -> None:
    """Two containers of one machine share its boot and not its process numbers: one would end the other's trials."""
    assert replace(machine.this_process(), **elsewhere).lives() is None  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_memory_limit_of_a_container_counts(tmp_path: Path, version: str) -> None:
    """`--workers auto` would start as many workers as the machine holds, and the container be killed."""
    top, line, names = {
        "v1": (tmp_path / "memory", "4:memory:/pod/one", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
        "v2": (tmp_path, "0::/pod/one", ("memory.max", "memory.current")),
    }[version]
    reclaimable = "inactive_file 7" if version == "v2" else "total_inactive_file 7\ninactive_file 3"
    for folder, limit in ((top / "pod" / "one", "max" if version == "v2" else str(2**62)), (top / "pod", "1000")):
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in zip(names, (limit, "400"), strict=True):
            (folder / name).write_text(f"{value}\n")
        (folder / "memory.stat").write_text(f"anon 1\n{reclaimable}\n")
    left = list(machine._left_in_groups(f"9:name=systemd:/\n{line}\n", tmp_path))
    assert min(left) == 607
    assert 0 < machine.available_memory() <= 2**50
    assert machine.processors() >= 1
