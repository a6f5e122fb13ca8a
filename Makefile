# The commands that hold the house together; .ci/run and the git hooks call these, too.
.PHONY: check lint test

check: lint test

lint:
	ruff check .
	ruff format --check .
	mypy
	lint-imports

test:
	pytest
