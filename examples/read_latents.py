"""Read latents and their documents with zarr and numpy alone: `python examples/read_latents.py work/shapes/latents`.

Nothing of tfcli is imported. It prints the shape of the latents, their statistics after normalisation, and the first documents.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import zarr


def main(folder: Path) -> None:
    """Normalise the posterior means of the first grid and show the documents that they belong to."""
    content = json.loads((folder / "manifest.json").read_text())["content"]
    grid = content["grids"][0]
    latents = zarr.open_array(str(folder / "arrays" / grid["name"]), mode="r")
    print(f"{grid['name']}: {latents.shape} {latents.dtype}")  # (pictures, mean and std, channels, height, width)
    means = np.asarray(latents[:256, 0], np.float32)
    good = means[np.isfinite(means).all((1, 2, 3))]  # a picture that failed has a row of NaN
    mean, std = (np.array(content[f"channel_{name}"])[:, None, None] for name in ("mean", "std"))
    normalised = (good - mean) / std
    print(f"{len(good)} pictures read, mean {normalised.mean():.2f}, standard deviation {normalised.std():.2f}")
    with (folder / "documents" / "00000.jsonl").open() as lines:
        for line, _ in zip(lines, range(3), strict=False):
            document = json.loads(line)
            parts = [part.get("text", f"<latent row {part.get('image')}>") for part in document["segments"]]
            print(f"{document['key']}: {' '.join(parts)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
