"""A user's own module of networks, and one thread for PyTorch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

FACTORY = '''
import torch
from torch import nn

class Net(nn.Module):
    """conv, in-place ReLU, mean, linear: (N, 3, H, W) -> (N, 5)."""
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)
    def forward(self, x):
        return self.head(self.relu(self.bn(self.conv(x))).mean((2, 3)))

class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

class Frozen(Net):
    """Wrong for any batch but two: the shape is a constant of the graph."""
    def forward(self, x):
        return super().forward(x).reshape(2, 5) if x.shape[0] == 2 else super().forward(x)

class Sized(Net):
    """Depends on its input's size by a number that no tracer keeps free."""
    def forward(self, x):
        return super().forward(x) * float(len(str(x.shape[2] ** 3 * 7)))

class Leaving(Net):
    def forward(self, x):
        raise SystemExit(0)

number = 3
def broken(): raise ValueError("no such width")
def nothing(): return None
def leave(): raise SystemExit(0)
def spoilt():
    net = Net()
    net.conv.weight.data[0] = float("nan")
    return net
'''


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module with networks in the working folder; its name."""
    name = f"nets_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(FACTORY)
    (tmp_path / f"leaver_{name}.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    return name
