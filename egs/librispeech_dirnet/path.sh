# The project's environment (made by `make setup`) and the project itself, wherever this checkout lies.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ ! -d "${root}/.venv/bin" ] || PATH=${root}/.venv/bin:${PATH}
export PATH PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}
export PYTHONIOENCODING=UTF-8 LC_ALL=C.UTF-8
# The cores of a cluster's job, where it is one; what the submitting host had set came along with its environment.
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-${NSLOTS:-${OMP_NUM_THREADS:-$(nproc)}}}
# Waiting threads sleep: spinning ones stall every other process as soon as there are more threads than cores.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
