"""Tables: one a study, in CSV, Markdown, LaTeX and HTML, with the origin of every cell.

REQUIRED INPUTS: metrics.json and per_image.csv of every run of the study, or of a benchmark;
    robustness.json, grid.json, reports/costs/<table>.json where the table shows them;
    ablations/paper/<table>.csv where there are published values.
OUTPUTS: reports/<table>.csv, .md, .tex, .html, .provenance.json; reports/tables.pdf;
    reports/effects_<study>.csv, .md, .tex, .html
"""


rule render_table:
    """Write a study's table from the results of its runs."""
    input:
        results=lambda wildcards: results_of(wildcards.table),
    output:
        csv="reports/{table}.csv",
        markdown="reports/{table}.md",
        latex="reports/{table}.tex",
        html="reports/{table}.html",
        provenance="reports/{table}.provenance.json",
    log:
        "logs/render_table/{table}.log",
    conda:
        "../envs/fadepth.yaml"
    params:
        flags=flags,
        rows=lambda wildcards: rows_of(STUDIES[wildcards.table]),
    shell:
        "python -m fadepth table {wildcards.table} --output {output.csv:q} {params.flags} --log {log:q}"


rule render_effects:
    """Write what each factor of a study changes, with its spread over seeds."""
    input:
        measures=lambda wildcards: measures_of(f"table_{wildcards.study}"),
    output:
        csv="reports/effects_{study}.csv",
        markdown="reports/effects_{study}.md",
        latex="reports/effects_{study}.tex",
        html="reports/effects_{study}.html",
    log:
        "logs/render_effects/{study}.log",
    conda:
        "../envs/fadepth.yaml"
    params:
        flags=flags,
        rows=lambda wildcards: rows_of(STUDIES[f"table_{wildcards.study}"]),
    shell:
        "python -m fadepth effects table_{wildcards.study} --output {output.csv:q} {params.flags} --log {log:q}"


rule compile_tables:
    """Set all tables as one PDF; needs LaTeX."""
    input:
        latex=expand("reports/{table}.tex", table=ALL_TABLES),
        stamps=expand("reports/{table}.provenance.json", table=ALL_TABLES),
    output:
        pdf="reports/tables.pdf",
    log:
        "logs/compile_tables.log",
    conda:
        "../envs/fadepth.yaml"
    shell:
        "python -m fadepth pdf {input.latex:q} --output {output.pdf:q} --log {log:q}"
