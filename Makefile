# Needs only python3 (3.11 to 3.13) and make. On Linux without a GPU, CPU=1 installs a torch that is 2 GB smaller:
#   make book CPU=1
# The commands' strictness (flags, environment, checks) is in .ci/, where the tests find it too.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PY     := env -u VTRLIB_DATA $(BIN)/python
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export PYTHONHASHSEED = 0
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help
.PHONY: help install book test page lab run sync results lock clean

help:             ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1|/p' $(firstword $(MAKEFILE_LIST)) | \
	    while IFS='|' read -r name what; do printf '%-14s  %s\n' "$$name" "$$what"; done

install:          ## the virtual environment .venv, and this project in it (every other command does it first)
	@command -v $(PYTHON) >/dev/null || \
	    { echo "$(PYTHON) not found. Install Python 3.11 to 3.13, or name one: make book PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) .ci/install.py "$(VENV)" $(if $(CPU),--cpu)

book: install     ## run the notebooks on this machine and build the book from that: _build/html/index.html
	@$(PY) .ci/make.py book

test: install     ## unit tests, notebook and page checks, then every notebook against its stored outputs
	$(PY) -m pytest -n 2 --dist loadscope
	$(PY) .ci/make.py notebooks

page: install     ## the book from the stored outputs, in seconds: _build/html/index.html
	@$(PY) .ci/make.py page

lab: install      ## work in JupyterLab; saving a notebook writes its twin too
	$(BIN)/jupyter lab

run: install      ## run the notebooks and store their outputs; one of them: make run NB=notebooks/01_world.ipynb
	@$(PY) .ci/make.py run $(NB)

sync: install     ## take edits of the Markdown twins into the notebooks, keeping their outputs
	$(BIN)/jupytext --quiet --to ipynb --update notebooks/*.md

results: install  ## measure what the results ledger lacks
	$(BIN)/python -m vtrlib results

# Without the local part of torch's version, and without the CUDA packages: torch pins those itself, where it has them.
lock: install     ## write the installed versions to constraints.txt
	@{ echo "# Known-good versions for Python 3.11 to 3.13. Made by: make lock"; \
	   $(BIN)/python -m pip freeze --exclude-editable | sed '/^torch==/s/+.*//; /^\(cuda-\|nvidia-\|triton==\)/d' | \
	       LC_ALL=C sort -f; } > constraints.txt.part
	@mv constraints.txt.part constraints.txt

clean:            ## delete what was built; .venv stays
	rm -rf _build .pytest_cache
