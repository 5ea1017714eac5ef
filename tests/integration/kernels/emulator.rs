//! Kernels as programs: compiled behind `tests/kernels/emulator.hpp`, and given a launch on standard input.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use half::bf16;
use sha2::{Digest, Sha256};

/// What a kernel is given.
pub(super) enum Arg {
    Memory(Vec<u8>),
    Number(Vec<u8>),
}

impl Arg {
    /// Memory that is not there.
    pub(super) const NONE: Self = Self::Memory(vec![]);

    pub(super) fn f32s(numbers: &[f32]) -> Self {
        Self::Memory(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
    }

    pub(super) fn f64s(numbers: &[f64]) -> Self {
        Self::Memory(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
    }

    pub(super) fn u32s(numbers: &[u32]) -> Self {
        Self::Memory(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
    }

    /// Numbers rounded to bf16.
    pub(super) fn bf16s(numbers: &[f32]) -> Self {
        Self::Memory(numbers.iter().flat_map(|number| bf16::from_f32(*number).to_le_bytes()).collect())
    }

    /// For results in f32 or in anything smaller: each is no number until it is written.
    pub(super) fn results(bytes: usize) -> Self {
        Self::Memory(vec![0xff; bytes])
    }

    pub(super) fn int(number: usize) -> Self {
        Self::Number(i32::try_from(number).unwrap().to_le_bytes().into())
    }

    pub(super) fn long(number: usize) -> Self {
        Self::Number((number as i64).to_le_bytes().into())
    }

    pub(super) fn float(number: f32) -> Self {
        Self::Number(number.to_le_bytes().into())
    }
}

/// Blocks (x, y, z), the threads of each, and the bytes of shared memory that it asks for.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) blocks: [usize; 3],
    pub(super) threads: usize,
    pub(super) shared_bytes: usize,
}

impl Grid {
    pub(super) fn of(blocks: [usize; 3], threads: usize) -> Self {
        Self { blocks, threads, shared_bytes: 0 }
    }
}

/// What is in the memory of a launch afterwards, in the order of its arguments; numbers among them do not count.
pub(super) struct Memory(Vec<Vec<u8>>);

impl Memory {
    pub(super) fn f32s(&self, index: usize) -> Vec<f32> {
        self.0[index].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    pub(super) fn u32s(&self, index: usize) -> Vec<u32> {
        self.0[index].as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
    }

    pub(super) fn bf16s(&self, index: usize) -> Vec<f32> {
        self.0[index].as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()
    }
}

/// The kernels of a module.
pub(super) struct Kernels(PathBuf);

impl Kernels {
    /// Compiles those of these names, if that was not done before.
    pub(super) fn of(module: &str, names: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        // What the emulator brings itself is not included, and its shared memory is an array as any other.
        let plain = |path: String| {
            let source = read(&path);
            let lines =
                source.lines().filter(|line| !line.starts_with("#include") && !line.starts_with("#pragma once"));
            lines.collect::<Vec<_>>().join("\n").replace("extern __shared__", "extern")
        };
        let folder = "src/engine/model/cuda";
        let mut source = read("tests/kernels/emulator.hpp").replace("#pragma once", "");
        source += &plain("tests/kernels/program.hpp".into());
        source += &plain(format!("{folder}/common.cuh"));
        source += &plain(format!("{folder}/{module}.cu"));
        source += "\nint main(int, char **argv) {\n    const std::string name = argv[1];\n";
        for name in names {
            source += &format!("    if (name == \"{name}\") return emulator::serve(emulator::signature({name}));\n");
        }
        source += "    return 4;\n}\n";
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
        fs::create_dir_all(&folder).unwrap();
        // Each test is a process of its own: the first compiles, others wait for it.
        let lock = File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        let digest = Sha256::digest(&source);
        let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let program = folder.join(format!("{module}-{name}"));
        if !program.exists() {
            let (file, part) = (program.with_extension("cpp"), program.with_extension("part"));
            fs::write(&file, source).unwrap();
            let mut compile = Command::new("g++");
            compile.args(["-std=c++17", "-O1", "-g", "-fsanitize=address", "-Wno-unknown-pragmas", "-o"]);
            let status =
                compile.arg(&part).arg(&file).status().expect("g++ has to be there: scripts/install-test-deps");
            assert!(status.success(), "{} does not compile, see above", file.display());
            fs::rename(part, &program).unwrap();
        }
        Self(program)
    }

    pub(super) fn launch(&self, kernel: &str, grid: Grid, args: Vec<Arg>) -> Memory {
        let mut input = Vec::new();
        let number = |input: &mut Vec<u8>, number: usize| input.extend((number as u64).to_le_bytes());
        let head = [grid.threads, grid.shared_bytes, args.len()];
        grid.blocks.into_iter().chain(head).for_each(|value| number(&mut input, value));
        let mut lengths = Vec::new();
        for arg in &args {
            let (kind, bytes) = match arg {
                Arg::Number(bytes) => (0, bytes),
                Arg::Memory(bytes) => {
                    lengths.push(bytes.len());
                    (1, bytes)
                }
            };
            number(&mut input, kind);
            number(&mut input, bytes.len());
            input.extend(bytes);
        }
        let mut command = Command::new(&self.0);
        // Fibers have stacks that the sanitizer does not know.
        command.arg(kernel).env("ASAN_OPTIONS", "detect_stack_use_after_return=0:detect_leaks=0");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // All of it is read before anything is written.
        let written = process.stdin.take().unwrap().write_all(&input);
        let output = process.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && written.is_ok(), "{kernel}: {}\n{told}", output.status);
        let mut rest = output.stdout.as_slice();
        let memory = lengths.into_iter().map(|length| rest.split_off(..length).unwrap().to_vec()).collect();
        assert!(rest.is_empty(), "{kernel} gave more than it was asked for");
        Memory(memory)
    }
}
