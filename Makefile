# make demo: install, draw and edit faces of the pretrained model (seconds), then train on the
#            synthetic faces and do the same with them; takes minutes on a CPU
# make test: install, run the tests; needs no GPU and no CelebA
# make lint: check the code with ruff
# make versions: run the tests with the lowest and with the newest versions that the requirements
#            admit; takes a quarter of an hour

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint versions

demo: .venv/installed
	$(BIN)/python generate.py --checkpoint pretrained
	$(BIN)/python manipulate.py --checkpoint pretrained
	@echo "Now look at grid.png, Smiling.png and Eyeglasses.png in runs/pretrained, while a model trains"
	$(BIN)/python train.py --data synthetic --image-size 64 --latent-dim 64 \
		--epochs 8 --refiner-epochs 4 --batch-size 32
	$(BIN)/python generate.py --show grid reconstructions histograms
	$(BIN)/python manipulate.py --strengths -0.5 0 0.5 1 1.5
	@echo "Now look at grid.png, histograms-means.png, Smiling.png and Eyeglasses.png in the run's folder"

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

versions:
	.ci/versions

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/linter: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
