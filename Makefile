# make demo   set up .venv and run the recipe on the embedded mini corpus, all stages
# make test   set up what is missing and run every test
# make bench  the solver against SPAMS and scikit-learn, and the time and memory of the 5x500 model (an hour);
#             then every engine's speed on it, dense and compressed (ten minutes)
# make lint   ruff;  make clean   remove .venv and the demo's output, never a real corpus or its models

# Python 3.11 or 3.12, the newest that is there; PYTHON=/path/to/python3.11 overrides.
PYTHON ?= $(shell utils/find_python.sh)
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test bench setup lint clean
demo: setup
	cd egs/librispeech_dirnet && ./run.sh --corpus mini --nj $(JOBS)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --max-worker-restart 0 --dist loadfile --no-loadscope-reorder --durations 10

bench: setup
	$(BIN)/python -m pip install --quiet -e .[bench]
	$(BIN)/python -m bench.solver
	$(BIN)/python -m bench.speed --out build/speed

lint: setup
	$(BIN)/ruff check bench dirnet local utils tests

setup: $(VENV)/.installed

# pip 26.3 refuses ci_sdr, a dependency of ESPnet whose metadata names a git address; older ones take it.
$(VENV)/.installed: setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or 3.12 found; install one or give PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Installing into $(VENV): about 3 minutes and 6 GB (torch comes with CUDA)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "pip>=23.2,<26"
	$(BIN)/python -m pip install --quiet -e .[mini,dev]
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
	cd egs/librispeech_dirnet && { ! grep -qs '^mini' data/.corpus || rm -rf data dump exp downloads/mini; }
	cd egs/ptb_dirnet && { ! grep -qs '^mini' data/.corpus || rm -rf data exp; }
