#!/usr/bin/env python3
"""Submit a job script of Snakemake as a Kubernetes Job, and print the Job's name.

The script tells what the job needs in its line `# properties = {...}`; the rest is in job.yaml.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

# Kubernetes sends SIGTERM to the pod's first process alone. This one passes it on to all that the
# script has started, and waits until the training has saved its state. The script's own shell does
# not listen; Snakemake and trainings do.
RUN = """\
(trap '' TERM; exec setsid sh "$0") & script=$!
trap 'kill -TERM -$script' TERM
wait $script || wait $script
"""


def job_of(script: Path, template: Path) -> dict[str, Any]:
    """The Job for a script."""
    lines = script.read_text(encoding="utf-8").splitlines()
    (properties,) = (line for line in lines if line.startswith("# properties = "))
    wanted = json.loads(properties.removeprefix("# properties = "))
    resources = wanted["resources"]

    job: dict[str, Any] = yaml.safe_load(template.read_text(encoding="utf-8"))
    job["metadata"]["generateName"] = f"fadepth-{wanted['rule']}-".replace("_", "-")
    job["spec"]["activeDeadlineSeconds"] = 60 * resources["runtime"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["command"] = ["sh", "-c", RUN, str(script.resolve())]
    limits = {"memory": f"{resources['mem_mb']}M"}
    if gpus := resources.get("gpu"):
        limits["nvidia.com/gpu"] = str(gpus)
    cpus = resources.get("cpus_per_task", wanted["threads"])
    container["resources"] = {"requests": {"cpu": str(cpus), **limits}, "limits": limits}
    return job


if __name__ == "__main__":
    job = job_of(Path(sys.argv[1]), Path(__file__).with_name("job.yaml"))
    command = ["kubectl", "create", "--filename=-", "--output=jsonpath={.metadata.name}"]
    sys.exit(subprocess.run(command, input=json.dumps(job), text=True, check=False).returncode)
