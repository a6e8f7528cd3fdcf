"""A user's own network: where its source lies, and what its identity is, without running any of it.

A study names the network by an import path, `mynet:build`. Plans need a fingerprint of its code,
so the source is found and parsed here, and imported only by who trains or evaluates
(`fadepth.models.own`). A study or a `model.pt` may be a stranger's. Therefore the file has to lie
in the working folder or in one that PYTHONPATH names, and the factory must be written there and
say that it makes a network: names alone cannot reach `os.system` or `torch.hub.load`.
"""

import ast
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from fadepth.errors import FadepthError, one_line
from fadepth.fingerprint import PACKAGE, digest, syntax_fingerprint

_NAME = r"[A-Za-z_]\w*"
SPEC = re.compile(rf"({_NAME}(?:\.{_NAME})*):({_NAME})")

#: Not counted by version: torch's is no part of any run's identity, and is in its `manifest.json`.
_UNCOUNTED = {"torch"}

_WANTED = "write 'def build() -> nn.Module' there, or a class of nn.Module, and name it"


@dataclass(frozen=True)
class OwnCode:
    """Source of a network that is not fadepth's.

    Attributes:
        spec: `module:factory`, as a setting names it.
        root: folder that the module is imported from.
        path: the module's file.
        files: the module's file, the packages around it, and every file that these import from the
            working folder or PYTHONPATH, by path below those; in alphabetical order.
        modules: modules of fadepth that they import, as paths below the package.
        versions: of installed packages that they import; None where one is not installed.
        parameters: names of the factory's arguments; None where it takes any, or its class does not
            say.
    """

    spec: str
    root: Path
    path: Path
    files: Mapping[str, Path]
    modules: tuple[str, ...]
    versions: Mapping[str, str | None]
    parameters: tuple[str, ...] | None

    @property
    def fingerprints(self) -> dict[str, str]:
        """What its identity is made of beside `modules`: syntax trees of files, versions."""
        trees = {name: _scan(path).fingerprint for name, path in self.files.items()}
        return trees | {name: str(version) for name, version in self.versions.items()}

    @property
    def digest(self) -> str:
        """Fingerprint of the user's own files alone: what weights must be loaded into."""
        return digest({name: _scan(path).fingerprint for name, path in self.files.items()})


def split_import_path(text: str) -> tuple[str, str] | None:
    """`pkg.mod:Name.attribute` as module and attribute; None for another form."""
    module, _, attribute = text.partition(":")
    words = [*module.split("."), *attribute.split(".")]
    return (module, attribute) if all(word.isidentifier() for word in words) else None


def find_own_code(spec: str, base: Path | None = None) -> OwnCode:
    """Find the source of `module:factory`, and all that it imports of the user's.

    Args:
        spec: as `student.network` has it.
        base: folder that is looked in first; the working directory by default.

    Raises:
        FadepthError: there is no such file, it is no Python, or the factory is not written in it.
    """
    module, factory = spec.split(":")
    roots = _roots(base or Path.cwd())
    found = _find_module(module, roots)
    if module.partition(".")[0] == PACKAGE.name or found is None:
        raise FadepthError(
            f"student.network is '{spec}', but there is no {module.replace('.', '/')}.py in "
            f"{' or '.join(map(str, roots))}: put the file there, or its folder on PYTHONPATH (of "
            "an installed package, import what you need in a file of your own)"
        )
    root, path = found
    parameters = _parameters(_scan(path).factories.get(factory), spec, path)
    files, modules, packages = _closure(module, roots)
    versions = {name: _version(name) for name in sorted(packages - _UNCOUNTED)}
    ordered = dict(sorted(files.items()))
    return OwnCode(spec, root, path, ordered, tuple(sorted(modules)), versions, parameters)


def check_arguments(code: OwnCode, arguments: Mapping[str, object]) -> None:
    """Refuse arguments that the factory does not take.

    Raises:
        FadepthError: names the first of them.
    """
    for name in arguments:
        if code.parameters is not None and name not in code.parameters:
            taken = ", ".join(code.parameters) or "no arguments"
            raise FadepthError(
                f"'student.arguments.{name}' is no argument of {code.spec}, which takes {taken}: "
                "correct the name, or add it to the factory"
            )


# Where files are


def _roots(base: Path) -> list[Path]:
    """Folders that Python itself searches before installed packages, in its order."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return list(dict.fromkeys([base.resolve(), *(Path(n).resolve() for n in named if n)]))


def _find_module(module: str, roots: Sequence[Path]) -> tuple[Path, Path] | None:
    """Root and file of a module: a package's is its `__init__.py`."""
    for root in roots:
        place = root.joinpath(*module.split("."))
        for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if path.is_file():
                return root, path
    return None


def _closure(module: str, roots: Sequence[Path]) -> tuple[dict[str, Path], set[str], set[str]]:
    """Files of a module and of all that it imports: the user's, fadepth's; names of packages."""
    files: dict[str, Path] = {}
    modules: set[str] = set()
    packages: set[str] = set()
    seen: set[str] = set()
    waiting = [*_with_parents(module)]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        top = name.partition(".")[0]
        ours = top == PACKAGE.name
        found = _find_module(name, [PACKAGE.parent] if ours else roots)
        if found is None:
            # `from mynet import build` names `mynet.build`, which is no module; nor is a folder.
            if not ours and top not in sys.stdlib_module_names and not _is_own(top, roots):
                packages.add(top)
            continue
        root, path = found
        if ours:
            modules.add(path.relative_to(PACKAGE).as_posix())
        else:
            files.setdefault(path.relative_to(root).as_posix(), path)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for imported in _scan(path).imports:
            waiting += _with_parents(_absolute(imported, package))
    return files, modules, packages


