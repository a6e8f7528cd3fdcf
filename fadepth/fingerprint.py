"""Fingerprints of settings and code: what decides whether a result is still valid."""

import ast
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent


def canonical_json(content: Any) -> str:
    """JSON with sorted keys and no spaces: equal content gives equal text."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(content: Any, length: int = 10) -> str:
    """First `length` hex digits of the sha256 of canonical JSON."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:length]


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return tree


def code_fingerprint(modules: Iterable[str]) -> str:
    """Digest of the syntax trees of modules (paths below the package, such as `losses/apx.py`).

    Comments, docstrings and formatting do not count: a better comment in a loss must not cost a
    night of training.
    """
    trees = {}
    for module in modules:
        tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
        trees[module] = ast.dump(_without_docstrings(tree))
    return digest(trees)
