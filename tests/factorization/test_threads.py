import pytest
import torch

from dirnet.errors import UserError
from dirnet.factorization.solve import solve
from dirnet.factorization.threads import one_thread


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_inside_there_is_one_thread_and_afterwards_what_was(threads, matrix):
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads
    with pytest.raises(UserError):
        solve(matrix, params=0)
    assert torch.get_num_threads() == threads


def test_the_bits_do_not_depend_on_the_number_of_threads(trained_like):
    matrix, before, results = trained_like(100, 800), torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(solve(matrix, params=8000, atoms=30)[0])
    torch.set_num_threads(before)
    assert torch.equal(results[0].codes, results[1].codes)
    assert torch.equal(results[0].dictionary, results[1].dictionary)