def _with_parents(module: str) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c` of `a.b.c`: to import one imports all."""
    parts = module.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1) if module)


def _absolute(imported: str, package: str) -> str:
    """A relative import (`..blocks`) seen from a package; others as they are."""
    name = imported.lstrip(".")
    level = len(imported) - len(name)
    if not level:
        return name
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], name]).strip(".")


def _is_own(top: str, roots: Sequence[Path]) -> bool:
    return any((root / top).is_dir() for root in roots) or _find_module(top, roots) is not None


@cache
def _version(name: str) -> str | None:
    """Version of the installed package that a module of that name belongs to."""
    from importlib import metadata  # only here: it takes its time

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        owners = metadata.packages_distributions().get(name)
        return metadata.version(owners[0]) if owners else None


# What files say


@dataclass(frozen=True)
class _Scan:
    """Of a file: digest of its syntax, its imports (relative ones with dots), its definitions."""

    fingerprint: str
    imports: tuple[str, ...]
    factories: Mapping[str, ast.FunctionDef | ast.ClassDef]


def _scan(path: Path) -> _Scan:
    state = path.stat()
    return _scanned(path, (state.st_ino, state.st_mtime_ns, state.st_size))


@cache
def _scanned(path: Path, _state: tuple[int, ...]) -> _Scan:
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise FadepthError(f"{path}{line} is no Python that can be read: mend it") from None
    definitions = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return _Scan(
        syntax_fingerprint(source),
        tuple(dict.fromkeys(_imports(tree))),
        {node.name: node for node in definitions},
    )


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield start
            # What is imported may be a module, too.
            joint = "" if start.endswith(".") else "."
            yield from (f"{start}{joint}{a.name}" for a in node.names if a.name != "*")


def _parameters(
    node: ast.FunctionDef | ast.ClassDef | None, spec: str, path: Path
) -> tuple[str, ...] | None:
    """Names of a factory's arguments.

    Raises:
        FadepthError: it is not there, or does not say that it makes a network.
    """
    factory = spec.partition(":")[2]
    if node is None:
        raise FadepthError(
            f"student.network is '{spec}', but {path} defines no '{factory}': {_WANTED}"
        )
    makes = node.bases if isinstance(node, ast.ClassDef) else [node.returns]
    if not any(part and _last_name(part).endswith("Module") for part in makes):
        raise FadepthError(
            f"student.network is '{spec}', but '{factory}' in {path} does not say that it makes a "
            f"network, and nothing else is called: {_WANTED}"
        )
    function = node if isinstance(node, ast.FunctionDef) else _init_of(node)
    if function is None or function.args.kwarg:
        return None
    names = [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
    return tuple(names[1:] if isinstance(node, ast.ClassDef) else names)


def _init_of(node: ast.ClassDef) -> ast.FunctionDef | None:
    methods = (part for part in node.body if isinstance(part, ast.FunctionDef))
    return next((method for method in methods if method.name == "__init__"), None)


def _last_name(node: ast.expr) -> str:
    """`Module` of `nn.Module`, also where it is quoted."""
    text = node.value if isinstance(node, ast.Constant) else ast.unparse(node)
    return str(text).rpartition(".")[2]


# Running it


def import_factory(module: str, attribute: str, what: str, root: Path) -> Callable[..., Any]:
    """Import a module, which runs it, and return what it has under a (dotted) name.

    Args:
        module, attribute: as `split_import_path` gives them.
        what: the setting or option that names them, which begins every error.
        root: folder to import from, before all others.

    Raises:
        FadepthError: the import fails, or there is nothing of that name that can be called.
    """
    found: Any = _imported(module, what, root)
    for word in attribute.split("."):
        if not hasattr(found, word):
            raise FadepthError(f"{what}: {module} has no '{attribute}'")
        found = getattr(found, word)
    if not callable(found):
        raise FadepthError(f"{what}: {module}:{attribute} cannot be called: name a factory")
    factory: Callable[..., Any] = found
    return factory


def _imported(module: str, what: str, root: Path) -> ModuleType:
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        return importlib.import_module(module)
    except Exception as error:  # anybody's code
        raise FadepthError(f"{what}: import of {module} failed: {one_line(error)}") from error


def import_own(code: OwnCode) -> Callable[..., Any]:
    """The factory of a network whose source has been found.

    Raises:
        FadepthError: the import fails, or Python takes another file for the module.
    """
    module, name = code.spec.split(":")
    what = f"student.network '{code.spec}'"
    file = _imported(module, what, code.root).__file__
    if file is None or Path(file).resolve() != code.path.resolve():
        raise FadepthError(
            f"student.network is '{code.spec}', but Python has another module of that name "
            f"({file or 'built in'}): give your file another name"
        )
    return import_factory(module, name, what, code.root)
