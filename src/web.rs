//! The client's side of HTTP: whom it trusts, and a download with limits.

use std::{
    error::Error,
    fs::File,
    future::Future,
    io::{self, Write},
    iter,
    path::Path,
    sync::Arc,
    time::Duration,
};

use reqwest::StatusCode;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::{runtime, time};

/// Starts a client. Every client must be started here: one that is not panics, because no provider of cryptography is
/// installed for the whole process.
///
/// It trusts the authorities that are compiled in, as the database's driver does, so a bare container needs no files.
///
/// # Errors
/// If the provider offers no safe version of TLS.
pub fn client_builder() -> Result<reqwest::ClientBuilder, rustls::Error> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let agent = concat!("ttrl/", env!("CARGO_PKG_VERSION"));
    Ok(reqwest::Client::builder().user_agent(agent).tls_backend_preconfigured(tls))
}

/// What a download may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until the answer begins: the lookup of the name, connecting, and all redirects.
    pub patience: Duration,
    /// From then on, between two pieces.
    pub stall: Duration,
    /// Where writing ends, whatever the server still sends.
    pub bytes: u64,
}

/// Why a download did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    #[error("nothing came for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("it answered {0}")]
    Refused(StatusCode),
    #[error("{}", with_causes(.0))]
    Http(reqwest::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error("the download could not be kept: {0}")]
    Io(#[from] io::Error),
}

impl From<reqwest::Error> for DownloadError {
    fn from(error: reqwest::Error) -> Self {
        // After a redirect the URL is a long one with a signature in it, which says nothing to people.
        Self::Http(error.without_url())
    }
}

/// Writes what is at a URL to a file and tells `progress` how many bytes are there. A proxy that the system's usual
/// variables name is used. Blocks the thread, which must not be one that runs asynchronous code.
///
/// # Errors
/// If a limit of time is passed, the server refuses or the connection fails, and if the file cannot be written. The
/// file stays as far as it is there.
pub fn download(url: &str, path: &Path, limits: Limits, progress: &dyn Fn(u64)) -> Result<(), DownloadError> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(receive(url, path, limits, progress));
    // Dropping it would wait for a lookup that was given up: without a route to a name server, a minute and more.
    runtime.shutdown_background();
    outcome
}

async fn receive(url: &str, path: &Path, limits: Limits, progress: &dyn Fn(u64)) -> Result<(), DownloadError> {
    let client = client_builder()?.build()?;
    let mut response = within(limits.patience, client.get(url).send()).await?;
    if !response.status().is_success() {
        return Err(DownloadError::Refused(response.status()));
    }
    let mut file = File::create(path)?;
    let mut done = 0;
    while done < limits.bytes
        && let Some(piece) = within(limits.stall, response.chunk()).await?
    {
        let room = limits.bytes - done;
        let taken = &piece[..usize::try_from(room).map_or(piece.len(), |room| room.min(piece.len()))];
        // Nothing else runs on this thread that writing could hold up.
        file.write_all(taken)?;
        done += taken.len() as u64;
        progress(done);
    }
    Ok(())
}

async fn within<T>(limit: Duration, work: impl Future<Output = reqwest::Result<T>>) -> Result<T, DownloadError> {
    Ok(time::timeout(limit, work).await.map_err(|_| DownloadError::Silent(limit))??)
}

/// The error's text and those of its causes: the client's own names neither the address nor what the system said.
fn with_causes(error: &reqwest::Error) -> String {
    let causes = iter::successors(Some(error as &dyn Error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use std::{io::Read, net::TcpListener, path::PathBuf, thread};

    use tempfile::TempDir;

    use super::*;

    const LIMITS: Limits = Limits { patience: Duration::from_secs(8), stall: Duration::from_secs(8), bytes: 100 };
    const FILE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbytes";

    /// Downloads into `path` from a server that writes `answer` once it is asked for anything.
    fn from_server(scheme: &str, answer: &'static [u8], path: PathBuf) -> Result<Vec<u8>, DownloadError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}/file", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.write_all(answer).unwrap();
        });
        download(&url, &path, LIMITS, &|_| ())?;
        Ok(std::fs::read(path).unwrap())
    }

    #[test]
    fn an_encrypted_address_is_never_read_as_plain_text() {
        let folder = TempDir::new().unwrap();
        assert_eq!(from_server("http", FILE, folder.path().join("plain")).unwrap(), b"bytes");
        let error = from_server("https", FILE, folder.path().join("encrypted")).unwrap_err().to_string();
        assert!(error.contains("corrupt message"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told() {
        let error = from_server("http", FILE, "/nowhere/file".into()).unwrap_err();
        assert!(matches!(error, DownloadError::Io(_)), "{error}");
    }

    #[tokio::test]
    async fn a_thread_for_blocking_work_may_download() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("file");
        let outcome = tokio::task::spawn_blocking(|| from_server("http", FILE, path)).await;
        assert_eq!(outcome.unwrap().unwrap(), b"bytes");
    }
}
