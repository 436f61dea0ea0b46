"""Eqs. 9 and 10 against loops written from the paper, with every delta an explicit matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shift import operator

from dirnet.factorization import blocks, coordinate_descent, dictionary, relative_error, shift_steps
from dirnet.factorization.shift import IDENTITY, Shifts
from dirnet.factorization.solve import solve

SETS = [Shifts(1), Shifts(2), Shifts(1, "zero"), Shifts(2, "zero")]
sets = pytest.mark.parametrize("shifts", SETS, ids=str)


def problem(rows=12, columns=16, atoms=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    matrix = dictionary.unit(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]
    return matrix, dictionary.random_columns(matrix, atoms, generator), generator


def statistics(matrix, atoms, shifts):
    expanded = shifts.expand(atoms)
    return expanded.T @ expanded, expanded.T @ matrix


def slow_codes(matrix, atoms, codes, penalty, shifts, block):
    """One cycle of coordinate descent over z_ij and delta_ij; `codes` {(atom, block column): (offset, values)}."""
    deltas = {m: operator(shifts, m, len(matrix)) for m in shifts.offsets}
    codes = dict(codes)
    for atom in range(atoms.shape[1]):
        for column in range(matrix.shape[1] // block):
            rest = matrix[:, column * block : (column + 1) * block].clone()
            for (other, place), (offset, values) in codes.items():
                if place == column and other != atom:
                    rest -= torch.outer(deltas[offset] @ atoms[:, other], values)
            best = (0.0, 0, torch.zeros(block, dtype=matrix.dtype))
            for offset, delta in deltas.items():
                moved = delta @ atoms[:, atom]
                b, square = moved @ rest, float(moved @ moved)
                size, threshold = float(b.norm()), penalty * block**0.5
                if size > threshold and square > 0:
                    values = b * (1 - threshold / size) / square
                    decrease = (size - threshold) ** 2 / (2 * square)
                    best = max(best, (decrease, offset, values), key=lambda found: found[0])
            codes[atom, column] = best[1:]
    return codes


def as_wide(codes, atoms, columns, shifts, block):
    values = torch.zeros(atoms, columns, dtype=torch.float64)
    offsets = torch.zeros(atoms, columns, dtype=torch.int8)
    for (atom, column), (offset, value) in codes.items():
        values[atom, column * block : (column + 1) * block] = value
        offsets[atom, column * block : (column + 1) * block] = offset
    return shifts.join(values, offsets)


@sets
@pytest.mark.parametrize("block, penalty", [(1, 0.1), (1, 0.0), (4, 0.05)])
def test_codes_follow_eq_9(shifts, block, penalty, monkeypatch):
    monkeypatch.setattr(shift_steps, "TILE", 3)  # 5 atoms: a whole tile and a part
    matrix, atoms, _ = problem()
    wide = matrix.new_zeros(5, len(shifts) * 16)
    slow, penalties = {}, matrix.new_full((5,), penalty)
    gram, correlations = statistics(matrix, atoms, shifts)
    for _ in range(3):
        wide = coordinate_descent.lasso(gram, correlations, penalties, wide, sweeps=1, block=block)
        slow = slow_codes(matrix, atoms, slow, penalty, shifts, block)
        torch.testing.assert_close(wide, as_wide(slow, 5, 16, shifts, block))
    assert 0.1 < (shifts.split(wide)[1] != 0).double().mean()


@sets
@pytest.mark.parametrize("block", [1, 4])
def test_a_code_moved_alone_is_the_best_of_its_shifts(shifts, block):
    matrix, atoms, _ = problem()
    gram, correlations = statistics(matrix, atoms, shifts)
    tall = torch.zeros_like(correlations)
    coordinate_descent.sweep(gram, correlations, tall, matrix.new_full((5,), 0.05), block=block, shifts=len(shifts))
    alone = shift_steps.alone(gram, correlations, tall, len(shifts), block).view(5, -1)
    error = float((matrix - shifts.expand(atoms) @ tall).square().sum())
    for atom, column in ((0, 0), (2, 8), (4, 12)):
        trial = shifts.split(tall.view(5, -1))
        found = shifts.split(alone)
        place = slice(column, column + block)
        tried = []
        for offset in shifts.offsets:  # brute force: least squares of this code alone, for each shift
            values, offsets = trial[0].clone(), trial[1].clone()
            values[atom, place], offsets[atom, place] = 0, 0
            rest = (matrix - shifts.reconstruct(atoms, shifts.join(values, offsets)))[:, place]
            moved = shifts.apply(atoms[:, atom], offset)
            best = moved @ rest / moved.square().sum()
            tried.append((float((rest - torch.outer(moved, best)).square().sum()), offset))
            if offset == int(found[1][atom, column]):
                torch.testing.assert_close(found[0][atom, place], best)
        assert min(tried)[1] == int(found[1][atom, column])
        assert min(tried)[0] <= error


def slow_atom(matrix, atoms, atom, values, offsets, shifts):
    """Target t and curvature S of Eq. 10 for one atom, column by column."""
    deltas = {m: operator(shifts, m, len(matrix)) for m in shifts.offsets}
    target, curvature = torch.zeros(len(matrix)).double(), torch.zeros(len(matrix), len(matrix)).double()
    for j in range(matrix.shape[1]):
        others = [i for i in range(atoms.shape[1]) if i != atom]
        rest = matrix[:, j] - sum(values[i, j] * deltas[int(offsets[i, j])] @ atoms[:, i] for i in others)
        delta = deltas[int(offsets[atom, j])]
        target += values[atom, j] * delta.T @ rest
        curvature += values[atom, j] ** 2 * delta.T @ delta
    return target, curvature


@sets
def test_atoms_follow_eq_10(shifts):
    matrix, atoms, generator = problem()
    values = torch.randn(5, 16, generator=generator, dtype=torch.float64)
    offsets = torch.randint(-shifts.reach, shifts.reach + 1, (5, 16), generator=generator).to(torch.int8)
    wide, slow = shifts.join(values, offsets), atoms.clone()
    tall = shifts.tall(wide)
    dead = shift_steps.update(atoms, tall @ tall.T, matrix @ tall.T, shifts)
    assert not dead.any()
    for atom in range(5):
        target, curvature = slow_atom(matrix, slow, atom, values, offsets, shifts)
        assert torch.equal(curvature, curvature.diagonal().diag())
        if shifts.kind == "circular":
            slow[:, atom] = target / target.norm()
        else:  # phi = S^-1, with a multiplier that makes a unit vector of phi t; stationary, and better than phi alone
            d = atoms[:, atom]
            multipliers = (target - curvature.diagonal() * d) / d
            torch.testing.assert_close(multipliers, multipliers[:1].expand(12), rtol=1e-6, atol=1e-6)
            rescaled = target / curvature.diagonal()

            def loss(unit, target=target, curvature=curvature):
                return float(unit @ curvature @ unit / 2 - target @ unit)

            assert loss(d) <= loss(rescaled / rescaled.norm()) + 1e-12
            slow[:, atom] = d
        torch.testing.assert_close(atoms[:, atom], slow[:, atom])


def test_phi_alone_would_raise_the_objective():
    """Why the multiplier is there: an atom at its optimum, which phi and normalisation would move away from it."""
    curvature, target = torch.tensor([4.0, 1.0]).double(), torch.tensor([2.0, 1.9]).double()
    best, phi = shift_steps.on_sphere(curvature, target), target / curvature
    phi = phi / phi.norm()

    def loss(d):
        return float((curvature * d**2).sum() / 2 - target @ d)

    angles = torch.linspace(0, 6.2832, 20000).double()
    circle = torch.stack([angles.cos(), angles.sin()])
    lowest = float(((curvature[:, None] * circle**2).sum(0) / 2 - target @ circle).min())
    assert loss(best) <= lowest + 1e-9 < loss(phi) - 1e-3


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(2, 6), scale=st.floats(-3, 3), free=st.booleans(), seed=st.integers(0, 999))
def test_the_minimum_on_the_sphere_is_one(rows, scale, free, seed):
    generator = torch.Generator().manual_seed(seed)
    curvature = torch.rand(rows, generator=generator).double() * 10**scale
    target = torch.randn(rows, generator=generator).double()
    if free:  # the hard case: nothing pulls at the flattest row
        target[curvature.argmin()] = 0
    best = shift_steps.on_sphere(curvature, target)
    others = dictionary.unit(torch.randn(rows, 5000, generator=generator, dtype=torch.float64))[0]
    near = dictionary.unit(best[:, None] + 0.01 * others)[0]
    losses = [(curvature[:, None] * d**2).sum(0) / 2 - target @ d for d in (best[:, None], others, near)]
    assert float(best.norm()) == pytest.approx(1)
    assert float(losses[0]) <= min(float(losses[1].min()), float(losses[2].min())) + 1e-9


@sets
@pytest.mark.parametrize("block", [1, 4])
def test_the_objective_never_rises(shifts, block):
    matrix, atoms, _ = problem(20, 64, 12)
    penalties, codes, values = matrix.new_full((12,), 0.05), None, []
    for _ in range(8):
        gram, correlations = statistics(matrix, atoms, shifts)
        codes = coordinate_descent.lasso(gram, correlations, penalties, codes, sweeps=2, block=block)
        values.append(coordinate_descent.objective(matrix, atoms, codes, penalties, block, shifts))
        tall = shifts.tall(codes)
        shift_steps.update(atoms, tall @ tall.T, matrix @ tall.T, shifts)
        values.append(coordinate_descent.objective(matrix, atoms, codes, penalties, block, shifts))
    assert all(after <= before + 1e-10 for before, after in zip(values, values[1:], strict=False))
    assert values[-1] < 0.95 * values[0]
    torch.testing.assert_close(atoms.norm(dim=0), torch.ones(12).double())


def test_with_the_identity_alone_both_steps_are_the_plain_ones():
    matrix, atoms, _ = problem()
    gram, correlations = statistics(matrix, atoms, IDENTITY)
    penalties = matrix.new_full((5,), 0.1)
    fast, plain = torch.zeros_like(correlations), torch.zeros_like(correlations)
    for _ in range(3):
        shift_steps.sweep(gram, correlations, fast, penalties)
        coordinate_descent.sweep(gram, correlations, plain, penalties)
    torch.testing.assert_close(fast, plain)
    moved = atoms.clone()
    shift_steps.update(moved, fast @ fast.T, matrix @ fast.T, IDENTITY)
    dictionary.update(atoms, fast @ fast.T, matrix @ fast.T)
    torch.testing.assert_close(moved, atoms)


def planted(shifts, rows=24, columns=300, atoms=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = dictionary.unit(torch.randn(rows, atoms, generator=generator))[0]
    codes = torch.randn(atoms, columns, generator=generator) * (torch.rand(atoms, columns, generator=generator) < 0.2)
    offsets = torch.randint(-shifts.reach, shifts.reach + 1, codes.shape, generator=generator).to(torch.int8)
    return truth, codes, shifts.reconstruct(truth, shifts.join(codes, offsets))


@pytest.mark.parametrize("shifts", [Shifts(1), Shifts(1, "zero")], ids=str)
def test_step_1_recovers_a_planted_dictionary_only_with_its_shifts(shifts):
    truth, _, matrix = planted(shifts)
    columns = dictionary.unit(matrix)[0]
    matches = {}
    for name, allowed in (("with", shifts), ("without", IDENTITY)):
        best = torch.zeros(6)
        for seed in range(2):
            start = dictionary.random_columns(columns, 6, torch.Generator().manual_seed(seed))
            atoms, _ = dictionary.learn(columns, start, epochs=30, shifts=allowed)
            # an atom is known up to a shift, which its codes take back
            likeness = torch.stack([(shifts.apply(truth, m).T @ atoms).abs() for m in shifts.offsets]).amax(0).amax(1)
            best = torch.maximum(best, likeness)
        matches[name] = float(best.median())
    assert matches["with"] > 0.97 > 0.9 > matches["without"], matches


@pytest.mark.parametrize("preset", ["best", "paper"])
@pytest.mark.parametrize("shifts", [Shifts(1), Shifts(1, "zero")], ids=str)
def test_planted_shifts_are_fitted_better_with_shifts(preset, shifts):
    _, codes, matrix = planted(shifts)
    size = {"atoms": 6, "nonzeros": int(codes.count_nonzero())}
    with_shifts = solve(matrix, **size, preset=preset, shifts=shifts)[1]
    without = solve(matrix, **size, preset=preset)[1]
    assert with_shifts["relative_error"] < 0.75 * without["relative_error"]
    assert with_shifts["params"] == without["params"] and with_shifts["shifted"] > 0.3


@pytest.mark.parametrize("preset", ["best", "paper"])
@settings(deadline=None, max_examples=4)
@given(
    rows=st.integers(8, 20),
    grid=st.integers(4, 16),
    block=st.sampled_from([1, 4]),
    share=st.floats(0, 1),
    shifts=st.sampled_from(SETS),
    seed=st.integers(0, 9),
)
def test_what_the_solver_returns_with_shifts(trained_like, preset, rows, grid, block, share, shifts, seed):
    matrix = trained_like(rows, 4 * grid, seed)
    low, high = rows + block, matrix.numel() // 2
    params = max(low, int(low + share * (high - low)))
    settings_ = {"params": params, "block": block, "preset": preset, "shifts": shifts, "seed": seed}
    factors, report = solve(matrix, **settings_)
    assert factors.dictionary.numel() + blocks.count(factors.codes, block) == report["params"] <= params
    assert factors.offsets.shape == factors.codes.shape and int(factors.offsets.abs().max()) <= shifts.reach
    assert not factors.offsets[factors.codes == 0].any()
    grid_of_blocks = factors.offsets.unflatten(1, (-1, block))
    assert torch.equal(grid_of_blocks.amin(2), grid_of_blocks.amax(2))
    assert report["relative_error"] == pytest.approx(relative_error(matrix, factors)) and report["relative_error"] <= 1
    residual = (matrix - factors.reconstruct()).double()
    pulls = shifts.tall(factors.wide).ne(0) * (shifts.expand(factors.dictionary).double().T @ residual)
    assert float(pulls.abs().max()) < 1e-3 * float(matrix.norm())  # least squares on the support
    again = solve(matrix, **settings_)[0]
    assert torch.equal(again.codes, factors.codes) and torch.equal(again.offsets, factors.offsets)


@pytest.mark.parametrize("preset", ["best", "paper"])
def test_a_set_of_the_identity_changes_no_bit(matrix, preset):
    plain = solve(matrix, params=2000, preset=preset)[0]
    for shifts in (Shifts(0), Shifts(0, "zero")):
        factors = solve(matrix, params=2000, preset=preset, shifts=shifts)[0]
        assert torch.equal(factors.codes, plain.codes) and torch.equal(factors.dictionary, plain.dictionary)
        assert factors.offsets is None
