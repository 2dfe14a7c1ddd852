"""Runs in the peer's environment: draws and writes with transfusion-pytorch, one task a line of standard input, and answers
with a line of JSON: seconds, and how often its transformer ran. Imports nothing of ours.

A task: {"what": "image" | "text" | "text only", "cached": bool, "precision": "fp32" | "bf16", "batch": n, "tokens": n}
"""

import contextlib
import time

import torch
from peer_serve import serve, use_all_cores
from transfusion_pytorch import Transfusion

PROMPT, CHANNELS, SIDE, STEPS = 20, 8, 8, 16  # 16 points of time: 15 midpoint steps, 30 evaluations


def build() -> Transfusion:
    torch.manual_seed(0)
    return Transfusion(
        num_text_tokens=256,
        dim_latent=CHANNELS,
        modality_default_shape=(SIDE, SIDE),
        modality_num_dim=2,
        transformer={"dim": 256, "depth": 8, "heads": 4},  # 19.9 M parameters; with its default of 8 heads 22.0 M
    ).eval()


def run(model: Transfusion, task: dict) -> None:
    prompt = torch.arange(PROMPT) * 7 % 200 + 5
    if task["what"] == "text only":
        model.generate_text_only(prompt[None], PROMPT + task["tokens"], temperature=0.0)
    elif task["what"] == "text":
        model.sample_one(prompt, max_length=task["tokens"], text_temperature=0.0, cache_kv=task["cached"])
    else:
        # the picture is longer than max_length, so that the call ends with it
        options = {
            "max_length": 1,
            "force_modality_at_start": (0, (SIDE, SIDE)),
            "modality_steps": STEPS,
            "cfg_scale": 3.0,
        }
        if task["batch"] == 1:
            model.sample_one(prompt, cache_kv=task["cached"], **options)
        else:
            model.sample_many([prompt] * task["batch"], **options)


def main() -> None:
    use_all_cores()
    model = build()
    calls = [0]
    model.transformer.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))

    def answer(task: dict) -> dict:
        calls[0] = 0
        bf16 = torch.autocast("cpu", torch.bfloat16) if task["precision"] == "bf16" else contextlib.nullcontext()
        started = time.perf_counter()
        with torch.no_grad(), bf16:
            run(model, task)
        return {"seconds": time.perf_counter() - started, "calls": calls[0]}

    serve({"parameters": sum(weight.numel() for weight in model.parameters())}, answer)


main()
