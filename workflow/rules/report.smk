"""The report: every table and figure on one page, and `reports/all`, which asks for everything.

REQUIRED INPUTS: all tables and figures that the preset has data for.
OUTPUTS: reports/index.html; reports/mlflow.json (addresses of the runs in MLflow, may be empty);
    reports/all (what was made, with sha256)
"""


rule link_runs:
    """Mirror all runs into MLflow, and note where each is found there; never fails."""
    input:
        tables=expand("reports/{table}.csv", table=ALL_TABLES),
    output:
        links="reports/mlflow.json",
    log:
        "logs/link_runs.log",
    conda:
        "../envs/fadepth.yaml"
    params:
        flags=flags,
        runs=sorted(RUNS),
    shell:
        "python -m fadepth track --links {output.links:q} {params.flags} --log {log:q}"


rule render_report:
    """Gather all tables and figures on one page that needs no network."""
    input:
        tables=expand("reports/{table}.csv", table=ALL_TABLES),
        effects=expand("reports/effects_{study}.csv", study=FACTORIAL_STUDIES),
        figures=report_figures(),
        links=rules.link_runs.output.links,
    output:
        page="reports/index.html",
    log:
        "logs/render_report.log",
    conda:
        "../envs/fadepth.yaml"
    params:
        flags=flags,
        studies=[rows_of(STUDIES[table]) for table in ALL_TABLES],
        figures=lambda wildcards, input: " ".join(f"--figure {f}" for f in input.figures),
    shell:
        "python -m fadepth report --output {output.page:q} {params.figures} --links {input.links:q}"
        " {params.flags} --log {log:q}"


rule all_reports:
    """Every table, figure, the PDF and the page."""
    input:
        tables=expand(
            "reports/{table}.{format}",
            table=ALL_TABLES,
            format=["csv", "md", "tex", "html", "provenance.json"],
        ),
        effects=expand("reports/effects_{study}.csv", study=FACTORIAL_STUDIES),
        figures=report_figures(),
        pdf=["reports/tables.pdf"] if LATEX else [],
        page="reports/index.html",
    output:
        listing="reports/all",
    log:
        "logs/all_reports.log",
    conda:
        "../envs/fadepth.yaml"
    shell:
        "sha256sum {input:q} > {output.listing:q} 2> {log:q}"
