"""What is wrong or doubtful about a study before a night is spent on it: `fadepth lint`.

Resolving refuses a study at the first thing that it cannot mean. This tells all of them, and also
what is possible but doubtful: rows with unequal budgets, other teachers, one seed, settings that
change nothing. Nothing is trained, no image is read, and data need not be there.
"""

from fadepth.lint.findings import LEVELS, Finding, Level
from fadepth.lint.studies import lint_studies

__all__ = ["LEVELS", "Finding", "Level", "lint_studies"]
