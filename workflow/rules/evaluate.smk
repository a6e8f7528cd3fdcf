"""Evaluation: depth against ground truth, per image, by the preset's protocol.

REQUIRED INPUTS: the data's manifest; a network's model.pt.
OUTPUTS: runs/<id>/metrics.json, runs/<id>/per_image.csv (and runs/<id>/panels/*.png);
    runs/<id>/robustness.json, runs/<id>/robustness_per_image.csv;
    runs/<id>/grid.json; reports/costs/<table>.json;
    runs/<id>/benchmarks/<name>/metrics.json, per_image.csv (and panels/*.png);
    runs/<id>/odometry/<sequence>/metrics.json, per_snippet.csv, trajectory.txt, trajectory.png
"""


rule evaluate_run:
    """Evaluate one trained network on the evaluation split."""
    input:
        manifest=lambda wildcards: data_of(wildcards.network),
        model="runs/{network}/model.pt",
    output:
        metrics="runs/{network}/metrics.json",
        per_image="runs/{network}/per_image.csv",
    log:
        "logs/evaluate_run/{network}.log",
    benchmark:
        "logs/evaluate_run/{network}.tsv"
    conda:
        "../envs/fadepth.yaml"
    threads: 1
    resources:
        train_slot=1,
        gpu=GPU,
    params:
        flags=flags,
        evaluation=lambda wildcards: run_of(wildcards.network).evaluation_identity,
    shell:
        "python -m fadepth evaluate {wildcards.network} --manifest {input.manifest:q} {params.flags}"
        " --threads {threads} --log {log:q}"


rule evaluate_baseline:
    """Evaluate what is not trained here: trivial predictors, fitted to ground truth, or saved maps."""
    input:
        manifest=lambda wildcards: data_of(wildcards.baseline),
    output:
        metrics="runs/{baseline}/metrics.json",
        per_image="runs/{baseline}/per_image.csv",
    log:
        "logs/evaluate_baseline/{baseline}.log",
    conda:
        "../envs/fadepth.yaml"
    threads: 1
    resources:
        train_slot=1,
    params:
        flags=flags,
        evaluation=lambda wildcards: run_of(wildcards.baseline).evaluation_identity,
    shell:
        "python -m fadepth evaluate {wildcards.baseline} --manifest {input.manifest:q} {params.flags}"
        " --threads {threads} --log {log:q}"


rule evaluate_robustness:
    """Evaluate one student on mirrored, dark, bright and small frames, and against the teacher."""
    input:
        manifest=lambda wildcards: data_of(wildcards.student),
        model="runs/{student}/model.pt",
        teacher=teacher_of,
    output:
        robustness="runs/{student}/robustness.json",
        per_image="runs/{student}/robustness_per_image.csv",
    log:
        "logs/evaluate_robustness/{student}.log",
    benchmark:
        "logs/evaluate_robustness/{student}.tsv"
    conda:
        "../envs/fadepth.yaml"
    threads: 1
    resources:
        train_slot=1,
        gpu=GPU,
    params:
        flags=flags,
        evaluation=lambda wildcards: run_of(wildcards.student).robustness_identity,
        teacher=lambda wildcards, input: (f"--teacher {input.teacher}" if input.teacher else ""),
    shell:
        "python -m fadepth robustness {wildcards.student} --manifest {input.manifest:q} {params.teacher}"
        " {params.flags} --threads {threads} --log {log:q}"


rule evaluate_grid:
    """Measure the traces of a grid in a network's disparity of smooth images."""
    input:
        model="runs/{network}/model.pt",
    output:
        grid="runs/{network}/grid.json",
    log:
        "logs/evaluate_grid/{network}.log",
    benchmark:
        "logs/evaluate_grid/{network}.tsv"
    conda:
        "../envs/fadepth.yaml"
    threads: 1
    resources:
        train_slot=1,
    params:
        flags=flags,
        evaluation=lambda wildcards: run_of(wildcards.network).grid_identity,
    shell:
        "python -m fadepth grid {wildcards.network} {params.flags} --threads {threads} --log {log:q}"


