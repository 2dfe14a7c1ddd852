"""Random recipes and random command lines: whatever is typed, the answer is a result or an error of three parts."""

from __future__ import annotations

import random
from typing import Any

from tests.fuzz.rules import Case, stage
from tests.fuzz.steps import Step
from tests.fuzz.world import RECIPE, World

VALUES = (
    "0", "-1", "1", "2", "3", "7", "16", "17", "64", "1000000000", "9223372036854775808", "1e400", "nan", "inf", "-inf", "0.5", "1e-320",
    '""', '"x"', "true", "false", "[]", "[0]", "[1, 2]", '["a"]', "{}", "{ kind = 'x' }", "{ kind = 'ddim', steps = 0 }", "null", "'''", "1979-05-27",
    '"\\u0000"', '"../../victim.txt"', '"/dev/zero"', '"pictures"', '"work"', '"work/checkpoint"', '"recipe.toml"', '"' + "x" * 3000 + '"',
    "[" * 2000, "folder", "webdataset", "parquet", "jsonl", "text", "table", "shapes", "mix", "pretrained", "buckets", "fp32", "bf16", "cuda",
)  # fmt: skip
SLOW = ("steps", "count", "pictures", "max_")  # keys with which a run that is no dry run would take for ever


def recipes(_: World, rng: random.Random, seed: int, number: int) -> Case:
    """Keys and values of a recipe, by --set or in the file."""
    from stages.recipe import Recipe
    from stages.recipe_errors import all_keys

    keys = all_keys(Recipe)
    chosen = [f"{rng.choice(keys)}={rng.choice(VALUES)}" for _ in range(rng.choice([1, 1, 2, 3]))]
    sets = [word for each in chosen for word in ("--set", each)]
    steps: list[Step] = []
    if rng.random() < 0.4:
        steps.append(Step("write", "recipe.toml", data=_mutated(rng, RECIPE.encode())))
        sets = sets if rng.random() < 0.3 else []
    command = rng.choice(
        [
            ["recipe", "check", "recipe.toml"],
            ["recipe", "show", "recipe.toml", *sets],
            stage("run", "--dry-run", *sets),
            stage(rng.choice(["vae", "encode", "pack", "train", "sample", "eval"]), "--dry-run", *sets),
            ["plan", "recipe.toml", "--work", "work", *sets],
            ["recipe", "diff", "recipe.toml", "smoke", *sets],
            ["doctor", "recipe.toml", "--workers", "0", *sets],
        ]
    )
    return Case("recipes", seed, number, steps, [command], codes={0, 2, 3, 4, 5}, digests=False, limit=40)


def _mutated(rng: random.Random, data: bytes) -> bytes:
    """A text with lines that are lost, doubled or in another place, and bytes changed."""
    lines = data.split(b"\n")
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = rng.randrange(len(lines))
        way = rng.randrange(6)
        if way == 0:
            del lines[place]
        elif way == 1:
            lines.insert(place, rng.choice(lines))
        elif way == 2:
            lines.insert(rng.randrange(len(lines)), lines.pop(place))
        elif way == 3 and b"=" in lines[place]:
            lines[place] = lines[place].split(b"=")[0] + b"= " + rng.choice(VALUES).encode()
        elif lines[place]:
            line = bytearray(lines[place])
            line[rng.randrange(len(line))] = rng.choice(
                [0, 9, 13, 34, 39, 44, 46, 61, 91, 93, 123, 255, rng.randrange(256)]
            )
            lines[place] = bytes(line)
    return rng.choice([b"", b"", b"", b"\xef\xbb\xbf"]) + b"\n".join(lines)


def options(_: World, rng: random.Random, seed: int, number: int) -> Case:
    """A command with random options and arguments."""
    import typer

    from tfcli.app import app

    commands = _leaves(typer.main.get_command(app), [])
    words, parameters = rng.choice(commands)
    line = list(words)
    for parameter in rng.sample(parameters, min(len(parameters), rng.choice([0, 1, 2, 3, 4, 6]))):
        name = rng.choice(parameter.opts)
        if parameter.param_type_name == "argument":
            line += [_value(rng, name) for _ in range(rng.choice([1, 1, 1, 2]))]
        elif name != "--open":
            line.append(name)
            line += [] if getattr(parameter, "is_flag", False) else [_value(rng, name)]
    if words[0] not in ("verify", "inspect", "lineage", "recipe", "doctor", "plan") and rng.random() < 0.8:
        line += ["-r", "recipe.toml"] if words[0] != "run" and "-r" not in line else []
        line += ["--work", "work"] if "--work" not in line else []
    if words[0] in ("vae", "encode", "tokenize", "pack", "train", "sample", "eval", "run", "doctor"):
        line += ["--workers", "0"]  # the last one counts: processes take seconds to start
    if rng.random() < 0.05:
        line.append(rng.choice(["--", "--nonsense", "-", "\udcff"]))
    return Case("options", seed, number, [], [line], digests=False, limit=90)


def _value(rng: random.Random, name: str) -> str:
    """A value for an option: mostly one of its sort, else anything. No recipe but the small one may run."""
    if name in ("-r", "--recipe", "recipe", "first", "second"):
        return rng.choice(["recipe.toml", "recipe.toml", "nothing", "work", "", "pictures/p00.txt", "~nobody/x"])
    if name == "--set":
        return rng.choice(
            [
                "train.steps=5",
                "sample.free=0",
                "x",
                "=",
                "seed=1",
                "seed=-1",
                "train.steps=",
                "model.width=7",
                "sample.prompts=[]",
            ]
        )
    if name == "--workers":
        return rng.choice(["0", "-1", "x"])
    if name in ("--count", "--steps", "--limit", "--gpus", "--row", "--side", "--seed", "--mfu"):
        return rng.choice(
            ["0", "1", "2", "-1", "x", "0.5", "3", "10000000000000000000000"]
            if name in ("--seed", "--row", "--gpus")
            else ["0", "1", "2", "-1", "x"]
        )
    if name == "--out":
        return rng.choice(["work/sheet.png", "work", "work/x/y.png", "work/sheet.xyz", ""])
    if name in ("--output", "-o", "to"):
        return rng.choice(
            ["work/new.toml", "work/latents/x.json", "work", "pictures/p00.png", "recipe.toml", "nothing/x", ""]
        )
    if name == "--work":
        return rng.choice(["work", "work/checkpoint", "work/new", "recipe.toml/x", "work/../work"])
    every = ["work", "work/checkpoint", "work/latents", "work/samples", "pictures", "pictures/p00.png", "recipe.toml", "nothing", "", ".", "~", "1/2", "ray",
             "encode", "cpu", "cuda:9", "16", "16x16", "0", "-1", "nan", "1e9", "ddim", "a small thing", "\u00e9", "\udcff", "x" * 5000, "a\nb", "--", "other"]  # fmt: skip
    return rng.choice(every)


def _leaves(group: Any, words: list[str]) -> list[tuple[list[str], list[Any]]]:
    if not hasattr(group, "commands"):
        return [(words, list(group.params))]
    return [leaf for name, below in sorted(group.commands.items()) for leaf in _leaves(below, [*words, name])]
