"""The plan as text: for every step what it is, what was hoisted, what stays in the loop and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framework.plan import Plan


def plan_text(plan: Plan) -> str:
    """One line a step."""
    return "\n".join(str(s) for s in plan.steps)
