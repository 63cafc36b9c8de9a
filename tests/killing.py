"""Kill -9 at a chosen point: what tests of crashes do in a process of their own."""

import importlib
import os
import signal
import threading
from itertools import count


def kill_at(place, name, when, nth):
    """Have this process killed before or after the nth call of a function."""
    module, _, inner = place.partition(":")
    owner = importlib.import_module(module)
    owner = getattr(owner, inner) if inner else owner
    plain, lock, calls = getattr(owner, name), threading.Lock(), count(1)

    def step(here):
        with lock:
            if here == when and next(calls) == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(*given, **named):
        step("before")
        result = plain(*given, **named)
        step("after")
        return result

    setattr(owner, name, around)
