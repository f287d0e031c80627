# Each goal does all of its own set-up.
PYTHON ?= python3
VENV ?= .venv
NEWEST ?= .venv-newest
BIN := $(VENV)/bin
PYTEST := -m pytest -n auto --dist worksteal --durations=10
# The tests start some hundred processes, each of which would compile privet anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test slow lint format docs dist newest versions clean

demo: $(VENV)/.privet
	rm -rf runs/demo
	$(BIN)/privet simulate examples/digits.toml --out runs/demo

test: $(VENV)/.dev
	$(BIN)/python $(PYTEST)

slow: $(VENV)/.ray
	$(BIN)/python $(PYTEST) --slow -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs
	PYTHONPATH=src NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Documentation: site/index.html"

# The newest versions that pyproject.toml allows. Of torch that of constraints.txt: a newer one may
# be some gigabytes of CUDA, and users have whichever fits their machine.
newest:
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	grep '^torch==' constraints.txt >$(NEWEST)/torch.txt
	$(NEWEST)/bin/python -m pip install --quiet --constraint $(NEWEST)/torch.txt torch
	$(NEWEST)/bin/python -m pip install --quiet --constraint $(NEWEST)/torch.txt \
		--upgrade --upgrade-strategy eager --editable '.[dev,docs]'
	$(NEWEST)/bin/python -m pip freeze --exclude-editable >$(NEWEST)/versions.txt
	$(NEWEST)/bin/python -m pytest -n auto --dist worksteal

# The same on several Pythons, all of them even if one fails: the oldest and the newest on this
# machine, or PYTHONS="3.12 3.13".
versions:
	@pythons=$$($(PYTHON) tests/pythons.py $(PYTHONS)) || exit 1; failed=; \
	for python in $$pythons; do \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "Python $$version, newest versions:"; \
		$(MAKE) --no-print-directory newest PYTHON=$$python NEWEST=$(NEWEST)-$$version \
			|| failed="$$failed $$version"; \
	done; \
	test -z "$$failed" || { echo "Failed on Python$$failed; what was installed is in $(NEWEST)-*/versions.txt" >&2; exit 1; }

# What is published is what is committed. The address of the repository goes into the links of README.
ifneq ($(filter dist,$(MAKECMDGOALS)),)
ifeq ($(REPOSITORY),)
$(error make dist needs the public address of the repository: make dist REPOSITORY=https://HOST/PATH)
endif
endif
dist: $(VENV)/.dev
	@PRIVET_REPOSITORY="$(REPOSITORY)" $(BIN)/python -c 'import setup; setup.repository()'
	rm -rf build/committed dist
	mkdir -p build/committed
	git archive HEAD | tar -x -C build/committed
	PRIVET_REPOSITORY="$(REPOSITORY)" $(BIN)/python -m build --outdir dist build/committed
	$(BIN)/python -m twine check --strict dist/*

$(VENV)/.privet: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "privet needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.privet
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.ray: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ray]'
	@touch $@

$(VENV)/.docs: $(VENV)/.privet
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) $(NEWEST) $(NEWEST)-* runs build dist site .mypy_cache .ruff_cache
