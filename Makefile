# Shortcuts for contributors. `make test` comes first: it makes .venv.
bin := .venv/bin
unset := env -u PYTHONDONTWRITEBYTECODE
llama_server = $(CYBER_TEST_LLAMA_SERVER)
# Rooms whose tests need no llama-server, no terminal and no other program: about a minute.
# Some of them wait, so there are more workers than two cores would need.
fast := client doctor fakes gguf http library scheduler service settings

.PHONY: help test check test-fast snapshots regenerate

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

test: ## everything that must hold before a change is done
	scripts/test

check: ## lint, format, spelling, types and import rules
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/codespell
	$(bin)/lint-imports
	$(bin)/mypy

test-fast: ## the quick tests; fast="http tui" names other rooms
	$(unset) $(bin)/pytest -q -n 4 --dist worksteal $(addprefix tests/,$(fast)) tests/*.py

snapshots: ## take new pictures for the tests of screens; look at the difference
	$(unset) $(bin)/pytest -q tests/tui/test_snapshots.py --snapshot-update

regenerate: ## generated files and pages; with CYBER_TEST_LLAMA_SERVER also examples
	$(bin)/python -m tests.settings.regenerate
	$(bin)/python -m tests.cli.regenerate
	$(bin)/python -m tests.http.regenerate
	$(bin)/python -m tests.tui.regenerate
	$(if $(llama_server),$(bin)/python -m tests.cli.examples "$(llama_server)")
