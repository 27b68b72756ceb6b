# `make demo` and `make test` do all set-up themselves, in .venv; nothing is installed outside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export HF_HUB_OFFLINE ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo web test test-all lint types clean

help:
	@echo "make demo    set up, then segment a shipped clip by three sentences (output/demo)"
	@echo "make web     set up, then serve a web page; WEB='--resume FILE ...' chooses the weights"
	@echo "make test    set up, then run the tests"
	@echo "make test-all  also those of the web page in a browser (Debian: apt-get install chromium)"
	@echo "make lint    ruff: rules and format"
	@echo "make types   mypy"
	@echo "make clean   remove the environment and the demo's output"

install: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-dev.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt -c constraints.txt
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python inference_demo.py --input_path docs/demo/shapes.mp4 --fps 3 \
		--text_prompts "the red disc that moves to the right" "the blue square" "the yellow triangle that bounces" \
		--sam2_version tiny --HSA --use_cme_head --untrained --output_dir output/demo

web: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-web.txt
	$(BIN)/python app.py $(WEB)

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

test-all: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-web.txt "playwright>=1.50"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" -n 2 --dist loadgroup

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) output/demo
