"""Tables: one a study, in CSV, Markdown and LaTeX, with the origin of every cell.

REQUIRED INPUTS: metrics.json of every run of the study.
OUTPUTS: reports/<table>.csv, .md, .tex, .provenance.json
"""


rule render_table:
    """Write a study's table from the metrics of its runs."""
    input:
        metrics=metrics_of,
    output:
        csv="reports/{table}.csv",
        markdown="reports/{table}.md",
        latex="reports/{table}.tex",
        provenance="reports/{table}.provenance.json",
    log:
        "logs/render_table/{table}.log",
    params:
        rows=lambda wildcards: {
            "rows": [
                [row.label, row.kind, [run.id for run in row.runs]]
                for row in STUDIES[wildcards.table].rows
            ]
        },
    shell:
        "{FADEPTH} table {wildcards.table} --output {output.csv:q} {FLAGS} --log {log:q}"
