"""Rows 27 to 33: weights, latents, arrays and vocabularies that are not what they are taken for; corpora that teach nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.bad_inputs.lab import Case, Lab, Outcome, sets
from tests.builders import edit_manifest

WEIGHTS = "diffusion_pytorch_model.safetensors"
ARRAYS = "artifacts/test_arrays.py::"
CODER = "coders/test_text.py::"
Change = Callable[[Path], object]


def vae(change: Change) -> Callable[[Lab], tuple[str, ...]]:
    """A maker of a finished autoencoder that `change` has spoilt."""

    def make(lab: Lab) -> tuple[str, ...]:
        shutil.copytree(lab.shelf.autoencoder / "model", lab.folder / "vae")
        shutil.rmtree(lab.folder / "work")
        (lab.folder / "work").mkdir()
        change(lab.folder / "vae")
        return sets("vae.kind=pretrained", "vae.path=vae")

    return make


def fell_silent(lab: Lab) -> None:
    """An artifact with right sums and weights of zero, as an older tfcli took them."""
    folder = lab.folder / "work" / "autoencoder"
    weights(silenced)(folder / "model")
    data = (folder / "model" / WEIGHTS).read_bytes()

    def change(raw: dict[str, Any]) -> None:
        (entry,) = [entry for entry in raw["files"] if entry["path"] == f"model/{WEIGHTS}"]
        entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    edit_manifest(folder, change)


def config(**changes: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def weights(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return apply


def with_nan(tensors: dict[str, Any]) -> None:
    tensors["encoder.conv_in.weight"][0, 0, 0, 0] = float("nan")


def in_fp8(tensors: dict[str, Any]) -> None:
    import torch

    tensors["encoder.conv_in.weight"] = tensors["encoder.conv_in.weight"].to(torch.float8_e4m3fn)


def surplus(tensors: dict[str, Any]) -> None:
    tensors["stranger.weight"] = tensors["encoder.conv_in.weight"].clone()


def silenced(tensors: dict[str, Any]) -> None:
    for tensor in tensors.values():
        tensor.zero_()


def one_value(tensors: dict[str, Any]) -> None:
    """What is written is the bias of the last layer, whatever the picture."""
    tensors["quant_conv.weight" if "quant_conv.weight" in tensors else "encoder.conv_out.weight"].zero_()


def nothing_is_made(lab: Lab, _outcome: Outcome) -> None:
    assert lab.sealed() == {}


def offline(lab: Lab) -> tuple[str, ...]:
    import huggingface_hub

    lab.patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    lab.patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(lab.folder / "cache"))
    return sets("vae.kind=pretrained", "vae.path=org/vae", f"vae.revision={'0' * 40}")


def reseal(folder: Path, consumer: Path) -> None:
    """Make the manifest fit the files as they are now, and the consumer's fit the manifest: a hostile artifact agrees with
    itself."""
    raw = json.loads((folder / "manifest.json").read_text())
    for entry in raw["files"]:
        data = (folder / entry["path"]).read_bytes()
        entry["bytes"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    other = json.loads((consumer / "manifest.json").read_text())
    other["inputs"]["latents"]["digest"] = write_manifest(folder, raw)
    write_manifest(consumer, other)


def write_manifest(folder: Path, raw: dict[str, Any]) -> str:
    """Write a manifest whose digest is the one of what it lists, and return that."""
    from stages.artifacts.manifest import Manifest, digest_of

    def change(old: dict[str, Any]) -> None:
        old.update(raw)
        listed = Manifest.model_validate(old)
        old["digest"] = digest_of(listed.files, listed.content, listed.inputs)

    del raw["sha256"]
    edit_manifest(folder, change)
    return str(json.loads((folder / "manifest.json").read_bytes())["digest"])


def zarr_json(change: Callable[[dict[str, Any]], object] | bytes) -> Callable[[Lab], None]:
    """A maker of finished latents whose zarr.json `change` has altered, with manifests that agree."""

    def make(lab: Lab) -> None:
        work = lab.finish()
        path = work / "latents" / "arrays" / "8x8" / "zarr.json"
        if isinstance(change, bytes):
            path.write_bytes(change)
        else:
            meta = json.loads(path.read_text())
            change(meta)
            path.write_text(json.dumps(meta))
        reseal(work / "latents", work / "sequences")

    return make


def no_content(lab: Lab) -> None:
    edit_manifest(lab.finish() / "latents", lambda raw: raw.update(content={}))
    shutil.rmtree(lab.folder / "work" / "tokens")


def document(line: str) -> Callable[[Lab], None]:
    """A maker of finished latents whose documents are this line, with manifests that agree."""

    def make(lab: Lab) -> None:
        work = lab.finish()
        (work / "latents" / "documents" / "00000.jsonl").write_text(line + "\n")
        reseal(work / "latents", work / "sequences")
        shutil.rmtree(work / "tokens")

    return make


def codecs(meta: dict[str, Any]) -> list[Any]:
    inner: list[Any] = meta["codecs"][0]["configuration"]["codecs"]
    return inner


def other_latents(lab: Lab) -> None:
    """Latents of fewer pictures lie where the tokens' own did."""
    work = lab.finish()
    (lab.folder / "pictures" / "good0.png").unlink()
    shutil.rmtree(work / "latents")
    assert lab.run("encode").code == 0
    shutil.rmtree(work / "sequences")


