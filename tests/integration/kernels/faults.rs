//! What the emulator has to find, in kernels that were made for it.

use super::emulator::{Arg, Grid, Kernels};

const THREADS: usize = 64;

/// What a kernel makes of zeros, launched in so many blocks of two warps, or what is found in it.
fn launched(kernels: &Kernels, name: &str, blocks: usize, has_counter: bool) -> Result<Vec<f32>, String> {
    let mut args = vec![Arg::f32s(&vec![0.0; blocks * THREADS])];
    args.extend(has_counter.then(|| Arg::u32s(&[0])));
    let shared_bytes = if name.contains("room") { 4 * THREADS } else { 0 };
    let grid = Grid { shared_bytes, ..Grid::of([blocks, 1, 1], THREADS) };
    kernels.try_launch(name, grid, &args).map(|memory| memory.f32s(0))
}

#[test]
fn the_emulator_finds_what_a_card_might_let_pass() {
    // The blocks of each, whether it counts in what they share, and what is said of it. A race may be seen by what is not there yet.
    let faults: [(&str, usize, bool, &[&str]); 21] = [
        ("beyond_memory", 1, false, &["heap-buffer-overflow"]),
        ("beyond_shared_memory", 1, false, &["global-buffer-overflow"]),
        ("no_barrier_before_reading", 1, false, &["reads what its block has not written", "nothing orders them"]),
        ("no_barrier_before_writing_again", 1, false, &["nothing orders them"]),
        ("barrier_of_a_warp_only", 1, false, &["reads what its block has not written", "nothing orders them"]),
        ("shuffle_for_a_barrier", 1, false, &["of static shared memory", "has written, and nothing orders them"]),
        ("matrices_without_a_barrier", 1, false, &["has written, and nothing orders them"]),
        ("no_barrier_in_room_that_is_asked_for", 1, false, &["of shared memory", "nothing orders them"]),
        ("written_while_two_warps_read", 1, false, &["nothing orders them"]),
        ("shared_memory_not_written", 1, false, &["reads what its block has not written"]),
        ("two_threads_write", 1, false, &["of argument 0", "writes what thread"]),
        ("two_blocks_write", 2, false, &["writes what thread 0 of another block has written"]),
        ("one_block_reads_what_another_writes", 2, false, &["of another block has"]),
        ("fences_but_no_barrier", 2, true, &["reads what thread", "of another block has written"]),
        ("no_fence_before", 2, true, &["reads what thread", "of another block has written"]),
        ("no_fence_after", 2, true, &["reads what thread", "of another block has written"]),
        ("writes_after_the_fence", 2, true, &["reads what thread 0 of another block has written"]),
        ("count_after_zero", 1, true, &["of argument 1", "nothing orders them"]),
        ("two_barriers", 1, false, &["threads meet in lines"]),
        ("half_a_warp", 1, false, &["wait for each other in different places"]),
        ("one_atomic_one_not", 1, true, &["of argument 1", "nothing orders them"]),
    ];
    let right = ["right", "barrier_of_a_warp", "fences", "fences_of_a_thread"];
    let names: Vec<_> = faults.iter().map(|fault| fault.0).chain(right).collect();
    let kernels = Kernels::of_files("faulty", &["tests/kernels/faulty.cu"], &names);
    for (name, blocks, has_counter, expected) in faults {
        let told = launched(&kernels, name, blocks, has_counter).expect_err(name);
        let is_either = expected[0].starts_with("reads what its block");
        let is_said = |part: &&str| told.contains(*part);
        assert!(if is_either { expected.iter().any(is_said) } else { expected.iter().all(is_said) }, "{name}: {told}");
        // The lines of both are told.
        let lines = told.lines().filter(|line| line.starts_with("faulty-") || line.starts_with("emulator.hpp")).count();
        assert!(!told.contains("nothing orders them") || lines >= 2, "{name}: {told}");
    }
    for name in ["right", "barrier_of_a_warp"] {
        assert_eq!(launched(&kernels, name, 1, false), Ok(vec![0.0; THREADS]));
    }
    let mut expected = vec![1.0; 2 * THREADS];
    expected[0] = 2.0 * THREADS as f32;
    assert_eq!(launched(&kernels, "fences", 2, true), Ok(expected));
    let found = launched(&kernels, "fences_of_a_thread", 2, true).unwrap();
    assert_eq!((found[0], found[1], found[THREADS]), (1.0, 2.0, 1.0));
}
