"""What the model draws while it is trained: held-out captions, with the sampling settings of the recipe and the weights
that sampling will use. A strip of pictures a time, in `previews/`; outside the digest, and nothing of the training is
touched: every draw has a generator of its own, and the weights are looked at in place."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from stages.artifacts.checkpoint import CAPTIONS, PREVIEWS, TRUTH, Checkpoint, CheckpointContent
from stages.artifacts.folder import Build
from stages.artifacts.latents import caption_of
from stages.artifacts.manifest import make_manifest
from stages.coders.pixels import Pixels, encode_png
from stages.coders.sheets import contact_sheet
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note
from stages.core.files import write_atomic, write_json
from stages.core.runtime import Runtime
from stages.core.seeds import derive_seed
from stages.generation.config import GenerationConfig
from stages.generation.engine import Engine
from stages.generation.heldout import heldout_documents, is_pair, pieces_of
from stages.generation.loading import LoadedModel, assemble
from stages.generation.prompts import ImagePiece, Prompt, TextPiece
from stages.train_model.checkpointing import TrainState
from stages.train_model.optimizer import averaged_weights

NUMBER = 8  # pictures of a strip


class Previews:
    """Draws the first held-out pairs again and again. What this needs is opened at the first drawing."""

    def __init__(
        self,
        content: CheckpointContent,
        sequences: Path,
        build: Build,
        generation: GenerationConfig,
        runtime: Runtime,
        seed: int,
    ) -> None:
        self.content, self.sequences, self.build, self.generation = content, sequences, build, generation
        self.runtime, self.seed = runtime, derive_seed(seed, "previews")
        self.folder = build.folder / PREVIEWS
        self._loaded: LoadedModel | None = None
        self._prompts: list[Prompt] = []

    def draw(self, state: TrainState) -> None:
        """Write the strip of this step. A stop that is asked for meanwhile leaves it out."""
        with averaged_weights(state.model, state.ema):
            loaded = self._loaded or self._open(state)
            if not self._prompts:
                return
            try:
                outputs = Engine(loaded, self.generation, self.seed, self.runtime).generate(self._prompts)
            except TfcliError as error:
                if error.code in (ExitCode.TERMINATED, ExitCode.INTERRUPTED):
                    return  # the training itself ends at its next look, with its state saved
                raise
        latents = [piece.latent for output in outputs for piece in output.pieces if isinstance(piece, ImagePiece)]
        pictures = [loaded.decode_pictures(latent[None])[0] for latent in latents]
        if pictures:  # none where captions are longer than the rows
            write_atomic(self.folder / f"step-{state.step:08d}.png", _strip(pictures))

    def _open(self, state: TrainState) -> LoadedModel:
        manifest = make_manifest(self.build.stamp, self.content.model_dump(), {}, [], self.build.started)
        checkpoint = Checkpoint(self.build.folder, manifest, self.content)
        device = next(state.model.parameters()).device
        self._loaded = loaded = assemble(checkpoint, self.sequences, state.model, device)
        pairs = list(islice((one for one in heldout_documents(loaded) if is_pair(one)), NUMBER))
        captions = [caption_of(pair) for pair in pairs]
        self._prompts = [Prompt((TextPiece(caption),), image_next=True) for caption in captions]
        if not pairs:
            self.runtime.report(Note("no previews: no held-out document is a caption with a picture"))
            return loaded
        pieces = [piece for pair in pairs for piece in pieces_of(pair, loaded)]
        true = [loaded.decode_pictures(piece.latent[None])[0] for piece in pieces if isinstance(piece, ImagePiece)]
        self.folder.mkdir(exist_ok=True)
        write_json(self.folder / CAPTIONS, captions)
        write_atomic(self.folder / TRUTH, _strip(true))
        return loaded


def _strip(pictures: list[Pixels]) -> bytes:
    return encode_png(contact_sheet(pictures, NUMBER, gap=2, background=(128, 128, 128)))


def strips(folder: Path) -> list[tuple[int, Path]]:
    """The strips of a checkpoint's folder, by step."""
    found = sorted((folder / PREVIEWS).glob("step-*.png"))
    return [(int(path.stem.removeprefix("step-")), path) for path in found]
