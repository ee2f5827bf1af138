# For people who have make; each target is one command that works without it.
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
UV := .venv/bin/uv
COMPILE := $(UV) pip compile --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links

.PHONY: base-images check-base-images bench-deploy bench-gateway bench-hung-engines bench-placement bench-probes bench-scale bench-upload help setup demo test fast fmt lint types imports migrations upgrade up down status clean clean-proof

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F '\t' '{printf "  %-20s %s\n", $$1, $$2}'

setup: ## install what is missing: Debian packages, .venv, front-end packages
	bin/setup.sh

demo: ## the whole platform on this machine, until Ctrl-C
	bin/demo

test: ## everything that checks the project, real parts included
	bin/test

fast: ## the checks, and the tests that need nothing started
	bin/test --fast

fmt: setup ## format the code and mend what ruff can mend
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

lint: setup ## ruff: format and rules
	.venv/bin/ruff format --check
	.venv/bin/ruff check

types: setup ## mypy, strict
	.venv/bin/mypy

imports: setup ## who may import whom
	.venv/bin/lint-imports

migrations: setup ## write the migrations that the models need
	$(PYTHON) manage.py makemigrations

upgrade: setup ## newest versions: compile both requirement files anew
	eval "$$($(PYTHON) stack/uv_settings.py)" && $(COMPILE) --upgrade requirements.in -o requirements.txt
	eval "$$($(PYTHON) stack/uv_settings.py)" && $(COMPILE) --upgrade requirements-dev.in -o requirements-dev.txt -c requirements.txt

up: setup ## start PostgreSQL, Redis and ZooKeeper for the tests, and leave them running
	$(PYTHON) -m stack up test

down: setup ## stop them, and whatever a killed run of the demo or the tests left
	$(PYTHON) -m stack down test
	$(PYTHON) -m stack down demo

status: setup ## what runs of the demo and the tests
	-$(PYTHON) -m stack status demo
	-$(PYTHON) -m stack status test

clean: down ## forget data, caches and the environments (not .venv)
	rm -rf var portal/web/static/vendor node_modules

clean-proof: ## bin/demo --exit on a fresh Debian made by debootstrap (needs root)
	tests/clean/run.sh

bench-placement: setup ## how fast placement commits at 100, 1,000 and 5,000 hosts (JSON; also in var/bench/)
	@$(PYTHON) -m benchmarks.placement

bench-deploy: setup ## deploys against docker run, rollouts under load, crashes, the platform away (needs root)
	@$(PYTHON) -m benchmarks.deploy

bench-scale: setup ## 16 x 500 instances on engines in memory; 1 to 50 over three real engines (needs root)
	@$(PYTHON) -m benchmarks.scale

bench-hung-engines: setup ## how long a deploy takes while two other hosts' engines hang (needs root)
	@$(PYTHON) -m benchmarks.hung_engines

bench-probes: setup ## how many instances one core can ask how they are, and how evenly (JSON; also in var/bench/)
	@$(PYTHON) -m benchmarks.probes

bench-gateway: ## the gateway against nginx and a static HAProxy, with 10,000 apps (JSON; ten minutes; ARGS="--only rps")
	@bin/setup.sh benchmarks/apt-packages.txt
	@$(PYTHON) -m benchmarks.gateway $(ARGS)

bench-upload: setup ## memory of portal and workers while an image archive of 1 GiB is sent and pushed
	@$(PYTHON) -m benchmarks.upload

base-images: setup ## build the platform's own images and push them (ARGS="redis nginx": only those; needs root)
	$(PYTHON) manage.py base_images $(ARGS)

check-base-images: setup ## build them for a platform of its own, deploy each, and ask it (JSON; needs root and a Debian mirror)
	@$(PYTHON) -m benchmarks.base_images $(ARGS)
