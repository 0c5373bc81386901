"""Rows by a condition such as "gender == 'Women' and year >= 2012": a small part of Python's expressions, which runs no code.

text ─► syntax tree ─► checked, node by node ─► bool (N,)
"""

import ast
import difflib
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastfashion.catalog.columns import Table, values
from fastfashion.errors import ConfigError

MAX_LENGTH = 4000  # characters
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_GRAMMAR = "expected comparisons of columns such as gender == 'Women', year >= 2012 or season in ['Fall', 'Winter'], with and, or, not"
_HIDDEN = ("fingerprint",)


def rows_where(table: Table, condition: str) -> np.ndarray:
    """Which rows of a catalog meet a condition: bool (N,).

    Columns are named as in the catalog; texts are compared as they are, numbers as numbers, and a missing number or text meets nothing but
    `!=` and `not`. Raises ConfigError, with what was expected, for anything else than comparisons, and for an unknown column.
    """
    if len(condition) > MAX_LENGTH:
        raise ConfigError(f"where: {len(condition)} characters; expected at most {MAX_LENGTH}")
    try:
        tree = ast.parse(condition.strip(), mode="eval").body
        return _Reader(table, condition).truth(tree)
    except ConfigError:
        raise
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise ConfigError(f"where {condition!r}: not readable ({_reason(error)}); {_GRAMMAR}") from None


def _reason(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg} at character {error.offset}" if error.offset else str(error.msg)
    return "too deeply nested" if isinstance(error, RecursionError | MemoryError) else str(error)


class _Reader:
    """Answers the nodes of one condition for one table."""

    def __init__(self, table: Table, condition: str) -> None:
        self._table, self._condition = table, condition
        self._names = [str(name) for name in getattr(table, "column_names", None) or table.columns if name not in _HIDDEN]

    def truth(self, node: ast.expr) -> np.ndarray:
        """bool (N,) of a node that is true or false."""
        if isinstance(node, ast.BoolOp):
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            found = [self.truth(each) for each in node.values]
            return np.asarray(join.reduce(found))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.truth(node.operand)
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            steps = zip(sides[:-1], node.ops, sides[1:], strict=True)
            return np.asarray(np.logical_and.reduce([self._compared(left, op, right) for left, op, right in steps]))
        if isinstance(node, ast.Name) and (column := self._column(node)).dtype == bool:
            return column
        raise self._refused(node)

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> np.ndarray:
        if isinstance(op, ast.In | ast.NotIn):
            if not (isinstance(left, ast.Name) and isinstance(right, ast.List | ast.Tuple | ast.Set)):
                raise self._refused(right)
            column = self._column(left)
            wanted = [self._constant(each, column, left.id) for each in right.elts]
            found = np.isin(column, wanted) if column.dtype != object else _among(column, wanted)
            return ~found if isinstance(op, ast.NotIn) else found
        if type(op) not in _COMPARE:
            raise self._refused(left)
        if isinstance(left, ast.Name) and isinstance(right, ast.Name):
            one, two = self._column(left), self._column(right)
            if (one.dtype == object) != (two.dtype == object):
                raise ConfigError(f"where {self._condition!r}: {left.id} and {right.id} are a text and a number; compare like with like")
            return self._by(op, one, two)
        if isinstance(left, ast.Name):
            column = self._column(left)
            return self._by(op, column, self._constant(right, column, left.id))
        if isinstance(right, ast.Name):
            column = self._column(right)
            return self._by(op, self._constant(left, column, right.id), column)
        raise self._refused(left)

    def _by(self, op: ast.cmpop, left: Any, right: Any) -> np.ndarray:
        compare = _COMPARE[type(op)]
        if any(isinstance(side, np.ndarray) and side.dtype == object for side in (left, right)):
            left, right = (np.where(side == None, "", side) if isinstance(side, np.ndarray) else side for side in (left, right))  # noqa: E711
        return np.asarray(compare(left, right), dtype=bool)

    def _column(self, node: ast.Name) -> np.ndarray:
        if node.id not in self._names:
            near = difflib.get_close_matches(node.id, self._names, n=2, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ConfigError(f"where {self._condition!r}: no column {node.id!r}; {hint}There are {', '.join(self._names)}")
        return values(self._table[node.id])

    def _constant(self, node: ast.expr, column: np.ndarray, name: str) -> Any:
        """A number or text that the column can be compared with."""
        negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        inner = node.operand if negative and isinstance(node, ast.UnaryOp) else node
        if not isinstance(inner, ast.Constant) or not isinstance(inner.value, str | int | float):
            raise self._refused(node)
        value = -inner.value if negative and not isinstance(inner.value, str) else inner.value
        if isinstance(value, str) != (column.dtype == object):
            kind, example = ("texts", f"{name} == '{value}'") if column.dtype == object else ("numbers", f"{name} >= 2012")
            raise ConfigError(f"where {self._condition!r}: {name} holds {kind}, found {value!r}; write {example}")
        return value

    def _refused(self, node: ast.expr) -> ConfigError:
        part = ast.get_source_segment(self._condition.strip(), node) or ast.unparse(node)
        return ConfigError(f"where {self._condition!r}: {part!r} is not a comparison of a column; {_GRAMMAR}")


def _among(column: np.ndarray, wanted: Sequence[Any]) -> np.ndarray:
    """bool (N,): whether each text is one of these."""
    some = set(wanted)
    return np.fromiter((text in some for text in column), dtype=bool, count=len(column))
