"""Figures: the report's seven; lidar and masks on street, KITTI and DDAD; the method's, for docs.

REQUIRED INPUTS: results of runs for effects, pareto and qualitative; none for the street; kitti_mini/, ddad_mini/ in FADEPTH_TEST_DATA for the others;
    a run's model.pt where the file's name holds its id, in place of true depth and motion.
OUTPUTS: reports/figures/masks_{street,kitti,ddad}.png, reports/figures/masks_<data>_<run id>.png;
    reports/figures/lidar_{street,kitti,ddad}.png;
    reports/figures/{effects,pareto,qualitative}.png and .pdf;
    reports/figures/{overview,adacoeff_upsampler,global_map}.png;
    docs/figures/*
"""


wildcard_constraints:
    pictured="street|kitti|ddad",
    by=r"|_(?!constant-|row_median-|pixel_median-)[a-z0-9_]+-s\d+-[0-9a-f]{10}",


rule draw_masks:
    """Draw every mask on a few frames of one data set, by ground truth or by a trained run."""
    input:
        model=model_of,
    output:
        figure="reports/figures/masks_{pictured}{by}.png",
    log:
        "logs/draw_masks/{pictured}{by}.log",
    conda:
        "../envs/fadepth.yaml"
    params:
        code=lambda wildcards: code_fingerprint(
            [
                "report/mask_figure.py",
                "report/mask_frames.py",
                "losses/masks.py",
                "losses/cbw.py",
                "losses/photometric.py",
                *modules_in("data/synthetic"),
            ]
        ),
        run=lambda wildcards: f"--run {wildcards.by[1:]}" if wildcards.by else "",
    shell:
        "python -m fadepth masks {wildcards.pictured} --output {output.figure:q} {params.run} --log {log:q}"


rule draw_lidar:
    """Draw ground truth over a few frames of one data set: does it lie on what it has hit?"""
    output:
        figure="reports/figures/lidar_{pictured}.png",
    log:
        "logs/draw_lidar/{pictured}.log",
    conda:
        "../envs/fadepth.yaml"
    params:
        code=lambda wildcards: code_fingerprint(
            [
                "report/lidar_figure.py",
                "data/kitti.py",
                "data/ddad.py",
                *modules_in("data/synthetic"),
            ]
        ),
    shell:
        "python -m fadepth lidar {wildcards.pictured} --output {output.figure:q} --log {log:q}"


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
    conda:
        "../envs/fadepth.yaml"
    threads: 1
    params:
        flags=flags,
        code=lambda wildcards: code_fingerprint(REPORT_CODE),
        runs=lambda wildcards: compared_runs(),
    shell:
        "python -m fadepth qualitative {params.runs} --manifest {input.manifest:q}"
        " --output {output.figure:q} {params.flags} --threads {threads} --log {log:q}"


rule draw_pareto:
    """Draw accuracy against latency of the networks of table_complexity."""
    input:
        lambda wildcards: results_of(RESULT_FIGURES["pareto"]),
    output:
        figure="reports/figures/pareto.png",
        vector="reports/figures/pareto.pdf",
    log:
        "logs/draw_pareto.log",
    conda:
        "../envs/fadepth.yaml"
    params:
        flags=flags,
        rows=lambda wildcards: rows_of(STUDIES[RESULT_FIGURES["pareto"]]),
    shell:
        "python -m fadepth pareto --output {output.figure:q} {params.flags} --log {log:q}"


rule draw_effects:
    """Draw what each component changes, with its interval."""
    input:
        lambda wildcards: measures_of(RESULT_FIGURES["effects"]),
    output:
        figure="reports/figures/effects.png",
        vector="reports/figures/effects.pdf",
    log:
        "logs/draw_effects.log",
    conda:
        "../envs/fadepth.yaml"
    params:
        flags=flags,
        rows=lambda wildcards: rows_of(STUDIES[RESULT_FIGURES["effects"]]),
        table=lambda wildcards: RESULT_FIGURES["effects"],
    shell:
        "python -m fadepth forest {params.table} --output {output.figure:q} {params.flags} --log {log:q}"


rule draw_report_method_figures:
    """Draw the report's figures of the method, from the networks themselves."""
    output:
        expand("reports/figures/{figure}.png", figure=METHOD_FIGURES),
    log:
        "logs/draw_report_method_figures.log",
    conda:
        "../envs/fadepth.yaml"
    threads: 1
    params:
        code=lambda wildcards: method_code(),
        only=" ".join(f"--only {name}" for name in METHOD_FIGURES),
        # At smoke scale the networks are shown as they begin: to fit them takes most of a minute.
        fit="--no-fit" if CONFIG.scale == "smoke" else "--fit",
    shell:
        "python -m fadepth figures --output reports/figures {params.only} {params.fit}"
        " --threads {threads} --log {log:q}"


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
    conda:
        "../envs/fadepth.yaml"
    threads: 1
    params:
        code=lambda wildcards: method_code(),
    shell:
        "python -m fadepth figures --output docs/figures --threads {threads} --log {log:q}"
