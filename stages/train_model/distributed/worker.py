"""A process that shares the steps of a training on a CPU: a helper of the process that makes the checkpoint (`local.py`)."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

import torch

from stages.artifacts.context import StageContext
from stages.artifacts.folder import Build
from stages.core.errors import TfcliError
from stages.core.runtime import Launch, Runtime
from stages.train_model.distributed.launch import join_store, process_group
from stages.train_model.distributed.local import MEASURE, RankJob
from stages.train_model.distributed.trial import StepTrial, compare
from stages.train_model.stage import Training


def train_rank(pipe: Connection) -> None:
    """Take part in what the other process names: the measurement, then the training. It ends with a failure of any process,
    which the other one reports."""
    job: RankJob = pipe.recv()
    torch.set_num_threads(job.threads)
    runtime = Runtime(device="cpu", launch=Launch(job.rank, job.count, job.rank))
    store = join_store(job.port)
    context = StageContext(Build(job.target, job.stamp), runtime, job.seed)
    try:
        for task in iter(pipe.recv, None):
            trial = StepTrial(job.sections, job.sequences, job.seed) if task == MEASURE else None
            with process_group(runtime, job.sections.train, (task, store)) as ranks:
                if trial is not None:
                    compare(trial, ranks)
                else:
                    Training(job.sections, job.sequences, context, ranks).run()
    except TfcliError as error:
        sys.exit(int(error.code))
