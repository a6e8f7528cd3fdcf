"""Data: check it, or render the embedded street, and list every file with its hash.

REQUIRED INPUTS: none (raw data at `data.root` of the preset, or none for the synthetic street).
OUTPUTS: data/<name>-<hash>/manifest.jsonl; data/benchmarks/<name>-<hash>.jsonl

With `data.cache: disk` the decoded images lie beside the manifest, images-<H>x<W>.npy. They are no
declared output: a training makes them where they are absent, and mends them, and the same pixels
come with them as without, so that no training may depend on their presence or time.
"""


rule prepare_data:
    """Render or check all frames of the preset's splits, write their manifest, fill the cache."""
    output:
        manifest=MANIFEST,
    log:
        "logs/prepare_data.log",
    threads: 2
    params:
        data=DATA_HASH,
    shell:
        "{FADEPTH} data manifest --output {output.manifest:q} {FLAGS}"
        " --threads {threads} --log {log:q}"


rule prepare_benchmark:
    """Check the frames of another list or data set and write their manifest."""
    output:
        manifest="data/benchmarks/{benchmark}-{place}.jsonl",
    log:
        "logs/prepare_benchmark/{benchmark}-{place}.log",
    threads: 2
    params:
        frames=lambda wildcards: told(
            benchmark_identity, benchmark_of(wildcards.benchmark), Path.cwd()
        ),
    shell:
        "{FADEPTH} data benchmark {wildcards.benchmark} --output {output.manifest:q} {FLAGS}"
        " --threads {threads} --log {log:q}"
