"""Intrastream: recurrent networks written as graphs, trained at the speed of fused kernels."""

from typing import TYPE_CHECKING, Any

from framework.graph import Graph
from framework.load import load_graph
from framework.plan import make_plan

if TYPE_CHECKING:
    from framework.convert import from_torch, lstm
    from framework.network import Network

__all__ = ["Graph", "Network", "from_torch", "load_graph", "lstm", "make_plan"]


def __getattr__(name: str) -> Any:
    """Names that need torch are imported on first use: planning does without it."""
    if name == "Network":
        from framework.network import Network

        return Network
    if name in ("lstm", "from_torch"):
        from framework import convert

        return getattr(convert, name)
    raise AttributeError(f"module 'framework' has no attribute '{name}'")
