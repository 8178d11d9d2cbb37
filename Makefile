# make demo: faces, histograms and smiles from the built-in data set, in minutes
# make test: the tests, without GPU and without CelebA

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: demo test lint

demo: .venv/installed
	$(BIN)/python train.py --data synthetic --image-size 64 --latent-dim 64 --epochs 12 --run-dir $(DEMO)
	$(BIN)/python generate.py --checkpoint $(DEMO) --show grid reconstructions histograms
	$(BIN)/python manipulate.py --checkpoint $(DEMO) --attribute Smiling Eyeglasses
	@echo "Look at $(DEMO): grid.png, histograms-means.png, Smiling.png, Eyeglasses.png"

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/linter: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
