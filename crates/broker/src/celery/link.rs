//! The way to Redis: its address, without the password in any text, and connections that come back.

use std::path::Path;
use std::time::Duration;

use frameloom_core::{Error, Result};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisError,
    ServerErrorKind,
};

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How long an answer may take. Longer than any wait that we ask for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection may be silent before the other side is asked whether it is there.
const ASKED_AFTER: Duration = Duration::from_secs(15);

/// How often it is asked then.
const ASKED_EVERY: Duration = Duration::from_secs(5);

/// How long what was sent may stay unconfirmed before a connection counts as cut.
const CUT_AFTER: Duration = Duration::from_secs(30);

/// Whoever only listens hears of a silent cut by these alone.
fn tcp_settings() -> TcpSettings {
    let alive = TcpKeepalive::new().with_time(ASKED_AFTER).with_interval(ASKED_EVERY);
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(alive.with_retries(3))
        .set_user_timeout(CUT_AFTER)
}

/// Where Redis is.
#[derive(Clone)]
pub(super) struct Link {
    client: Client,
    /// The address without a password.
    shown: String,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Link {
    /// Reads an address: `redis://`, `rediss://` (TLS), `redis+unix://` or `unix://`, with user,
    /// password and database number.
    ///
    /// # Errors
    /// Invalid, without quoting a password.
    pub(super) fn new(url: &str, password_file: Option<&Path>) -> Result<Self> {
        let wrong = |e: RedisError| {
            Error::invalid(format!(
                "broker '{}' is not an address like redis://HOST:6379/0 ({e})",
                without_password(url)
            ))
        };
        // Celery's spelling of a Unix socket.
        let url = url.strip_prefix("redis+socket://").map_or_else(
            || url.to_owned(),
            |rest| format!("redis+unix://{}", rest.replace("virtual_host=", "db=")),
        );
        let mut info = url.as_str().into_connection_info().map_err(wrong)?;
        if let Some(path) = password_file {
            let text = std::fs::read_to_string(path).map_err(|e| {
                Error::io(format!("cannot read the broker's password in '{}'", path.display()), &e)
            })?;
            let settings = info.redis_settings().clone().set_password(text.trim());
            info = info.set_redis_settings(settings);
        }
        let shown = match info.addr() {
            ConnectionAddr::Tcp(host, port) => format!("redis://{}:{port}", host_of(host)),
            ConnectionAddr::TcpTls { host, port, .. } => {
                format!("rediss://{}:{port}", host_of(host))
            }
            ConnectionAddr::Unix(path) => format!("unix://{}", path.display()),
            _ => "Redis".to_owned(),
        };
        let shown = format!("{shown}/{}", info.redis_settings().db());
        let client = Client::open(info.set_tcp_settings(tcp_settings())).map_err(wrong)?;
        Ok(Self { client, shown })
    }

    /// The database's number.
    pub(super) fn database(&self) -> i64 {
        self.client.get_connection_info().redis_settings().db()
    }

    /// Whether other machines reach it without a password.
    pub(super) fn is_open(&self) -> bool {
        let info = self.client.get_connection_info();
        let local = match info.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => {
                matches!(host.as_str(), "localhost" | "::1") || host.starts_with("127.")
            }
            _ => true,
        };
        !local && info.redis_settings().password().is_none()
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// Unavailable, Unauthorized or Invalid: which of address, password and database is wrong.
    pub(super) async fn connection(&self) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WITHIN))
            .set_response_timeout(Some(ANSWER_WITHIN));
        let made = self.client.get_multiplexed_async_connection_with_config(&config).await;
        made.map_err(|e| self.error(&e))
    }

    /// A connection that hears what is published.
    ///
    /// # Errors
    /// As [`Link::connection`].
    pub(super) async fn listener(&self) -> Result<redis::aio::PubSub> {
        let made = tokio::time::timeout(CONNECT_WITHIN, self.client.get_async_pubsub()).await;
        let late = || Error::unavailable(format!("{} does not answer", self.shown));
        made.map_err(|_| late())?.map_err(|e| self.error(&e))
    }

    /// What Redis, or the way to it, says.
    pub(super) fn error(&self, e: &RedisError) -> Error {
        let at = &self.shown;
        let text = e.to_string();
        match e.kind() {
            ErrorKind::AuthenticationFailed => Error::new(
                frameloom_core::ErrorKind::Unauthorized,
                format!("{at} refuses user or password"),
            ),
            ErrorKind::InvalidClientConfig => Error::invalid(format!("{at}: {text}")),
            _ if text.contains("NOAUTH") || text.contains("WRONGPASS") => Error::new(
                frameloom_core::ErrorKind::Unauthorized,
                format!("{at} wants a password: redis://:PASSWORD@HOST or --broker-password-file"),
            ),
            _ if text.contains("DB index") || text.contains("database") => {
                Error::invalid(format!("{at} has no such database"))
            }
            ErrorKind::Server(ServerErrorKind::BusyLoading) => {
                Error::unavailable(format!("{at} is still loading its data"))
            }
            ErrorKind::Server(ServerErrorKind::ReadOnly) => {
                Error::unavailable(format!("{at} is a replica that takes no writes"))
            }
            _ if text.contains("OOM") => {
                Error::unavailable(format!("{at} has no memory left (maxmemory)"))
            }
            _ => Error::unavailable(format!("{at} does not answer: {text}")),
        }
    }

    /// The address without a password.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }
}

