"""Training: the teacher, its predictions, and every SmallDepth variant.

REQUIRED INPUTS: the data's manifest; for APX variants the teacher's predictions.
OUTPUTS: runs/<id>/model.pt; runs/<teacher>/targets.npy and its label, targets.json

Checkpoints (runs/<id>/ckpt/) are not declared: Snakemake deletes what a failed job declared, and a
training that was killed goes on from its checkpoint. Code is watched by a fingerprint in `params`,
which comments do not change; `params` is one dict, since Snakemake compares values without names.
"""


rule train_teacher:
    """Train HQDecv2 without labels; first in line, since APX variants wait for it."""
    input:
        manifest=lambda wildcards: data_of(wildcards.teacher),
    output:
        model="runs/{teacher}/model.pt",
    log:
        "runs/{teacher}/train.log",
    benchmark:
        "logs/train_teacher/{teacher}.tsv"
    priority: 10
    conda:
        "../envs/fadepth.yaml"
    threads: 1
    resources:
        train_slot=1,
        gpu=GPU,
    params:
        flags=flags,
        run=lambda wildcards: run_of(wildcards.teacher).identity,
    shell:
        "python -m fadepth train {wildcards.teacher} --manifest {input.manifest:q} {params.flags}"
        " --threads {threads} --log {log:q}"


rule predict_teacher:
    """Run the teacher once over all training frames."""
    input:
        manifest=lambda wildcards: data_of(wildcards.teacher),
        model="runs/{teacher}/model.pt",
    output:
        targets="runs/{teacher}/targets.npy",
        label="runs/{teacher}/targets.json",
    log:
        "logs/predict_teacher/{teacher}.log",
    benchmark:
        "logs/predict_teacher/{teacher}.tsv"
    priority: 10
    conda:
        "../envs/fadepth.yaml"
    threads: 1
    resources:
        train_slot=1,
        gpu=GPU,
    params:
        flags=flags,
        run=lambda wildcards: run_of(wildcards.teacher).identity,
    shell:
        "python -m fadepth predict-targets {wildcards.teacher} --manifest {input.manifest:q}"
        " --output {output.targets:q} {params.flags} --threads {threads} --log {log:q}"


rule train_student:
    """Train one SmallDepth variant with one seed; resumes from its own checkpoint."""
    input:
        manifest=lambda wildcards: data_of(wildcards.student),
        targets=targets_of,
    output:
        model="runs/{student}/model.pt",
    log:
        "runs/{student}/train.log",
    benchmark:
        "logs/train_student/{student}.tsv"
    priority: longest_first
    conda:
        "../envs/fadepth.yaml"
    threads: 1
    resources:
        train_slot=1,
        gpu=GPU,
    params:
        flags=flags,
        run=lambda wildcards: run_of(wildcards.student).identity,
        targets=lambda wildcards, input: (f"--targets {input.targets}" if input.targets else ""),
    shell:
        "python -m fadepth train {wildcards.student} --manifest {input.manifest:q} {params.targets}"
        " {params.flags} --threads {threads} --log {log:q}"
