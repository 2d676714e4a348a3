# Every target but `clean` creates .venv itself when it is missing or older than pyproject.toml.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export DVC_NO_ANALYTICS := 1
# The stages call `python`: put the environment's first.
RUN := PATH="$(abspath $(BIN)):$$PATH"

.PHONY: repro full test lint train-testbed bench lab clean

repro: $(VENV)/.installed  ## generate, score, execute the notebooks, rebuild the tables: what is out of date
	$(RUN) dvc repro $(ARGS)

full: $(VENV)/.installed  ## the full-size run, into results/full; hours on 2 cores, resumes
	$(RUN) dvc repro full/dvc.yaml $(ARGS)

test: $(VENV)/.installed  ## the test suite, offline
	$(RUN) python -m pytest $(ARGS)

lint: $(VENV)/.installed
	$(RUN) ruff check . && $(RUN) ruff format --check .

train-testbed: $(VENV)/.installed  ## every model from nothing; a few hours on 2 cores, resumes
	$(RUN) python -m testbed train

bench: $(VENV)/.installed  ## time the parts of a video on this machine
	$(RUN) python -m analysis bench

lab: $(VENV)/.installed
	$(RUN) jupyter lab notebooks

clean:  ## remove videos and training state; checkpoints and results are in git
	rm -rf runs build results/*/_failed_* .pytest_cache .ruff_cache .hypothesis

# Modules are compiled when they are first imported: most of torch never is.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -e '.[dev]'
	touch $@
