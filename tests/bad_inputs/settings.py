"""Rows 34 to 41: recipes, seeds, devices, prompts, and where artifacts go."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable

from PIL import Image

from tests.bad_inputs.lab import RECIPE, Case, Lab, Outcome, png, sets
from tests.builders import edit_manifest

CHECK = "recipe check"


def recipe(text: str, old: str = "", new: str = "") -> Callable[[Lab], tuple[str, ...]]:
    """A maker of config.toml: the recipe of the lab with `text` behind it, and `new` in place of `old`."""

    def make(lab: Lab) -> tuple[str, ...]:
        (lab.folder / "config.toml").write_text(RECIPE.replace(old, new, 1) + text)
        return ("config.toml",)

    return make


def not_ours(lab: Lab) -> None:
    (lab.folder / "work" / "latents").mkdir()
    (lab.folder / "work" / "latents" / "thesis.txt").write_text("years of work")


def forced(lab: Lab) -> tuple[str, ...]:
    not_ours(lab)
    return ("--force",)


def thesis_is_there(lab: Lab, _outcome: Outcome) -> None:
    assert [path.name for path in (lab.folder / "work" / "latents").iterdir()] == ["thesis.txt"]


def moved(folder: str, work: str) -> Callable[[Lab], tuple[str, ...]]:
    """A maker of a folder of pictures and a work folder under these names."""

    def make(lab: Lab) -> tuple[str, ...]:
        (lab.folder / "pictures").rename(lab.folder / folder)
        (lab.folder / "work").rename(lab.folder / work.strip("/"))
        return ("--work", work, *sets(f"source.path={folder}"))

    return make


def made_in(*folders: str) -> Callable[[Lab, Outcome], None]:
    def check(lab: Lab, _outcome: Outcome) -> None:
        assert any((lab.folder / folder / "latents" / "manifest.json").exists() for folder in folders)

    return check


def work_is_a_file(lab: Lab) -> None:
    shutil.rmtree(lab.folder / "work")
    (lab.folder / "work").write_text("x")


def at_home(lab: Lab) -> tuple[str, ...]:
    lab.patch.setenv("HOME", str(lab.folder))
    return ("--work", "~/work", *sets("source.path=~/pictures"))


def nobodys_home(_lab: Lab) -> tuple[str, ...]:
    return ("--work", "~nobody-of-that-name/work")


def trained(*words: str) -> Callable[[Lab], tuple[str, ...]]:
    """A maker of a finished checkpoint; the words are the prompt."""

    def make(lab: Lab) -> tuple[str, ...]:
        lab.finish(trained=True)
        return (*words, "--steps", "1", *sets("sample.generation.max_text_tokens=2"))

    return make


def long_prompt(lab: Lab) -> tuple[str, ...]:
    return trained("word " * 100)(lab)


def written(lab: Lab, data: bytes, name: str = "lines.txt") -> str:
    (lab.folder / name).write_bytes(data)
    return name


def document(data: bytes) -> Callable[[Lab], tuple[str, ...]]:
    """A maker of a file of documents."""

    def make(lab: Lab) -> tuple[str, ...]:
        (lab.folder / "secret.png").write_bytes(lab.shelf.pictures[0])
        return ("--prompts", written(lab, data, "documents.jsonl"))

    return make


def on_stdin(data: bytes) -> Callable[[Lab], tuple[str, ...]]:
    def make(lab: Lab) -> tuple[str, ...]:
        lab.stdin = data
        return ("--prompts", "-")

    return make


def html_picture(lab: Lab) -> tuple[str, ...]:
    return trained("--image", written(lab, b"<html><body>no picture</body></html>", "page.png"))(lab)


def mask(size: tuple[int, int], value: int) -> Callable[[Lab], tuple[str, ...]]:
    """A maker of a mask of one grey."""

    def make(lab: Lab) -> tuple[str, ...]:
        written(lab, png(Image.new("L", size, value)), "mask.png")
        return trained("--begin", "pictures/good0.png", "--mask", "mask.png")(lab)

    return make


def erased(*, from_picture: bool) -> Callable[[Lab], tuple[str, ...]]:
    """A mask with a transparent hole on its left: the picture itself, or another one."""

    def make(lab: Lab) -> tuple[str, ...]:
        rest = Image.open(io.BytesIO(lab.shelf.pictures[0 if from_picture else 1])).convert("RGBA")
        rest.paste((0, 0, 0, 0), (0, 0, 10, 20))
        written(lab, png(rest), "mask.png")
        return trained("--begin", "pictures/good0.png", "--mask", "mask.png")(lab)

    return make


def says_hole(_lab: Lab, outcome: Outcome) -> None:
    assert "mask mask.png: a transparent hole: that may change, the rest stays" in outcome.stderr


def cropped(lab: Lab) -> tuple[str, ...]:
    """A wide picture, whose mask is white at its left end."""
    written(lab, png(Image.new("RGB", (64, 32), "red")), "wide.png")
    painted = Image.new("L", (64, 32), 0)
    painted.paste(255, (0, 0, 10, 32))
    written(lab, png(painted), "mask.png")
    return trained("--begin", "wide.png", "--mask", "mask.png")(lab)


def begun(lab: Lab) -> tuple[str, ...]:
    line = b'{"parts": [{"text": "a"}], "begin": {"image": "pictures/good0.png"}}'
    return ("--prompts", written(lab, line, "documents.jsonl"))


def samples_not_ours(lab: Lab) -> tuple[str, ...]:
    lab.finish(trained=True)
    (lab.folder / "work" / "samples").mkdir()
    (lab.folder / "work" / "samples" / "thesis.txt").write_text("years of work")
    return sets("sample.heldout_prompts=1")


CASES = [
    Case(34, "unknown key", recipe("stepss = 3\n"), 2, ("config.toml: unknown key train.stepss", "did you mean train.steps?"), CHECK),
    Case(34, "wrong type", recipe('eval_every = "often"\n'), 2, ("config.toml: train.eval_every:",), CHECK),
    Case(34, "negative learning rate", recipe("learning_rate = -1\n"), 2, ("config.toml: train.learning_rate: Input should be greater than 0",), CHECK),
    Case(34, "width that the heads do not divide", recipe("", "heads = 1", "heads = 3"), 2, ("config.toml: model",), CHECK),
    Case(34, "no steps", recipe("", "steps = 1", "steps = 0"), 2, ("config.toml: train.steps:",), CHECK),
    Case(34, "syntax", recipe("= 3\n"), 2, ("config.toml: not TOML:", "(at line 25, column 1)"), CHECK),
    Case(34, "a key twice", recipe("steps = 3\n"), 2, ("config.toml: not TOML: Cannot overwrite a value",), CHECK),
    Case(34, "not a recipe", recipe("", "[source]", "\0"), 2, ("config.toml: not TOML",), CHECK),
    Case(34, "missing", lambda _: ("nowhere.toml",), 2, ("no recipe nowhere.toml",), CHECK),
    Case(34, "artifact of a newer version", lambda lab: newer(lab), 4, ("made by a newer tfcli (latents, schema 99)",), "tokenize",
         note="a recipe has no version of its own: its keys are checked one by one"),
    Case(35, "seed that is no number", lambda _: sets("seed=many"), 2, ("--set seed=many: Input should be a valid integer",)),
    Case(35, "seed of 2^70", lambda _: sets(f"seed={2**70}"), 2, (f"--set seed={2**70}: Input should be less than 9223372036854775808",)),
    Case(35, "negative seed", lambda _: sets("seed=-1"), 2, ("--set seed=-1: Input should be greater than or equal to 0",)),
    Case(36, "--device cuda without one", lambda lab: no_cuda(lab, "cuda"), 5, ("--device cuda: no CUDA device", "fix: use --device cpu")),
    Case(36, "--device cuda:7", lambda lab: no_cuda(lab, "cuda:7"), 5, ("--device cuda:7: no CUDA device",)),
    Case(36, "--device that is none", lambda _: ("--device", "toaster"), 2, ("--device toaster: no such device",)),
    Case(38, "empty prompt", lambda _: (" ",), 2, ("it is empty",), "sample"),
    Case(38, "prompt that is not UTF-8", lambda _: ("caf\udce9",), 2, ("half of a surrogate pair",), "sample"),
    Case(38, "prompt of control symbols", trained("<boi><eos>"), 0, ("goes through",), "sample work", note="they are text like any other"),
    Case(38, "prompt longer than the rows of the training", long_prompt, 2, ("is too long", "rows of 64"), "sample work"),
    Case(38, "prompt of 2 MB", lambda lab: ("--prompts", written(lab, b"a" * 2_000_000)), 2, ("2,000,000 bytes > 1,048,576",), "sample"),
    Case(38, "prompts without a line", lambda lab: ("--prompts", written(lab, b"\n \n")), 2, ("no prompts in lines.txt",), "sample"),
    Case(38, "prompts that are not UTF-8, on stdin", on_stdin(b"good\ncaf\xe9\n"), 2, ("stdin:2: byte 3 is not UTF-8",), "sample"),
    Case(38, "nothing on stdin", on_stdin(b""), 2, ("no prompts in stdin",), "sample"),
    Case(38, "prompts file missing", lambda _: ("--prompts", "lines.text"), 2, ("file of prompts not found",), "sample"),
    Case(38, "document that is not JSON", document(b'{"parts": [}'), 2, ("documents.jsonl:1: not JSON",), "sample"),
    Case(38, "document without parts", document(b'{"parts": []}'), 2, ("documents.jsonl:1: parts is empty",), "sample"),
    Case(38, "document with an unknown key", document(b'{"parts": [{"text": "a"}], "drew": true}'), 2, ("documents.jsonl:1: unknown key drew (known: draw, size",), "sample"),
    Case(38, "document with a part that is none", document(b'{"parts": [{"txt": "a"}]}'), 2, ("documents.jsonl:1: parts.0",), "sample"),
    Case(38, "document whose picture lies outside", document(b'{"parts": [{"image": "../secret.png"}]}'), 2, ("paths with .. are refused",), "sample"),
    Case(38, "document whose picture is absolute", document(b'{"parts": [{"image": "/etc/passwd"}]}'), 2, ("absolute paths are refused",), "sample"),
    Case(38, "document whose picture is missing", document(b'{"parts": [{"image": "a.png"}]}'), 2, ("image a.png is not a file in the folder",), "sample"),
    Case(38, "picture of a prompt missing", lambda _: ("--image", "pictures/good.png"), 2, ("picture not found", "did you mean pictures/good"), "sample"),
    Case(38, "picture of a prompt that is a folder", lambda _: ("--image", "pictures"), 2, ("not a plain file",), "sample"),
    Case(38, "picture of a prompt that is none", html_picture, 3, ("picture page.png cannot be used: NOT_AN_IMAGE",), "sample work"),
    Case(38, "more marks than pictures", lambda _: ("<image> or <image>", "--image", "pictures/good0.png"), 2, ("2 <image> and 1 --image",), "sample"),
    Case(38, "no prompt to draw", lambda _: ("--draw",), 2, ("need a prompt",), "sample"),
    Case(38, "to draw and to write", lambda _: ("a thing", "--draw", "--write"), 2, ("--draw and --write exclude each other",), "sample"),
    Case(39, "checkpoint that is not there", lambda _: None, 2, ("checkpoint not found: worx", "did you mean work?"), "sample worx"),
    Case(39, "checkpoint that is something else", lambda lab: lab.finish() and ("a thing",), 4, ("no checkpoint at work",), "sample work"),
    Case(39, "0 samples", lambda _: ("a thing", "--count", "0"), 2, ("--count 0:",), "sample"),
    Case(39, "--steps 0", lambda _: ("a thing", "--steps", "0"), 2, ("--steps 0:",), "sample"),
    Case(39, "more steps than noise levels", lambda lab: (*trained("a thing")(lab), "--steps", "5000"), 0, ("goes through",), "sample", note="1,000 steps are taken, as many as there are noise levels, and a warning says so"),
    Case(39, "--steps many", lambda _: ("a thing", "--steps", "many"), 2, ("'--steps'",), "sample"),
    Case(39, "unknown sampler", lambda _: ("a thing", "--sampler", "dimm"), 2, ('--sampler "dimm":',), "sample"),
    Case(39, "--guidance of NaN", lambda _: ("a thing", "--guidance", "nan"), 2, ("--guidance nan:",), "sample"),
    Case(39, "negative temperature", lambda _: ("a thing", "--temperature", "-1"), 2, ("--temperature -1.0:",), "sample"),
    Case(39, "--top-p 0", lambda _: ("a thing", "--top-p", "0"), 2, ("--top-p 0.0:",), "sample"),
    Case(39, "--seed of 2^70", lambda _: ("a thing", "--seed", str(2**70)), 2, (f"--seed {2**70}: Input should be less than",), "sample"),
    Case(39, "size that patches do not divide", lambda lab: (*trained("a thing")(lab), "--size", "18x16"), 2, ("size 18x16: sides must be multiples of 4", "such as 16x16"), "sample work"),
    Case(39, "size that is none", lambda _: ("a thing", "--size", "large"), 2, ("--size large: not of the form",), "sample"),
    Case(39, "size larger than the rows of the training", lambda lab: (*trained("a thing")(lab), "--size", "160x160"), 2, ("160x160 is too large", "rows of 64"), "sample work"),
    Case(39, "mask without a picture to begin from", lambda _: ("a thing", "--mask", "pictures/good0.png"), 2, ("--mask without --begin",), "sample"),
    Case(39, "mask of another size", mask((8, 8), 255), 2, ("mask mask.png is 8x8, the picture is 20x20",), "sample work"),
    Case(39, "mask that is black", mask((20, 20), 0), 2, ("it is white nowhere",), "sample work"),
    Case(39, "strength of 0", lambda _: ("--begin", "pictures/good0.png", "--strength", "0"), 2, ("--strength: Input should be greater than 0",), "sample"),
    Case(39, "a picture to begin from of which nothing is kept", lambda _: ("a thing", "--begin", "pictures/good0.png"), 2, ("--begin with neither --strength below 1 nor --mask", "add --strength 0.6"), "sample"),
    Case(39, "a folder to begin from", lambda _: ("a thing", "--begin", "pictures", "--strength", "0.5"), 2, ("--begin pictures", "not a plain file"), "sample"),
    Case(39, "a document of the same", begun, 2, ("documents.jsonl:1: begin needs a strength below 1 or a mask",), "sample"),
    Case(39, "mask that is white everywhere", mask((20, 20), 255), 2, ("strength 1 leaves nothing of pictures/good0.png", "all of it may change"), "sample work"),
    Case(39, "mask with a hole erased from the picture", erased(from_picture=True), 0, (), "sample work", says_hole),
    Case(39, "mask with a hole erased from another picture", erased(from_picture=False), 2, ("mask mask.png has transparent parts", "save it without transparency"), "sample work"),
    Case(39, "mask that is white only where the picture is cropped", cropped, 2, ("it is white only where the picture is cropped away",), "sample work"),
    Case(39, "strength that rounds to nothing", trained("--begin", "pictures/good0.png", "--strength", "0.0001"), 2, ("strength 0.0001 leaves all of",), "sample work"),
    Case(39, "negative text without guidance", trained("a thing", "--negative", "blue", "--guidance", "1"), 2, ("negative text without guidance", "guidance 1 turns guidance off"), "sample work"),
    Case(39, "negative text where nothing is drawn", lambda _: ("a thing", "--write", "--negative", "blue"), 2, ("negative is for a drawing: draw is false",), "sample"),
    Case(39, "size where nothing is drawn", trained("--image", "pictures/good0.png", "--size", "16x16"), 2, ("size is for a drawing", "after pictures alone the model writes text"), "sample work"),
    Case(39, "negative text that is not UTF-8", lambda _: ("a thing", "--negative", "caf\udce9"), 2, ("half of a surrogate pair",), "sample"),
    Case(39, "size and a picture to begin from", lambda _: ("--begin", "pictures/good0.png", "--strength", "0.5", "--size", "16x16"), 2, ("begin and size exclude each other",), "sample"),
    Case(39, "a setting twice", lambda _: ("a thing", "--steps", "5", *sets("sample.generation.sampler.steps=6")), 2, ("exclude each other",), "sample"),
    Case(39, "samples where something else lies", samples_not_ours, 2, ("will not write to work/samples",), "sample"),
    Case(39, "negative guidance", lambda _: ("a thing", "--guidance", "-1"), 2, ("--guidance -1.0:",), "sample"),
    Case(39, "guidance interval that falls", lambda _: sets("sample.generation.guidance_interval=[0.8, 0.2]"), 2, ("must rise, between 0",), "sample"),
    Case(39, "height without width", lambda _: sets("sample.generation.height=16"), 2, ("set both or neither",), "sample"),
    Case(39, "empty stop string", lambda _: sets("sample.generation.stop=['']"), 2, ("sample.generation.stop",), "sample"),
    Case(40, "folder that tfcli did not make", not_ours, 2, ("will not write to work/latents", "it is not empty and has no manifest.json"), check=thesis_is_there),
    Case(40, "the same with --force", forced, 2, ("will not write to work/latents",), check=thesis_is_there, note="--force makes an artifact of tfcli again; it never removes what is not one",
         held=("artifacts/test_folder.py::test_what_tfcli_did_not_make_is_left_alone",)),
    Case(41, "paths with spaces", moved("my pictures", "my work"), 0, ("goes through",), check=made_in("my work")),
    Case(41, "paths with $VAR and backslashes", moved("$HOME", "a\\b"), 0, ("goes through",), check=made_in("a\\b"), note="taken as they are: variables are the shell's business, a backslash is part of a name"),
    Case(41, "paths with ~", at_home, 0, ("goes through",), check=made_in("work")),
    Case(41, "~ of nobody", nobodys_home, 2, ("no home folder of that name",)),
    Case(41, "~ of nobody as source", lambda _: sets("source.path=~nobody-of-that-name/x"), 2, ("images folder not found",)),
    Case(41, "~ of nobody as autoencoder", lambda _: sets("vae.kind=pretrained", "vae.path=~nobody-of-that-name/x"), 4, ("no such folder",), "vae"),
    Case(41, "trailing slash", moved("pictures", "work/"), 0, ("goes through",), check=made_in("work")),
    Case(41, "--work of 5,000 letters", lambda _: ("--work", "x" * 5000), 2, ("not a usable path: File name too long",)),
    Case(41, "--work where no folder can be made", lambda _: ("--work", "/proc/tfcli/work"), 5, ("cannot write /proc/tfcli/work", "give --work a folder you may write"), "vae"),
    Case(41, "--work is a file", work_is_a_file, 2, ("--work work: work is a file", "fix: give a folder")),
]  # fmt: skip


def newer(lab: Lab) -> None:
    edit_manifest(lab.finish() / "latents", lambda raw: raw.update(schema_version=99))
    shutil.rmtree(lab.folder / "work" / "tokens")


def no_cuda(lab: Lab, device: str) -> tuple[str, ...]:
    import torch

    lab.patch.setattr(torch.cuda, "device_count", lambda: 0)
    return ("--device", device)
