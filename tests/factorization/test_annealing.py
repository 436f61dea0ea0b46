import pytest
import torch

from dirnet.factorization import annealing, blocks, relative_error, svd


@pytest.fixture(scope="module")
def basis(matrix):
    return torch.linalg.svd(matrix, full_matrices=False)[0][:, :20]


@pytest.mark.parametrize("block", [1, 8])
def test_turned_atoms_keep_the_span_and_make_codes_sparser(matrix, basis, block):
    turned = annealing.turn(matrix, basis, 800, block=block)
    assert torch.allclose(turned.T @ turned, torch.eye(20), atol=1e-5)
    assert torch.allclose(turned @ turned.T, basis @ basis.T, atol=1e-5)

    def kept_energy(atoms):
        codes = atoms.T @ matrix
        return float(codes[blocks.largest(codes, 800, block)].square().sum())

    energies = [kept_energy(annealing.turn(matrix, basis, 800, rounds=rounds, block=block)) for rounds in range(6)]
    assert all(after >= before * (1 - 1e-6) for before, after in zip(energies, energies[1:], strict=False))
    assert energies[-1] > 1.01 * energies[0]


@pytest.mark.parametrize("block", [1, 8])
def test_annealing_keeps_exactly_so_many_codes_and_beats_cutting_the_svd(matrix, basis, block):
    ticks = []
    factors = annealing.anneal(matrix, basis, 800, rounds=20, block=block, tick=lambda: ticks.append(1))
    assert blocks.count(factors.codes, block) == 800 and len(ticks) == 21
    assert torch.allclose(factors.dictionary.norm(dim=0), torch.ones(20), atol=1e-5)
    cut = basis.T @ matrix
    cut = basis @ (cut * blocks.largest(cut, 800, block))
    assert relative_error(matrix, factors) < 0.95 * float((matrix - cut).norm() / matrix.norm())


def test_with_all_codes_kept_it_is_the_svd(matrix, basis):
    factors = annealing.anneal(matrix, basis, 20 * 192, rounds=5)
    assert relative_error(matrix, factors) == pytest.approx(relative_error(matrix, svd.truncated(matrix, 20)), rel=1e-4)


def test_the_start_is_left_as_it_was(matrix, basis):
    before = basis.clone()
    annealing.anneal(matrix, basis, 800, rounds=2)
    assert torch.equal(basis, before)
