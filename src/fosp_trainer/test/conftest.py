"""What the trainer's tests share."""

from __future__ import annotations

import pytest

from fosp_trainer.data import Frames
from fosp_trainer.testing import random_episodes


@pytest.fixture(scope="module")
def frames() -> Frames:
    """Three episodes without labels."""
    return random_episodes()
