"""Runs in the peer's environment: training steps of transfusion-pytorch, one task a line of standard input, and answers with a
line of JSON. Imports nothing of ours.

{"do": "build", "dim", "depth", "heads", "lengths": text tokens of each sample, "side", "precision"} -> {"parameters"}
{"do": "steps", "count"} -> {"seconds", "peak_bytes": of this process so far}
"""

import contextlib
import time
from pathlib import Path

import torch
from peer_serve import serve, use_all_cores
from transfusion_pytorch import Transfusion

CHANNELS = 8


class Work:
    def __init__(self, task: dict) -> None:
        torch.manual_seed(0)
        side = task["side"]
        self.model = Transfusion(
            num_text_tokens=256,
            dim_latent=CHANNELS,
            modality_default_shape=(side, side),
            modality_num_dim=2,
            transformer={"dim": task["dim"], "depth": task["depth"], "heads": task["heads"]},
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, betas=(0.9, 0.95), fused=True)
        generator = torch.Generator().manual_seed(0)
        self.samples = []
        for lengths in task["lengths"]:
            sample = []
            for length in lengths:
                sample.append(torch.randint(5, 250, (length,), generator=generator))
                sample.append(torch.randn(side, side, CHANNELS, generator=generator))
            self.samples.append(sample)
        bf16 = task["precision"] == "bf16"
        self.context = (lambda: torch.autocast("cpu", torch.bfloat16)) if bf16 else contextlib.nullcontext

    def step(self) -> None:
        with self.context():
            loss = self.model(self.samples)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Server:
    """work: of the last "build"."""

    def answer(self, task: dict) -> dict:
        if task["do"] == "build":
            self.work = Work(task)
            return {"parameters": sum(weight.numel() for weight in self.work.model.parameters())}
        started = time.perf_counter()
        for _ in range(task["count"]):
            self.work.step()
        seconds = time.perf_counter() - started
        status = Path("/proc/self/status").read_text()
        return {"seconds": seconds, "peak_bytes": 1024 * int(status.split("VmHWM:")[1].split()[0])}


use_all_cores()
serve({}, Server().answer)
