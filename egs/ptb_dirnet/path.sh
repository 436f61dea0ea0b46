# The project's environment (made by `make setup`) and the project itself, wherever this checkout lies.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ ! -d "${root}/.venv/bin" ] || PATH=${root}/.venv/bin:${PATH}
export PATH PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}
export PYTHONIOENCODING=UTF-8 LC_ALL=C.UTF-8
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
# Waiting threads sleep: spinning ones stall every other process as soon as there are more threads than cores.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
