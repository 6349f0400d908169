"""Plant one error at a time in a backward, and see whether the tests of the pairs notice it.

An error is a change of the backward's syntax tree, or of the tree of a helper that it calls: a
wrong sign, a dropped transpose, the gradient of the wrong layer. The forward stays as it is.
"""

import ast
import copy
import inspect
import re
import sys
import textwrap
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import test_pairs

from scratch_vlm import recompute
from scratch_vlm.backend import primitives
from scratch_vlm.cases import Pair, Sizes, find_pairs, make_case
from scratch_vlm.gradcheck import measure

EXAMPLES = 24  # variants of a pair that an error must survive to count as surviving
ONES = Sizes(B=1, T=1, S=1, M=1, C=1, rows=1, columns=1)  # of every fourth example
CONTRACT = (  # what else a backward must keep, tried on the first examples
    test_pairs.test_gradients_accumulate,
    test_pairs.test_frozen_parameters_leave_dx_as_it_is,
    test_pairs.test_each_leaf_can_be_frozen_alone,
    test_pairs.test_each_branch_can_be_frozen_alone,
    test_pairs.test_out_is_where_the_result_goes,
)
CONTRACT_EXAMPLES = 6


@dataclass(frozen=True)
class Subject:
    """Functions to plant errors in, and the pairs that should suffer from them.

    Attributes
    ----------
    name : str
        As in `find_pairs`, or module and function of a wrapper.
    functions : tuple of callable
        The backward (or wrapper) first, then its helpers.
    uses : tuple of Use
        Taken in turn.
    """

    name: str
    functions: tuple[Callable, ...]
    uses: tuple["Use", ...]

    @property
    def module(self):
        """Package and module, such as ``"layers.norm"``."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Use:
    """A pair that a subject is part of.

    Attributes
    ----------
    case : str
        Name of the pair whose cases fit.
    forward : callable
        Stays as it is.
    backward : callable
        Makes the backward from the subject's first function, with or without an error in it.
    sizes : Sizes, optional
        Axis lengths of the cases; by default different ones in most examples, and ones in some.
    """

    case: str
    forward: Callable
    backward: Callable
    sizes: Sizes | None = None


@dataclass(frozen=True)
class Planted:
    """One error; no two of a subject have the same statements before and after.

    Attributes
    ----------
    kind : str
        What sort of error it is.
    before : str
        Name of the function and the right statement; of a compound one its first line.
    after : str
        The wrong statement.
    function : callable
        The first function of the subject with the error in it, or in a helper that it calls.
    """

    kind: str
    before: str
    after: str
    function: Callable

    def __str__(self):
        return f"{self.before}  ->  {self.after}"


def takes(function):
    """Name the parameters of a function."""
    return inspect.signature(function).parameters


def find_subjects():
    """List what errors are planted in: the backward of every pair, and the wrappers of pairs.

    Returns
    -------
    list of Subject
    """
    pairs = find_pairs()

    def wrapped(name, wrapper, *, sizes=None, **settings):
        pair = pairs[name]
        forward, _ = wrapper(pair.forward, pair.backward, **settings)
        return Use(name, forward, lambda f: f(pair.forward, pair.backward, **settings)[1], sizes)

    def residual(pair):  # y = x + norm(x), so that a gradient runs past the norm
        def forward(x, p, **options):
            y, saved = pair.forward(x, p, **options)
            return x + y, saved

        return Use(
            pair.name, forward, lambda f: lambda dy, saved, g: f(dy, saved, g, past=dy.copy())
        )

    one_by_one = {"size": 1, "threads": 2}
    chunked = (
        wrapped("layers.mlp.mlp", recompute.chunked, size=2),
        wrapped("layers.mlp.mlp", recompute.chunked, **one_by_one, recompute=True),
        wrapped("layers.mlp.mlp", recompute.chunked, size=9, threads=2),
        wrapped("layers.embedding.embedding", recompute.chunked, **one_by_one),
        wrapped("layers.linear.linear", recompute.chunked, size=2, sizes=Sizes(B=0)),
    )
    recomputed = (
        wrapped("layers.block.pre_block", recompute.recomputed),
        wrapped("layers.linear.linear", recompute.recomputed),
    )
    return [
        *(
            Subject(
                pair.name,
                (pair.backward, *helpers(pair.backward)),
                (
                    Use(pair.name, pair.forward, lambda backward: backward),
                    *([residual(pair)] if "past" in takes(pair.backward) else []),
                ),
            )
            for pair in pairs.values()
        ),
        Subject("recompute.chunked", (recompute.chunked, recompute.add_trees), chunked),
        Subject("recompute.recomputed", (recompute.recomputed,), recomputed),
    ]


def helpers(function):
    """List the functions of its module, and the primitives, that a backward calls in the end.

    Other backwards are left out, for they are pairs of their own.
    """
    found, waiting = {}, [function]
    while waiting:
        current = inspect.unwrap(waiting.pop())  # what `fused` marks hides behind its mark
        for name in current.__code__.co_names:
            other = current.__globals__.get(name)
            if (
                inspect.isfunction(other)
                and other.__module__ in (function.__module__, primitives.__name__)
                and not name.endswith("_backward")
                and not _is_check(name)
                and name not in found
            ):
                found[name] = other
                waiting.append(other)
    return tuple(found.values())


def plant(functions):
    """Yield every error that can be planted in a function or its helpers, one at a time.

    Parameters
    ----------
    functions : sequence of callable
        The first is the one that is called; it sees the changed helpers, nobody else does.

    Yields
    ------
    Planted
    """
    names = {}
    for function in reversed(functions):
        names |= vars(sys.modules[function.__module__])
    tree = ast.Module([_parse(function) for function in functions], [])
    for definition in tree.body:
        known = _Known(definition)
        seen = set()
        for statement, parent, place, node in _places(definition):
            right = _header(statement)
            before = f"{definition.name}: {right}"
            for kind, replacement in _edits(node, known):
                _put(parent, place, replacement)
                ast.fix_missing_locations(tree)
                after = _header(replacement if node is statement else statement)
                if after != right and (before, after) not in seen:
                    seen.add((before, after))
                    changed = dict(names)
                    exec(compile(tree, "<planted>", "exec"), changed)
                    yield Planted(kind, before, after, changed[functions[0].__name__])
                _put(parent, place, node)


def _parse(function):
    definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    return _WithoutChecks().visit(definition)


class _WithoutChecks(ast.NodeTransformer):
    """Leave out docstrings and what raises errors about the input: no number depends on them."""

    def visit_FunctionDef(self, node):
        if ast.get_docstring(node):
            del node.body[0]
        return self.generic_visit(node)

    def visit_If(self, node):
        return None if isinstance(node.body[-1], ast.Raise) else self.generic_visit(node)

    def visit_For(self, node):
        node = self.generic_visit(node)
        return node if node.body else None

    def visit_Expr(self, node):
        called = getattr(node.value, "func", None)
        return None if isinstance(called, ast.Name) and _is_check(called.id) else node


def _is_check(name):
    return name in ("floating", "namespace") or name.lstrip("_").startswith("check")


def _is_module(node):
    # xp, math or namespace(x): which module computes is not for these errors.
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("floating", "namespace")
    return isinstance(node, ast.Name) and node.id in ("xp", "np", "math")


def _places(definition):
    """List (enclosing statement, parent, place in the parent, node) for all that is executed."""
    found = []

    def walk(parent, statement):
        for field, value in ast.iter_fields(parent):
            if field in ("args", "decorator_list") and isinstance(parent, ast.FunctionDef):
                continue
            several = value if isinstance(value, list) else [value]
            for index, node in enumerate(several):
                if isinstance(node, ast.FunctionDef) and node.name == "forward_":
                    continue  # of a wrapper whose backward is tried behind the right forward
                if isinstance(node, ast.AST) and not _is_module(node):
                    own = node if isinstance(node, ast.stmt) else statement
                    place = (field, index) if isinstance(value, list) else (field, None)
                    found.append((own, parent, place, node))
                    walk(node, own)

    walk(definition, definition)
    return found


def _put(parent, place, node):
    field, index = place
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _header(statement):
    # Of a compound statement only its first line.
    return ast.unparse(statement).splitlines()[0]


class _Known:
    """The names and keys of a function, any of which may be taken for another of its sort."""

    def __init__(self, definition):
        self.keys, lines = {}, {}
        for node in ast.walk(definition):
            context, key = _string(node)
            if context:
                self.keys.setdefault(context, set()).add(key)
            if isinstance(node, ast.arg):
                lines.setdefault(node.arg, node.lineno)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                lines[node.id] = min(node.lineno, lines.get(node.id, node.lineno))
        # Gradients, as their names say, and where each begins to exist.
        self.gradients = {name: n for name, n in lines.items() if re.fullmatch(r"d[a-z_]+", name)}


def _string(node):
    # A string that is a key or is compared, with what it is a key of or compared to.
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        where, constant = node.value, node.slice
    elif isinstance(node, ast.Compare) and isinstance(node.comparators[0], ast.Constant):
        where, constant = node.left, node.comparators[0]
    else:
        return None, None
    if not isinstance(constant.value, str):
        return None, None
    return (type(node), ast.unparse(where)), constant.value


PASS = ast.Pass()
OTHER = {  # what an operator is taken for
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.LtE: ast.Gt,
}
COMMUTATIVE = ("min", "multiply", "row_dot", "swapaxes", "vecdot")  # nothing to exchange


def _but(node, **fields):
    # The node with other fields; the original is not touched.
    node = copy.copy(node)
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def _edits(node, known):
    """Yield the errors that can be made at a node, as pairs of a kind and another node."""
    by_type = _EDITS.get(type(node))
    if by_type:
        yield from by_type(node, known)
    context, key = _string(node)
    for other in sorted(known.keys.get(context, ())):
        if other == key:
            continue
        if isinstance(node, ast.Subscript):
            yield "another key", _but(node, slice=ast.Constant(other))
        else:
            yield "another key", _but(node, comparators=[ast.Constant(other)])


# What an operand is called when it is dropped.
PART = {ast.Add: "term", ast.Sub: "term", ast.Mult: "factor", ast.Div: "factor"}
MASK = re.compile(r"\b(mask|real|sees|seen|kept|weight)\b")  # a weight of zero is a mask
TRANSPOSES = ("transpose", "swapaxes", "moveaxis")
WITH_AXIS = ("sum", "mean", "max", "cumsum", "concatenate", "stack", "split", "take", "flip")


def _operation(node, known):
    if type(node.op) in OTHER:
        yield "wrong operator", _but(node, op=OTHER[type(node.op)]())
    if isinstance(node.op, ast.MatMult):
        yield "operands exchanged", _but(node, left=node.right, right=node.left)
    else:
        for kept, dropped in ((node.left, node.right), (node.right, node.left)):
            part = "mask" if _is_mask(dropped) else PART.get(type(node.op), "operand")
            yield f"{part} dropped", kept


def _is_mask(node):
    return bool(MASK.search(ast.unparse(node)))


def _scaled(node, field):
    # An expression of the node with the wrong sign, or twice as large.
    value = getattr(node, field)
    yield "wrong sign", _but(node, **{field: ast.UnaryOp(ast.USub(), value)})
    yield "twice as large", _but(node, **{field: _doubled(value)})


def _doubled(value):
    return ast.BinOp(ast.Constant(2.0), ast.Mult(), value)


def _returned(node, known):
    if node.value and not isinstance(node.value, ast.Tuple):
        yield from _scaled(node, "value")
    for number, element in enumerate(getattr(node.value, "elts", ())):
        elements = list(node.value.elts)
        elements[number] = _doubled(element)
        yield "twice as large", ast.Return(_but(node.value, elts=elements))


def _augmented(node, known):
    yield "mask dropped" if _is_mask(node) else "statement dropped", PASS
    if isinstance(node.op, ast.Add | ast.Sub):
        yield "twice as large", _but(node, value=_doubled(node.value))
    if type(node.op) in OTHER:
        yield "wrong operator", _but(node, op=OTHER[type(node.op)]())
    yield "= in place of +=", ast.Assign([node.target], node.value)


def _assigned(node, known):
    if isinstance(node.targets[0], ast.Subscript):
        yield "mask dropped" if _is_mask(node.targets[0].slice) else "statement dropped", PASS
    if getattr(node.targets[0], "id", None) in known.gradients:
        yield from _scaled(node, "value")


def _expression_statement(node, known):
    yield "statement dropped", PASS


def _unary(node, known):
    yield "sign or not dropped", node.operand


def _attribute(node, known):
    if node.attr == "T":
        yield "transpose dropped", node.value


def _call(node, known):
    method = node.func.attr if isinstance(node.func, ast.Attribute) else None
    called = method or getattr(node.func, "id", None)
    turned = called in TRANSPOSES
    if method and not _is_module(node.func.value):
        yield "transpose dropped" if turned else "step skipped", node.func.value
    yield from _other_axes(node, called)
    for number, argument in enumerate(node.args):
        if not isinstance(argument, ast.Starred | ast.Constant):
            masked = called == "where" and _is_mask(node.args[0])
            yield "mask dropped" if masked else "step skipped", argument
        for other in range(0 if called in COMMUTATIVE else number):
            arguments = list(node.args)
            arguments[number], arguments[other] = arguments[other], arguments[number]
            kind = "wrong axis" if turned else "arguments exchanged"
            yield kind, _but(node, args=arguments)
    renamed = {"sum": "mean", "mean": "sum", "multiply": "add", "zeros": "ones"}.get(method)
    if renamed:
        yield "wrong function", _but(node, func=_but(node.func, attr=renamed))
    for keyword in node.keywords:
        # An inner out= only saves memory; one that hands on the caller's is a promise.
        if keyword.arg == "out" and ast.unparse(keyword.value) == "out":
            rest = [other for other in node.keywords if other is not keyword]
            yield "out not handed on", _but(node, keywords=rest)


def _other_axes(node, called):
    # Of x.sum(0), x.sum(-1, keepdims=True) or xp.concatenate(parts, axis=1).
    if called not in WITH_AXIS:
        return
    for number, argument in enumerate(node.args):
        for axis in _others(argument):
            arguments = [*node.args[:number], axis, *node.args[number + 1 :]]
            yield "wrong axis", _but(node, args=arguments)
    for number, keyword in enumerate(node.keywords):
        for axis in _others(keyword.value) if keyword.arg == "axis" else ():
            keywords = list(node.keywords)
            keywords[number] = _but(keyword, value=axis)
            yield "wrong axis", _but(node, keywords=keywords)


def _others(node):
    said = ast.unparse(node)
    return [
        ast.Constant(i) for i in (-2, -1, 0, 1) if re.fullmatch(r"-?\d", said) and str(i) != said
    ]


def _subscript(node, known):
    several = isinstance(node.slice, ast.Tuple)
    for number, index in enumerate(node.slice.elts if several else [node.slice]):
        if isinstance(index, ast.Constant) and type(index.value) is int:
            for off in (index.value + 1, index.value - 1):
                other = ast.Constant(off)
                if several:
                    elements = list(node.slice.elts)
                    elements[number] = other
                    other = _but(node.slice, elts=elements)
                yield "off by one", _but(node, slice=other)


def _constant(node, known):
    if type(node.value) in (int, float):
        yield "constant changed", ast.Constant(node.value + 1)
        yield "constant changed", ast.Constant(node.value - 1)


def _slice(node, known):
    for field, end in (("lower", 1), ("upper", -1)):
        bound = getattr(node, field)
        if bound is None:
            yield "off by one", _but(node, **{field: ast.Constant(end)})
            continue
        yield "bound dropped", _but(node, **{field: None})
        for op in (ast.Add(), ast.Sub()):
            off = ast.BinOp(bound, op, ast.Constant(1))
            yield "off by one", _but(node, **{field: off})


def _choice(node, known):
    yield "branch never taken", _but(node, test=ast.Constant(False))
    yield "branch always taken", _but(node, test=ast.Constant(True))


def _conditional(node, known):
    yield from _choice(node, known)
    for field in ("body", "orelse"):
        if not isinstance(getattr(node, field), ast.Constant):
            yield from _scaled(node, field)


def _compare(node, known):
    if type(node.ops[0]) in OTHER:
        yield "wrong comparison", _but(node, ops=[OTHER[type(node.ops[0])]()])


def _both(node, known):
    for value in node.values:
        yield "condition dropped", value


def _tuple(node, known):
    for number in range(len(node.elts)):
        for other in range(number):
            elements = list(node.elts)
            elements[number], elements[other] = elements[other], elements[number]
            yield "elements exchanged", _but(node, elts=elements)


def _name(node, known):
    if isinstance(node.ctx, ast.Load) and node.id in known.gradients:
        for other, line in known.gradients.items():
            if other != node.id and line < node.lineno:
                yield "another gradient", _but(node, id=other)


_EDITS = {
    ast.BinOp: _operation,
    ast.AugAssign: _augmented,
    ast.Assign: _assigned,
    ast.Expr: _expression_statement,
    ast.Return: _returned,
    ast.UnaryOp: _unary,
    ast.Attribute: _attribute,
    ast.Call: _call,
    ast.Constant: _constant,
    ast.Slice: _slice,
    ast.Subscript: _subscript,
    ast.If: _choice,
    ast.IfExp: _conditional,
    ast.Compare: _compare,
    ast.BoolOp: _both,
    ast.Tuple: _tuple,
    ast.Name: _name,
}


def try_all(subject, share=1):
    """Plant every error in a subject, and see which are noticed.

    Parameters
    ----------
    subject : Subject
        Where to plant.
    share : int, default 1
        One of so many errors is tried, the same ones every time.

    Yields
    ------
    planted : Planted
    how : {"numbers", "contract", "exception", None}
        As `Judge.notices` says.

    Raises
    ------
    AssertionError
        If something is noticed without any error planted: then nothing else would mean anything.
    """
    judge = Judge(subject)
    how = judge.notices(subject.functions[0])
    if how:
        raise AssertionError(f"{subject.name} is wrong ({how}) before anything is planted")
    for planted in plant(subject.functions):
        if zlib.crc32(str(planted).encode()) % share:
            continue
        yield planted, judge.notices(planted.function)


class Judge:
    """Tries backwards of one subject; remembers what its forwards gave.

    Parameters
    ----------
    subject : Subject
        Whose.
    """

    def __init__(self, subject):
        self.subject = subject
        self.memory = {}  # outputs of the forward's complex steps, by example

    def notices(self, function):
        """Say how the tests notice that something is wrong with a function.

        Parameters
        ----------
        function : callable
            Stands in for the subject's first function.

        Returns
        -------
        {"numbers", "contract", "exception", None}
            A slope is wrong; a promise beside the slope is broken; it raises; or not at all.
        """
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for example in range(EXAMPLES):
                use = self.subject.uses[example % len(self.subject.uses)]
                try:
                    backward = use.backward(function)
                    report = self.measure(use, backward, example)
                    if report.faults and report.faults[0].kind != "nan":
                        return "contract"
                    if not report.passed:
                        return "numbers"
                    if example < CONTRACT_EXAMPLES and not use.sizes:
                        _keep_contract(Pair(use.case, use.forward, backward), example)
                except AssertionError:
                    return "contract"
                except Exception:
                    return "exception"
        return None

    def measure(self, use, backward, example):
        """Run the gradient check on one example.

        Parameters
        ----------
        use : Use
            One of the subject's.
        backward : callable
            What to check behind the forward of `use`.
        example : int
            Seeds all random numbers.

        Returns
        -------
        gradcheck.Report
        """
        rng = np.random.default_rng(example)
        case = make_case(use.case, rng, use.sizes or (ONES if example % 4 == 3 else None))
        replay = iter(self.memory.get(example, ()))
        outputs = []

        def remembered(*arguments, **options):
            # The first call leaves what the backward needs; the others are the slow complex steps.
            if example in self.memory and outputs:
                return next(replay), None
            y, saved = use.forward(*arguments, **options)
            outputs.append(y)
            return y, saved

        report = measure(
            remembered,
            backward,
            case.inputs,
            case.p,
            options=case.fresh_options,
            rng=rng,
            quick=True,
        )
        if example not in self.memory:
            self.memory[example] = outputs[1:]
        return report


def _keep_contract(pair, seed):
    for test in CONTRACT:
        try:
            test(pair, seed)
        except pytest.skip.Exception:  # the pair has no parameters, or no out
            continue
