"""Tables: one a study, in CSV, Markdown and LaTeX, with the origin of every cell.

REQUIRED INPUTS: metrics.json of every run of the study.
OUTPUTS: reports/<table>.csv, .md, .tex, .provenance.json; reports/effects_<study>.csv, .md, .tex
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
        rows=lambda wildcards: rows_of(STUDIES[wildcards.table]),
    shell:
        "{FADEPTH} table {wildcards.table} --output {output.csv:q} {FLAGS} --log {log:q}"


rule render_effects:
    """Write what each factor of a study changes, with its spread over seeds."""
    input:
        measures=measures_of,
    output:
        csv="reports/effects_{study}.csv",
        markdown="reports/effects_{study}.md",
        latex="reports/effects_{study}.tex",
    log:
        "logs/render_effects/{study}.log",
    params:
        rows=lambda wildcards: rows_of(STUDIES[f"table_{wildcards.study}"]),
    shell:
        "{FADEPTH} effects table_{wildcards.study} --output {output.csv:q} {FLAGS} --log {log:q}"
