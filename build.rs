//! Compiles the CUDA kernels to PTX where the feature `cuda` is on; there is nothing to do without it.

#[cfg(feature = "cuda")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    const KERNELS: &str = "src/engine/model/cuda";
    println!("cargo::rerun-if-changed={KERNELS}");
    let kernels = cudaforge::KernelBuilder::new().source_dir(KERNELS).watch([format!("{KERNELS}/common.cuh")]);
    let ptx = kernels.arg("-std=c++17").arg("-O3").build_ptx()?;
    ptx.write(std::path::Path::new(&std::env::var("OUT_DIR")?).join("ptx.rs"))?;
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn main() {}
