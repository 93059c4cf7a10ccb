"""Graphs with one mistake each: name -> YAML. Their messages are golden (tests/golden/graph_errors)."""

from __future__ import annotations


def nodes(text: str, more: str = "") -> str:
    """A graph around some nodes. Input x has 4 features, c holds indices, `h` is the output."""
    lines = "\n".join(f"  {line}" for line in text.strip().splitlines())
    head = "inputs: {x: {size: 4}, c: {vocab: 9}}\noutputs: [h]\nnodes:\n"
    return f"{head}  _: {{size: 1, is: full(x) + full(c)}}\n{lines}\n{more}\n"


def cell(definition: str, use: str = "h: {cell: mine, size: 4, in: x}") -> str:
    """A graph with a local cell `mine`."""
    lines = "\n".join(f"    {line}" for line in definition.strip().splitlines())
    return nodes(use, f"cells:\n  mine:\n{lines}")


def expr(text: str) -> str:
    """A graph with one node of size 4, whose text this is."""
    return nodes(f"h: {{size: 4, is: '{text}'}}")


BAD: dict[str, str] = {
    # Names
    "unknown name": nodes("l1: {cell: lstm, size: 4, in: x}\nh: {cell: lstm, size: 4, in: l1x}"),
    "unknown name in an expression": expr("full(xx)"),
    "unknown name in a cell": cell("out: y\nnodes: {y: full(z)}"),
    "a cell cannot see out": cell("out: y\nnodes: {y: full(out_there)}",
                                  "out_there: {size: 4, is: x}\nh: {cell: mine, size: 4, in: x}"),
    "unknown node in a path": nodes("l1: {cell: lstm, size: 4, in: x}\nh: {size: 4, is: 'full(l1/hh)'}"),
    "path into a plain node": nodes("a: {size: 4, is: x}\nh: {cell: lstm, size: 4, in: a/b}"),
    "a path that could be a division": nodes(
        "l1: {cell: lstm, size: 4, in: x}\ni: {size: 4, is: x}\nh: {size: 4, is: l1/i}"),
    "keyword as a node": nodes("lambda: {size: 4, is: x}\nh: {size: 4, is: x}"),
    "function as a node": nodes("tanh: {size: 4, is: x}\nh: {size: 4, is: x}"),
    "time as a node": nodes("t: {size: 4, is: x}\nh: {size: 4, is: x}"),
    "function as an input": "inputs: {norm: {size: 4}}\nnodes: {h: {size: 4, is: x}}\noutputs: [h]",
    "a dash in a name": nodes("my-node: {size: 4, is: x}\nh: {size: 4, is: x}"),
    "a name that YAML reads as a value": nodes("on: {size: 4, is: x}\nh: {size: 4, is: x}"),
    "a node named as an input": nodes("x: {size: 4, is: c}\nh: {size: 4, is: x}"),
    "a cell node named as its input": cell("out: y\nnodes: {x: full(x), y: x}"),
    "a layer named as a node": nodes("h2: {size: 4, is: x}\nh: {cell: lstm, size: 4, in: x, layers: 2}"),
    # Expressions
    "brackets": expr("tanh(full(x)"),
    "half an expression": expr("full(x) +"),
    "an empty expression": expr(""),
    "power": expr("x**2"),
    "comparison": expr("x > 0"),
    "attribute": expr("x.y"),
    "lambda": expr("(lambda: 1)()"),
    "a text": nodes("h: {size: 4, is: 'x + \"a\"'}"),
    "a huge number": expr("x * 1e999"),
    "a product of matrices": expr("x @ x"),
    "unknown function": expr("sigmod(full(x))"),
    "a function by its name elsewhere": expr("max(full(x), x)"),
    "a function in capitals": expr("TANH(x)"),
    "a node called": nodes("g: {size: 4, is: x}\nh: {size: 4, is: g(t-1)}"),
    "a function without arguments": expr("x + tanh"),
    "too few arguments": expr("maximum(x)"),
    "too many arguments": expr("tanh(x, x)"),
    "full of nothing": expr("full()"),
    "dropout without p": expr("dropout(x)"),
    "an empty concat": expr("concat()"),
    "an argument by name": expr("dropout(x, p=0.1)"),
    "dropout of everything": expr("dropout(x, 1)"),
    "zoneout by a node": expr("zoneout(x, x, x)"),
    "bias by a node": expr("x + bias(x)"),
    "time as a value": expr("x * t"),
    "too deep": expr("-" * 3000 + "x"),
    # Time and units
    "shift of an expression": expr("full(tanh(x)[t-1])"),
    "units before time": expr("full(x[0:2][t-1])"),
    "an index without t": expr("full(x[-1])"),
    "a shift by half a step": expr("full(x[t-0.5])"),
    "a shift by a name": expr("full(x[t-d])"),
    "a slice out of range": expr("full(x[2:6])"),
    "a slice the wrong way": expr("full(x[3:1])"),
    "a slice with steps": expr("full(x[0:4:2])"),
    # Sizes
    "sizes that do not meet": nodes("a: {size: 3, is: full(x)}\nh: {size: 4, is: a + x}"),
    "a result of another size": nodes("h: {size: 5, is: tanh(x)}"),
    "zoneout of two sizes": nodes("a: {size: 3, is: full(x)}\nh: {size: 4, is: 'zoneout(a, x, 0.1)'}"),
    "diag of another size": nodes("a: {size: 3, is: full(x)}\nh: {size: 4, is: diag(a)}"),
    "block that does not divide": expr("block(x, 3)"),
    "block by a fraction": expr("block(x, 0.5)"),
    "full inside concat": expr("concat(full(x), x)"),
    "full inside in": nodes("h: {cell: lstm, size: 4, in: full(x)}"),
    "no size": nodes("h: full(x)"),
    "no size of a cell": nodes("h: {cell: lstm, in: x}"),
    "size zero": nodes("h: {size: 0, is: full(x)}"),
    "size as a text": nodes("h: {size: big, is: full(x)}"),
    "size in curly brackets": nodes("h: {size: {n}, is: full(x)}"),
    # Inputs of indices
    "indices as a vector": expr("tanh(c)"),
    "indices dropped out": expr("full(dropout(c, 0.1))"),
    "indices copied": expr("c"),
    "indices joined": nodes("h: {cell: lstm, size: 4, in: [x, c]}"),
    "indices in units": expr("full(c[0:1])"),
    # Keys
    "unknown key at the top": nodes("h: {size: 4, is: x}", "output: [h]"),
    "unknown key of a node": nodes("h: {size: 4, is: x, init_: 1}"),
    "unknown key of a cell": cell("out: y\nnode: {y: full(x)}"),
    "unknown key of a cell node": nodes("h: {cell: rhn, size: 4, in: x, dept: 5}"),
    "a node without text": nodes("h: {size: 4}"),
    "a list as text": nodes("h: {size: 4, is: [x]}"),
    "no inputs": "nodes: {h: {size: 4, is: bias}}\noutputs: [h]",
    "an input as a number": "inputs: {x: 4}\nnodes: {h: {size: 4, is: x}}\noutputs: [h]",
    "an input of both kinds": "inputs: {x: {size: 4, vocab: 4}}\nnodes: {h: {size: 4, is: x}}\noutputs: [h]",
    "no nodes": "inputs: {x: {size: 4}}\noutputs: [h]",
    "no outputs": "inputs: {x: {size: 4}}\nnodes: {h: {size: 4, is: x}}",
    "an unknown output": "inputs: {x: {size: 4}}\nnodes: {logits: {size: 4, is: x}}\noutputs: [logit]",
    "an output twice": "inputs: {x: {size: 4}}\nnodes: {h: {size: 4, is: x}}\noutputs: [h, h]",
    "an input as output": "inputs: {x: {size: 4}}\nnodes: {h: {size: 4, is: x}}\noutputs: [x]",
    "a key twice": (
        "inputs: {x: {size: 4}}\nnodes:\n  h: {size: 4, is: x}\n  h: {size: 4, is: x}\noutputs: [h]"),
    "no YAML": "inputs: {x: {size: 4}\nnodes: [",
    "a list instead of a graph": "- a\n- b\n",
    # Cells
    "unknown cell": nodes("h: {cell: lsmt_peephole, size: 4, in: x}"),
    "a cell without in": nodes("h: {cell: lstm, size: 4}"),
    "a cell that lacks an input": nodes("h: {cell: clockwork, size: 4, in: {x: x}}"),
    "an input the cell has not": nodes("h: {cell: lstm, size: 4, in: {x: x, y: x}}"),
    "one in for two inputs": nodes("h: {cell: clockwork, size: 4, in: x}"),
    "an in that is a number": nodes("h: {cell: lstm, size: 4, in: 3}"),
    "a cell without out": cell("nodes: {y: full(x)}"),
    "a cell with an unknown out": cell("out: z\nnodes: {y: full(x)}"),
    "a cell in itself": cell("out: y\nnodes: {y: {cell: mine, in: x}}"),
    "a cell that is a text": nodes("h: {cell: mine, size: 4, in: x}", "cells: {mine: tanh}"),
    "an input twice": cell("inputs: [x, x]\nout: y\nnodes: {y: full(x)}"),
    "a param named as a key": cell("params: {layers: 2}\nout: y\nnodes: {y: full(x)}"),
    "an error in a nested cell": cell("out: y\nnodes: {y: {cell: lstm, in: z}}"),
    "a shift of ages": expr("full(x[t-99999999])"),
    "too many layers": nodes("h: {cell: lstm, size: 4, in: x, layers: 100000000}"),
    "too many steps": nodes("'h{l}': {for: l in 1..100000000, size: 4, is: x}\nh: {size: 4, is: x}"),
    "no layers": nodes("h: {cell: lstm, size: 4, in: x, layers: 0}"),
    "backward by word": nodes("h: {cell: lstm, size: 4, in: x, backward: maybe}"),
    "backward and bidirectional": nodes(
        "h: {cell: lstm, size: 4, in: x, backward: true, bidirectional: true}"),
    "cell params that are a list": cell("params: [depth]\nout: y\nnodes: {y: full(x)}"),
    "graph params that are a number": nodes("h: {size: 4, is: x}", "params: 3"),
    # Start values
    "a start value that is a word": nodes("h: {size: 4, is: x, init: random}"),
    "a start value of nothing": nodes("h: {cell: lstm, size: 4, in: x, init: {cc: learned}}"),
    "a start value of an input": nodes("h: {size: 4, is: x}", "init: {x: learned}"),
    "a start value without a name": nodes("h: {cell: lstm, size: 4, in: x, init: learned}"),
    # Params
    "unknown param": nodes("h: {size: '{siz}', is: full(x)}", "params: {size: 4}"),
    "a template that calls": nodes("h: {size: '{len(size)}', is: full(x)}", "params: {size: 4}"),
    "a template of a mapping": nodes("h: {size: 4, is: 'x * {size}'}", "params: {size: {a: 1}}"),
    "a template of half a bracket": nodes("h: {size: 4, is: 'full(x[t-{d])'}", "params: {d: 4}"),
    "arithmetic on a text": nodes("h: {size: '{size + 1}', is: full(x)}", "params: {size: big}"),
    "division by zero": nodes("h: {size: '{size // 0}', is: full(x)}", "params: {size: 4}"),
    "a loop that is none": nodes("'h{l}': {for: l from 1 to 3, size: 4, is: x}\nh: {size: 4, is: x}"),
    "a loop over one name": nodes("h: {for: l in 1..3, size: 4, is: x}"),
    "a loop to a text": nodes(
        "'h{l}': {for: l in 1..n, size: 4, is: x}\nh: {size: 4, is: x}", "params: {n: a}"),
    "a loop over a param": nodes(
        "'h{n}': {for: n in 1..3, size: 4, is: x}\nh: {size: 4, is: x}", "params: {n: 1}"),
}

