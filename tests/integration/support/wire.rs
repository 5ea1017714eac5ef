//! A wire to a PostgreSQL server that breaks where a test says.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Where the wire breaks.
#[derive(Clone, Copy)]
pub enum Break {
    /// The commit of a transaction in which these words were sent arrives, and its reply does not. Once.
    ReplyToCommitOf(&'static str),
    /// These words do not arrive, nor does anything after them.
    Before(&'static str),
    /// Everywhere.
    Down,
}

type Breaks = Arc<Mutex<Option<Break>>>;

/// Passes on what is said between its clients and one server.
pub struct Wire {
    address: String,
    breaks: Breaks,
}

impl Wire {
    /// A wire to the database at this address.
    pub async fn to(database: &str) -> Self {
        let (user, place) = database.rsplit_once('@').unwrap();
        let (server, name) = place.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("{user}@{}/{name}", listener.local_addr().unwrap());
        let breaks = Breaks::default();
        tokio::spawn(serve(listener, server.to_owned(), breaks.clone()));
        Self { address, breaks }
    }

    /// The address of the database at this end.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn break_at(&self, place: Break) {
        *self.breaks.lock().unwrap() = Some(place);
    }

    /// Whether it has broken where it was told to, once.
    pub fn has_broken(&self) -> bool {
        self.breaks.lock().unwrap().is_none()
    }
}

async fn serve(listener: TcpListener, server: String, breaks: Breaks) {
    while let Ok((client, _)) = listener.accept().await {
        if !matches!(*breaks.lock().unwrap(), Some(Break::Down)) {
            let (server, breaks) = (server.clone(), breaks.clone());
            // An end of either side ends the connection.
            tokio::spawn(async move { pass_on(client, &server, &breaks).await.ok() });
        }
    }
}

fn has(bytes: &[u8], words: &str) -> bool {
    bytes.windows(words.len()).any(|window| window == words.as_bytes())
}

async fn pass_on(mut client: TcpStream, server: &str, breaks: &Breaks) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let (mut from_client, mut from_server) = ([0; 8192], [0; 8192]);
    // What the client has said in this transaction.
    let mut said = Vec::new();
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let bytes = &from_client[..read?];
                if has(bytes, "BEGIN") {
                    said.clear();
                }
                said.extend_from_slice(bytes);
                let place = *breaks.lock().unwrap();
                match place {
                    Some(Break::Down) => return Ok(()),
                    Some(Break::Before(words)) if has(&said, words) => {
                        *breaks.lock().unwrap() = Some(Break::Down);
                        return Ok(());
                    }
                    Some(Break::ReplyToCommitOf(words)) if has(&said, words) && has(bytes, "COMMIT") => {
                        *breaks.lock().unwrap() = None;
                        server.write_all(bytes).await?;
                        // The reply is there, so it is done.
                        return server.readable().await;
                    }
                    _ if bytes.is_empty() => return Ok(()),
                    _ => server.write_all(bytes).await?,
                }
            }
            read = server.read(&mut from_server) => match read? {
                0 => return Ok(()),
                length => client.write_all(&from_server[..length]).await?,
            },
        }
    }
}
