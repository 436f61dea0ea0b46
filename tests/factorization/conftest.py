from collections.abc import Callable

import pytest
import torch


def draw_matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """What a trained recurrent matrix looks like: a decaying spectrum, a heavy-tailed sparse part, uneven columns."""
    generator = torch.Generator().manual_seed(seed)
    rank = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, rank, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(columns, rank, generator=generator))[0]
    low = (left / (1 + torch.arange(rank) * 16 / rank)) @ right.T
    sparse = torch.randn(rows, columns, generator=generator) ** 3
    scales = torch.exp(0.4 * torch.randn(columns, generator=generator))
    return (low / low.norm() + 0.5 * sparse / sparse.norm()) * scales * columns**0.5


@pytest.fixture(scope="session")
def trained_like() -> Callable[..., torch.Tensor]:
    return draw_matrix


@pytest.fixture(scope="session")
def matrix() -> torch.Tensor:
    return draw_matrix(48, 192)


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(1)
