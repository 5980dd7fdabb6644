"""For all tests: no property fails because the machine is slow, and denormals are numbers."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "any_machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any_machine")


@pytest.fixture(autouse=True)
def denormals():
    """A command flushes them for its process, and Hypothesis refuses to draw where they are."""
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)
