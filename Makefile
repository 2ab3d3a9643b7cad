# framealign: `make demo` runs the whole method on a corpus it makes itself, `make test` the tests. Each target prints
# what it does. PYTHON is any Python >= 3.10; a virtual environment is made in .venv on first use.
PYTHON ?= python3
EXTRAS ?= oracle,tensorboard,export
COMMA := ,
VENV := .venv
RUN ?= runs/session
S ?= 1
METHOD ?=
CLUSTERS ?=
PRESET ?= $(if $(filter tiny,$(HUBERT)),tiny,$(if $(filter voices,$(HUBERT)),compact,base))
SEED ?= 0
SEEDS ?=
MODEL ?=
FLAGS ?=

CHECK = $(if $(wildcard $(VENV)/ready),$(VENV)/bin/python,$(PYTHON))
input = $(if $(IEMOCAP),--iemocap "$(IEMOCAP)",$(if $(CORPUS),--corpus "$(CORPUS)",$(error give IEMOCAP=folder or CORPUS=table)))
session = $(VENV)/bin/python bin/session.py $(input) --hubert "$(or $(HUBERT),$(error give HUBERT=a model directory, tiny, voices or scratch))" \
	$(if $(CODEBOOK),--codebook "$(CODEBOOK)") --preset $(PRESET)$(if $(METHOD), --method $(METHOD)) --seed $(SEED)$(if $(CLUSTERS), --clusters $(CLUSTERS))$(if $(SEEDS), --seeds $(SEEDS)) --out "$(RUN)" $(FLAGS)

.PHONY: demo listen test slow-test gpu-test gpu-check inputs session sessions ablation tiny-base voices clean help

help:           ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(VENV)/ready: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("framealign needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet -e '.[test$(if $(EXTRAS),$(COMMA)$(EXTRAS))]'
	touch $@

demo: $(VENV)/ready  ## the whole method on a synthetic corpus, minutes on a CPU, or on your own [CORPUS=table HUBERT= S=]; ends with pages to look at
	$(VENV)/bin/python bin/demo.py $(if $(CORPUS),--corpus "$(CORPUS)" --session $(S)) $(if $(HUBERT),--hubert "$(HUBERT)") $(FLAGS)

listen: $(VENV)/ready  ## a page to speak to: emotion over time in the browser [MODEL=, or the recogniser that comes along]
	$(VENV)/bin/python bin/listen.py $(if $(MODEL),"$(MODEL)") $(FLAGS)

test: $(VENV)/ready  ## the tests (skips say what they would need)
	$(VENV)/bin/python -m pytest -m "not slow and not gpu" $(FLAGS)

slow-test: $(VENV)/ready  ## the tests that take minutes
	$(VENV)/bin/python -m pytest -m slow $(FLAGS)

gpu-test: $(VENV)/ready  ## the tests that need a CUDA device
	$(VENV)/bin/python -m pytest -m gpu $(FLAGS)

# Without a virtual environment: a machine that is lent for its GPU has its own packages and perhaps no network.
gpu-check:      ## everything that needs a CUDA device, in 8 minutes; installs the wheels that lie in .whl/
	$(if $(wildcard .whl/*.whl),$(CHECK) -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target .whl/site .whl/*.whl)
	PYTHONPATH="$(CURDIR)/.whl/site:$$PYTHONPATH" $(CHECK) tests/gpu_check.py $(FLAGS)

inputs:
	@: $(session)

session: inputs $(VENV)/ready  ## one fold: make session S=1 IEMOCAP=folder HUBERT=folder [METHOD= CLUSTERS= PRESET= RUN= SEED= CODEBOOK=]
	$(session) --session $(S)

sessions: inputs $(VENV)/ready  ## every fold, then the pooled table [SEEDS=1,2,3]
	$(session) --session all

ablation: METHOD := all
ablation: inputs $(VENV)/ready  ## every fold by probe, finetune, tapt, align and multiscale, sharing stages; the paper's table [SEEDS=1,2,3]
	$(session) --session all

tiny-base: $(VENV)/ready  ## pretrain the committed tiny base model again (16 minutes on one core)
	$(VENV)/bin/python bin/demo.py --make-tiny-base --out runs/tiny-base $(FLAGS)

voices: $(VENV)/ready  ## make the models of real voices again: TABLES=folder of manifests, labelled and not (hours on a CPU)
	$(VENV)/bin/python bin/voices.py $(or $(TABLES),$(error give TABLES=a folder of manifests, or several tables)) --out runs/voices $(FLAGS)

clean:          ## remove the virtual environment and the demo's run; other runs stay
	rm -rf $(VENV) runs/demo build framealign.egg-info
