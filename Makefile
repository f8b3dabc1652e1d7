# Every target works from a fresh clone: it makes .venv and installs what it needs, at the versions of constraints.txt.
# TORCH_INDEX: the package index for torch, e.g. https://download.pytorch.org/whl/cpu for the small CPU build.
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
# Without --no-compile pip compiles every file of every package, which doubles the time; Python compiles what it imports.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: data demo figures zoo test test-all lint suite format

demo: demo/digits.png demo/bench.png
	@echo "Look at demo/digits.png and demo/bench.png"

demo/.trained: | $(VENV)/.demo
	$(BIN)/aigc-rt train gan --data mnist5k --out demo/run $(if $(wildcard demo/run/run.json),--resume)
	@touch $@

demo/digits/manifest.json: demo/.trained
	$(BIN)/aigc-rt export demo/run --out demo/digits --precision fp32,fp16 --engine tensorrt-rtx --force

demo/digits.png: demo/digits/manifest.json
	$(BIN)/aigc-rt generate demo/digits -n 64 --seed 7 --out demo/digits.png

demo/bench.json: demo/digits/manifest.json
	$(BIN)/aigc-rt bench demo/digits --torch demo/run --out demo/bench.json

demo/bench.png: demo/bench.json
	$(BIN)/aigc-rt bench --from demo/bench.json --plot demo/bench.png > /dev/null

# Fashion-MNIST and the emoji, on Debian and Ubuntu. Digits come with the Python packages.
data:
	$(if $(filter 0,$(shell id -u)),,sudo )apt-get install --yes dataset-fashion-mnist fonts-noto-color-emoji

# What docs/quality.md shows, by the commands that it states; some fifty minutes on two cores, after `make data`.
mnist-mlp-gan := gan --data mnist5k
mnist-dcgan := dcgan --data mnist5k
mnist-cgan := cgan --data mnist5k
fashion-vae := vae --data fashion
fashion-vae-private := vae --data fashion --dp-epsilon 8 --dp-delta 1e-5 --max-grad-norm 0.1 --batch 512 --lr 4e-3 \
  --epochs 10 --recipe ema=0.02 --set width=8 --set latent=16 --set couplings=4
FIGURES := mnist-mlp-gan mnist-dcgan mnist-cgan fashion-vae fashion-vae-private

figures: $(FIGURES:%=docs/quality/%.json)

runs/%/.trained: | $(VENV)/.demo
	$(BIN)/aigc-rt train $($*) --out runs/$* $(if $(wildcard runs/$*/run.json),--resume)
	@touch $@

docs/quality/%.json: runs/%/.trained
	@mkdir -p $(@D)
	$(BIN)/aigc-rt evaluate runs/$* --samples 5000 --json > $@.part
	@mv $@.part $@

# The bundles that ship in the package: weights once, as fp16.
zoo: runs/mnist-dcgan/.trained runs/mnist-cgan/.trained runs/fashion-vae/.trained
	$(BIN)/aigc-rt export runs/mnist-dcgan --out aigc_rt/zoo/mnist-gan --precision fp16 --force
	$(BIN)/aigc-rt export runs/mnist-cgan --out aigc_rt/zoo/mnist-cgan --precision fp16 --force
	$(BIN)/aigc-rt export runs/fashion-vae --out aigc_rt/zoo/fashion-vae --precision fp16 --force

.PRECIOUS: runs/%/.trained

test: lint | $(VENV)/.dev
	$(BIN)/python -m pytest

test-all: lint | $(VENV)/.dev
	$(BIN)/python -m pytest -m 'slow or not slow'

lint: | $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy

suite: | $(VENV)/.dev
	$(BIN)/python -m pytest bench/suite --benchmark-only

format: | $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "This needs Python 3.11 or newer, $(PYTHON) is older. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing. Install it: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing PyTorch, ONNX Runtime, OpenVINO and TensorRT for RTX into $(VENV) ..."
	$(PIP) torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) -e '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "Installing the development tools into $(VENV) ..."
	$(PIP) -e '.[all,dev]'
	@touch $@
