import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("default")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def calls(monkeypatch):
    """Every AttentionCall that is computed, with its output."""
    from methods.core.attention_call import AttentionCall

    seen = []
    plain = AttentionCall.compute

    def compute(self):
        out = plain(self)
        seen.append((self, out))
        return out

    monkeypatch.setattr(AttentionCall, "compute", compute)
    return seen
