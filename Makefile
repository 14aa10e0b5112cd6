# One command per job; `make` alone lists them. They work from any directory and in a path with spaces: every step
# enters the repository first, and tools run as `python -m`, because a script's #! line cannot hold a space.
#
#   make test ARGS="-k tokens"     more arguments for the tool behind the target
#   make test WORKERS=0            in one process, e.g. for a debugger
#   make test-pythons PYTHONS=3.13 another choice of Pythons than all that are supported
#   make test VENV="$HOME/my env"  another environment (a relative path starts at the repository)
#   make demo PYTHON=python3.12    another Python, 3.11 or newer, for a new environment

VENV ?= .venv
PYTHON ?=
ARGS ?=
WORKERS ?= auto
PYTHONS ?= 3.12 3.13

quote = '$(subst ','\'',$(1))'
root := $(shell CDPATH= cd "$$(dirname -- "$$(printf '%s' $(call quote,$(MAKEFILE_LIST)) | sed 's/^ *//')")" && pwd)
enter := cd $(call quote,$(root)) &&
venv := $(call quote,$(VENV))
python := $(enter) $(venv)/bin/python
install := $(enter) ./.ci/install $(venv) $(call quote,$(PYTHON))
# One process a core; more than 8 spend their time on imports. A worker that is done takes tests from the others.
pytest := $(python) -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

.NOTPARALLEL:
.PHONY: help install demo test test-slow test-long test-gpu test-network test-pythons check docs browser images format cov bench golden build

help: ## list the commands
	@$(enter) sed -n 's/^\([a-z-]*\):.*## /  make \1@/p' Makefile | awk -F@ '{printf "%-18s %s\n", $$1, $$2}'

install: ## make .venv with everything a developer needs
	@$(install) dev

demo: ## photos -> tokens -> photos with the bundled model, into out/
	@$(install) eval
	@echo "demo: photos to tokens and back, into out/"
	@$(python) -m pyramid_tokenizer.cli demo --out "$$PWD/out" $(ARGS)

test: ## the fast tests
	@$(install) dev
	@echo "test: the fast tier (make test-slow runs the slow one)"
	@$(pytest) --durations=5 $(ARGS)

test-slow: ## whole runs, several processes, compilation, the further cases of a matrix
	@$(install) dev
	@echo "test-slow: the slow tier, minutes"
	@$(pytest) -m slow --durations=10 $(ARGS)

test-long: ## what takes longer than CI allows: thirty killed runs, a hundred thousand images
	@$(install) dev
	@echo "test-long: one test after the other, tens of minutes"
	@$(python) -m pytest -m long --durations=10 $(ARGS)

test-gpu: ## what needs a CUDA device, beside the CPU
	@$(install) dev
	@echo "test-gpu: the library on a GPU"
	@$(pytest) -m gpu $(ARGS)

test-network: ## published CLIPs by their tags: fetches 3 GB; needs a network and, for SigLIP 2, pip install transformers
	@$(install) dev
	@echo "test-network: published weights, fetched once"
	@$(enter) HF_HUB_OFFLINE=0 $(venv)/bin/python -m pytest -m network --tb=short -rs tests/test_published_weights.py $(ARGS)

test-pythons: ## the fast tests on other Pythons, each in an environment of its own
	@$(enter) ./.ci/test-pythons $(PYTHONS)

check: ## style, types, floors, docstrings, spelling; changes nothing
	@$(install) dev
	@echo "check 1/6: ruff check"
	@$(python) -m ruff check .
	@echo "check 2/6: ruff format"
	@$(python) -m ruff format --check .
	@echo "check 3/6: pyright"
	@$(python) -m pyright --pythonpath $(venv)/bin/python
	@echo "check 4/6: floors (import-linter)"
	@$(python) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	@echo "check 5/6: docstrings (pydoclint)"
	@$(python) -m flake8 pyramid_tokenizer
	@echo "check 6/6: spelling (codespell)"
	@$(python) -m codespell_lib

docs: ## the documentation site, into build/site: warnings are errors, links and public names are checked
	@$(install) dev
	@echo "docs: build/site"
	@$(enter) NO_MKDOCS_2_WARNING=1 $(venv)/bin/python -m mkdocs build --strict -f docs/site/mkdocs.yml
	@$(python) docs/site/check.py build/site

browser: ## the page that runs the bundled model in a browser, into build/browser; npm fetches its runtime once
	@$(install) dev
	@echo "browser: build/browser"
	@$(python) docs/browser/build.py $(ARGS)

images: ## remake the images of the documentation; needs chromium and chromedriver
	@$(install) dev
	@echo "images: docs/*.jpg from out/, and docs/app.png from a browser"
	@$(python) -m pyramid_tokenizer.cli demo --out "$$PWD/out"
	@$(python) docs/make_images.py out
	@$(python) -m docs.make_app_image

format: ## rewrite the code in the project's style
	@$(install) dev
	@echo "format: ruff"
	@$(python) -m ruff check --fix --exit-zero --quiet .
	@$(python) -m ruff format .

cov: ## lines that the fast tests never run
	@$(install) dev
	@echo "cov: the fast tests, then the lines they missed"
	@$(python) -m coverage run -m pytest $(ARGS)
	@$(python) -m coverage report

bench: ## speed beside the last committed figures; ARGS=--accept commits to the new ones
	@$(install) dev
	@echo "bench: what costs over 15 % more than in benchmarks/results/committed.json"
	@$(python) benchmarks/regressions.py $(ARGS)

golden: ## rewrite the golden files; look at the diff before you commit it
	@$(install) dev
	@$(enter) for script in tests/golden/make_*.py; do echo "golden: $$script"; $(venv)/bin/python "$$script" || exit 1; done

build: ## sdist and wheel, into dist/
	@$(install) dev
	@echo "build: sdist and wheel, into dist/"
	@$(python) -m build --outdir dist $(ARGS)