def replaced_latents(lab: Lab) -> None:
    """Latents of another kind of number lie where those of the sequences did."""
    lab.finish()
    assert lab.run("encode", *sets("encode.dtype=float32")).code == 0


def tokenizer(data: bytes | Callable[[], bytes]) -> Callable[[Lab], tuple[str, ...]]:
    """A maker of finished latents and of a file that is given as tokenizer."""

    def make(lab: Lab) -> tuple[str, ...]:
        shutil.rmtree(lab.finish() / "tokens")
        (lab.folder / "some.model").write_bytes(data if isinstance(data, bytes) else data())
        return sets("tokenize.tokenizer.kind=pretrained", "tokenize.tokenizer.path=some.model")

    return make


def piece_model(**options: object) -> bytes:
    import sentencepiece

    out = BytesIO()
    corpus = [f"a {colour} circle on the {side}" for colour in ("red", "blue", "green") for side in ("left", "right")]
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(corpus), model_writer=out, model_type="bpe", vocab_size=60, minloglevel=2, **options
    )
    return out.getvalue()


def vast_model(lab: Lab) -> tuple[str, ...]:
    more = tokenizer(b"\n")(lab)
    with (lab.folder / "some.model").open("r+b") as file:
        file.truncate(100 << 20)
    return more


def corpus(name: str, data: bytes, *settings: str) -> Callable[[Lab], tuple[str, ...]]:
    """A maker of a corpus of text beside finished latents."""

    def make(lab: Lab) -> tuple[str, ...]:
        shutil.rmtree(lab.finish() / "tokens")
        (lab.folder / name).write_bytes(data)
        return sets(f'tokenize.text=[{{path="{name}", split="line", max_text_bytes=100000}}]', *settings)

    return make


def no_text(lab: Lab) -> None:
    for path in (lab.folder / "pictures").glob("*.txt"):
        path.unlink()
    assert lab.run("encode", *sets("source.missing_caption=empty")).code == 0


def tokens_made(lab: Lab, _outcome: Outcome) -> None:
    assert lab.manifest("tokens")["content"]["num_documents"] > 0


def packed(*settings: str) -> Callable[[Lab], tuple[str, ...]]:
    def make(lab: Lab) -> tuple[str, ...]:
        shutil.rmtree(lab.finish() / "sequences")
        return sets(*settings)

    return make


