//! The connections of clients, each within bounds: how many there are, how long a head may take, and how large it is.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::config::ServerSettings;

/// The largest head of a request, and what is kept of a body or a reply at a time: browsers send a few kB.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How long no connection is taken after the system refused one, which has no files or no memory left.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// Whose connection a request came on.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Serves connections until `shutdown` is cancelled, then takes no more and finishes what is being answered.
pub async fn serve(listener: TcpListener, router: Router, settings: &ServerSettings, shutdown: CancellationToken) {
    let mut http = http1::Builder::new();
    // The timer runs while a head is waited for, whether some of it has come or none.
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(settings.idle_timeout_seconds))
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES);
    let places = Arc::new(Semaphore::new(settings.max_connections));
    let connections = TaskTracker::new();
    loop {
        let place = shutdown.run_until_cancelled(places.clone().acquire_owned()).await;
        let Some(Ok(place)) = place else { break };
        let Some((stream, address)) = shutdown.run_until_cancelled(accept(&listener)).await else { break };
        bound_writes(&stream, Duration::from_secs(settings.idle_timeout_seconds));
        let router = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(address.ip()));
            router.call(request)
        });
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let shutdown = shutdown.clone();
        connections.spawn(async move {
            let _place = place;
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                // Clients break off, or send what is no request.
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    // Whoever connects from now on is refused.
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The next connection.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // A token of a stream must not wait for the acknowledgement of the one before.
                let _ = stream.set_nodelay(true);
                return (stream, address);
            }
            Err(error) if is_of_client(&error) => {}
            Err(error) => {
                tracing::error!(%error, "no connection could be taken");
                tokio::time::sleep(REFUSAL_PAUSE).await;
            }
        }
    }
}

/// Has the system break a connection off whose client takes nothing of what was sent for so long: hyper has no limit for
/// that. Elsewhere than on Linux there is none.
fn bound_writes(stream: &TcpStream, limit: Duration) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(limit)) {
        tracing::warn!(%error, "a connection's writes have no time limit");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, limit);
}

/// Whether a client has gone away before its connection was taken.
fn is_of_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