fn host_of(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// An address as given, with what stands before `@` left out.
fn without_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        _ if url.contains('?') => without_password(url.split('?').next().unwrap_or_default()),
        (Some(scheme), Some(at)) if at > scheme => format!("{}://…{}", &url[..scheme], &url[at..]),
        (None, Some(at)) => format!("…{}", &url[at..]),
        _ => url.to_owned(),
    }
}

/// Whether a connection is of no use after this: it is broken, or leads to a Redis that will not do, as
/// after a failover.
pub(super) fn is_spoilt(e: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, ExecAbort, MasterDown, ReadOnly};
    match e.kind() {
        ErrorKind::Server(BusyLoading | ClusterDown | ExecAbort | MasterDown | ReadOnly) => true,
        // So scripts are told.
        ErrorKind::Server(_) | ErrorKind::Extension => e.to_string().contains("READONLY"),
        _ => true,
    }
}

/// How long to wait before the next try, doubled each time up to five seconds, and spread.
pub(super) fn back_off(tries: u32) -> Duration {
    let most = Duration::from_millis(100) * (1 << tries.min(6));
    // Without randomness all wait for three quarters of it.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    let spread = most.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0);
    spread.min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_holds_a_password() {
        let link = Link::new("redis://me:secret@[::1]:7000/3", None).unwrap();
        assert_eq!(link.shown(), "redis://[::1]:7000/3");
        assert_eq!((link.database(), link.is_open()), (3, false));
        for bad in [
            "redis://me:secret@host:x/0",
            "http://me:secret@host",
            "me:secret@host",
            "unix:///run/x.sock?db=x&pass=secret",
        ] {
            let error = Link::new(bad, None).unwrap_err();
            assert!(!error.message().contains("secret"), "{error}");
            assert!(error.message().contains("redis://HOST:6379/0"), "{error}");
        }
        assert!(Link::new("redis://redis.example/0", None).unwrap().is_open());
        assert!(!Link::new("redis://:x@redis.example/0", None).unwrap().is_open());
        let socket = Link::new("redis+socket:///run/redis.sock?virtual_host=2", None).unwrap();
        assert_eq!(socket.shown(), "unix:///run/redis.sock/2");
    }

    #[test]
    fn waits_grow_and_end() {
        assert!(back_off(0) <= Duration::from_millis(100));
        assert!(back_off(40) >= Duration::from_secs(3) && back_off(40) <= Duration::from_secs(5));
    }
}
