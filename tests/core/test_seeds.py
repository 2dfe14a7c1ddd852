"""A draw depends on its name alone."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch

from stages.core.seeds import derive_seed, numpy_generator, torch_generator

NAMES = list(product([0, 1, 11], ["noise", "rows"], [0, 1, 11], ["a", "b"]))


def test_draws_do_not_depend_on_the_order_they_are_made_in() -> None:
    forward = [numpy_generator(*name).normal(size=3) for name in NAMES]
    backward = [numpy_generator(*name).normal(size=3) for name in reversed(NAMES)][::-1]
    assert np.array_equal(forward, backward)
    first = [torch.randn(3, generator=torch_generator(*name)) for name in NAMES]
    torch.randn(3)
    second = [torch.randn(3, generator=torch_generator(*name)) for name in reversed(NAMES)][::-1]
    assert torch.equal(torch.stack(first), torch.stack(second))


def test_every_part_of_the_name_counts() -> None:
    seeds = [derive_seed(*name) for name in NAMES]
    assert len(set(seeds)) == len(seeds)
    assert len({derive_seed(1, "a"), derive_seed(1, "a", 1), derive_seed(1, "a", 1, 1), derive_seed(1, "a", 11)}) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**60


def test_the_seed_of_a_name_stays_what_it_was() -> None:
    """Another formula would change every result while fingerprints stay the same."""
    assert derive_seed(7, "noise", 3, 0) == 4823566900274488176


def test_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    torch.randn(3, generator=torch_generator(0, "x"))
    assert torch.equal(before, torch.get_rng_state())
