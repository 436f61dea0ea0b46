"""How fast the solver is: Step 1 against SPAMS and scikit-learn, and the whole 5x500 model.

    make bench
    python -m bench.solver [--model FOLDER] [--limit_s 120] [--threads 1]

Step 1 and its peers minimise `1/2 |W - D Z|^2 + lambda |Z|_1` with atoms of norm at most one, from the same random
columns, with the same p and lambda, on the same number of threads. A row tells what the fewest rounds cost that bring
D *and* Z within 1 % of the lowest objective that DirNet or SPAMS find in many rounds: each number of rounds is a run of
its own, and finding it is not counted, nor are imports. One thread is timed by the CPU clock, more by the wall.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.matrices import trained_like, trained_like_model
from dirnet.compression.groups import dense_rnns, matrix_groups
from dirnet.errors import UserError, one_line_errors
from dirnet.factorization import coordinate_descent, dictionary
from dirnet.factorization.factors import check_params
from dirnet.nn import storage
from dirnet.options import Parser

PENALTY, RATIO, WITHIN = 0.1, 7.9, 1.01
ROUNDS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 25, 30, 40, 50, 60)


@dataclass(frozen=True)
class Problem:
    """`columns` (N, M) of unit norm, `start` (N, p) the first atoms, `threads` to use."""

    name: str
    columns: Tensor
    start: Tensor
    threads: int

    def objective(self, atoms: Tensor, codes: Tensor) -> float:
        """The objective at D (N, p) and Z (p, M), in float64."""
        return coordinate_descent.objective(self.columns, atoms, codes, torch.full((len(codes),), PENALTY))


Solver = Callable[[Problem, int], tuple[Tensor, Tensor]]


def dirnet(problem: Problem, rounds: int) -> tuple[Tensor, Tensor]:
    """Our Step 1; a round is an epoch."""
    return dictionary.learn(problem.columns, problem.start, PENALTY, epochs=rounds)


def spams(problem: Problem, rounds: int, batch: int) -> tuple[Tensor, Tensor]:
    """SPAMS (Mairal et al. 2009) with LARS; a round is a pass over the columns in mini-batches of `batch`."""
    import spams as library

    data, start = (np.asfortranarray(matrix.numpy()) for matrix in (problem.columns, problem.start))
    steps, common = -(-rounds * data.shape[1] // batch), {"lambda1": PENALTY, "numThreads": problem.threads}
    atoms = library.trainDL(data, D=start, batchsize=batch, iter=steps, mode=2, verbose=False, **common)
    codes = library.lasso(data, D=atoms, mode=2, **common)
    return torch.from_numpy(np.ascontiguousarray(atoms)), torch.from_numpy(codes.toarray())


def mini_batch(problem: Problem, rounds: int, algorithm: str) -> tuple[Tensor, Tensor]:
    """scikit-learn's `MiniBatchDictionaryLearning`; a round is a pass over the columns."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    learner = MiniBatchDictionaryLearning(
        problem.start.shape[1], alpha=PENALTY, max_iter=rounds, fit_algorithm=algorithm, batch_size=256, tol=0,
        max_no_improvement=None, transform_algorithm=f"lasso_{algorithm}", transform_alpha=PENALTY,
        dict_init=problem.start.T.numpy().copy(), random_state=0,
    )  # fmt: skip
    data = problem.columns.T.numpy().copy()
    codes = learner.fit(data).transform(data)
    return torch.from_numpy(learner.components_.T.copy()), torch.from_numpy(codes.T.copy())


def batch(problem: Problem, rounds: int, algorithm: str) -> tuple[Tensor, Tensor]:
    """scikit-learn's `dict_learning`; a round is one of its iterations."""
    from sklearn.decomposition import dict_learning

    data = problem.columns.T.numpy().copy()
    codes, atoms, _ = dict_learning(
        data, problem.start.shape[1], alpha=PENALTY, max_iter=rounds, tol=0, method=algorithm, random_state=0,
        dict_init=problem.start.T.numpy().copy(), code_init=np.zeros((len(data), problem.start.shape[1]), np.float32),
    )  # fmt: skip
    return torch.from_numpy(atoms.T.astype(np.float32)), torch.from_numpy(codes.T.astype(np.float32))


PEERS: dict[str, Solver] = {
    "SPAMS trainDL, batches of 512": functools.partial(spams, batch=512),
    "SPAMS trainDL, batches of 256": functools.partial(spams, batch=256),
    "scikit-learn MiniBatchDictionaryLearning, cd": functools.partial(mini_batch, algorithm="cd"),
    "scikit-learn MiniBatchDictionaryLearning, lars": functools.partial(mini_batch, algorithm="lars"),
    "scikit-learn dict_learning, cd": functools.partial(batch, algorithm="cd"),
    "scikit-learn dict_learning, lars": functools.partial(batch, algorithm="lars"),
}


@dataclass(frozen=True)
class Run:
    """What one run took and reached; `seconds` by the clock of its number of threads."""

    rounds: int
    seconds: float
    objective: float
    peak_bytes: int


def run(solver: Solver, problem: Problem, rounds: int, limit_s: float) -> Run | None:
    """One run in a process of its own; None where it took more than `limit_s` of CPU time, and was ended."""
    return in_child(functools.partial(_timed, solver, problem, rounds), limit_s, problem.threads)


def _timed(solver: Solver, problem: Problem, rounds: int) -> Run:
    clock = time.process_time if problem.threads == 1 else time.perf_counter
    solver(_tiny(problem.threads), 1)  # imports what it needs, and compiles
    began = clock()
    atoms, codes = solver(problem, rounds)
    seconds = clock() - began
    return Run(rounds, seconds, problem.objective(atoms, codes), _peak_bytes())


