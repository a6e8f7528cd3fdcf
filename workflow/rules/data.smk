"""Data: check it, or render the embedded street, and list every file with its hash.

REQUIRED INPUTS: none (raw data at `data.root` of the preset, or none for the synthetic street).
OUTPUTS: data/<name>-<hash>/manifest.jsonl
"""


rule prepare_data:
    """Render or check all frames of the preset's splits and write their manifest."""
    output:
        manifest=MANIFEST,
    log:
        "logs/prepare_data.log",
    threads: 2
    params:
        data=DATA_HASH,
    shell:
        "{FADEPTH} prepare --output {output.manifest:q} {FLAGS}"
        " --threads {threads} --log {log:q}"
