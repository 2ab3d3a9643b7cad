"""Processes that are ready at once: a fork server imports what the tests' pieces of work need, once for a whole run.

A process of its own costs two seconds of imports, torch's optimizer at its first step another; a forked one none.
"""
import multiprocessing
import os
import sys
from multiprocessing import forkserver

# The server imports by name only, and passes over what it does not find (then every process imports it for itself).
PRELOADED = ["pytest", "torch._dynamo", "ranks", "work"]
_context = multiprocessing.get_context("forkserver")


def context() -> multiprocessing.context.BaseContext:
    """The context of the fork server, which is started by the first call."""
    _context.set_forkserver_preload(PRELOADED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))      # before Python 3.13 it has no other way
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return _context
