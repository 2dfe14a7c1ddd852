"""Some real steps of a training on this CPU, in a separate process, to measure memory and speed.

Counting tensors is not enough on a CPU: glibc keeps freed blocks of sizes that no later batch needs, and oneDNN keeps a compiled
kernel for every shape that it has seen. Both depend on the batches, so they are measured. The process is this file:
`python -m stages.estimate_training.probe`, with the settings on stdin and the measurements on stdout.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.artifacts.checkpoint import TIMING
from stages.artifacts.context import StageContext
from stages.artifacts.folder import building
from stages.artifacts.manifest import Stamp
from stages.core.errors import ExitCode, TfcliError
from stages.core.files import read_jsonl
from stages.core.runtime import Runtime
from stages.diffusion.config import DiffusionConfig
from stages.generation.config import GenerationConfig
from stages.model.config import ModelConfig
from stages.train_model.config import TrainConfig

_KNEE = 100  # steps after which memory grows more slowly


@dataclass(frozen=True)
class Trial:
    """Measurements over `steps` steps, which include held-out losses and a save.

    Args:
        steps: that were run.
        peak_bytes: peak memory of the process.
        peak_of_half: peak memory after the first half of the steps.
        elements_per_second: in the second half of the steps, without padding.
    """

    steps: int
    peak_bytes: int
    peak_of_half: int
    elements_per_second: float

    def peak_after(self, steps: int) -> int:
        """Estimated peak memory of a training of `steps` steps, in bytes.

        Batches of new shapes become rarer: up to step 100 each doubling of the steps adds as much as the one before, later at
        most 6 %. This was fitted to four trainings like `shapes`, 600 to 1,500 steps in bf16: within 7 % of each.
        """
        last = self.peak_bytes - self.peak_of_half
        early = math.log2(max(1.0, min(steps, _KNEE) / self.steps))
        late = math.log2(max(1.0, steps / max(_KNEE, self.steps)))
        return int(self.peak_bytes + last * early + min(last, 0.06 * self.peak_bytes) * late)


def try_out(
    model: ModelConfig, diffusion: DiffusionConfig, train: TrainConfig, sequences: Path, seed: int, steps: int
) -> Trial:
    """Run the first `steps` steps of a training. Raises TfcliError (ENVIRONMENT) where they fail."""
    settings = {
        "model": model.model_dump(mode="json"),
        "diffusion": diffusion.model_dump(mode="json"),
        "train": train.model_dump(mode="json"),
        "sequences": str(sequences.resolve()),
        "seed": seed,
        "steps": steps,
    }
    command = [sys.executable, "-m", "stages.estimate_training.probe"]
    done = subprocess.run(command, input=json.dumps(settings), capture_output=True, text=True, check=False)
    try:
        return Trial(**json.loads(done.stdout))
    except (ValueError, TypeError) as error:
        why = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        what = f"{steps} trial steps failed"
        raise TfcliError(what, why=why, fix="try 'tfcli train' itself", code=ExitCode.ENVIRONMENT) from error


def _measure(settings: dict[str, Any]) -> Trial:
    from stages.train_model.stage import run

    steps = settings["steps"]
    changes = {"steps": steps, "eval_every": steps, "save_every": max(1, steps - 1), "log_every": 1, "preview_every": 0}
    changes["processes"] = 1  # memory and speed of one
    train = TrainConfig.model_validate({**settings["train"], **changes, "trackers": []})
    stamp = Stamp("checkpoint", "trial", 1, settings["seed"], {})
    with tempfile.TemporaryDirectory(prefix="tfcli-trial-") as folder:
        target = Path(folder) / "checkpoint"
        runtime = Runtime(device="cpu", workers=0)
        with building(target, stamp, runtime) as build:
            run(
                model=ModelConfig.model_validate(settings["model"]),
                diffusion=DiffusionConfig.model_validate(settings["diffusion"]),
                train=train,
                generation=GenerationConfig(),
                sequences=Path(settings["sequences"]),
                context=StageContext(build, runtime, settings["seed"]),
            )
        rows = list(read_jsonl(target / TIMING))
    later = rows[len(rows) // 2 :]
    elements = sum(row["elements_per_second"] * row["seconds"] for row in later)
    half, peak = (int(rows[index]["peak_memory_bytes"]) for index in ((len(rows) - 1) // 2, -1))
    return Trial(steps, peak, half, elements / sum(row["seconds"] for row in later))


if __name__ == "__main__":
    json.dump(vars(_measure(json.load(sys.stdin))), sys.stdout)
