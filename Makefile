# Everything from a fresh checkout: `make demo`, `make test`. Needs Python 3.11-3.13, cmake and a C++ compiler.
# ROS_DISTRO=kilted   the other ROS 2 (in .venv-kilted)      PYTHON=python3.12   which Python
# TORCH_INDEX=URL     another torch build (CPU, CUDA)        VENV=DIR            another environment

SHELL := /bin/bash
ROS_DISTRO ?= jazzy
VENV ?= $(if $(filter jazzy,$(ROS_DISTRO)),.venv,.venv-$(ROS_DISTRO))
# The Python that the environment was made with, else the usual one.
PYTHON ?= $(shell command -v "$$(cat $(VENV)/.setup/base-python 2>/dev/null)" || echo python3)
TORCH_INDEX ?=
SHARED ?= $(or $(ADA3D_SHARED),../shared)

BIN := $(VENV)/bin
# What another environment's start-up hook or a sourced workspace leaves behind would be loaded instead of ours.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH PYTHONPATH PYTHONHOME
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH

SETUP := AMENT_PREFIX_PATH="$(AMENT_PREFIX_PATH)" $(PYTHON) tools/setup_venv.py \
	--venv "$(VENV)" --ros-distro "$(ROS_DISTRO)" --torch-index "$(TORCH_INDEX)"
# Test files run side by side, each worker with one thread; torch counts its own memory in each.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); echo $$(( n < 4 ? n : 4 )))
FLEET_TEST := test/fleet/test_ray_serve.py
# Tests over DDS wait more than they compute: one more than cores (decision 234).
ROS_WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); echo $$(( n < 3 ? n + 1 : 4 )))
# In the order of test/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder
# Tests that failed beside others, once more with the machine to themselves (decision 152).
ALONE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --last-failed --last-failed-no-failures=none

# Fewer rows and budgets of level 2; the whole, blind and shuffled rows besides.
TABLES_LEVEL2 := --scenes 100 --budgets 0.4,0.1 --modes before,build,paper \
	--only random,voxel_dpp,adatoken3d,voxel_dpp+adatoken3d,adatoken3d_plus
PAGES := plot_pruning_tables write_pruning_tables_page write_scene_pruning_page write_paper_page \
	write_field_table write_training_times write_benchmark_tables write_model_card
TABLES_MINUTES ?= 55

# $(call step,name,command): run it, print how it went and how long it took.
step = @SECONDS=0; echo "== $(1)"; if $(2); then echo "== $(1): ok, $$SECONDS s"; else echo "== $(1): FAILED after $$SECONDS s"; exit 1; fi

.DEFAULT_GOAL := help
.PHONY: help setup build demo test lint type test-unit test-fleet test-ros parity docs tables clean
.NOTPARALLEL:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: ## make or update the virtual environment, ROS 2 and our interfaces included
	$(call step,setup,$(SETUP))

build: ## build and install the ROS interfaces again (setup does so by itself when they change)
	$(call step,build,$(SETUP) --rebuild-interfaces)

demo: setup ## the real node, an embedded bag and model, questions, answers, a report; WEB=1: also in the browser
	$(BIN)/ada3d demo $(if $(WEB),--web)

# mypy, parity and the site take what the tests leave of the processor (decision 234).
test: setup ## set up, then every check and test
	@side=$$(mktemp); nice -n 19 $(MAKE) --no-print-directory type parity docs > $$side 2>&1 & pid=$$!; \
	trap "kill $$pid 2> /dev/null; rm -f $$side" EXIT; \
	$(MAKE) --no-print-directory lint test-unit test-fleet test-ros; status=$$?; \
	wait $$pid || status=1; cat $$side; exit $$status

lint: setup ## ruff: rules and format
	$(call step,lint,$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check .)

type: setup ## mypy
	$(call step,type,$(BIN)/python -m mypy)

test-unit: setup ## tests that need no ROS process: architecture, units, golden data
	$(call step,test-unit,$(PYTEST) -n $(WORKERS) --ignore=test/ros --ignore=$(FLEET_TEST))

test-fleet: setup ## the whole server on Ray, alone: it has processes of its own
	$(call step,test-fleet,OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(FLEET_TEST))

test-ros: setup ## tests of the node over DDS, in separate processes; what fails is run once more, alone
	$(call step,test-ros,$(PYTEST) -n $(ROS_WORKERS) test/ros || { echo "== failed beside others; alone:"; $(ALONE) test/ros; })

parity: setup ## recorded outputs of the reference codes: ours in test/data, the larger ones where ../shared has them
	$(call step,parity,$(BIN)/ada3d parity test/data/golden && if [ -d "$(SHARED)/golden" ]; then $(BIN)/ada3d parity "$(SHARED)/golden"; else echo "skipped: no $(SHARED)/golden"; fi)

docs: setup ## the documentation as a site, in build/site; a warning is an error
	$(call step,docs,NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet)

tables: setup ## go on with the pruning tables of both levels for an hour (TABLES_MINUTES), then the pages made of results; commit first
	$(call step,level 1,$(BIN)/ada3d eval pruning-tables --scenes 360 \
		--minutes $$(( $(TABLES_MINUTES) * 2 / 3 )) --json docs/results/pruning_tables_level1.json)
	$(call step,level 2,$(BIN)/ada3d eval pruning-tables --level 2 $(TABLES_LEVEL2) --minutes $$(( $(TABLES_MINUTES) / 3 )) --json docs/results/pruning_tables_level2.json)
	$(call step,pages,for tool in $(PAGES); do $(BIN)/python tools/$$tool.py || exit 1; done)

clean: ## remove what was built, keep the environment (remove it with rm -r .venv)
	rm -rf build install log *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis demo_out
	find ada3d_ros test tools -name __pycache__ -type d -prune -exec rm -rf {} +
