# make report [PARAMS=params/full.yaml]   all notebooks, then reports/<profile>/index.html
# make test                               lint, format, tests
# make bench                              labkit beside its peers, then benchmarks/RESULTS.md
# make lab                                JupyterLab on the notebooks
# make clean                              take away what the others set up
#
# Each sets up all it needs in .venv first. Needs Python 3.11 or later: make report PYTHON=python3.12

PYTHON ?= python3
PARAMS ?= params/quick.yaml
BIN := .venv/bin
READY := .venv/.ready
PEERS := benchmarks/.venv

.PHONY: report test bench lab clean

report: $(READY)
	$(BIN)/labkit report "$(PARAMS)"

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest

bench: $(PEERS)/.ready
	$(PEERS)/bin/python -m benchmarks

lab: $(READY)
	LABKIT_START="$(CURDIR)" $(BIN)/jupyter lab notebooks

clean:
	rm -rf .venv $(PEERS) .pytest_cache .ruff_cache .hypothesis *.egg-info
	find labkit tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is older than what decides the dependencies: install again. An install that was cut short leaves no stamp.
$(READY): pyproject.toml constraints.txt
	rm -f $@
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The peers lie on top of the project's own environment, and never in it.
$(PEERS)/.ready: $(READY) benchmarks/requirements.txt
	rm -f $@
	$(BIN)/python -m venv --clear $(PEERS)
	$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
		> "$$($(PEERS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/project.pth"
	$(PEERS)/bin/pip install --disable-pip-version-check --no-deps -r benchmarks/requirements.txt
	touch $@
