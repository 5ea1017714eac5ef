//! Compiles the CUDA kernels where the feature `cuda` is on; there is nothing to do without it.
//!
//! To machine code of the card's kind, because a driver takes half a minute to translate PTX, and to PTX, for cards that come
//! later. `CUDA_COMPUTE_CAP` says which kind (90 for Hopper); without it, that of the card in this machine.

use std::error::Error;

#[cfg(feature = "cuda")]
const FOLDER: &str = "src/engine/model/cuda";
#[cfg(feature = "cuda")]
const MODULES: [&str; 3] = ["answering", "few_rows", "training"];

#[cfg(feature = "cuda")]
fn main() -> Result<(), Box<dyn Error>> {
    use std::{env, path::Path, process::Command};

    println!("cargo::rerun-if-changed={FOLDER}");
    for variable in ["CUDA_HOME", "CUDA_COMPUTE_CAP", "NVCC_APPEND_FLAGS"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let target = match env::var("CUDA_COMPUTE_CAP") {
        Ok(cap) => format!("-gencode=arch=compute_{cap},code=[sm_{cap},compute_{cap}]"),
        Err(_) => "-arch=native".into(),
    };
    let nvcc = env::var("CUDA_HOME").map_or("nvcc".into(), |home| Path::new(&home).join("bin/nvcc"));
    for module in MODULES {
        let source = Path::new(FOLDER).join(module).with_extension("cu");
        let code = Path::new(&env::var("OUT_DIR")?).join(module).with_extension("fatbin");
        let mut command = Command::new(&nvcc);
        command.args(["-std=c++17", "-O3", "-fatbin", &target, "-o"]).arg(&code).arg(&source);
        let status = command.status().map_err(|error| format!("{} cannot be run: {error}", nvcc.display()))?;
        if !status.success() {
            return Err(format!("{} does not compile, see above", source.display()).into());
        }
    }
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn main() -> Result<(), Box<dyn Error>> {
    Ok(())
}
