# Everything that a developer runs. `make test` works on a bare machine with Rust, Python 3 and a package manager.

.PHONY: test deps model lint docs cuda cuda-test licences learn-table learn-curves learn-history learn-over-http poisoned-stream steep-rounds clean

# The tests' own PostgreSQL server needs the server's programs, nothing that runs; the model is fetched once.
test: deps model
	cargo nextest run --no-fail-fast
	cargo test --doc --quiet

deps:
	scripts/install-test-deps

model:
	cargo run --quiet -- model fetch --data-dir target

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# The program with CUDA, on a machine with or without a GPU (docs/gpu.md). It is meant to be copied, so its size is looked at.
CUDA_COMPUTE_CAP ?= 90
WITH_CUDA = CUDA_HOME="$(CURDIR)/target/cuda-home" CUDA_COMPUTE_CAP=$(CUDA_COMPUTE_CAP) NVCC_APPEND_FLAGS=--compress-mode=size \
	PATH="$(CURDIR)/target/cuda-home/bin:$(PATH)" LIBRARY_PATH="$(CURDIR)/target/cuda-home/lib64"
CUDA_BUILD = --release --features cuda --target-dir target/cuda

cuda:
	scripts/cuda-home target/cuda-home
	$(WITH_CUDA) cargo build $(CUDA_BUILD)
	strip -o target/ttrl-cuda target/cuda/release/ttrl
	@size=$$(wc -c <target/ttrl-cuda); echo "target/ttrl-cuda has $$((size / 1048576)) MiB"; test $$size -lt $$((60 * 1048576))

# The same program, and the tests of whole servers, on a card that a CPU emulates (docs/gpu.md, "Without a GPU").
cuda-test: deps cuda
	scripts/emulated-card
	scripts/emulated-card --races
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=scripts/emulated-card $(WITH_CUDA) \
		cargo nextest run $(CUDA_BUILD) --no-fail-fast -E 'test(/^(card|rounds|resume|watch)::/) or test(/::cuda::/)'

licences:
	scripts/check-licences

# The README's table: three seeds of ten steps on the eight-shot sums.
learn-table:
	scripts/learn-table

# The same through a server, with a client that never stops.
learn-over-http: model
	cargo build --release --quiet
	scripts/learn-over-http

# A table and a plot of learning by votes, by right answers and by chance (needs matplotlib).
learn-curves:
	scripts/learn-curves

# Rounds after each other on a server, with and without the questions that are settled.
learn-history: model
	cargo build --release --quiet
	scripts/learn-history

# Whether one client can move the answers of the others.
poisoned-stream: model
	cargo build --release --quiet
	scripts/poisoned-stream

# What becomes of a round that collapses.
steep-rounds: model
	cargo build --release --quiet
	scripts/steep-rounds

clean:
	cargo clean
