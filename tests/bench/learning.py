"""`make bench-learning`: how long training takes until the judge finds a share of the drawings of `shapes` right, against
transfusion-pytorch on the same captions and latents, on the same cores.

Ours is the recipe with fewer steps. The peer gets the same pairs (captions first, so that all of its time goes into drawing), the
latents in the same patches, BUDGET times our time, and the best of SETTINGS by score after TRIAL seconds. Held-out captions, the
judge of `tfcli eval`. Needs work/shapes up to `tfcli pack`; writes work/bench/learning.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.artifacts.latents import Latents, StoredDocument, StoredImage, caption_of
from stages.artifacts.sequences import Sequences
from stages.artifacts.tokens import Tokens
from stages.coders.scale import LatentScale
from stages.coders.vae import load_vae
from stages.evaluate_model.documents import spread_over_kinds
from stages.evaluate_model.judging import verdict_of
from stages.generation.heldout import is_pair
from tests.bench.ablations import recipe_of, trained
from tests.bench.peer import PeerProcess

PROMPTS = 100
BASE = {
    "dim": 192, "depth": 4, "heads": 6, "rate": 3e-3, "batch": 64, "flow_weight": 1.0, "optimizer": "adamw", "precision": "fp32"
}  # fmt: skip
SMALL = BASE | {"dim": 128, "heads": 4, "batch": 24}
SETTINGS: list[dict[str, Any]] = [BASE, BASE | {"rate": 1e-3}, SMALL, SMALL | {"optimizer": "muon"}]
GUIDANCE = (1.5, 3.0)


class World:
    """The pairs of `shapes` as both sides get them, and the judge."""

    def __init__(self, work: Path) -> None:
        self.sequences = Sequences.open(work / "sequences")
        self.tokens = Tokens.open(self.sequences.tokens_folder())
        self.latents = Latents.open(self.sequences.latents_folder())
        content = self.sequences.content
        self.patch = content.patch_side
        self.scale = LatentScale(content.channel_mean, content.channel_std)
        self.vae = load_vae(self.latents.autoencoder_folder() / "model")
        self.heldout: list[StoredDocument] = []

    def export(self, target: Path) -> None:
        """Captions and patches of the training side, captions of the held-out one, for the peer."""
        coder = self.tokens.text_coder()
        held = set(self.sequences.heldout_documents())
        texts, rows = [], []
        for document in self.latents.documents():
            if not is_pair(document):
                continue
            if document.index not in held:
                texts.append(coder.encode(caption_of(document)))
                rows.append(next(part.row for part in document.segments if isinstance(part, StoredImage)))
            elif isinstance(document.labels, dict) and document.labels.get("new") == "claim":
                self.heldout.append(document)
        self.heldout = spread_over_kinds(self.heldout)[:PROMPTS]
        prompts = [coder.encode(caption_of(document)) for document in self.heldout]
        normal = self.scale.normalise(torch.from_numpy(self.latents.rows(0).read(np.array(rows))[:, 0]).float())
        n, channels, height, width = normal.shape
        side = self.patch
        patches = normal.reshape(n, channels, height // side, side, width // side, side).permute(0, 2, 4, 1, 3, 5)
        np.savez(
            target,
            latents=patches.reshape(n, height // side, width // side, channels * side**2).numpy(),
            ids=np.concatenate(texts),
            offsets=np.cumsum([0, *map(len, texts)]),
            prompts=np.concatenate(prompts),
            prompt_offsets=np.cumsum([0, *map(len, prompts)]),
        )

    def score(self, file: Path) -> float:
        """The share of right drawings, in per cent, of latents in patches as the peer gives them."""
        patches = torch.from_numpy(np.load(file))
        n, height, width, _ = patches.shape
        side = self.patch
        images = patches.reshape(n, height, width, -1, side, side).permute(0, 3, 1, 4, 2, 5)
        pictures = self.vae.decode(self.scale.restore(images.reshape(n, -1, height * side, width * side)).numpy())
        verdicts = [verdict_of(caption_of(d), picture) for d, picture in zip(self.heldout, pictures, strict=True)]
        return 100 * sum(verdict.right for verdict in verdicts) / n


def ours(work: Path, steps: int) -> dict[str, Any]:
    """Seconds of training by the recipe in so many steps (its held-out losses and saves included), and the score."""
    found = trained(work, recipe_of((), steps, 0), PROMPTS)
    return {"steps": steps, "seconds": found["seconds"], "score": 100 * found["text_to_image"]}


def peer_run(world: World, data: Path, settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The peer after so many seconds of training with the better guidance."""
    with PeerProcess("peer_learn.py") as peer, tempfile.TemporaryDirectory() as folder:
        built = peer.ask(do="build", data=str(data), vocabulary=world.sequences.content.vocab_size, **settings)
        learned = peer.ask(do="train", seconds=seconds)
        file = Path(folder) / "drawn.npy"
        scores = {}
        for guidance in GUIDANCE:
            peer.ask(do="draw", to=str(file), count=PROMPTS, guidance=guidance, steps=16)
            scores[guidance] = world.score(file)
    return {**settings, **built, **learned, "scores": scores, "score": max(scores.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/shapes"))
    parser.add_argument("--steps", type=int, default=1500, help="of ours")
    parser.add_argument("--trial", type=float, default=90, help="seconds for each of the peer's settings")
    parser.add_argument("--budget", type=float, default=4, help="the peer's time, in ours")
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    target = Path("work/bench/learning.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    world, data = World(options.work), target.with_name("learning.npz").absolute()
    world.export(data)
    found: dict[str, Any] = {"ours": ours(options.work, options.steps), "trials": []}
    print(found["ours"], flush=True)
    for settings in SETTINGS:
        found["trials"].append(peer_run(world, data, settings, options.trial))
        print(found["trials"][-1], flush=True)
    best = max(found["trials"], key=lambda trial: (trial["score"], -trial["image"]))
    chosen = {key: best[key] for key in BASE}
    found["peer"] = peer_run(world, data, chosen, options.budget * found["ours"]["seconds"])
    print(found["peer"], flush=True)
    target.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
