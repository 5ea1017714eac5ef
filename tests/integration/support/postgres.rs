//! A real PostgreSQL server for the tests: every test process starts its own and shares it among its tests.
//!
//! Making the server's files takes seconds, so it is done once, kept as an archive in the target directory and
//! unpacked for each server. A server belongs to a small shell script that reads commands from its standard input and
//! stops the server at the end of input, which comes when the test process ends, in whatever way.

use std::{
    fs::{self, File},
    io::Write,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

/// Of the user of all databases here; not a secret, but a check that no message repeats it.
pub const PASSWORD: &str = "correct-horse-battery";

const USER: &str = "ttrl";

/// How long a server may take to start on a busy machine.
const START_WAIT: Duration = Duration::from_secs(60);

/// `$1` is the folder with the server's programs, `$2` its own folder, `$3` its port. At SIGINT the server disconnects
/// its clients, whatever they are doing, and stops.
const SUPERVISOR: &str = r#"
start() { "$1/postgres" -D "$2/data" -p "$3" -k '' -h 127.0.0.1 -F >>"$2/log" 2>&1 & server=$!; }
stop() { kill -INT "$server" 2>/dev/null; wait "$server" 2>/dev/null; }
start "$@"
while read -r command; do
    case $command in
        stop) stop; : >"$2/stopped" ;;
        start) rm -f "$2/stopped"; start "$@" ;;
    esac
done
stop
rm -rf "$2"
"#;

/// A running server, which ends when this is dropped or with the process.
pub struct Server {
    port: u16,
    folder: PathBuf,
    supervisor: Mutex<Child>,
    databases: AtomicU32,
}

impl Server {
    /// The server of this test process.
    pub async fn shared() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let _only = STARTING.lock().await;
        if SERVER.get().is_none() {
            let server = Self::start().await;
            assert!(SERVER.set(server).is_ok(), "started twice");
        }
        SERVER.get().unwrap()
    }

    /// A server of one's own, to be stopped and started.
    pub async fn start() -> Self {
        let programs = programs();
        let account = Account::unprivileged();
        let archive = archive(&programs, &account);
        let folder = account.folder();
        let unpacked =
            account.command("tar").args(["-xf", "-", "-C"]).arg(&folder).stdin(File::open(archive).unwrap()).status();
        assert!(unpacked.unwrap().success(), "the server's files could not be unpacked");
        let port = free_port();
        let supervisor = account
            .command("sh")
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(&programs)
            .arg(&folder)
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { port, folder, supervisor: Mutex::new(supervisor), databases: AtomicU32::new(0) };
        server.answers().await;
        server
    }

    /// The address of a database, which need not be there.
    pub fn address(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// The address of a new, empty database.
    pub async fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&self.address("postgres")).await.unwrap();
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        connection.close().await.unwrap();
        self.address(&name)
    }

    /// Stops the server, so that nothing listens on its port any more.
    pub async fn stop(&self) {
        self.command("stop");
        let since = Instant::now();
        while !self.folder.join("stopped").exists() {
            assert!(since.elapsed() < START_WAIT, "PostgreSQL did not stop: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts the server after a stop, with the same port and the same databases.
    pub async fn start_again(&self) {
        self.command("start");
        self.answers().await;
    }

    fn command(&self, command: &str) {
        let mut supervisor = self.supervisor.lock().unwrap();
        writeln!(supervisor.stdin.as_mut().unwrap(), "{command}").unwrap();
    }

    async fn answers(&self) {
        let since = Instant::now();
        while let Err(error) = PgConnection::connect(&self.address("postgres")).await {
            assert!(since.elapsed() < START_WAIT, "PostgreSQL did not start: {error}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    /// The end of input stops the server; `wait` closes the input first.
    fn drop(&mut self) {
        let supervisor = self.supervisor.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        supervisor.wait().ok();
    }
}

/// The folder with `initdb` and `postgres`: those of the system's packages, else those on the path.
fn programs() -> PathBuf {
    let mut packaged: Vec<_> = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().collect();
    packaged.sort_by_key(|entry| entry.file_name().to_string_lossy().parse::<u32>().unwrap_or(0));
    let packaged = packaged.into_iter().rev().map(|entry| entry.path().join("bin"));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let found = packaged
        .chain(std::env::split_paths(&on_path))
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists());
    found.expect("there is no PostgreSQL server on this machine, which these tests need: `make test` installs it")
}

/// Who runs the server. PostgreSQL refuses to be run by root, which then lends it another account.
struct Account {
    lent: Option<(u32, u32)>,
}

impl Account {
    fn unprivileged() -> Self {
        let own = tempfile::tempdir().unwrap().path().metadata().unwrap().uid();
        let lent = (own == 0).then(|| {
            let accounts = fs::read_to_string("/etc/passwd").unwrap();
            let ids = |name: &str| {
                let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
                let mut fields = line.split(':').skip(2);
                Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
            };
            ids("postgres").or_else(|| ids("nobody")).expect("an account that is not root: `postgres` or `nobody`")
        });
        Self { lent }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = postgres_program(program);
        if let Some((user, group)) = self.lent {
            command.uid(user).gid(group);
        }
        command.current_dir("/");
        command
    }

    /// A new folder that belongs to the account. Not in the target directory, which it may be unable to reach.
    fn folder(&self) -> PathBuf {
        let folder = tempfile::Builder::new().prefix("ttrl-postgres-").tempdir().unwrap().keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        if let Some((user, group)) = self.lent {
            chown(&folder, Some(user), Some(group)).unwrap();
        }
        folder
    }
}

/// The files of a server that has never run, made by the first process that needs them.
fn archive(programs: &Path, account: &Account) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let version = postgres_program(programs.join("postgres")).arg("--version").output().unwrap().stdout;
    // "postgres (PostgreSQL) 15.4 (...)"
    let version = String::from_utf8_lossy(&version).split_whitespace().nth(2).unwrap_or("unknown").to_string();
    let archive = target.join(format!("postgres-{version}.tar"));
    let lock = File::create(target.join("postgres.lock")).unwrap();
    lock.lock().unwrap();
    if archive.exists() {
        return archive;
    }
    let folder = account.folder();
    let password = folder.join("password");
    fs::write(&password, PASSWORD).unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).unwrap();
    let made = account
        .command(programs.join("initdb"))
        .args(["--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "-U", USER])
        .arg(format!("--pwfile={}", password.display()))
        .arg("-D")
        .arg(folder.join("data"))
        .output()
        .unwrap();
    assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
    let unfinished = archive.with_extension("new");
    let mut pack = account.command("tar");
    pack.args(["-cf", "-", "-C"]).arg(&folder).arg("data").stdout(File::create(&unfinished).unwrap());
    assert!(pack.status().unwrap().success(), "the server's files could not be packed");
    fs::rename(unfinished, &archive).unwrap();
    fs::remove_dir_all(folder).unwrap();
    archive
}

/// One of PostgreSQL's programs, without the libraries that `scripts/emulated-card` gives to whatever it starts.
fn postgres_program(path: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(path);
    command.env_remove("LD_PRELOAD").env_remove("LD_LIBRARY_PATH");
    command
}

/// A port on which nothing listens, below those that the system hands out by itself, so that a server that is stopped
/// finds its port free again.
fn free_port() -> u16 {
    let mut candidates = std::iter::repeat_with(|| rand::random_range(15_000..30_000));
    candidates.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}
