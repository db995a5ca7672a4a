PYTHON ?= python3
BIN := .venv/bin

# Where a machine has a CUDA build of torch of its own, or another index is wanted, pip's own
# settings (PIP_INDEX_URL, PIP_FIND_LINKS, ...) hold.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,quant]'
	touch $@

.PHONY: chat test readme lint embedded clean

chat: .venv/installed  ## set up, ask about a photo, and wait for the next question
	$(BIN)/vlm chat examples/chelsea.png "What is in the picture?" --interactive

test: .venv/installed-dev  ## set up and run the tests
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist loadfile

readme: .venv/installed-dev  ## run what README.md tells its reader to run
	$(BIN)/pytest -m readme tests/test_readme.py

lint: .venv/installed-dev  ## style, and which way imports run
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

embedded: .venv/installed-dev  ## make the embedded model of the data sets in the folder DATA
	$(BIN)/python -m train.embedded $(DATA)

clean:
	rm -rf .venv
