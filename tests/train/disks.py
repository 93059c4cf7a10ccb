"""A disk that fills up, for tests."""

import contextlib
import resource


@contextlib.contextmanager
def full_disk(free):
    """The system takes `free` bytes of a file and refuses the rest, as a disk does that fills up."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
