"""Run a learner's function so that the next cell works: time limit, prints caught, exceptions kept as values.

Not a security boundary: it protects the learner's session from mistakes, not a computer from an attacker.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import signal
import sys
import threading
import warnings
from dataclasses import dataclass


class TimeUp(BaseException):
    """Raised in the learner's code when time is over; a BaseException, so `except Exception` misses it."""


@dataclass
class Outcome:
    """What one call gave: a value or an error, what it printed, and whether its time ran out."""

    value: object = None
    error: BaseException | None = None
    printed: str = ""

    @property
    def timed_out(self) -> bool:
        return isinstance(self.error, TimeUp)


class _Caught(io.StringIO):
    def write(self, text):  # keep the start: a loop that prints for ever must not fill the memory
        return super().write(text[: max(0, 2000 - self.tell())])


def run(function, args, seconds=5.0) -> Outcome:
    """Call function(*args). All but the user's own interrupt (KeyboardInterrupt) becomes part of the Outcome.

    In the main thread of Linux and macOS an alarm signal ends an endless loop. Elsewhere (Windows, a worker
    thread) the call runs in a second thread which is asked to stop. Neither can stop one long call inside C
    (numpy): it ends when that call does. Prints are kept (the first 2000 characters) and shown by the check.
    """
    alarm = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    return (_with_alarm if alarm else _with_thread)(function, args, seconds)


class _Router:
    """Stands for sys.stdout while learners' code runs: its own thread's text is caught, all other text passes.

    A front end may run a slider's callback and a cell in two threads at once, and a call that could not be
    stopped may outlive its limit: neither may take the prints of the cells with it.
    """

    def __init__(self, real):
        self._real, self._mine, self.calls = real, threading.local(), 0

    def _stream(self):
        return getattr(self._mine, "caught", None) or self._real

    def write(self, text):
        return self._stream().write(text)

    def flush(self):
        self._stream().flush()

    def __getattr__(self, name):
        return getattr(self._real, name)


_STREAMS, _LOCK = ("stdout", "stderr"), threading.Lock()


@contextlib.contextmanager
def _catching(caught):
    """What this thread writes goes to `caught`."""
    with _LOCK:
        for name in _STREAMS:
            if not isinstance(getattr(sys, name), _Router):
                setattr(sys, name, _Router(getattr(sys, name)))
        routers = {name: getattr(sys, name) for name in _STREAMS}
        for router in routers.values():
            router.calls += 1
    before = [getattr(router._mine, "caught", None) for router in routers.values()]
    for router in routers.values():
        router._mine.caught = caught
    try:
        yield
    finally:
        for router, earlier in zip(routers.values(), before, strict=True):
            router._mine.caught = earlier
        with _LOCK:
            for name, router in routers.items():
                router.calls -= 1
                setattr(sys, name, router if router.calls else router._real)  # whatever the learner's code put there


def _call(function, args) -> Outcome:
    caught, outcome = _Caught(), Outcome()
    with _catching(caught), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outcome.value = function(*args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit and TimeUp too: the session goes on
            outcome.error = error
    outcome.printed = caught.getvalue()
    return outcome


def _with_alarm(function, args, seconds):
    running = [True]

    def ring(_signal, _frame):
        if running:  # an alarm that arrives late finds nothing to stop
            raise TimeUp

    def timed(*args):
        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return function(*args)
        finally:
            running.clear()
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    return _call(timed, args)


def _with_thread(function, args, seconds):
    result = []
    worker = threading.Thread(target=lambda: result.append(_call(function, args)), daemon=True)
    worker.start()
    worker.join(seconds)
    if result:
        return result[0]
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident), ctypes.py_object(TimeUp))
    worker.join(1.0)
    return Outcome(error=TimeUp())
