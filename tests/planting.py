"""Plant one error at a time in a backward, by rewriting its syntax tree."""

import ast
import copy
import inspect
import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A backward with one error.

    Attributes
    ----------
    what : str
        What was done, with the line it was done to.
    function : callable
        The wrong backward.
    """

    what: str
    function: object


def mutants(function):
    """Yield every mutant of a function, each different from it and from the others."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    body = tree.body[0].body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        del body[0]  # the docstring
    seen = {ast.unparse(tree)}
    for number, node in enumerate(ast.walk(tree)):
        for what, edit in edits(node):
            changed = copy.deepcopy(tree)
            target = list(ast.walk(changed))[number]
            replacement = edit(target)
            changed = Replace(target, replacement).visit(changed)
            source = ast.unparse(ast.fix_missing_locations(changed))
            if source in seen:
                continue
            seen.add(source)
            names = dict(vars(inspect.getmodule(function)))
            exec(compile(source, f"<mutant of {function.__name__}>", "exec"), names)
            yield Mutant(f"{what}: {ast.unparse(node)}", names[function.__name__])


class Replace(ast.NodeTransformer):
    """Put one node in the place of another; None removes a statement."""

    def __init__(self, target, replacement):
        self.target, self.replacement = target, replacement

    def visit(self, node):
        if node is not self.target:
            return self.generic_visit(node)
        if self.replacement is None:
            return ast.Pass()
        return self.replacement


def edits(node):
    """List the errors that can be made at a node, as pairs of a name and a function."""
    found = []
    if isinstance(node, ast.BinOp):
        swapped = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
        other = swapped.get(type(node.op))
        if other:
            found.append(("wrong operator", lambda n: ast.BinOp(n.left, other(), n.right)))
            found.append(("right operand dropped", lambda n: n.left))
        if isinstance(node.op, ast.Add | ast.Mult):
            found.append(("left operand dropped", lambda n: n.right))
        if isinstance(node.op, ast.MatMult):
            found.append(("operands swapped", lambda n: ast.BinOp(n.right, n.op, n.left)))
    if isinstance(node, ast.AugAssign):
        found.append(("statement dropped", lambda n: None))
        if isinstance(node.op, ast.Add | ast.Sub):
            flipped = ast.Sub if isinstance(node.op, ast.Add) else ast.Add
            found.append(("sign flipped", lambda n: ast.AugAssign(n.target, flipped(), n.value)))
        if isinstance(node.target, ast.Subscript):
            found.append(("+= became =", lambda n: ast.Assign([n.target], n.value)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        found.append(("sign dropped", lambda n: n.operand))
    if isinstance(node, ast.Attribute) and node.attr == "T":
        found.append(("transpose dropped", lambda n: n.value))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr == "swapaxes":
            found.append(("swapaxes dropped", lambda n: n.func.value))
        if node.func.attr in ("sum", "mean"):
            other_name = {"sum": "mean", "mean": "sum"}[node.func.attr]

            def rename(n):
                n.func.attr = other_name
                return n

            found.append((f"{node.func.attr} became {other_name}", rename))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        found.append(("call dropped", lambda n: None))
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        found.append(("constant changed", lambda n: ast.Constant(n.value + 1)))
    if isinstance(node, ast.If):
        found.append(
            ("branch never taken", lambda n: ast.If(ast.Constant(False), n.body, n.orelse))
        )
    return found
