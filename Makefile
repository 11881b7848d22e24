# `make help` lists the targets. Everything prepares what it needs first; a second time takes seconds.

.DEFAULT_GOAL := help
.PHONY: help env build demo faults test lint unit system clean distclean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: ## Prepare the Python environment
	@scripts/environment.sh

build: ## Build the workspace
	@scripts/build.sh

demo: ## Run SafeReach in simulation: the real graph, episodes, a fine-tune round, a report
	@./run fosp-demo

faults: ## Inject every fault of the safety contract into the running graph (one: make faults ONLY=image_black)
	@./run python benchmarks/faults.py $(if $(ONLY),--only $(ONLY)) $(if $(REPEATS),--repeats $(REPEATS))

test: ## Lint, types, build, unit tests, system tests
	@scripts/test.sh lint unit system

lint: ## ruff, mypy and shellcheck
	@scripts/test.sh lint

unit: ## Unit tests of every package (one: make unit PACKAGE=fosp_core)
	@scripts/test.sh unit $(PACKAGE)

system: ## System tests, which start the real graph
	@scripts/test.sh system

clean: ## Remove what was built; keep the environment, models and records
	@rm -rf build install log .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## Remove the environment as well
	@rm -rf .venv .venv-*
