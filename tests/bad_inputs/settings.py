"""Rows 34 to 41: recipes, seeds, devices, prompts, and where artifacts go."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from tests.bad_inputs.lab import RECIPE, Case, Lab, Outcome, sets

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
    Case(35, "seed that is no number", lambda _: sets("seed=many"), 2, ("recipe.toml: seed: Input should be a valid integer",)),
    Case(35, "seed of 2^70", lambda _: sets(f"seed={2**70}"), 2, ("recipe.toml: seed: Input should be less than 9223372036854775808",)),
    Case(35, "negative seed", lambda _: sets("seed=-1"), 2, ("recipe.toml: seed: Input should be greater than or equal to 0",)),
    Case(36, "--device cuda without one", lambda lab: no_cuda(lab, "cuda"), 5, ("--device cuda: no CUDA device", "fix: use --device cpu")),
    Case(36, "--device cuda:7", lambda lab: no_cuda(lab, "cuda:7"), 5, ("--device cuda:7: no CUDA device",)),
    Case(36, "--device that is none", lambda _: ("--device", "toaster"), 2, ("--device toaster: no such device",)),
    Case(38, "empty prompt", lambda _: ("--prompt", " "), 2, ("it is empty",), "sample"),
    Case(38, "prompt that is not UTF-8", lambda _: ("--prompt", "caf\udce9"), 2, ("it is not UTF-8",), "sample"),
    Case(39, "0 steps of the sampler", lambda _: sets("sample.generation.sampler.steps=0"), 2, ("sample.generation.sampler.steps:",), "sample"),
    Case(39, "guidance of NaN", lambda _: sets("sample.generation.guidance=nan"), 2, ("sample.generation.guidance:",), "sample"),
    Case(39, "negative guidance", lambda _: sets("sample.generation.guidance=-1"), 2, ("sample.generation.guidance:",), "sample"),
    Case(39, "sampler that is none", lambda _: sets("sample.generation.sampler={kind='dpmpp'}"), 2, ("sample.generation.sampler:", "'dpm++'"), "sample"),
    Case(39, "guidance interval that falls", lambda _: sets("sample.generation.guidance_interval=[0.8, 0.2]"), 2, ("must rise and lie between 0",), "sample"),
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
    Case(41, "--work of 5,000 letters", lambda _: ("--work", "x" * 5000), 2, ("not a usable path: [Errno 36] File name too long",)),
    Case(41, "--work is a file", work_is_a_file, 2, ("--work work: work is a file", "fix: give a folder")),
]  # fmt: skip


def newer(lab: Lab) -> None:
    path = lab.finish() / "latents" / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": ', '"schema_version": 99, "was": ', 1).replace(', "was": 1', "").replace(', "was": 2', ""))  # fmt: skip
    shutil.rmtree(lab.folder / "work" / "tokens")


def no_cuda(lab: Lab, device: str) -> tuple[str, ...]:
    import torch

    lab.patch.setattr(torch.cuda, "device_count", lambda: 0)
    return ("--device", device)
