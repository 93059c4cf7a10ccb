"""Every mistake is one GraphError that names the place, the cause and a fix; the texts are golden."""

from __future__ import annotations

import re

import pytest

from framework.errors import GraphError
from framework.load import load_graph
from framework.plan import make_plan
from tests.framework.bad_graphs import BAD, BAD_PLANS

CASES = BAD | BAD_PLANS


def message(text: str) -> str:
    with pytest.raises(GraphError) as caught:
        make_plan(load_graph(text))
    error = caught.value
    assert error.place and error.cause and error.fix, f"a place, a cause and a fix: {error}"
    return str(error)


def test_messages(golden):
    golden("graph_errors/messages.txt",
           "".join(f"{name}\n    {message(text)}\n" for name, text in CASES.items()))


@pytest.mark.parametrize("name", CASES)
def test_message_is_one_readable_line(name):
    text = message(CASES[name])
    assert "\n" not in text and len(text) < 400
    assert re.search(r"[.:)?]$", text), text
    assert not re.search(r"(?<!\.)\.\.(?![.\w{])|Traceback|<ast|object at", text), text
