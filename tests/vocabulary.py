"""Words that the project does not use, and what it says instead: names in code, and prose in comments, docstrings and messages.

    python -m tests.vocabulary      (what `make vocabulary` runs) lists every place where one is left

What is on disk keeps its name: recipe and manifest keys, array names, metric names and reason codes are in KEPT.
"""

from __future__ import annotations

import io
import keyword
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

# A name is split at underscores and capitals; a rule of one word matches any part of a name, one of several words the whole name.
NAMES = {
    "place": "index, offset, capacity",
    "places": "indices",
    "put": "copy_into",
    "put_all": "load_full_tensors",
    "part_for": "shard_like",
    "is_cut": "is_sharded",
    "let_go": "reshard",
    "_goes_on": "_advance",
    "told": "reported, or the thing itself: size_of_id",
    "tell": "emit, report",
    "said": "reported, logged",
    "walk": "steps, run_sampler",
    "facts": "dims, info, labels, provenance, content",
    "LineMaker": "SequenceBuilder",
    "turned": "rotated",
    "OverTurned": "apply_rotary, attend",
    "ready_to_run": "optimize_for_inference",
    "ReadyLinear": "PackedLinear",
    "ReadyBlock": "FusedBlock",
    "laid_out": "prepacked",
    "leads": "is_first_image",
    "owners": "document_of_image",
    "wished": "the option's name",
    "Wishes": "PromptOptions, EditOptions",
    "Beginning": "InputFile",
    "begun": "started",
    "Marks": "SpecialTokens",
    "deviation": "std",
    "noise_errors": "eps_mse_factor",
    "draw_times": "sample_timesteps",
    "Times": "TimestepDistribution",
    "aside": "excluded_time",
    "journal": "metrics_log",
    "Journal": "MetricsLog",
    "mended": "fixed",
}
# (file or folder, name): the same letters with their plain meaning, or what is on disk.
KEPT = {
    ("stages/sources/shapes/", "place"),  # of a thing in a scene
    ("stages/sources/shapes/", "_with_place"),
    ("stages/sources/shapes/", "places"),
    ("stages/sources/shapes/", "places_right"),
    ("stages/evaluate_model/", "judge_turned"),  # of the metric "turned"
    ("stages/evaluate_model/", "place"),
    ("stages/evaluate_model/", "_place"),
    ("stages/evaluate_model/", "places_right"),
    ("stages/artifacts/removal.py", "rename_into_place"),
    ("stages/artifacts/folder.py", "rename_into_place"),
    ("stages/artifacts/removal.py", "walk"),  # os.walk
    ("stages/sources/", "walk"),  # over the files of a folder
    ("stages/doctor/", "walk"),
    ("stages/recipe_keys.py", "walk"),  # ast.walk
    ("stages/sources/decoding.py", "put"),  # of a queue
    ("stages/sources/shapes/", "place_words"),
    ("stages/sources/tar.py", "tell"),  # of a file
    ("stages/artifacts/units.py", "facts"),  # a key on disk
    ("stages/artifacts/folder.py", "facts"),
    ("stages/model/patches.py", "place"),  # in a weight's name on disk
    ("stages/diffusion/timesteps.py", "deviation"),  # a recipe key
}

PROSE = {
    r"mend(s|ed|ing)?": "fix",
    r"begun anew|beg[iu]ns? anew": "restarted",
    r"going on from step": "resuming from step",
    r"goes? by\b": "uses",
    r"told": "reported, given",
    r"beside(s)?\b": "next to, in addition",
    r"the loss leaps|loss(es)? that leaps?": "loss spike",
    r"went away": "exited",
    r"go(es)? round": "is divisible by",
    r"as of (?=[A-Z`a-z])(?!now|this|today)": "of",
    r"the same of\b": "say what it is",
    r"stands? (behind|in front|beside|before|next to|there|here)": "is",
    r"lies? (in|on|behind|beside|below|above|at|there|next to|between|inside|within)": "is",
    r"in front of": "before",
    r"whoever": "the caller",
    r"anew": "again",
}


def python_files() -> list[Path]:
    return sorted([*ROOT.glob("stages/**/*.py"), *ROOT.glob("tfcli/**/*.py")])


def prose_files() -> list[Path]:
    found = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("stages/**/*.md"),
        *ROOT.glob("recipes/*.md"),
        *ROOT.glob("recipes/*.toml"),
    ]
    return sorted([*found, *ROOT.glob("stages/**/*.html")])


def parts(name: str) -> set[str]:
    """The words of a name, as they are written, and the whole name."""
    return {name, name.strip("_"), *re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def names(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, name, what to say instead) of each name that is not used."""
    text = path.read_text()
    where = path.relative_to(ROOT).as_posix()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.NAME or keyword.iskeyword(token.string):
            continue
        for word in parts(token.string) & NAMES.keys():
            if not any(where.startswith(file) and token.string == kept for file, kept in KEPT):
                yield token.start[0], token.string, NAMES[word]


def prose(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, words, what to say instead) in comments and strings of a Python file, or in all of a document."""
    if path.suffix == ".py":
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        texts = [
            (token.start[0], token.string) for token in tokens if token.type in (tokenize.STRING, tokenize.COMMENT)
        ]
    else:
        texts = list(enumerate(path.read_text().splitlines(), 1))
    for line, text in texts:
        for pattern, instead in PROSE.items():
            for match in re.finditer(rf"\b({pattern})\b", text, re.IGNORECASE):
                yield line + text[: match.start()].count("\n"), match.group(), instead


def findings() -> list[str]:
    found = []
    for path in [*python_files(), *prose_files()]:
        where = path.relative_to(ROOT).as_posix()
        seen = [*(names(path) if path.suffix == ".py" else ()), *prose(path)]
        found += [f"{where}:{line}: {what!r} -> {instead}" for line, what, instead in sorted(seen)]
    return found


if __name__ == "__main__":
    lines = findings()
    print(*lines, sep="\n")
    sys.exit(bool(lines))
