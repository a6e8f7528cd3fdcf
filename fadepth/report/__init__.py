"""Tables, figures and the report that a study leaves behind."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent

#: What a rendered table, figure or page depends on beside its inputs (paths below the package).
REPORT_CODE = (
    *sorted(f"report/{path.name}" for path in _FOLDER.glob("*.py") if path.name != "__init__.py"),
    *(f"execution/{name}.py" for name in ("tables", "figures", "qualitative", "report")),
    "stats.py",
)

#: Results, components, teacher, transfer: the order of tables in the PDF and on the page.
_ORDER = (
    "kitti", "kitti_improved", "kitti_highres", "complexity", "ddad", "ablation", "etm", "pyramid",
    "apx", "hqdecv2", "generalisation",
)  # fmt: skip


def in_order(tables: Iterable[str]) -> list[str]:
    """Names of tables as a reader wants them; one's own come last, by name."""
    places = {f"table_{name}": place for place, name in enumerate(_ORDER)}
    return sorted(tables, key=lambda name: (places.get(name, len(places)), name))


NO_LATEX = (
    "it needs pdflatex (Debian: apt-get install texlive-latex-base texlive-latex-recommended); "
    "all else is made without"
)


def template_digest() -> str:
    """Digest of the templates of pages, which are no code to `code_fingerprint`."""
    found = hashlib.sha256()
    for path in sorted((_FOLDER / "templates").iterdir()):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:10]
