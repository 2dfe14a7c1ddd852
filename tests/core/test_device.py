"""Names of devices."""

from __future__ import annotations

import pytest

from stages.core.device import check_device, resolve_device
from stages.core.errors import ExitCode, TfcliError


@pytest.mark.parametrize(
    "name", ["toaster", "", "mps", "cuda:", "cuda:-1", "cuda:00", "cuda:300", "cuda:\u0663", "cpu:0"]
)
def test_a_name_that_is_no_device_is_refused_before_torch_sees_it(name: str) -> None:
    for look in (check_device, resolve_device):
        with pytest.raises(TfcliError) as caught:
            look(name)
        assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:15"])
def test_names_of_devices_pass(name: str) -> None:
    check_device(name)


def test_a_device_that_is_not_here_is_the_environments_fault() -> None:
    with pytest.raises(TfcliError) as caught:
        resolve_device("cuda:99")
    assert caught.value.code == ExitCode.ENVIRONMENT
