"""Figures: the report's seven; lidar and masks on street, KITTI and DDAD; the method's, for docs.

REQUIRED INPUTS: results of runs for effects, pareto and qualitative; none for the street; kitti_mini/, ddad_mini/ in FADEPTH_TEST_DATA for the others;
    a run's model.pt where the file's name holds its id, in place of true depth and motion.
OUTPUTS: reports/figures/masks_{street,kitti,ddad}.png, reports/figures/masks_<data>_<run id>.png;
    reports/figures/lidar_{street,kitti,ddad}.png;
    reports/figures/{effects,pareto,qualitative}.png and .pdf;
    reports/figures/{overview,adacoeff_upsampler,global_map}.png;
    docs/figures/*
"""

from fadepth.fingerprint import PACKAGE

# Fingerprints are functions: to parse these modules takes time that other targets need not spend.


# Figures 1 to 3 are drawn by the networks, 4 shows masks, 5 to 7 show results.
METHOD_FIGURES = ["overview", "adacoeff_upsampler", "global_map"]
MASKED = [name for name in ("kitti", "ddad") if real_frames(name)] or ["street"]
RESULT_FIGURES = {"qualitative": "table_kitti", "pareto": "table_complexity"}
RESULT_FIGURES |= {"effects": f"table_{study}" for study in FACTORIAL_STUDIES[:1]}
RESULT_FIGURES = {n: table for n, table in RESULT_FIGURES.items() if table in ALL_TABLES}
REPORT_FIGURES = [
    *(f"reports/figures/{name}.png" for name in METHOD_FIGURES),
    *(f"reports/figures/masks_{name}.png" for name in MASKED),
    *(f"reports/figures/{name}.png" for name in RESULT_FIGURES),
]


wildcard_constraints:
    pictured="street|kitti|ddad",
    by=r"|_(?!constant-|row_median-|pixel_median-)[a-z0-9_]+-s\d+-[0-9a-f]{10}",


def model_of(wildcards):
    """The network that gives depth and motion, where the figure's name holds a run's id."""
    return [f"runs/{run_of(wildcards.by[1:]).id}/model.pt"] if wildcards.by else []


def method_code():
    """Fingerprint of what the method's figures are drawn from."""
    return code_fingerprint(
        sorted(
            str(module.relative_to(PACKAGE))
            for folder in ("report/method", "models", "losses")
            for module in (PACKAGE / folder).glob("*.py")
        )
        + ["data/synthetic.py", "evaluation/grid.py", "geometry.py"]
    )


def compared_runs():
    """Ids of the student with everything on, and of the teacher, of table_kitti."""
    rows = STUDIES[RESULT_FIGURES["qualitative"]].rows
    students = [row for row in rows if row.kind == "variant"]
    teachers = [row for row in rows if row.kind == "teacher"]
    return [row.runs[0].id for row in (students[-1], *teachers[:1])]


rule draw_masks:
    """Draw every mask on a few frames of one data set, by ground truth or by a trained run."""
    input:
        model=model_of,
    output:
        figure="reports/figures/masks_{pictured}{by}.png",
    log:
        "logs/draw_masks/{pictured}{by}.log",
    params:
        code=lambda wildcards: code_fingerprint(
            (
                "report/mask_figure.py",
                "losses/masks.py",
                "losses/cbw.py",
                "losses/photometric.py",
            )
        ),
        run=lambda wildcards: f"--run {wildcards.by[1:]}" if wildcards.by else "",
    shell:
        "{FADEPTH} masks {wildcards.pictured} --output {output.figure:q} {params.run} --log {log:q}"


rule draw_lidar:
    """Draw ground truth over a few frames of one data set: does it lie on what it has hit?"""
    output:
        figure="reports/figures/lidar_{pictured}.png",
    log:
        "logs/draw_lidar/{pictured}.log",
    params:
        code=lambda wildcards: code_fingerprint(
            (
                "report/lidar_figure.py",
                "data/kitti.py",
                "data/ddad.py",
                "data/synthetic.py",
            )
        ),
    shell:
        "{FADEPTH} lidar {wildcards.pictured} --output {output.figure:q} --log {log:q}"


rule draw_qualitative:
    """Draw predictions and errors of SmallDepth and HQDecv2 on a few frames."""
    input:
        manifest=lambda wildcards: data_of(compared_runs()[0]),
        models=lambda wildcards: [f"runs/{run}/model.pt" for run in compared_runs()],
    output:
        figure="reports/figures/qualitative.png",
        vector="reports/figures/qualitative.pdf",
    log:
        "logs/draw_qualitative.log",
    threads: 1
    params:
        code=lambda wildcards: code_fingerprint(REPORT_CODE),
        runs=lambda wildcards: compared_runs(),
    shell:
        "{FADEPTH} qualitative {params.runs} --manifest {input.manifest:q}"
        " --output {output.figure:q} {FLAGS} --threads {threads} --log {log:q}"


rule draw_pareto:
    """Draw accuracy against latency of the networks of table_complexity."""
    input:
        lambda wildcards: results_of(RESULT_FIGURES["pareto"]),
    output:
        figure="reports/figures/pareto.png",
        vector="reports/figures/pareto.pdf",
    log:
        "logs/draw_pareto.log",
    params:
        rows=lambda wildcards: rows_of(STUDIES[RESULT_FIGURES["pareto"]]),
    shell:
        "{FADEPTH} pareto --output {output.figure:q} {FLAGS} --log {log:q}"


rule draw_effects:
    """Draw what each component changes, with its interval."""
    input:
        lambda wildcards: measures_of(RESULT_FIGURES["effects"]),
    output:
        figure="reports/figures/effects.png",
        vector="reports/figures/effects.pdf",
    log:
        "logs/draw_effects.log",
    params:
        rows=lambda wildcards: rows_of(STUDIES[RESULT_FIGURES["effects"]]),
        table=lambda wildcards: RESULT_FIGURES["effects"],
    shell:
        "{FADEPTH} forest {params.table} --output {output.figure:q} {FLAGS} --log {log:q}"


rule draw_report_method_figures:
    """Draw the report's figures of the method, from the networks themselves."""
    output:
        expand("reports/figures/{figure}.png", figure=METHOD_FIGURES),
    log:
        "logs/draw_report_method_figures.log",
    threads: 1
    params:
        code=lambda wildcards: method_code(),
        only=" ".join(f"--only {name}" for name in METHOD_FIGURES),
    shell:
        "{FADEPTH} figures --output reports/figures {params.only} --threads {threads} --log {log:q}"


rule draw_method_figures:
    """Draw the figures of docs/method.md, from the networks and losses themselves."""
    output:
        expand(
            "docs/figures/{figure}",
            figure=[
                "overview.png",
                "smalldepth.svg",
                "etm.png",
                "pyramid.png",
                "hqdecv2.svg",
                "adacoeff_upsampler.png",
                "global_map.png",
                "apx.png",
                "base_loss.png",
            ],
        ),
    log:
        "logs/draw_method_figures.log",
    threads: 1
    params:
        code=lambda wildcards: method_code(),
    shell:
        "{FADEPTH} figures --output docs/figures --threads {threads} --log {log:q}"
