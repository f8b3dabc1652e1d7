# Every target works from a fresh clone: it makes .venv and installs what it needs, at the versions of constraints.txt.
# TORCH_INDEX: the package index that torch comes from, e.g. https://download.pytorch.org/whl/cpu for the small CPU build.
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TORCH := torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

.PHONY: demo test test-all lint bench-suite clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "aigc-rt needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "The venv module is missing. Install it: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing aigc-rt with PyTorch, ONNX Runtime, OpenVINO and TensorRT for RTX into $(VENV) ..."
	$(PIP) $(TORCH)
	$(PIP) -e '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "Installing the development tools into $(VENV) ..."
	$(PIP) -e '.[all,dev]'
	@touch $@
