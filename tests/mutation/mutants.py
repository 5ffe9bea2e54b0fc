"""Small changes of a Python file: an operator turned, a number moved, a truth value flipped."""

import ast
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


@dataclass(frozen=True)
class Site:
    """A place that can be changed.

    Attributes:
        line: in the file.
        change: what is done there.
        function: the qualified name of the innermost function around it; empty for none.
    """

    line: int
    change: str
    function: str


class _Mutator(ast.NodeTransformer):
    """Counts the sites of a module, and changes the one whose number is given.

    Messages, annotations, assertions (``strict`` of ``zip`` among them) and decorators are left alone.
    """

    def __init__(self, wanted: int | None = None) -> None:
        self.wanted = wanted
        self.sites: list[Site] = []
        self._scope = ""  # what the qualified names in it begin with
        self._function = ""

    def _is_wanted(self, node: ast.expr, change: str) -> bool:
        self.sites.append(Site(node.lineno, change, self._function))
        return len(self.sites) - 1 == self.wanted

    def _skip(self, node: ast.AST) -> ast.AST:
        return node

    visit_JoinedStr = visit_Raise = visit_Assert = visit_arg = _skip  # noqa: N815

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.value = node.value and self.visit(node.value)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.args.defaults = [self.visit(one) for one in node.args.defaults]
        node.args.kw_defaults = [one and self.visit(one) for one in node.args.kw_defaults]
        around = self._scope, self._function
        self._function = self._scope + node.name
        self._scope = f"{self._function}.<locals>."
        node.body = [self.visit(one) for one in node.body]
        self._scope, self._function = around
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        around, self._scope = self._scope, f"{self._scope}{node.name}."
        node.body = [self.visit(one) for one in node.body]
        self._scope = around
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if not (isinstance(node.func, ast.Name) and node.func.id == "zip"):
            self.generic_visit(node)
        else:
            node.args = [self.visit(one) for one in node.args]
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        for at, old in enumerate(node.ops):
            new = _COMPARISONS[type(old)]
            if self._is_wanted(node, f"{type(old).__name__} -> {new.__name__}"):
                node.ops[at] = new()
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        new = _OPERATORS.get(type(node.op))
        if new is not None and self._is_wanted(node, f"{type(node.op).__name__} -> {new.__name__}"):
            node.op = new()
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        new = ast.Or if isinstance(node.op, ast.And) else ast.And
        if self._is_wanted(node, f"{type(node.op).__name__} -> {new.__name__}"):
            node.op = new()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        dropped = isinstance(node.op, ast.Not | ast.USub) and not isinstance(node.operand, ast.Constant)
        if dropped and self._is_wanted(node, f"{type(node.op).__name__} dropped"):
            return node.operand
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool):
            if self._is_wanted(node, f"{node.value} -> {not node.value}"):
                return ast.Constant(not node.value)
        elif isinstance(node.value, int | float) and self._is_wanted(node, f"{node.value} + 1"):
            return ast.Constant(node.value + 1)
        return node


def sites(source: str) -> list[Site]:
    """All places of a module that can be changed, in a fixed order."""
    mutator = _Mutator()
    mutator.visit(ast.parse(source))
    return mutator.sites


def mutant(source: str, number: int) -> str:
    """The module with one of its ``sites`` changed."""
    return ast.unparse(ast.fix_missing_locations(_Mutator(number).visit(ast.parse(source))))
