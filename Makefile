# `make demo` and `make test` do all set-up themselves, in .venv; nothing is installed outside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export HF_HUB_OFFLINE ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
unexport PYTHONDONTWRITEBYTECODE

SLOW ?= slow

.PHONY: help install demo web test test-slow test-all lint types miniature clean

help:
	@echo "make demo    set up, then segment a shipped clip by its sentences and score it (output/demo)"
	@echo "make web     set up, then serve a web page; WEB='--resume FILE ...' chooses the weights"
	@echo "make test    set up, then run the tests"
	@echo "make test-all  also the slow ones: the web page in a browser (Debian: apt-get install chromium), the notebook;"
	@echo "             SLOW='slow and not browser and not study' leaves some out; make test-slow runs the slow ones alone"
	@echo "make miniature  the whole study from nothing (output/miniature); MINIATURE='--quick' for a small one"
	@echo "make lint    ruff: rules and format"
	@echo "make types   mypy"
	@echo "make clean   remove the environment and the demo's output"

install: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-dev.txt requirements-web.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt \
		-r requirements-web.txt -c constraints.txt
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python inference_demo.py --input_path docs/demo/shapes.mp4 --truth docs/demo/shapes.json --output_dir output/demo

web: $(INSTALLED)
	$(BIN)/python app.py $(WEB)

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

test-all: test test-slow

test-slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "$(SLOW)" -n 2 --dist loadgroup

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

miniature: $(INSTALLED)
	$(BIN)/python tools/miniature.py $(MINIATURE)

clean:
	rm -rf $(VENV) output/demo
