# The two commands of the README are `make quickstart` and `make test`. They need Rust, a C++ compiler, make and Python 3 with pip.

PYTHON ?= python3
CARGO ?= cargo
TORCH_FOLDER := .libtorch
TORCH_PACKAGES := torch==2.11.0 nvidia-cuda-runtime==13.0.* nvidia-cuda-cupti==13.0.*
TORCH_STAMP := $(TORCH_FOLDER)/complete
ABLATE := target/release/ablate

.PHONY: help quickstart build test sql libtorch generate interop

help:
	@echo "make quickstart   build, and align a tiny model beside three controls: pipelines/quickstart.yaml"
	@echo "make test         all tests that need no network"
	@echo "make sql          build target/sql/release/ablate, which has the command query, and test it; takes minutes more"
	@echo "make generate     renew pipelines/README.md, pipelines/pipeline.schema.json and tests/versions.json"
	@echo "make interop      tests against other libraries, in a virtual environment of their own"
	@echo "make libtorch     fetch libtorch into $(TORCH_FOLDER), unless LIBTORCH says where it is"

quickstart: build
	$(ABLATE) run pipelines/quickstart.yaml

build: libtorch
	$(CARGO) build --release -p ablate -p lm

test: libtorch
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --workspace; \
	else \
		$(CARGO) test --workspace --lib --bins --tests; \
	fi

# In a folder of its own: the features of a build are those of all its crates, and neither build is to undo the other.
sql:
	$(CARGO) build --release --features sql -p ablate --target-dir target/sql
	$(CARGO) test --release --features sql -p ablate --target-dir target/sql --test ablate query

# The wheel of PyTorch is the library; nothing of Python is used of it. The stamp is written last, so an interrupted fetch is done again.
ifdef LIBTORCH
libtorch:
	@echo "libtorch: taking LIBTORCH=$(LIBTORCH)"
else
libtorch: $(TORCH_STAMP)

$(TORCH_STAMP):
	rm -rf $(TORCH_FOLDER)
	$(PYTHON) -m pip install --no-deps --target $(TORCH_FOLDER) $(foreach package,$(TORCH_PACKAGES),'$(package)')
	touch $@
endif

# Written from the types that read a pipeline, and from what the examples of all kinds give; tests whose names begin with
# `generated_` compare them.
generate:
	ABLATE_GENERATE=1 $(CARGO) test -q --workspace --lib --bins --tests generated_

interop:
	bash tests/interop/run.sh
