//! Listeners: TCP over IPv4 and IPv6, Unix sockets, TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use frameloom_core::{Error, Result};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

/// Connections that a listener serves at a time.
const MOST_CONNECTIONS: usize = 1024;

/// How long a client may take to send its headers.
const HEADERS_WITHIN: Duration = Duration::from_secs(15);

/// A certificate and its key.
#[derive(Clone)]
pub struct Tls(Arc<ServerConfig>);

impl Tls {
    /// Reads PEM.
    ///
    /// # Errors
    /// Invalid where it is none, or where key and certificate don't belong together.
    pub fn new(certificate: &[u8], key: &[u8]) -> Result<Self> {
        let wrong = |what: &str, e: &dyn std::fmt::Display| {
            Error::invalid(format!("{what} is not usable")).with_source(e)
        };
        let chain: std::result::Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(certificate).collect();
        let chain = chain.map_err(|e| wrong("the TLS certificate", &e))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| wrong("the TLS key", &e))?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
        let mut config = config.map_err(|e| wrong("the pair of TLS certificate and key", &e))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

enum Socket {
    Tcp(TcpListener, Option<Tls>),
    Unix(UnixListener),
}

/// A bound listener.
pub struct Listener {
    socket: Socket,
    address: String,
}

impl Listener {
    /// Takes a bound TCP socket.
    ///
    /// # Errors
    /// Of the system.
    pub fn tcp(socket: std::net::TcpListener, tls: Option<Tls>) -> Result<Self> {
        let failed = |e: std::io::Error| Error::io("cannot listen", &e);
        socket.set_nonblocking(true).map_err(failed)?;
        let bound: SocketAddr = socket.local_addr().map_err(failed)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let socket = TcpListener::from_std(socket).map_err(failed)?;
        Ok(Self { socket: Socket::Tcp(socket, tls), address: format!("{scheme}://{bound}") })
    }

    /// Takes a bound Unix socket at `path`.
    ///
    /// # Errors
    /// Of the system.
    pub fn unix(socket: std::os::unix::net::UnixListener, path: &str) -> Result<Self> {
        let failed = |e: std::io::Error| Error::io("cannot listen", &e);
        socket.set_nonblocking(true).map_err(failed)?;
        let socket = UnixListener::from_std(socket).map_err(failed)?;
        Ok(Self { socket: Socket::Unix(socket), address: format!("unix:{path}") })
    }

    /// Its address as a URL.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub(super) async fn serve(self, router: Router, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (router, until) = (router.clone(), stop.clone());
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = accept(&self.socket) => accepted,
            };
            match accepted {
                Ok(Accepted::Tcp(stream, None)) => drop(tokio::spawn(async move {
                    connection(stream, router, until).await;
                    drop(place);
                })),
                Ok(Accepted::Tcp(stream, Some(tls))) => drop(tokio::spawn(async move {
                    let acceptor = TlsAcceptor::from(tls.0);
                    let handshake = tokio::time::timeout(HEADERS_WITHIN, acceptor.accept(stream));
                    if let Ok(Ok(stream)) = handshake.await {
                        connection(stream, router, until).await;
                    }
                    drop(place);
                })),
                Ok(Accepted::Unix(stream)) => drop(tokio::spawn(async move {
                    connection(stream, router, until).await;
                    drop(place);
                })),
                Err(error) => {
                    // No more descriptors, or a client that left: others go on.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

enum Accepted {
    Tcp(tokio::net::TcpStream, Option<Tls>),
    Unix(tokio::net::UnixStream),
}

async fn accept(socket: &Socket) -> std::io::Result<Accepted> {
    match socket {
        Socket::Tcp(socket, tls) => {
            let (stream, _) = socket.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Accepted::Tcp(stream, tls.clone()))
        }
        Socket::Unix(socket) => socket.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
    }
}

async fn connection<S>(stream: S, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(100);
    let service = TowerToHyperService::new(router);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
