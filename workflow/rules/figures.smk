"""Figures: lidar and masks on street, KITTI and DDAD; the method's, for the docs.

REQUIRED INPUTS: none for the street; kitti_mini/, ddad_mini/ in FADEPTH_TEST_DATA for the others;
    a run's model.pt where the file's name holds its id, in place of true depth and motion.
OUTPUTS: reports/figures/masks_{street,kitti,ddad}.png, reports/figures/masks_<data>_<run id>.png;
    reports/figures/lidar_{street,kitti,ddad}.png;
    docs/figures/*
"""

from fadepth.fingerprint import PACKAGE, code_fingerprint

# Fingerprints are functions: to parse these modules takes time that other targets need not spend.


wildcard_constraints:
    pictured="street|kitti|ddad",
    by=r"|_(?!constant-|row_median-|pixel_median-)[a-z0-9_]+-s\d+-[0-9a-f]{10}",


def model_of(wildcards):
    """The network that gives depth and motion, where the figure's name holds a run's id."""
    return [f"runs/{run_of(wildcards.by[1:]).id}/model.pt"] if wildcards.by else []


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
        code=lambda wildcards: code_fingerprint(
            sorted(
                str(module.relative_to(PACKAGE))
                for folder in ("report/method", "models", "losses")
                for module in (PACKAGE / folder).glob("*.py")
            )
            + ["data/synthetic.py", "evaluation/grid.py", "geometry.py"]
        ),
    shell:
        "{FADEPTH} figures --output docs/figures --threads {threads} --log {log:q}"
