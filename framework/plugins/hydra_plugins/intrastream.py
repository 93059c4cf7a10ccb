"""Where Hydra looks for sweepers: it takes them from the namespace `hydra_plugins` alone."""

from framework import sweep


class Search(sweep.Search):
    """The sweeper of `python train.py -m`; framework/sweep.py."""
