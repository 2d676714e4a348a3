# Every target but `clean` creates .venv itself when it is missing or older than pyproject.toml.
PYTHON ?= python3
VENV ?= .venv
# The index that torch comes from, instead of pip's own. PyPI's torch for Linux brings the CUDA libraries: .venv takes 6 GB
# instead of 2. Without a GPU: make repro TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export DVC_NO_ANALYTICS := 1
# Set in many containers. Without compiled modules every process of the pipeline and the tests starts 10 seconds later.
unexport PYTHONDONTWRITEBYTECODE
# The stages call `python`: put the environment's first.
RUN := PATH="$(abspath $(BIN)):$$PATH"

.PHONY: repro full loosening test test-all lint docs train-testbed bench lab clean

repro: clone $(VENV)/.installed  ## generate, score, execute the notebooks, rebuild the tables: what is out of date
	$(RUN) python -m dvc repro $(ARGS)

full: clone $(VENV)/.installed  ## the full-size run, into results/full; hours on 2 cores, resumes
	$(RUN) python -m dvc repro full/dvc.yaml $(ARGS)

loosening: clone $(VENV)/.installed  ## every remedy at every strength, at full size; a day on 2 cores, resumes
	$(RUN) python -m dvc repro full/loosening/dvc.yaml $(ARGS)

test: $(VENV)/.installed  ## the tests, offline
	$(RUN) python -m pytest -n auto --dist worksteal -m "not slow" --hypothesis-profile=quick $(ARGS)

test-all: $(VENV)/.installed  ## and those that kill processes, compile models or execute notebooks
	$(RUN) python -m pytest -n auto --dist worksteal $(ARGS)

lint: $(VENV)/.installed
	$(RUN) ruff check . && $(RUN) ruff format --check .

docs: $(VENV)/.docs  ## the site, into build/site/index.html: from the executed notebooks, nothing is run or downloaded
	$(RUN) python docs/gather.py
	$(RUN) python -m sphinx -W --keep-going -q -c docs -b html build/site-source build/site
	@echo build/site/index.html

train-testbed: $(VENV)/.installed  ## every model from nothing; a few hours on 2 cores, resumes
	$(RUN) python -m testbed train

bench: $(VENV)/.installed  ## time the parts of a video, and every method in a block of four models, on this machine
	$(RUN) python -m analysis bench && $(RUN) python -m analysis bench-blocks && $(RUN) python docs/cost_page.py

lab: $(VENV)/.installed
	$(RUN) python -m jupyter lab notebooks

clean:  ## remove videos and training state; checkpoints and results are in git
	rm -rf runs build results/*/_failed_* .pytest_cache .ruff_cache .hypothesis

# Before anything is installed, which takes minutes.
.PHONY: clone
clone:
	@git rev-parse --git-dir >/dev/null || { echo >&2 'error: DVC works in a git clone only. This folder may be an unpacked \
	archive: run "git init" in it first'; exit 1; }

# Python 2 reads this, too.
NEW_PYTHON := import sys; sys.version_info >= (3, 11) or sys.exit( \
  'error: this is Python %d.%d, and 3.11 or later is needed. ' % sys.version_info[:2] + sys.argv[1])
# Modules are compiled when they are first imported: most of torch never is.
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check
$(VENV)/.installed: pyproject.toml
	@if $(BIN)/python -c '' 2>/dev/null; \
	then $(BIN)/python -c "$(NEW_PYTHON)" 'Remove $(VENV) and name another one: make PYTHON=python3.12'; \
	else $(PYTHON) -c "$(NEW_PYTHON)" 'Name another one: make PYTHON=python3.12' \
	  && $(PYTHON) -m venv $(if $(wildcard $(VENV)/pyvenv.cfg),--clear) $(VENV); fi
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(PIP) -e '.[docs]'
	touch $@
