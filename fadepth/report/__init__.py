"""Results as tables: a small table model, its writers, and the ablation table."""

from fadepth.report.ablation import (
    Row,
    RunRecord,
    ablation_table,
    collect_rows,
    read_records,
    read_run,
)
from fadepth.report.table import Column, Stamp, Table, TableRow, marks, scale_warning
from fadepth.report.writers import csv_text, latex_text, markdown_text, write_table

__all__ = [
    "Column",
    "Row",
    "RunRecord",
    "Stamp",
    "Table",
    "TableRow",
    "ablation_table",
    "collect_rows",
    "csv_text",
    "latex_text",
    "markdown_text",
    "marks",
    "read_records",
    "read_run",
    "scale_warning",
    "write_table",
]
