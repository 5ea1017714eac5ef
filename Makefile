# Everything that a developer runs. `make test` works on a bare machine with Rust, Python 3 and a package manager.

.PHONY: test deps model lint docs licences learn-table learn-curves learn-over-http poisoned-stream steep-rounds clean

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