CASES = [
    Case(27, "autoencoder: folder missing", lambda _: sets("vae.kind=pretrained", "vae.path=nowhere"), 4, ("autoencoder nowhere cannot be used", "no such folder"), "vae"),
    Case(27, "autoencoder: no config.json", vae(lambda folder: (folder / "config.json").unlink()), 4, ("config.json is missing",), "vae"),
    Case(27, "autoencoder: another class", vae(config(_class_name="UNet2DModel")), 4, ("its class is 'UNet2DModel'",), "vae"),
    Case(27, "autoencoder: a weight missing", vae(weights(lambda tensors: tensors.pop("encoder.conv_in.weight"))), 4, ("1 weights are missing, e.g. encoder.conv_in.weight",), "vae"),
    Case(27, "autoencoder: a weight too many", vae(weights(surplus)), 4, ("1 weights are unexpected, e.g. stranger.weight",), "vae"),
    Case(27, "autoencoder: weights of another shape", vae(config(block_out_channels=[16, 16])), 4, ("autoencoder vae cannot be used",), "vae"),
    Case(27, "autoencoder: NaN in a weight", vae(weights(with_nan)), 4, ("the weight encoder.conv_in.weight holds non-finite numbers",), "vae"),
    Case(27, "autoencoder: a weight in fp8", vae(weights(in_fp8)), 4, ("encoder.conv_in.weight is F8_E4M3", "float16, bfloat16 or float32"), "vae"),
    Case(27, "autoencoder: only a pickle", vae(lambda folder: (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")), 4, ("a pickle that could run code",), "vae"),
    Case(27, "autoencoder: git-lfs pointer", vae(lambda folder: (folder / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")), 4, ("git-lfs pointer", "git lfs pull"), "vae"),
    Case(27, "autoencoder: HTML page as weights", vae(lambda folder: (folder / WEIGHTS).write_bytes(b"<!DOCTYPE html>")), 4, ("is an HTML page",), "vae"),
    Case(27, "autoencoder: weights cut short", vae(lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:5000])), 4, ("autoencoder vae cannot be used",), "vae"),
    Case(27, "whole run: an autoencoder of zeros", vae(weights(silenced)), 4, ("the latents say nothing about the pictures", "different pictures each channel has one value (0, 0, 0, 0)"), "run recipe.toml", check=nothing_is_made),
    Case(27, "whole run: an autoencoder that always gives one value", vae(weights(one_value)), 4, ("the latents say nothing about the pictures", "vae.path"), "run recipe.toml", check=nothing_is_made),
    Case(27, "a finished autoencoder whose weights became zeros", fell_silent, 4, ("does not compute what it did when it was made", "tfcli vae --force"), "encode"),
    Case(28, "hub id while offline", offline, 5, ("cannot get org/vae", "fix: give vae.path a local folder"), "vae"),
    Case(28, "hub id without its commit", lambda _: sets("vae.kind=pretrained", "vae.path=org/vae"), 2, ("a hub id needs its commit",), "vae"),
    Case(29, "autoencoder for another size", lambda _: sets("images.size=32"), 4, ("the autoencoder was made for 16 px (crop), the recipe says 32 (crop)",)),
    Case(29, "tokens of other latents", other_latents, 4, ("work/tokens was made from other latents",), "pack"),
    Case(29, "latents replaced behind the sequences", replaced_latents, 4, ("was made from other latents",), "train"),
    Case(30, "zarr.json empty", zarr_json(b""), 4, ("zarr.json is damaged",), "train"),
    Case(30, "zarr.json half", zarr_json(b'{"shape": [6, 2'), 4, ("zarr.json is damaged",), "train"),
    Case(30, "Zarr v2", zarr_json(lambda meta: meta.update(zarr_format=2)), 4, ("not an array that tfcli writes",), "train"),
    Case(30, "group instead of an array", zarr_json(lambda meta: meta.update(node_type="group")), 4, ("not an array that tfcli writes",), "train"),
    Case(30, "objects instead of numbers", zarr_json(lambda meta: meta.update(data_type="object")), 4, ("not an array that tfcli writes",), "train"),
    Case(30, "shape of 3.6 TB", zarr_json(lambda meta: meta["shape"].__setitem__(0, 10**10)), 4, ("latents",), "train"),
    Case(30, "another codec", zarr_json(lambda meta: codecs(meta).insert(1, {"name": "blosc", "configuration": {}})), 4, ("not an array that tfcli writes",), "train"),
    Case(30, "filled with 0 instead of NaN", zarr_json(lambda meta: meta.update(fill_value=0.0)), 4, ("not an array that tfcli writes",), "train", held=(ARRAYS + "test_another_layout_is_refused",)),
    Case(30, "manifest without its facts", no_content, 4, ("work/latents/manifest.json cannot be used", "content.autoencoder: Field required"), "tokenize"),
    Case(30, "line of documents without its parts", document('{"key": "a"}'), 4, ("work/latents/documents/00000.jsonl:1 is damaged",), "tokenize"),
    Case(30, "line of documents that is a list", document("[]"), 4, ("work/latents/documents/00000.jsonl:1 is damaged",), "tokenize"),
    Case(30, "line of documents with a number as text", document('{"key": "a", "group": null, "fixed_order": true, "heldout": false, "source": "a", "facts": null, "segments": [{"text": 5}]}'), 4, ("the text is not a string",), "tokenize"),
    Case(31, "tokenizer: empty file", tokenizer(b""), 4, ("the file is empty",), "tokenize"),
    Case(31, "tokenizer: text", tokenizer(b"once upon a time\n" * 9), 4, ("some.model is not a SentencePiece model",), "tokenize"),
    Case(31, "tokenizer: tokenizer.json of Hugging Face", tokenizer(b'{"version": "1.0", "model": {}}'), 4, ("Hugging Face tokenizer.json",), "tokenize"),
    Case(31, "tokenizer: tiktoken's ranks", tokenizer(b"IQ== 0\nIg== 1\nIw== 2\n"), 4, ("some.model is not a SentencePiece model",), "tokenize"),
    Case(31, "tokenizer: cut short", tokenizer(lambda: piece_model()[:-700]), 4, ("some.model is not a SentencePiece model",), "tokenize"),
    Case(31, "tokenizer: 100 MB", vast_model, 4, ("100 MiB is too large for a vocabulary",), "tokenize"),
    Case(31, "tokenizer: no </s>", tokenizer(lambda: piece_model(eos_id=-1)), 0, ("goes through",), "tokenize", check=tokens_made, note="the ends, BOI, EOI and pad go behind its vocabulary; what it cannot give back is reported", held=("coders/test_text.py::test_ends_go_behind_a_vocabulary_that_lacks_them", "coders/test_text.py::test_our_own_models_lose_nothing_and_others_say_what_they_lose")),
    Case(31, "tokenizer: no BOI, no bytes", tokenizer(lambda: piece_model()), 0, ("goes through",), "tokenize", check=tokens_made, note="BOI, EOI and pad go behind its vocabulary", held=(CODER + "test_marks_go_behind_a_vocabulary_that_lacks_them",)),
    Case(31, "tokenizer: BOI that text could write", tokenizer(lambda: piece_model(user_defined_symbols=["<boi>"])), 4, ("so text could forge it",), "tokenize"),
    Case(32, "corpus: empty file", corpus("c.txt", b""), 0, ("goes through",), "tokenize", check=tokens_made, note="the captions are there all the same"),
    Case(32, "corpus: no text at all", no_text, 3, ("no text to train a tokenizer on", "every text is empty"), "tokenize"),
    Case(32, "corpus: one line", corpus("c.txt", b"one line"), 0, ("goes through",), "tokenize", check=tokens_made),
    Case(32, "corpus: a line of 10 MB", corpus("c.txt", b"x" * 10_000_000), 0, ("goes through",), "tokenize", check=tokens_made, note="left out and counted: longer than max_text_bytes, 100,000 here"),
    Case(32, "corpus: binary", corpus("c.txt", bytes(range(256)) * 9), 0, ("goes through",), "tokenize", check=tokens_made, note="left out and counted"),
    Case(32, "corpus: the same line 5,000 times", corpus("c.txt", b"again\n" * 5000), 0, ("goes through",), "tokenize", check=tokens_made),
    Case(32, "corpus: missing", lambda lab: shutil.rmtree(lab.finish() / "tokens") or sets('tokenize.text=[{path="none.txt"}]'), 2, ("text not found: none.txt",), "tokenize"),
    Case(32, "vocabulary larger than possible", corpus("c.txt", b"a", "tokenize.tokenizer.vocab_size=8000"), 0, ("goes through",), "tokenize", check=tokens_made,
         note="vocab_size is an upper limit: a small corpus gives fewer pieces", held=(CODER + "test_the_size_is_a_limit_where_the_corpus_is_small",)),
    Case(32, "vocabulary smaller than the characters", corpus("c.txt", b"a", "tokenize.tokenizer.vocab_size=20"), 3, ("a vocabulary of 20 is too small", "fix: set tokenize.tokenizer.vocab_size to"), "tokenize"),
    Case(33, "all documents longer than a row", packed("pack.row_length=16"), 3, ("0 of 6 documents fit 16 elements (shortest",), "pack"),
    Case(33, "patches that do not divide the latents", packed("pack.patch_side=3"), 2, ("images.size = 16 must be a multiple of 12", "such as 12, 24"), "pack"),
    Case(33, "everything held out", packed("pack.heldout_fraction=0.999999"), 3, ("no documents to train on",), "pack"),
]  # fmt: skip
