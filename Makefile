# Two commands on a fresh machine: `make demo` and `make test`. Plain POSIX make and sh.
.POSIX:

PYTHON = python3

help:
	@echo 'make demo    set up, then train the demo: synthetic French, warm start -> federation -> WER table'
	@echo 'make test    set up, then ruff, mypy and the tests'
	@echo 'make lint    set up, then ruff and mypy only'
	@echo 'make slow    set up, then the tests that run and kill parts of real deployments (a quarter of an hour)'
	@echo 'make lock    write requirements-deployment.txt: what a deployment installs, with hashes'
	@echo 'make sbom    write sbom.json: all that is installed in .venv, with licences (CycloneDX)'
	@echo 'make clean   remove caches and build products; .venv, prepared/ and outputs/ stay'
	@echo
	@echo 'Setting up fills .venv here (or completes the one that exists) with the versions in constraints.txt.'
	@echo 'Python 3.11 or 3.12 is needed; where python3 is another one: make PYTHON=python3.11 demo'

demo: .venv/demo.stamp
	@.venv/bin/python train_fed.py hparams/demo_fr.yaml

# pytest comes last, so that its count is the last line.
test: lint
	@.venv/bin/python -m pytest

lint: .venv/dev.stamp
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check -q .
	@.venv/bin/python -m mypy

slow: .venv/dev.stamp
	@.venv/bin/python -m pytest -m slow

# The same for both versions of Python, or no file at all. hatchling builds asr_fed itself.
lock: .venv/dev.stamp
	@mkdir -p build
	@for version in 3.11 3.12; do \
		echo hatchling | .venv/bin/uv pip compile -q --no-header --no-annotate --no-emit-index-url --generate-hashes \
			-c constraints.txt --extra deployment --python-platform x86_64-manylinux_2_28 --python-version $$version \
			--output-file build/locked-$$version.txt pyproject.toml - || exit 1; \
	done
	@cmp build/locked-3.11.txt build/locked-3.12.txt
	@{ \
		echo '# What asr_fed[deployment] and its building need on Linux (x86_64) with Python 3.11 or 3.12: versions of'; \
		echo '# constraints.txt, with hashes. Made by `make lock`; SECURITY.md says how to install by it.'; \
		cat build/locked-3.11.txt; \
	} > requirements-deployment.txt

sbom: .venv/dev.stamp
	@.venv/bin/uvx -q --from cyclonedx-bom==7.5.0 cyclonedx-py environment --pyproject pyproject.toml \
		--output-reproducible --output-file sbom.json .venv/bin/python

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find asr_fed data_prep tests scripts benchmarks -name __pycache__ -prune -exec rm -rf {} +

# Ends the recipe with a sentence where $$python is missing or none of the supported versions; $$advice closes it.
CHECK_PYTHON = \
	found=`"$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null` || found=; \
	case "$$found" in \
	3.11|3.12) ;; \
	'') echo "make: cannot run $$python; asr_fed needs Python 3.11 or 3.12. $$advice" >&2; exit 1 ;; \
	*) echo "make: $$python is Python $$found; asr_fed needs 3.11 or 3.12. $$advice" >&2; exit 1 ;; \
	esac

# pip takes long and says little: -q leaves warnings and errors.
PIP_INSTALL = .venv/bin/python -m pip install -q --disable-pip-version-check --no-input -c constraints.txt
FAILED = { echo 'make: the installation failed (see above). Mend that and start again; nothing is lost.' >&2; exit 1; }

# torch first, by its exact version: the matched pair of torch and torchaudio. The command to run is $$extra.
INSTALL = \
	python=.venv/bin/python; advice='Remove .venv (rm -r .venv) and start again.'; $(CHECK_PYTHON); \
	.venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null || $(FAILED); \
	echo "Installing asr_fed and what it needs into .venv (the first time: some minutes, 5 GB of disk) ..."; \
	$(PIP_INSTALL) torch==2.11.0 torchaudio==2.11.0 && $(PIP_INSTALL) -e ".[$$extra]" || $(FAILED)

.venv/demo.stamp: .venv/bin/python pyproject.toml constraints.txt
	@extra=demo; $(INSTALL)
	@touch $@

# dev contains demo.
.venv/dev.stamp: .venv/bin/python pyproject.toml constraints.txt
	@extra=dev; $(INSTALL)
	@touch .venv/demo.stamp $@

.venv/bin/python:
	@python='$(PYTHON)'; advice='Name one: make PYTHON=python3.11 demo (or test).'; $(CHECK_PYTHON)
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "make: $(PYTHON) lacks venv or ensurepip, which .venv needs." \
			"On Debian and Ubuntu: apt install python3-venv" >&2; \
		exit 1; }
	@'$(PYTHON)' -m venv .venv

.PHONY: help demo test lint slow lock sbom clean
