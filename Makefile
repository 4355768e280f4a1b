# make report [PARAMS=params/full.yaml]   all notebooks, then reports/<profile>/index.html
# make test                               lint, format, tests
# make lab                                JupyterLab on the notebooks
# make clean                              take away what the others set up
#
# Each sets up all it needs in .venv first. Needs Python 3.11 or later: make report PYTHON=python3.12

PYTHON ?= python3
PARAMS ?= params/quick.yaml
BIN := .venv/bin
READY := .venv/.ready

.PHONY: report test lab clean

report: $(READY)
	$(BIN)/labkit report "$(PARAMS)"

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest

lab: $(READY)
	LABKIT_START="$(CURDIR)" $(BIN)/jupyter lab notebooks

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis *.egg-info
	find labkit tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is older than what decides the dependencies: install again. An install that was cut short leaves no stamp.
$(READY): pyproject.toml constraints.txt
	rm -f $@
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
