"""Runs many mergekit files in one process: importing mergekit takes longer than merging a tiny model.

It is started with mergekit's own interpreter, reads a job from each line of standard input, and answers with a line:
`{"config": path, "out": path, "work": path, "several": bool, "options": {…}}` -> `{"error": null or text}`.
"""

import json
import os
import sys
import traceback
from typing import Any

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.scripts import multimerge


def merge(job: dict[str, Any]) -> None:
    torch.manual_seed(0)
    if job["several"]:
        arguments = [job["config"], "--intermediate-dir", job["work"], "--out-path", job["out"], "--quiet"]
        multimerge.main(arguments, standalone_mode=False)
        return
    with open(job["config"], encoding="utf-8") as file:
        config = MergeConfiguration.model_validate(yaml.safe_load(file))
    run_merge(config, job["out"], MergeOptions(quiet=True, write_model_card=False, **job["options"]))


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to standard error
    for line in sys.stdin:
        try:
            merge(json.loads(line))
            error = None
        except BaseException as problem:
            traceback.print_exc()
            error = f"{type(problem).__name__}: {problem}"
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
