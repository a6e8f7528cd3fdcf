"""Fingerprints of settings and code: what decides whether a result is still valid."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent


def canonical_json(content: Any) -> str:
    """JSON with sorted keys and no spaces: equal content gives equal text."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(content: Any, length: int = 10) -> str:
    """First `length` hex digits of the sha256 of canonical JSON."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:length]


class _WithoutDocstrings(ast.NodeTransformer):
    """Drops every statement that is only a string: docstrings, also those below constants."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Keep an expression unless it is a bare string."""
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else node


@cache
def _syntax(source: str) -> str:
    return ast.dump(_WithoutDocstrings().visit(ast.parse(source)))


def syntax_fingerprint(source: str) -> str:
    """Digest of a source text's syntax tree, without comments and docstrings.

    Raises:
        SyntaxError: it is no Python.
    """
    return digest(_syntax(source))


def _module_syntax(module: str) -> str:
    return _syntax((PACKAGE / module).read_text(encoding="utf-8"))


def code_fingerprint(modules: Iterable[str]) -> str:
    """Digest of the syntax trees of modules (paths below the package, such as `losses/apx.py`).

    Comments, docstrings and formatting do not count: a better comment in a loss must not cost a
    night of training.
    """
    files = tuple(sorted(set(modules)))
    states = [(PACKAGE / module).stat() for module in files]
    seen = tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)
    return _fingerprint(files, seen)


@cache
def _fingerprint(modules: tuple[str, ...], _states: tuple[tuple[int, ...], ...]) -> str:
    # Thousands of runs share a few sets of modules, whose trees are megabytes.
    return digest({module: _module_syntax(module) for module in modules})


def module_fingerprints(modules: Iterable[str]) -> dict[str, str]:
    """Digest of each module's syntax tree by itself: tells which one has changed."""
    return {module: digest(_module_syntax(module)) for module in sorted(set(modules))}