rule measure_costs:
    """Count parameters and MACs of a table's networks, and time them while nothing else trains."""
    input:
        models=models_of,
    output:
        costs="reports/costs/{table}.json",
    log:
        "logs/measure_costs/{table}.log",
    # All of them, so that nothing else runs; the networks are timed on one.
    conda:
        "../envs/fadepth.yaml"
    threads: workflow.cores
    resources:
        train_slot=TRAIN_SLOTS,
        gpu=GPUS,
    params:
        flags=flags,
        code=code_fingerprint(
            (
                "evaluation/latency.py",
                "evaluation/complexity.py",
                "execution/costs.py",
                "models/monodepth2.py",
            )
        ),
    shell:
        "python -m fadepth costs {wildcards.table} --output {output.costs:q} {params.flags}"
        " --threads 1 --log {log:q}"


rule evaluate_benchmark:
    """Evaluate one trained network on frames of another list or data set, by their protocol."""
    input:
        manifest=benchmark_manifest,
        trained_on=lambda wildcards: data_of(wildcards.network),
        model="runs/{network}/model.pt",
    output:
        metrics="runs/{network}/benchmarks/{benchmark}/metrics.json",
        per_image="runs/{network}/benchmarks/{benchmark}/per_image.csv",
    log:
        "logs/evaluate_benchmark/{benchmark}/{network}.log",
    benchmark:
        "logs/evaluate_benchmark/{benchmark}/{network}.tsv"
    conda:
        "../envs/fadepth.yaml"
    threads: 1
    resources:
        train_slot=1,
        gpu=GPU,
    params:
        flags=flags,
        evaluation=lambda wildcards: told(
            run_of(wildcards.network).benchmark_identity, wildcards.benchmark, Path.cwd()
        ),
    shell:
        "python -m fadepth benchmark {wildcards.network} {wildcards.benchmark}"
        " --manifest {input.manifest:q} --trained-on {input.trained_on:q} {params.flags}"
        " --threads {threads} --log {log:q}"


rule benchmarks:
    """Every network trained on the preset's own data, on every benchmark of the preset."""
    input:
        expand(
            "runs/{run}/benchmarks/{benchmark}/metrics.json",
            run=[run.id for run in own_networks()],
            benchmark=CONFIG.benchmarks,
        ),


rule evaluate_odometry:
    """Chain one run's predicted motions over a sequence of KITTI odometry, and compare."""
    input:
        trained_on=lambda wildcards: data_of(wildcards.network),
        model="runs/{network}/model.pt",
    output:
        metrics="runs/{network}/odometry/{sequence}/metrics.json",
        per_snippet="runs/{network}/odometry/{sequence}/per_snippet.csv",
        trajectory="runs/{network}/odometry/{sequence}/trajectory.txt",
        figure="runs/{network}/odometry/{sequence}/trajectory.png",
    log:
        "logs/evaluate_odometry/{sequence}/{network}.log",
    conda:
        "../envs/fadepth.yaml"
    threads: 1
    resources:
        train_slot=1,
        gpu=GPU,
    params:
        flags=flags,
        evaluation=lambda wildcards: told(
            odometry_identity, CONFIG.odometry, wildcards.sequence, Path.cwd()
        ),
    shell:
        "python -m fadepth odometry {wildcards.network} {wildcards.sequence}"
        " --trained-on {input.trained_on:q} {params.flags} --threads {threads} --log {log:q}"


rule odometry:
    """Every network trained on the preset's own data, on every sequence of the preset."""
    input:
        expand(
            "runs/{run}/odometry/{sequence}/metrics.json",
            run=[run.id for run in own_networks()],
            sequence=CONFIG.odometry.sequences,
        ),
