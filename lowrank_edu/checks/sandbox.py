"""Run a learner's function so that the next cell works: time limit, prints caught, exceptions kept as values.

Not a security boundary: it protects the learner's session from mistakes, not a computer from an attacker.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import signal
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


def _call(function, args) -> Outcome:
    caught, outcome = _Caught(), Outcome()
    with contextlib.redirect_stdout(caught), contextlib.redirect_stderr(caught), warnings.catch_warnings():
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
    def ring(_signal, _frame):
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return _call(function, args)
    except TimeUp as error:  # rang between the end of the call and the next line
        return Outcome(error=error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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
