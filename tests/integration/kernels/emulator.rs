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

/// The kernels of a module, in a program for each thing that is looked for.
pub(super) struct Kernels([PathBuf; 2]);

/// The address sanitizer: what is accessed beyond memory.
const ADDRESSES: &[&str] = &["-fsanitize=address"];
/// `races.cpp`: what nothing orders.
const RACES: &[&str] = &["-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0", "-DFIND_RACES"];

impl Kernels {
    /// Compiles those of these names of a module of the program, if that was not done before.
    pub(super) fn of(module: &str, names: &[&str]) -> Self {
        Self::of_files(
            module,
            &["src/engine/model/cuda/common.cuh", &format!("src/engine/model/cuda/{module}.cu")],
            names,
        )
    }

    pub(super) fn of_files(module: &str, files: &[&str], names: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let tools = root.join("tests/kernels");
        let plain = Command::new("sed").arg("-f").arg(tools.join("plain.sed")).args(files).current_dir(root).output();
        let plain = plain.unwrap();
        assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));
        let mut source = "#include \"program.hpp\"\n".to_owned() + std::str::from_utf8(&plain.stdout).unwrap();
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
        let mut digest = Sha256::new_with_prefix(&source);
        for tool in ["emulator.hpp", "program.hpp", "races.hpp", "races.cpp"] {
            digest.update(fs::read(tools.join(tool)).unwrap());
        }
        for flags in [ADDRESSES, RACES] {
            digest.update(flags.concat());
        }
        let name: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let made = folder.join(format!("{module}-{name}"));
        let programs = [made.with_extension("addresses"), made.with_extension("races")];
        if programs.iter().all(|program| program.exists()) {
            return Self(programs);
        }
        let file = made.with_extension("cpp");
        fs::write(&file, source).unwrap();
        let compiled = |object: &Path, source: &Path, flags: &[&str]| {
            let mut compile = Command::new("g++");
            compile.args(["-std=c++17", "-O1", "-g", "-Wno-unknown-pragmas", "-c", "-I"]).arg(&tools);
            compile.args(flags).arg("-o").arg(object).arg(source);
            compile.spawn().expect("g++ has to be there: scripts/install-test-deps")
        };
        let [addresses, races, tool] = ["addresses.o", "races.o", "tool.o"].map(|name| made.with_extension(name));
        // All at once.
        let processes = [
            compiled(&addresses, &file, ADDRESSES),
            compiled(&races, &file, RACES),
            compiled(&tool, &tools.join("races.cpp"), &["-O2", "-DFIND_RACES"]),
        ];
        for mut process in processes {
            assert!(process.wait().unwrap().success(), "{} does not compile, see above", file.display());
        }
        let linked = |program: &Path, flags: &[&str], objects: &[&PathBuf]| {
            let part = made.with_extension("part");
            let status = Command::new("g++").args(flags).arg("-o").arg(&part).args(objects).status();
            assert!(status.unwrap().success(), "{} is not linked, see above", program.display());
            fs::rename(part, program).unwrap();
        };
        linked(&programs[0], ADDRESSES, &[&addresses]);
        // The functions that the flag asks for are in `races.cpp`, which comes first (`races.hpp`).
        linked(&programs[1], &[], &[&tool, &races]);
        for object in [addresses, races, tool] {
            fs::remove_file(object).unwrap();
        }
        Self(programs)
    }

    /// Launches a kernel in which nothing is found.
    pub(super) fn launch(&self, kernel: &str, grid: Grid, args: Vec<Arg>) -> Memory {
        self.try_launch(kernel, grid, &args).unwrap_or_else(|told| panic!("{kernel}: {told}"))
    }

    /// Launches a kernel in all programs. Fails with what the first one tells that finds something.
    pub(super) fn try_launch(&self, kernel: &str, grid: Grid, args: &[Arg]) -> Result<Memory, String> {
        let input = input(grid, args);
        let processes = self.0.each_ref().map(|program| {
            let mut command = Command::new(program);
            // Fibers have stacks that the sanitizer does not know.
            command.arg(kernel).env("ASAN_OPTIONS", "detect_stack_use_after_return=0:detect_leaks=0");
            let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            let mut process = process.unwrap();
            // All of it is read before anything is written.
            let written = process.stdin.take().unwrap().write_all(&input);
            (process, written)
        });
        let [first, second] = processes.map(|(process, written)| {
            let output = process.wait_with_output().unwrap();
            match output.status.success() && written.is_ok() {
                true => Ok(output.stdout),
                false => Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr))),
            }
        });
        let (first, second) = (first?, second?);
        assert_eq!(first, second, "what {kernel} makes is the same in all programs");
        let mut rest = first.as_slice();
        let lengths = args.iter().filter_map(|arg| match arg {
            Arg::Memory(bytes) => Some(bytes.len()),
            Arg::Number(_) => None,
        });
        let memory = lengths.map(|length| rest.split_off(..length).unwrap().to_vec()).collect();
        assert!(rest.is_empty(), "{kernel} gave more than it was asked for");
        Ok(Memory(memory))
    }
}

/// A launch, as `tests/kernels/program.hpp` reads it.
fn input(grid: Grid, args: &[Arg]) -> Vec<u8> {
    let mut input = Vec::new();
    let number = |input: &mut Vec<u8>, number: usize| input.extend((number as u64).to_le_bytes());
    let head = [grid.threads, grid.shared_bytes, args.len()];
    grid.blocks.into_iter().chain(head).for_each(|value| number(&mut input, value));
    for arg in args {
        let (kind, bytes) = match arg {
            Arg::Number(bytes) => (0, bytes),
            Arg::Memory(bytes) => (1, bytes),
        };
        number(&mut input, kind);
        number(&mut input, bytes.len());
        input.extend(bytes);
    }
    input
}