# What only the planner can see.
BAD_PLANS: dict[str, str] = {
    "a node that reads itself": expr("tanh(full(h))"),
    "a loop without delay": nodes(
        "a: {size: 4, is: full(b)}\nb: {size: 4, is: full(h)}\nh: {size: 4, is: x + a}"),
    "a loop without delay through a cell": nodes("a: {cell: lstm, size: 4, in: h}\nh: {size: 4, is: x + a}"),
    "a loop that adds up to no delay": nodes(
        "a: {size: 4, is: 'full(h[t+1])'}\nh: {size: 4, is: 'x + a[t-1]'}"),
    "loops both ways": nodes(
        "a: {size: 4, is: 'full(h[t+1]) + full(a[t-1])'}\nh: {size: 4, is: 'x + a[t+1]'}"),
    "two nodes that read each other": nodes("a: {size: 4, is: h * x}\nh: {size: 4, is: full(a) + bias}"),
    "five nodes in a ring": nodes(
        "a: {size: 4, is: full(f) + x}\nb: {size: 4, is: tanh(a)}\nd: {size: 4, is: full(b)}\n"
        "e: {size: 4, is: d * x}\nf: {size: 4, is: e}\nh: {size: 4, is: 'full(e) + full(h[t-1])'}"),
    "twelve nodes in a ring": nodes(
        "h: {size: 4, is: n12}\n'n{i}': {for: i in 2..12, size: 4, is: 'tanh(n{i - 1})'}\n"
        "n1: {size: 4, is: h + x}"),
    "a shortcut in the ring": nodes(
        "a: {size: 4, is: b + h}\nb: {size: 4, is: full(d)}\nd: {size: 4, is: full(h)}\n"
        "h: {size: 4, is: x + a}"),
    "a loop without delay inside nested cells": nodes("h: {cell: outer, size: 4, in: x}", """cells:
  outer:
    out: y
    nodes: {part: {cell: inner, in: x}, y: part}
  inner:
    out: v
    nodes: {u: full(v) + x, v: "tanh(u) + u[t-1]"}"""),
    "a loop without delay between layers": nodes(
        "l: {cell: mine, size: 4, layers: 3, in: {x: x, top: h}}\nh: {size: 4, is: tanh(l1)}", """cells:
  mine: {inputs: [x, top], out: y, nodes: {y: "full(x) + full(top) + full(y[t-1])"}}"""),
    "a bidirectional layer that reads itself": nodes(
        "l: {cell: lstm, size: 2, bidirectional: true, in: h}\nh: {size: 4, is: l + x}"),
    "a bidirectional layer that reads itself a step later": nodes(
        "l: {cell: lstm, size: 2, bidirectional: true, in: 'h[t-1]'}\nh: {size: 4, is: l + x}"),
    "delays of three nodes that add up to 0": nodes(
        "a: {size: 4, is: 'full(b[t-2])'}\nb: {size: 4, is: 'full(h[t+3])'}\nh: {size: 4, is: 'a[t-1] + x'}"),
    "a backward cell in a forward loop": nodes(
        "l: {cell: mgu, size: 4, backward: true, in: 'h[t-1]'}\nh: {size: 4, is: l + x}"),
    "a read ahead in a forward loop": nodes(
        "a: {size: 4, is: 'full(h[t+1])'}\nh: {size: 4, is: 'a[t-3] + x'}"),
    "a read back in a backward loop": nodes(
        "a: {size: 4, is: 'full(h[t-1]) + bias'}\nh: {size: 4, is: 'tanh(a[t+4]) + x'}"),
}
