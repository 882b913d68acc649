//! The way to Redis: connections that come back, and what it says where they don't.

mod address;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use frameloom_core::{Error, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult, ServerErrorKind};

use address::{Address, Way};

pub use address::Access;

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How long an answer may take. Longer than any wait that we ask for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long sentinels may take to say which Redis is the master.
const FOUND_WITHIN: Duration = Duration::from_secs(5);

/// Where Redis is.
#[derive(Clone)]
pub(super) struct Link {
    way: Way,
    /// The address without a password.
    shown: String,
    database: i64,
    /// Whether other machines reach it without a password.
    is_open: bool,
    /// The file with the authority that must have signed its certificate.
    authority: Option<PathBuf>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Link {
    /// Reads an address, see [`Address::read`].
    ///
    /// # Errors
    /// Invalid, without quoting a password; of the files of `access`.
    pub(super) fn new(url: &str, access: &Access) -> Result<Self> {
        let Address { way, shown, database, is_open } = Address::read(url, access)?;
        Ok(Self { way, shown, database, is_open, authority: access.authority.clone() })
    }

    /// The database's number.
    pub(super) fn database(&self) -> i64 {
        self.database
    }

    /// Whether other machines reach it without a password.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// The Redis that is the master now.
    async fn client(&self) -> Result<Client> {
        match &self.way {
            Way::One(client) => Ok((**client).clone()),
            Way::Sentinels(sentinels) => {
                let sentinels = Arc::clone(sentinels);
                // Its future is a deep one.
                let found: Pin<Box<dyn Future<Output = RedisResult<Client>> + Send>> =
                    Box::pin(async move { sentinels.lock().await.async_get_client().await });
                let found = tokio::time::timeout(FOUND_WITHIN, found).await;
                found.map_err(|_| self.silent())?.map_err(|e| self.error(&e))
            }
        }
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// Unavailable, Unauthorized or Invalid: which of address, certificate, password and database is wrong.
    pub(super) async fn connection(&self) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WITHIN))
            .set_response_timeout(Some(ANSWER_WITHIN));
        let client = self.client().await?;
        let made = client.get_multiplexed_async_connection_with_config(&config).await;
        made.map_err(|e| self.error(&e))
    }

    /// A connection that hears what is published.
    ///
    /// # Errors
    /// As [`Link::connection`].
    pub(super) async fn listener(&self) -> Result<redis::aio::PubSub> {
        let client = self.client().await?;
        let made = tokio::time::timeout(CONNECT_WITHIN, client.get_async_pubsub()).await;
        made.map_err(|_| self.silent())?.map_err(|e| self.error(&e))
    }

    fn silent(&self) -> Error {
        Error::unavailable(format!("{} does not answer", self.shown))
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
            ErrorKind::MasterNameNotFoundBySentinel => Error::unavailable(format!(
                "{at}: the sentinels know no master of this name that is up"
            )),
            _ if text.contains("invalid peer certificate") => self.distrust(&text),
            _ if text.contains("CertificateRequired") => Error::invalid(format!(
                "{at} asks for a certificate of this machine: give --broker-cert and --broker-key"
            )),
            _ if text.contains("received fatal alert") => Error::invalid(format!(
                "{at} refuses this machine's certificate, or its way of TLS ({text})"
            )),
            _ if text.contains("InvalidContentType") => {
                Error::invalid(format!("{at} does not speak TLS there ({text})"))
            }
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
            // A Redis without TLS waits for more of what it takes for a command.
            _ if at.contains("s://") && text.contains("timed out") => Error::unavailable(format!(
                "{at} does not answer: {text}; does it speak TLS there?"
            )),
            _ => Error::unavailable(format!("{at} does not answer: {text}")),
        }
    }

    /// Says why its certificate is not believed.
    fn distrust(&self, text: &str) -> Error {
        let at = &self.shown;
        // The latter where an authority of the same name has signed it by another key.
        if !text.contains("UnknownIssuer") && !text.contains("BadSignature") {
            return Error::invalid(format!("{at} has a certificate that does not fit it ({text})"));
        }
        Error::invalid(match &self.authority {
            Some(file) => format!(
                "{at} has a certificate that was not signed by --broker-cacert '{}'; \
                 give the authority that signed it",
                file.display()
            ),
            None => format!(
                "{at} has a certificate that was signed by no authority that this machine knows; \
                 give the one that did as --broker-cacert FILE"
            ),
        })
    }

    /// The address without a password.
    pub(super) fn shown(&self) -> &str {
        &self.shown
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
    fn waits_grow_and_end() {
        assert!(back_off(0) <= Duration::from_millis(100));
        assert!(back_off(40) >= Duration::from_secs(3) && back_off(40) <= Duration::from_secs(5));
    }
}