def _tiny(threads: int) -> Problem:
    columns = trained_like(8, 32)
    return Problem("tiny", dictionary.unit(columns)[0], dictionary.unit(columns[:, :4])[0], threads)


def in_child(work: Callable, limit_s: float, threads: int):
    """What `work()` returns in a fresh process, for a peak of memory of its own; None beyond `limit_s` CPU seconds."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, sender, limit_s, threads))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == -24:  # SIGXCPU
            return None
        raise UserError(f"a run ended with status {process.exitcode}; its message stands above") from None
    finally:
        process.join()


def _child(work: Callable, sender, limit_s: float, threads: int) -> None:
    torch.set_num_threads(threads)
    already = time.process_time()
    seconds = int(already + limit_s * threads) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    sender.send(work())


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def problems(model: str | None, threads: int) -> list[Problem]:
    """The input and a hidden group of a stored model, or trained-like ones of the 5x500 model."""
    if model is None:
        matrices = {"hidden 500x4000": trained_like(500, 4000), "input 494x2000": trained_like(494, 2000, seed=1)}
    else:
        found = [group for rnn in dense_rnns(storage.load(model)).values() for group in matrix_groups(rnn)][1::-1]
        matrices = {f"{group.name} {'x'.join(map(str, group.shape))}": group.matrix for group in found}
    listed = []
    for name, matrix in matrices.items():
        atoms = check_params(matrix, int(matrix.numel() / RATIO), None, 1)[0]
        columns = dictionary.unit(matrix)[0]
        start = dictionary.random_columns(columns, atoms, torch.Generator().manual_seed(0))
        listed.append(Problem(f"{name}, p = {atoms}", columns, start, threads))
    return listed


def step_one(problem: Problem, limit_s: float) -> None:
    """The table of one matrix."""
    most = ROUNDS[-1]
    lowest = min(
        found.objective
        for solver in (dirnet, PEERS["SPAMS trainDL, batches of 512"])
        if (found := run(solver, problem, most, 10 * limit_s))
    )
    target = WITHIN * lowest
    print(f"\n{problem.name}, lambda = {PENALTY}: objective at most {target:.2f}, 1 % above {lowest:.2f}", flush=True)
    print(f"{'':<48}{'rounds':>8}{'seconds':>10}{'objective':>11}{'times ours':>12}{'peak MB':>9}", flush=True)
    ours = None
    for name, solver in {"DirNet Step 1": dirnet, **PEERS}.items():
        found, last = None, None
        for rounds in ROUNDS:
            last, found = found, run(solver, problem, rounds, limit_s)
            if found is None or found.objective <= target:
                break
        ours = ours or found
        if found is None:
            ratio = f"> {limit_s / ours.seconds:.1f}"
            before = f"{last.objective:.2f}" if last else "-"
            print(f"{name:<48}{rounds:>8}{f'> {limit_s:g}':>10}{before:>11}{ratio:>12}{'-':>9}", flush=True)
            continue
        reached = "" if found.objective <= target else "  not reached"
        ratio = f"{found.seconds / ours.seconds:.1f}"
        figures = f"{found.rounds:>8}{found.seconds:>10.2f}{found.objective:>11.2f}{ratio:>12}"
        print(f"{name:<48}{figures}{found.peak_bytes / 1e6:>9.0f}{reached}", flush=True)


def _whole(preset: str, jobs: int) -> tuple[float, float, int, float]:
    """Wall and CPU seconds, peak bytes, relative error of compressing the 5x500 model."""
    import dirnet as package

    model = trained_like_model()
    wall, cpu = time.perf_counter(), time.process_time()
    _, report = package.compress(model, f"{RATIO}x", preset=preset, progress=False, nj=jobs)
    return time.perf_counter() - wall, time.process_time() - cpu, _peak_bytes(), report["relative_error"]


def whole_model(jobs: int) -> None:
    """The table of the 5x500 model, for both presets."""
    print(f"\n5x500 LSTM, 10 M parameters, {RATIO}x, --nj {jobs}")
    print(f"{'preset':<8}{'wall s':>10}{'CPU s':>10}{'peak MB':>10}{'relative error':>16}", flush=True)
    for preset in ("best", "paper"):
        wall, cpu, peak, error = in_child(functools.partial(_whole, preset, jobs), 3600, 1)
        print(f"{preset:<8}{wall:>10.1f}{cpu:>10.1f}{peak / 1e6:>10.0f}{error:>16.4f}", flush=True)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Print both tables."""
    parser = Parser(prog="python -m bench.solver", description=__doc__)
    parser.add_argument("--model", help="folder of a stored dense model, for its matrices instead of made ones")
    parser.add_argument("--limit_s", type=float, default=120, help="CPU seconds that a run of a peer may take")
    parser.add_argument("--threads", type=int, default=1, help="for Step 1 and its peers")
    parser.add_argument("--nj", type=int, default=len(os.sched_getaffinity(0)), help="for the whole model")
    parser.add_argument("--only", choices=("step1", "model"), help="one of the two tables")
    arguments = parser.parse_args(argv)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(arguments.threads)))
    print(f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores, {arguments.threads} thread")
    if arguments.only != "model":
        for problem in problems(arguments.model, arguments.threads):
            step_one(problem, arguments.limit_s)
    if arguments.only != "step1":
        whole_model(arguments.nj)
    return 0


if __name__ == "__main__":
    main()
