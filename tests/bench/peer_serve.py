"""Runs in the peer's environment: what its scripts have in common. Imports nothing of ours."""

import json
import os
import sys

import torch


def use_all_cores() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))


def serve(greeting: dict, answer) -> None:
    """Say `greeting`, then for each line of standard input, a task in JSON, a line with what `answer(task)` gives."""
    print(json.dumps(greeting), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
