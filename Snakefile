"""fadepth: data -> teacher (HQDecv2) -> SmallDepth variants -> evaluation -> tables.

    snakemake --cores 8 reports/table_ablation.csv
    snakemake --cores 8 reports/all --configfile config/smoke.yaml

Settings: one preset, `config/quick.yaml` unless `--configfile` names another. Studies:
`ablations/*.yaml`, one table each. Results: `runs/` (one folder a training), `reports/`.
"""

from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"


# Light work, done where Snakemake runs, also when a profile sends the other jobs to a cluster.
localrules:
    render_table,
    render_effects,
    compile_tables,
    draw_masks,
    draw_lidar,
    draw_qualitative,
    draw_pareto,
    draw_effects,
    draw_report_method_figures,
    draw_method_figures,
    link_runs,
    render_report,
    all_reports,


rule all:
    """Every table of every study, the figures and the report."""
    default_target: True
    input:
        "reports/all",


# MLflow mirrors runs/ and is never needed for a result: a tracker that fails stops nothing.
onsuccess:
    mirror_to_mlflow()
    tell_what_was_left_out()


onerror:
    mirror_to_mlflow()
