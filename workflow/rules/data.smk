"""Data: check it, or render the embedded street, and list every file with its hash.

REQUIRED INPUTS: none (raw data at `data.root` of the preset, or none for the synthetic street).
OUTPUTS: data/<name>-<hash>/manifest.jsonl; data/benchmarks/<name>-<hash>.jsonl

With `data.cache: disk` the decoded images lie beside the manifest, images-<H>x<W>.npy. They are no
declared output: a training makes them where they are absent, and mends them, and the same pixels
come with them as without, so that no training may depend on their presence or time.
"""


rule prepare_data:
    """Render or check all frames of a data set's splits, write their manifest, fill the cache."""
    output:
        manifest="data/{dataset}/manifest.jsonl",
    log:
        "logs/prepare_data/{dataset}.log",
    conda:
        "../envs/fadepth.yaml"
    threads: 2
    params:
        flags=flags,
        data=data_state,
    shell:
        "python -m fadepth data manifest --dataset {wildcards.dataset:q} --output {output.manifest:q} {params.flags}"
        " --threads {threads} --log {log:q}"


rule prepare_benchmark:
    """Check the frames of another list or data set and write their manifest."""
    output:
        manifest="data/benchmarks/{benchmark}-{place}.jsonl",
    log:
        "logs/prepare_benchmark/{benchmark}-{place}.log",
    conda:
        "../envs/fadepth.yaml"
    threads: 2
    params:
        flags=flags,
        frames=benchmark_state,
    shell:
        "python -m fadepth data benchmark {wildcards.benchmark} --place {wildcards.place}"
        " --output {output.manifest:q} {params.flags}"
        " --threads {threads} --log {log:q}"
