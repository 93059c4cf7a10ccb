"""Threads that act while a test waits."""

import threading
import time


def once(happened, act, seconds=250.0):
    """Do `act` when `happened()` is true, beside what the test does; a thread to join."""

    def watch():
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if happened():
                act()
                return
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread
