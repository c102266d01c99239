# Two commands do everything: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
BUILD  := build
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
# For what pip installs to build a package with.
export PIP_CONSTRAINT := $(abspath constraints.txt)
export PIP_BUILD_CONSTRAINT := $(abspath constraints.txt)

LOCKED := --no-deps --require-hashes -r
# PyTorch: its build for CPUs where pip is told of one, else PyPI's. For another one: make setup TORCH=torch==2.13.0
TORCH ?= $(LOCKED) requirements-torch.lock
TORCH_CPU = $(if $(filter file,$(origin TORCH)),$(PIP) $(LOCKED) requirements-torch-cpu.lock 2> $(BUILD).log ||)
COMPILE = { cmake -S . -B $(BUILD) -DPython3_EXECUTABLE=$(abspath $(PY)) && cmake --build $(BUILD) --parallel $$(nproc); } \
  > $(BUILD).log 2>&1 || { echo failed; tail -n 40 $(BUILD).log; exit 1; }

.PHONY: setup demo test test-slow coverage trials test-gpu gpu-kit lint lock format clean native

setup: $(READY) native

# $(call timed,WHAT,COMMAND) is a command that says what it does and, when that is done, how many seconds it took.
timed = printf 'setup: %s ... ' '$(1)'; started=$$(date +%s); { $(2); } && echo "$$(($$(date +%s) - started)) s"

# Files are those whose digests the locks have. A build of PyTorch for GPUs names what else it needs, by version.
$(READY): pyproject.toml constraints.txt requirements.lock requirements-torch.lock requirements-torch-cpu.lock
	@$(call timed,making $(VENV),$(PYTHON) -m venv $(VENV))
	@$(call timed,installing what SkimRT and its tests need,$(PIP) $(LOCKED) requirements.lock)
	@$(call timed,installing PyTorch,{ $(TORCH_CPU) $(PIP) $(TORCH); } && $(PIP) torch)
	@$(call timed,installing SkimRT,PYTHONWARNINGS=ignore PIP_BUILD_CONSTRAINT= $(PIP) --no-deps --no-build-isolation -e .)
	@touch $@

# The TensorRT plugin. Without nvcc the CUDA parts are left out, and the tests say so.
native: $(READY)
	@missing=$$(sh cmake/missing.sh); if [ -n "$$missing" ]; then echo "SKIPPED: the plugin is not built: $$missing"; else \
	  $(call timed,building the plugin (log: $(BUILD).log),$(COMPILE)); fi

demo: $(READY)
	$(PY) -m pipeline.demo

test: setup
	@missing=$$(sh cmake/missing.sh); if [ -z "$$missing" ]; then ctest --test-dir $(BUILD) --output-on-failure; \
	else echo "SKIPPED: ctest: nothing was built: $$missing"; fi
	$(PY) -m pytest -n logical --dist loadscope

test-slow: setup
	$(PY) -m pytest -m slow

# Which lines of the packages the tests of `make test` run, by file.
coverage: setup
	$(PY) -m pytest -n logical --dist loadscope --cov --cov-report=term:skip-covered

# Inputs that are damaged at random, by the thousand. SEED: a number or `fresh`; results go to benchmarks/results.
SEED ?= 0
trials: setup
	SKIMRT_TRIALS_SEED=$(SEED) $(PY) -m pytest -m slow tests/reliability
	$(PY) -m benchmarks.trials --write

# On a machine with a GPU: its tests, then the kernels and the shipped models, in benchmarks/results/gpu.json. What fails
# stops nothing else. GPU_RUN: flags of benchmarks.gpu_run, such as --minutes 20. Without a GPU it says what is missing.
test-gpu: native
	@$(PY) -c 'from engines.backends.gpu import find_gpu; raise SystemExit(isinstance(find_gpu(), str))' \
	  || $(PY) -m benchmarks.gpu_run --check
	@$(PY) -c 'import cuda.bindings, polygraphy, tensorrt' 2> $(BUILD).log \
	  || $(PIP) -e '.[dev,gpu]' \
	  || echo "SKIPPED: pip cannot install the extra gpu; targets whose packages are missing are left out"
	@failed=; \
	ctest --test-dir $(BUILD) -L gpu --output-on-failure || failed="$$failed ctest"; \
	$(PY) -m pytest -m "gpu and not slow" || failed="$$failed pytest"; \
	sh plugins/testing/compute_sanitizer.sh $(BUILD) || [ $$? = 77 ] || failed="$$failed sanitizer"; \
	$(PY) -m benchmarks.gpu_run $(GPU_RUN) || failed="$$failed gpu_run"; \
	[ -z "$$failed" ] || { echo "FAILED:$$failed"; exit 1; }

# For a GPU machine without a network: packs what it lacks into .gpu/ and prints the calls. GPU_KIT: flags.
gpu-kit: $(READY)
	$(PY) -m benchmarks.gpu.pack $(GPU_KIT)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@sh .ci/audit $(VENV)/bin/pip-audit requirements.lock

# The digests of the versions in constraints.txt. UV: the command, which pip installs: pip install uv
UV ?= uv
lock:
	.ci/lock $(UV)

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(BUILD) $(BUILD).log *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
