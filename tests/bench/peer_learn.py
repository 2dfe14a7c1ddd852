"""Runs in the peer's environment: trains transfusion-pytorch on captions with latents and draws held-out ones; one task a line of
standard input, an answer of JSON each. Imports nothing of ours.

{"do": "build", "data": path of an .npz (ids, offsets, latents (n, h, w, c), prompts, prompt_offsets), and settings}
{"do": "train", "seconds"}: for so long, the learning rate falling to a hundredth by a cosine -> {"steps", "text", "image"}
{"do": "draw", "to": path, "count", "guidance", "steps"}: with the running average; latents as .npy -> {"seconds"}
"""

import contextlib
import itertools
import math
import time

import numpy as np
import torch
from peer_serve import serve, use_all_cores
from transfusion_pytorch import Transfusion


def pieces(flat, offsets):
    return [torch.from_numpy(flat[a:b].astype(np.int64)) for a, b in itertools.pairwise(offsets)]


class Learner:
    def __init__(self, task: dict) -> None:
        torch.manual_seed(0)
        self.task = task
        data = np.load(task["data"])
        self.texts = pieces(data["ids"], data["offsets"])
        self.prompts = pieces(data["prompts"], data["prompt_offsets"])
        self.latents = torch.from_numpy(data["latents"])
        self.shape = tuple(self.latents.shape[1:3])
        self.model = Transfusion(
            num_text_tokens=task["vocabulary"],
            dim_latent=self.latents.shape[-1],
            modality_default_shape=self.shape,
            modality_num_dim=2,
            add_pos_emb=True,  # its patches know no place otherwise
            flow_loss_weight=task["flow_weight"],
            transformer={"dim": task["dim"], "depth": task["depth"], "heads": task["heads"]},
        )
        self.average = self.model.create_ema(0.99)
        rate = task["rate"]
        if task["optimizer"] == "muon":
            turned = [weight for weight in self.model.muon_parameters() if weight.ndim == 2]
            known = {id(weight) for weight in turned}
            rest = [weight for weight in self.model.parameters() if id(weight) not in known]
            muon = torch.optim.Muon(turned, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
            self.optimizers = [muon, torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), fused=True)]
        else:
            self.optimizers = [torch.optim.AdamW(self.model.parameters(), lr=rate, betas=(0.9, 0.95), fused=True)]
        bf16 = task["precision"] == "bf16"
        self.context = (lambda: torch.autocast("cpu", torch.bfloat16)) if bf16 else contextlib.nullcontext
        self.generator = torch.Generator().manual_seed(0)
        self.steps = 0

    def train(self, seconds: float) -> dict:
        started, losses = time.perf_counter(), []
        while (gone := time.perf_counter() - started) < seconds:
            chosen = torch.randint(len(self.texts), (self.task["batch"],), generator=self.generator).tolist()
            with self.context():
                samples = [[self.texts[one], self.latents[one]] for one in chosen]
                loss, parts = self.model(samples, return_breakdown=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            rate = min(1.0, (self.steps + 1) / 100) * (0.01 + 0.99 * (1 + math.cos(math.pi * gone / seconds)) / 2)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * self.task["rate"]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.average.update()
            self.steps += 1
            losses = [*losses[-49:], (float(parts.text), float(sum(parts.flow)))]
        text, image = np.mean(losses, 0).tolist()
        return {"steps": self.steps, "text": text, "image": image, "seconds": time.perf_counter() - started}

    def draw(self, task: dict) -> dict:
        started, found = time.perf_counter(), []
        options = {"max_length": 1, "force_modality_at_start": (0, self.shape), "cfg_scale": task["guidance"]}
        wanted = self.prompts[: task["count"]]
        with torch.no_grad():
            for first in range(0, len(wanted), 50):
                samples = self.average.ema_model.eval().sample_many(
                    wanted[first : first + 50], modality_steps=task["steps"], **options
                )
                found += [next(part[1] for part in sample if isinstance(part, tuple)) for sample in samples]
        np.save(task["to"], torch.stack(found).float().numpy())
        return {"seconds": time.perf_counter() - started}


class Server:
    """learner: of the last "build"."""

    def answer(self, task: dict) -> dict:
        if task["do"] == "build":
            self.learner = Learner(task)
            return {"parameters": sum(weight.numel() for weight in self.learner.model.parameters())}
        return self.learner.train(task["seconds"]) if task["do"] == "train" else self.learner.draw(task)


use_all_cores()
serve({}, Server().answer)
