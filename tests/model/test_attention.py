"""The mask against a brute-force truth table, and the fast kernel against the dense one, forward and backward."""

from __future__ import annotations

import pytest
import torch

from stages.model import attention
from stages.model.attention import DenseAttention, FlexAttention, allowed, group_mask
from stages.model.cpu import attention as grouped_kernel
from stages.model.cpu.attention import Group, GroupedAttention
from stages.model.rotary import Rotary, rotary_table

# One row per structure: a document as a string, T text, digits the patches of an image, B and E for BOI and EOI; small letters
# the patches of a private image, which only itself sees, since its clean copy follows.
STRUCTURES = {
    "no image": ["TTTTT"],
    "image first": ["TB000ETT"],
    "image last": ["TTTB000E"],
    "several images": ["TB00ETB111ETTB2E"],
    "neighbouring images": ["TB00EB11ET"],
    "several documents": ["TTT", "TB000ET", "TTTB0E"],
    "one patch": ["B0E"],
    "clean copies": ["TBaa00ETBbbb111ETT", "Ba0ET"],
    "clean image, then a copy": ["B000ETTBaaa111E"],
    "private image without a copy": ["TBaaaET", "TT"],
}


def elements_of(documents: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each element its document, its image and whether it is private."""
    document_of, image, private, number = [], [], [], 0
    for number_of_document, document in enumerate(documents):
        kinds: dict[str, int] = {}
        for kind in document:
            document_of.append(number_of_document)
            private.append(kind.islower())
            if kind.isdigit() or kind.islower():
                if kind not in kinds:
                    kinds[kind], number = number, number + 1
                image.append(kinds[kind])
            else:
                image.append(-1)
    return torch.tensor(document_of), torch.tensor(image), torch.tensor(private)


@pytest.mark.parametrize("documents", STRUCTURES.values(), ids=STRUCTURES)
def test_mask_equals_the_rule_written_out(documents: list[str]) -> None:
    document_of, image, private = elements_of(documents)
    mask = allowed(document_of, image, private)
    causal = allowed(document_of, image, private, bidirectional=False)
    for query in range(len(document_of)):
        for key in range(len(document_of)):
            same_image = image[query] >= 0 and image[query] == image[key]
            may = document_of[query] == document_of[key] and (same_image or not private[key])
            assert bool(mask[query, key]) == bool(may and (key <= query or same_image))
            assert bool(causal[query, key]) == bool(may and key <= query)
    if not private.any():
        assert torch.equal(mask, allowed(document_of, image))
        assert torch.equal(causal, allowed(document_of, image, bidirectional=False))


def grouped_of(documents: list[str]) -> tuple[torch.Tensor, GroupedAttention]:
    """Indices of the real elements in the grouped sequence, and its kernel, with lengths rounded up to 4."""
    document_of, image, private = elements_of(documents)
    rounded = [-(-len(document) // 4) * 4 for document in documents]
    index = torch.full((len(document_of),), -1)
    groups, first = [], 0
    for length in sorted(set(rounded)):
        members = [number for number, value in enumerate(rounded) if value == length]
        images = torch.full((len(members), length), -1)
        private_rows = torch.zeros(len(members), length, dtype=torch.bool)
        for row, number in enumerate(members):
            inside = document_of == number
            images[row, : inside.sum()] = image[inside]
            private_rows[row, : inside.sum()] = private[inside]
            index[inside] = first + row * length + torch.arange(int(inside.sum()))
        groups.append(Group.of(first, group_mask(images, private_rows)))
        first += len(members) * length
    return index, GroupedAttention(tuple(groups))


def rotary_of(positions: torch.Tensor, size: int) -> Rotary:
    return rotary_table(positions, size, 100.0)


@pytest.mark.parametrize(
    ("rows", "kept"), [(128, 512), (4, 512), (4, 0)], ids=["one tile", "tiles", "tiles, weights recomputed"]
)
@pytest.mark.parametrize(
    "documents",
    [*STRUCTURES.values(), [document for documents in STRUCTURES.values() for document in documents]],
    ids=[*STRUCTURES, "all"],
)
def test_grouped_equals_dense_forward_and_backward(
    documents: list[str], rows: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped_kernel, "_ROWS", rows)
    monkeypatch.setattr(grouped_kernel, "_KEPT", kept)
    document_of, image, private = elements_of(documents)
    index, grouped = grouped_of(documents)
    total = sum(group.documents * group.length for group in grouped.groups)
    generator = torch.Generator().manual_seed(0)
    dense_qkv = torch.randn(len(document_of), 3, 2, 8, generator=generator).requires_grad_()
    grouped_qkv = torch.randn(total, 3, 2, 8, generator=generator)  # padding holds noise that must not matter
    grouped_qkv[index] = dense_qkv.detach()
    grouped_qkv.requires_grad_()
    weight = torch.randn(len(document_of), 2, 8, generator=generator)
    positions = torch.arange(len(document_of))
    grouped_positions = torch.zeros(total, dtype=torch.long)
    grouped_positions[index] = positions
    expected = DenseAttention(allowed(document_of, image, private))(0, dense_qkv, rotary_of(positions, 8))
    all_found = grouped(0, grouped_qkv, rotary_of(grouped_positions, 8))
    found = all_found[index]
    assert torch.isfinite(all_found).all()
    assert torch.allclose(found, expected, atol=1e-5)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    assert dense_qkv.grad is not None
    assert grouped_qkv.grad is not None
    assert torch.allclose(grouped_qkv.grad[index], dense_qkv.grad, atol=1e-5)


def test_tiles_leave_out_what_no_query_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document of text is scored below its diagonal only; a tile that ends inside an image extends to the end of the image."""
    monkeypatch.setattr(grouped_kernel, "_ROWS", 4)
    ends = [tile.end for tile in grouped_kernel._tiles(group_mask(torch.full((2, 12), -1)))]
    assert ends == [4, 8, 12]
    image = torch.tensor([[-1, -1, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1]])
    tiles = grouped_kernel._tiles(group_mask(image))
    assert [tile.end for tile in tiles] == [6, 8, 12]
    assert [tile.first for tile in tiles] == [1, 6, 9]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("documents", STRUCTURES.values(), ids=STRUCTURES)
def test_flex_equals_dense_forward(documents: list[str], bidirectional: bool) -> None:
    """On CPU its backward pass is not there."""
    document_of, image, private = elements_of(documents * 60)  # several blocks of 128, some of them empty
    assert len(document_of) > 128
    qkv = torch.randn(len(document_of), 3, 2, 16, generator=torch.Generator().manual_seed(0))
    rotary = rotary_of(torch.arange(len(document_of)), 16)
    expected = DenseAttention(allowed(document_of, image, private, bidirectional=bidirectional))(0, qkv, rotary)
    with torch.no_grad():
        found = FlexAttention.build(document_of, image, private, bidirectional=bidirectional)(0, qkv, rotary)
    assert torch.allclose(found, expected, atol=1e-5)


def test_flex_skips_blocks_between_documents() -> None:
    document_of, image, _ = elements_of(["T" * 128] * 8)
    sparsity = FlexAttention.build(document_of, image).block_mask.sparsity()
    assert sparsity == pytest.approx(100 * (1 - 8 / 64))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, when its compiler is imported
def test_the_compiled_maker_of_block_masks_gives_the_same_mask_for_every_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on CUDA. One compilation serves all lengths."""
    from torch._dynamo.utils import counters

    plain, compiled = attention._block_mask_maker(compiled=False), attention._block_mask_maker(compiled=True)
    graphs = []
    for length in (1100, 2300, 900):
        documents = torch.arange(length) // 130
        images = torch.full((length,), -1)
        images[50:90] = 0
        masks = []
        for maker in (plain, compiled):
            monkeypatch.setattr(attention, "_block_mask_maker", lambda made=maker, **_: made)
            masks.append(FlexAttention.build(documents, images).block_mask.to_dense())
        assert torch.equal(*masks)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[-1]
