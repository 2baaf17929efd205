"""Takes from `search`, in every process with this folder on PYTHONPATH, what Windows or macOS does not have.

Other packages keep it: on this system they have no other way. Processes are spawned, as there.
"""

import builtins
import multiprocessing.reduction
import os
import signal
import sys

MODULES = {"fcntl", "resource", "pwd", "grp", "termios"}
NAMES = {
    os: ("fork", "forkpty", "getuid", "geteuid", "link", "symlink", "killpg", "setsid", "sched_getaffinity", "sysconf"),
    signal: ("SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1"),
}


def _is_ours(frame):
    return frame.f_globals.get("__name__", "").partition(".")[0] == "search"


def _hide(module, names):
    kept = {name: vars(module).pop(name) for name in names}

    def missing(name):  # PEP 562: asked for what the module does not have
        if name in kept and not _is_ours(sys._getframe(1)):
            return kept[name]
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__getattr__ = missing


def _import(name, *given, real=builtins.__import__, **named):
    if name in MODULES and _is_ours(sys._getframe(1)):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, *given, **named)


for module, names in NAMES.items():
    _hide(module, names)
builtins.__import__ = _import
multiprocessing.reduction.HAVE_SEND_HANDLE = False  # no forkserver
