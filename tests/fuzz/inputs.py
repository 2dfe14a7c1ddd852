"""Random pictures, archives and tables of the user's: each ends as a result or an error, and every picture is counted."""

from __future__ import annotations

import io
import json
import random
import tarfile
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.child import Outcome
from tests.fuzz.rules import Case, stage
from tests.fuzz.steps import Step
from tests.fuzz.world import Place, World

FORMATS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "webp": "WEBP", "bmp": "BMP", "tiff": "TIFF"}
MODES = {"png": ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"], "tiff": ["RGB", "RGBA", "L", "CMYK", "F", "I;16", "1"]}


def picture(rng: random.Random, ending: str) -> bytes:
    """A small good picture of a format."""
    side = rng.choice([1, 4, 16, 20, 33])
    values = np.random.default_rng(rng.randrange(2**32)).integers(
        0, 255, (side, rng.choice([side, 17]), 3), dtype=np.uint8
    )
    image = Image.fromarray(values)
    mode = rng.choice(MODES.get(ending, ["RGB"]))
    image = image.convert("L").convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    more: dict[str, Any] = (
        {"save_all": True, "append_images": [image.copy()]}
        if ending in ("gif", "tiff", "webp") and rng.random() < 0.3
        else {}
    )
    image.save(file, FORMATS[ending], **more)
    return file.getvalue()


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The same with some bytes changed, lost, doubled, or none."""
    changed = bytearray(data)
    for _ in range(rng.choice([0, 1, 1, 2, 8])):
        if not changed:
            break
        place = (
            min(int(rng.expovariate(1 / max(20, len(changed) / 6))), len(changed) - 1)
            if rng.random() < 0.6
            else rng.randrange(len(changed))
        )
        way = rng.randrange(6)
        if way == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif way == 1:
            changed[place] = rng.choice([0, 1, 127, 128, 255])
        elif way == 2:
            del changed[place:]
        elif way == 3:
            del changed[place : place + rng.choice([1, 4, 64])]
        elif way == 4:
            changed[place:place] = changed[: rng.choice([1, 4, 64, 1024])]
        else:
            changed[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
    return bytes(changed)


def _case(
    kind: str, seed: int, number: int, steps: list[Step], sets: list[str], rng: random.Random, known: int | None
) -> Case:
    """known: how many pictures there are, where that is sure; -1: as many as files in the folder."""
    source = [word for each in sets for word in ("--set", each)]
    bad = ["--set", f"encode.max_bad={rng.choice(['1.0', '1.0', '0.05'])}"]
    commands = [stage("encode", *source, *bad)]
    if rng.random() < 0.3:
        commands.insert(0, ["doctor", "recipe.toml", "--workers", "0", *source])

    def counted(place: Place, outcomes: list[Outcome]) -> str | None:
        if outcomes[-1].rc != 0:
            return None
        manifest = json.loads((place.work / "latents" / "manifest.json").read_bytes())
        good, left = manifest["content"]["num_good"], sum(manifest["stats"]["left_out"].values())
        listed = len((place.work / "latents" / "errors.jsonl").read_bytes().splitlines())
        if listed != left:
            return f"errors.jsonl has {listed} rows, the manifest counts {left}"
        given = sum(path.suffix != ".txt" for path in (place.project / "many").iterdir()) if known == -1 else known
        if given is not None and good + left != given:
            return f"{good} good and {left} left out of {given} pictures"
        return None

    return Case(
        kind,
        seed,
        number,
        steps,
        commands,
        "bare",
        codes={0, 3, 5} | ({2} if kind == "tables" else set()),
        digests=False,
        check=counted,
        limit=40,
    )


def pictures(_: World, rng: random.Random, seed: int, number: int) -> Case:
    """A folder of good and damaged pictures with captions."""
    steps = []
    count = rng.choice([2, 4, 8])
    for index in range(count):
        ending = rng.choice(list(FORMATS))
        data = picture(rng, ending)
        data = data if index == 0 else mutated(rng, data)
        steps.append(Step("write", f"many/{index}.{ending}", data=data))
        steps.append(Step("write", f"many/{index}.txt", data=b"a thing"))
    return _case("pictures", seed, number, steps, ["source.path=many"], rng, -1)


def tars(_: World, rng: random.Random, seed: int, number: int) -> Case:
    """Archives: whole, cut, one after the other in a file, with bytes changed."""
    count = rng.choice([2, 4])
    data = _tar(rng, 0, count)
    way = rng.choice(["whole", "joined", "cut", "bytes", "members", "bytes"])
    known: int | None = count
    if way == "joined":
        data, known = data + _tar(rng, count, 2), count + 2
    elif way == "cut":
        data, known = data[: rng.randrange(len(data))], None
    elif way == "bytes":
        data, known = mutated(rng, data), None
    elif way == "members":
        data, known = _tar(rng, 0, count, hostile=True), None
    return _case(
        "tars",
        seed,
        number,
        [Step("write", "many/a.tar", data=data)],
        ["source={kind='webdataset', path='many'}"],
        rng,
        known,
    )


def _tar(rng: random.Random, start: int, count: int, *, hostile: bool = False) -> bytes:
    file = io.BytesIO()
    formats = [
        tarfile.GNU_FORMAT,
        tarfile.PAX_FORMAT,
        *([] if hostile else [tarfile.USTAR_FORMAT]),
    ]  # ustar has no long names
    with tarfile.open(fileobj=file, mode="w", format=rng.choice(formats)) as archive:
        for index in range(start, start + count):
            for name, data in ((f"{index:04}.png", picture(rng, "png")), (f"{index:04}.txt", b"a thing")):
                about = tarfile.TarInfo(name)
                about.size = len(data)
                if hostile and rng.random() < 0.4:
                    about.name = rng.choice(
                        [
                            "../../victim.txt",
                            "/abs.png",
                            "a/../b.png",
                            "x" * 300 + ".png",
                            ".png",
                            "0001.PNG",
                            "\u00e9.png",
                        ]
                    )
                    about.type = rng.choice(
                        [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
                    )
                    about.linkname = "../../victim.txt"
                archive.addfile(about, io.BytesIO(data))
    return file.getvalue()


def tables(_: World, rng: random.Random, seed: int, number: int) -> Case:
    """CSV, JSONL and Parquet with rows and bytes that do not belong there."""
    kind = rng.choice(["csv", "metadata", "jsonl", "parquet", "parquet"])
    steps = [Step("write", f"many/{index}.png", data=picture(rng, "png")) for index in range(3)]
    rows: list[Any] = [{"file_name": f"{index}.png", "text": f"thing {index}"} for index in range(3)]
    if kind == "csv":
        text = "file_name,text\n" + "\n".join(f'{row["file_name"]},"{row["text"]}"' for row in rows) + "\n"
        steps.append(Step("write", "many/metadata.csv", data=_broken(rng, text.encode())))
        return _case("tables", seed, number, steps, ["source.path=many"], rng, None)
    if kind == "metadata":
        text = "\n".join(json.dumps(row) for row in rows)
        steps.append(Step("write", "many/metadata.jsonl", data=_broken(rng, text.encode())))
        return _case("tables", seed, number, steps, ["source.path=many"], rng, None)
    if kind == "jsonl":
        lines = [
            json.dumps({"id": str(index), "segments": [{"text": "thing"}, {"image": f"{index}.png"}]})
            for index in range(3)
        ]
        steps.append(Step("write", "many/all.jsonl", data=_broken(rng, "\n".join(lines).encode())))
        return _case("tables", seed, number, steps, ["source={kind='jsonl', path='many/all.jsonl'}"], rng, None)
    steps.append(Step("write", "tables/a.parquet", data=_parquet(rng)))
    return _case("tables", seed, number, steps, ["source={kind='parquet', path='tables'}"], rng, None)


def _broken(rng: random.Random, data: bytes) -> bytes:
    marks = [
        b'"',
        b",",
        b"\n",
        b"\r",
        b"\0",
        b"\xff",
        b"null",
        b"[",
        b"{",
        b"../../victim.txt",
        b"/dev/zero",
        b"\xef\xbb\xbf",
        b"1e999",
        b'"' + b"x" * 200_000,
    ]
    for _ in range(rng.choice([0, 1, 2, 3])):
        place = rng.randrange(len(data) + 1)
        data = data[:place] + rng.choice(marks) + data[place + rng.choice([0, 0, 1, 3]) :]
    return mutated(rng, data) if rng.random() < 0.3 else data


def _parquet(rng: random.Random) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return b"PAR1"
    bits = [{"bytes": picture(rng, "png"), "path": f"{index}.png"} for index in range(3)]
    columns: dict[str, list[Any]] = {"image": bits, "text": [f"thing {index}" for index in range(3)]}
    odd: list[list[Any]] = [
        [None] * 3,
        [1, 2, 3],
        ["a", None, ""],
        [[{"role": "user", "content": "hi"}]] * 3,
        [b"\xff", b"", b"x"],
        [[], ["a"], None],
    ]
    if rng.random() < 0.5:
        columns[rng.choice(["text", "image", "caption", "more"])] = rng.choice(odd)
    if rng.random() < 0.1:
        del columns[rng.choice(sorted(columns))]
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=rng.choice([1, 2, 100]))
    return mutated(rng, file.getvalue()) if rng.random() < 0.5 else file.getvalue()
