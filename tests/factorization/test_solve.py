import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dirnet.errors import UserError
from dirnet.factorization import blocks, odl, relative_error, svd
from dirnet.factorization.shift import IDENTITY, Shifts
from dirnet.factorization.shrinkage import Schedule
from dirnet.factorization.solve import PRESETS, solve

both = pytest.mark.parametrize("preset", PRESETS)


@both
@settings(deadline=None, max_examples=5)
@given(
    rows=st.integers(8, 24),
    grid=st.integers(4, 20),
    block=st.sampled_from([1, 4]),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_the_budget_is_never_passed_and_nearly_used_up(trained_like, preset, rows, grid, block, share, seed):
    matrix = trained_like(rows, 4 * grid, seed)
    low, high = rows + block, matrix.numel() // 2
    params = max(low, int(low + share * (high - low)))
    factors, report = solve(matrix, params=params, block=block, preset=preset)
    stored = factors.dictionary.numel() + blocks.count(factors.codes, block)
    assert stored == report["params"] <= params
    widths = range(1, (params - block) // rows + 1)
    reachable = max(rows * p + min(params - rows * p, p * 4 * grid) // block * block for p in widths)
    assert stored >= min(0.98 * params - block + 1, reachable)


@both
@pytest.mark.parametrize("block", [1, 8])
def test_what_comes_back_is_what_the_report_says(matrix, preset, block):
    factors, report = solve(matrix, params=2000, block=block, preset=preset)
    atoms, codes = factors.dictionary, factors.codes
    assert atoms.shape == (48, report["atoms"]) and codes.shape == (report["atoms"], 192)
    assert atoms.dtype == codes.dtype == torch.float32 and atoms.is_contiguous() and codes.is_contiguous()
    assert report["nonzeros"] == blocks.count(codes, block) and report["nonzeros"] % block == 0
    assert report["density"] == pytest.approx(report["nonzeros"] / codes.numel())
    assert report["relative_error"] == pytest.approx(relative_error(matrix, factors))
    assert torch.allclose(atoms.norm(dim=0), torch.ones(len(codes)), atol=1e-5)
    grid = codes.unflatten(1, (-1, block)) != 0
    assert torch.equal(grid.any(2), grid.all(2))


@both
def test_codes_are_least_squares_on_their_support(matrix, preset):
    factors, _ = solve(matrix, params=2000, preset=preset)
    for column in range(0, 192, 17):
        support = (factors.codes[:, column] != 0).numpy()
        atoms = factors.dictionary.double().numpy()[:, support]
        expected = numpy.linalg.lstsq(atoms, matrix[:, column].double().numpy(), rcond=None)[0]
        assert numpy.allclose(factors.codes[support, column], expected, atol=1e-4)


@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("ratio", [3, 8])
def test_best_is_at_least_as_good_as_every_peer_of_its_size(trained_like, ratio, block):
    matrix = trained_like(64, 256, seed=2)
    params = matrix.numel() // ratio
    best = solve(matrix, params=params, block=block)[1]["relative_error"]
    assert best <= relative_error(matrix, svd.truncated(matrix, params // sum(matrix.shape)))
    assert best <= relative_error(matrix, odl.online_dictionary_learning(matrix, params=params, block=block))
    assert best <= solve(matrix, params=params, block=block, preset="paper")[1]["relative_error"]


def test_best_finds_the_number_of_atoms_that_is_best(matrix):
    _, report = solve(matrix, params=2000)
    assert report["atoms"] == min(report["search"], key=lambda tried: tried["relative_error"])["atoms"]
    errors = [solve(matrix, params=2000, atoms=atoms)[1]["relative_error"] for atoms in (10, 14, 18, 22)]
    assert report["relative_error"] <= 1.01 * min(errors)


def test_a_matrix_of_low_rank_is_met_exactly():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(40, 5, generator=generator) @ torch.randn(5, 120, generator=generator)
    assert solve(matrix, params=5 * 160)[1]["relative_error"] < 1e-5


def test_the_papers_path_is_reported_down_to_the_empty_model(matrix):
    _, report = solve(matrix, params=2000, preset="paper")
    assert report["path"][-1]["atoms"] == report["path"][-1]["nonzeros"] == 0
    assert report["path"][0]["log10_vartheta"] == pytest.approx(7)
    assert 48 * report["chosen"]["atoms"] + report["chosen"]["nonzeros"] <= 2000


@pytest.mark.parametrize("params", [1200, 2000, 3400])
def test_the_papers_stage_is_sought_between_those_of_the_path(matrix, params):
    _, report = solve(matrix, params=params, preset="paper", schedule=Schedule(fill=False))
    sizes = [48 * point["atoms"] + point["nonzeros"] for point in report["path"]]
    stage = max(size for size in sizes if size <= params)
    assert stage < 0.95 * params and 0.99 * params < report["params"] <= params


@both
def test_given_atoms_and_nonzeros_are_what_comes_back(matrix, preset):
    factors, report = solve(matrix, atoms=16, nonzeros=640, block=8, preset=preset)
    assert report["nonzeros"] == 640 and report["atoms"] <= 16
    if preset == "best":
        assert factors.dictionary.shape == (48, 16)
    assert solve(matrix, params=2000, atoms=16)[1]["params"] == 2000


@both
def test_equal_seeds_give_equal_bits(matrix, preset):
    first, again = (solve(matrix, params=2000, preset=preset, seed=5)[0] for _ in range(2))
    assert torch.equal(first.codes, again.codes) and torch.equal(first.dictionary, again.dictionary)


def test_the_paper_preset_draws_its_start_from_the_seed(matrix):
    first, other = (solve(matrix, params=2000, preset="paper", seed=seed)[0] for seed in (0, 1))
    assert not torch.equal(first.codes, other.codes)


@both
def test_progress_rises_to_one(matrix, preset):
    seen, stages = [], []

    def tell(fraction, stage):
        seen.append(fraction)
        stages.append(stage)

    solve(matrix, params=2000, preset=preset, progress=tell)
    assert seen == sorted(seen) and seen[0] < 0.5 and seen[-1] == 1.0 and len(seen) > 5
    in_order = ["search p", "anneal", "refit"] if preset == "best" else ["Step 1", "Step 2", "refit"]
    assert list(dict.fromkeys(stages)) == in_order


@both
def test_more_atoms_than_rows_are_allowed(matrix, preset):
    assert solve(matrix, atoms=60, nonzeros=600, preset=preset)[1]["nonzeros"] == 600


@both
@pytest.mark.parametrize("shifts", [IDENTITY, Shifts(1)])
def test_a_dictionary_of_w_h_alone_knows_nothing_of_w_x(preset, shifts):
    torch.manual_seed(0)
    w_h = torch.cat([torch.randn(10, 96), torch.zeros(14, 96)])
    if not shifts.reach:  # without them no atom leaves the rows that W_h has
        w_x = torch.cat([torch.zeros(10, 96), torch.randn(14, 96)])
        matrix = torch.cat([w_h, w_x], dim=1)
        alone, _ = solve(matrix, params=1200, preset=preset, learned_on=96)
        joint, _ = solve(matrix, params=1200, preset=preset)
        assert float(alone.dictionary[10:].abs().max()) < 1e-5 < float(joint.dictionary[10:].abs().max())
    matrix = torch.cat([w_h, torch.randn(24, 96)], dim=1)
    errors = [solve(matrix, params=1200, preset=preset, shifts=shifts, learned_on=seen)[1]["relative_error"]
              for seen in (96, 192, None)]  # fmt: skip
    assert errors[0] > errors[1] == errors[2]


@both
def test_zero_rows_columns_and_matrices_do_no_harm(matrix, preset):
    holes = matrix.clone()
    holes[:, 5:90] = 0
    holes[3] = 0
    factors, report = solve(holes, params=1500, preset=preset)
    assert factors.reconstruct().isfinite().all() and report["relative_error"] < 0.8
    assert not solve(torch.zeros(10, 30), params=100, preset=preset)[0].reconstruct().any()


@both
def test_double_precision_stays_double(matrix, preset):
    assert solve(matrix.double(), params=1000, preset=preset)[0].codes.dtype == torch.float64


def test_mistakes_are_named_with_what_is_feasible(matrix):
    broken = matrix.clone()
    broken[3, 4] = float("nan")
    for arguments, message in [
        ((matrix, dict(params=48)), "params=48 .* 49 to 9216"),
        ((matrix, dict(params=9217)), "params=9217 .* 49 to 9216"),
        ((matrix, dict(params=2000, atoms=42)), "atoms=42 .* 1 to 41"),
        ((matrix, dict(params=2000, block=5)), "block=5 .* 192 columns .* 1, 2, 3, 4, 6, 8,"),
        ((matrix, dict(params=2000, preset="fast")), "preset='fast' .* best, paper"),
        ((matrix, dict(atoms=4)), "give params, or atoms and nonzeros"),
        ((matrix, dict(atoms=4, nonzeros=769)), "nonzeros=769 .* 1 to 768"),
        ((matrix, dict(atoms=4, nonzeros=12, block=8)), "nonzeros=12 is not a multiple of the block 8; take 8"),
        ((matrix, dict(params=2000, nonzeros=10)), "nonzeros=10 and params=2000"),
        ((broken, dict(params=2000)), "1 NaN or infinite of 9216"),
        ((matrix.half(), dict(params=2000)), "torch.float16"),
        ((matrix[0], dict(params=2000)), "two dimensions"),
        ((matrix[:, :1], dict(params=20)), "too small"),
    ]:
        with pytest.raises(UserError, match=message) as raised:
            solve(arguments[0], **arguments[1])
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("preset", ["best", "paper"])
@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_a_matrix_of_low_rank_is_solved(preset, noise):
    """As of a model that an SVD has been through: atoms beyond the rank are no harm."""
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(48, 6, generator=generator) @ torch.randn(6, 192, generator=generator)
    matrix = low + noise * torch.randn(48, 192, generator=generator)
    factors, _ = solve(matrix, params=48 * 192 // 3, preset=preset)
    left = float((matrix - factors.reconstruct()).norm() / matrix.norm())
    assert left < (0.01 if preset == "best" else 0.1)
