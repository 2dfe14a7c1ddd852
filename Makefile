# make pipelines   set up, then the main job: every stage of a recipe, ends with the path of a page to look at
# make test        set up, then the tests
# Both need only Python 3.11 or newer, make and git on the machine.

PYTHON ?= python3
RECIPE ?= recipes/shapes.toml
SECONDS ?= 600
VENV := .venv
# a file's tests stay in one process, so that what a module makes is made once; the longest files come first (tests/conftest.py)
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := $(VENV)/.docs

.PHONY: help install pipelines test slow fuzz mutants bench-data bench-train bench-learning bench-sample bench-samplers bench-judge bench-folder ablations table
.PHONY: drawings docs recipe-docs vocabulary lint type check clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## create .venv with the tested, pinned set of packages

$(READY): pyproject.toml setup.py requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

pipelines: $(READY) ## run every stage of RECIPE (default: recipes/shapes.toml)
	$(BIN)/tfcli run "$(RECIPE)" $(ARGS)

test: $(READY) ## run the fast tests and the smoke recipe, all stages
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

slow: $(READY) ## run the tests that take longer
	$(BIN)/python -m pytest -m slow

fuzz: $(READY) ## random damage, settings, inputs and kills for SECONDS (default: 600); any finding fails it; tests/fuzz
	$(BIN)/python -m tests.fuzz --seconds "$(SECONDS)" $(ARGS)

mutants: $(READY) ## plant the listed faults one at a time and name the test that sees each; one that no test sees fails it
	$(BIN)/python -m tests.mutants $(ARGS)

bench-data: $(READY) ## measure the data stages against what this machine can do; docs/benchmarks.md
	$(BIN)/python -m tests.bench.data $(ARGS)

bench-train: $(READY) ## measure training against transfusion-pytorch, which it installs, and the processor; docs/benchmarks.md
	$(BIN)/python -m tests.bench.train $(ARGS)

bench-learning: $(READY) ## seconds of training until the judge of shapes is satisfied, against transfusion-pytorch; needs work/shapes
	$(BIN)/python -m tests.bench.learning $(ARGS)

bench-sample: $(READY) ## measure sampling against transfusion-pytorch, which it installs; docs/benchmarks.md
	$(BIN)/python -m tests.bench.sample $(ARGS)

bench-samplers: $(READY) ## score against steps of every sampler on work/shapes; docs/benchmarks.md
	$(BIN)/python -m tests.bench.samplers $(ARGS)

bench-judge: $(READY) ## errors of the judge of shapes behind the autoencoder of work/shapes; stages/sources/shapes/README.md
	$(BIN)/python -m tests.bench.judge $(ARGS)

bench-folder: $(READY) ## settings of folder.toml before and now, on 500 pictures that it makes, for the same time
	$(BIN)/python -m tests.bench.folder $(ARGS)

ablations: $(READY) ## variants of model and objective on work/shapes, three seeds each; docs/results.md
	$(BIN)/python -m tests.bench.ablations $(ARGS)

table: $(READY) ## write docs/errors.md from what tfcli says of bad inputs and faults
	$(BIN)/python -m tests.bad_inputs.write_table

recipe-docs: $(READY) ## write docs/recipe.md, the reference of recipe keys
	$(BIN)/python -m tfcli.recipe_page docs/recipe.md

drawings: $(READY) ## write docs/drawings/*.svg from the pipeline and the mask of today's code
	$(BIN)/python -m docs.drawings.draw

docs: $(DOCS) ## build the site of docs/ into build/docs; a dead link or an undocumented public name fails
	$(BIN)/python -m sphinx --builder html --fail-on-warning --quiet docs build/docs
	@echo build/docs/index.html

$(DOCS): $(READY) docs/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r docs/requirements.txt
	touch $@

vocabulary: $(READY) ## names and words that the project does not use
	$(BIN)/python -m tests.vocabulary

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY) ## mypy, strict
	$(BIN)/mypy

check: lint type docs test ## all that must pass before a change goes in

clean: ## remove the virtual environment (not your work folder)
	rm -rf "$(VENV)"
