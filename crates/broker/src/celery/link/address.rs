//! Where Redis is: an address as it is given, the files that go with it, and no password in any text.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use frameloom_core::{Error, Result};
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError,
    TlsCertificates,
};
use tokio::sync::Mutex;

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

/// Where sentinels listen if nothing else is said.
const SENTINEL_PORT: u16 = 26379;

/// Files that go with the address of a Redis.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Its password.
    pub password: Option<PathBuf>,
    /// The authority that has signed its certificate, as PEM; the system's where there is none.
    pub authority: Option<PathBuf>,
    /// This machine's certificate and its key, as PEM, where Redis asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Access {
    fn password(&self) -> Result<Option<String>> {
        let Some(path) = &self.password else { return Ok(None) };
        let text = read(path, "the broker's password")?;
        Ok(Some(String::from_utf8_lossy(&text).trim().to_owned()))
    }

    /// The certificates, where any are given.
    fn certificates(&self) -> Result<Option<TlsCertificates>> {
        if self.authority.is_none() && self.identity.is_none() {
            return Ok(None);
        }
        let authority = self.authority.as_deref().map(|path| {
            let text = read(path, "--broker-cacert")?;
            // A file without any would be an authority that has signed nothing.
            if String::from_utf8_lossy(&text).contains("-----BEGIN CERTIFICATE-----") {
                return Ok(text);
            }
            let shown = path.display();
            Err(Error::invalid(format!("--broker-cacert '{shown}' holds no certificate as PEM")))
        });
        let identity = self.identity.as_ref().map(|(cert, key)| {
            Ok(ClientTlsConfig {
                client_cert: read(cert, "--broker-cert")?,
                client_key: read(key, "--broker-key")?,
            })
        });
        Ok(Some(TlsCertificates {
            root_cert: authority.transpose()?,
            client_tls: identity.transpose()?,
        }))
    }
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    let failed = |e| Error::io(format!("cannot read {what} in '{}'", path.display()), &e);
    std::fs::read(path).map_err(failed)
}

/// How Redis is found.
#[derive(Clone)]
pub(super) enum Way {
    /// It is always the same.
    One(Box<Client>),
    /// Sentinels say which it is.
    Sentinels(Arc<Mutex<SentinelClient>>),
}

/// Where Redis is.
pub(super) struct Address {
    pub(super) way: Way,
    /// The address without a password.
    pub(super) shown: String,
    pub(super) database: i64,
    /// Whether other machines reach it without a password.
    pub(super) is_open: bool,
}

impl Address {
    /// Reads an address: `redis://`, `rediss://` (TLS), `redis+unix://` or `unix://`, with user,
    /// password and database number; or sentinels as Celery writes them, `sentinel://HOST;sentinel://HOST`
    /// (`sentinels://`: TLS to them and to Redis), with the master's name as `?master_name=NAME`.
    ///
    /// # Errors
    /// Invalid, without quoting a password; of the files of `access`.
    pub(super) fn read(url: &str, access: &Access) -> Result<Self> {
        let scheme = url.split("://").next().unwrap_or_default();
        match scheme {
            "sentinel" => Self::sentinels(url, access, false),
            "sentinels" => Self::sentinels(url, access, true),
            _ => Self::one(url, access),
        }
    }

    fn one(url: &str, access: &Access) -> Result<Self> {
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
        if let Some(password) = access.password()? {
            let settings = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(settings);
        }
        let database = info.redis_settings().db();
        let shown = format!("{}/{database}", place(info.addr()));
        let is_open = !is_local(info.addr()) && info.redis_settings().password().is_none();
        let certificates = access.certificates()?;
        if certificates.is_some() && !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Err(Error::invalid(format!(
                "--broker-cacert, --broker-cert and --broker-key are for Redis with TLS: rediss://, not {shown}"
            )));
        }
        let info = info.set_tcp_settings(tcp_settings());
        let client = match certificates {
            Some(certificates) => Client::build_with_tls(info, certificates)
                .map_err(|e| Error::invalid(format!("--broker-cacert, --broker-cert: {e}")))?,
            None => Client::open(info).map_err(wrong)?,
        };
        Ok(Self { way: Way::One(Box::new(client)), shown, database, is_open })
    }

    fn sentinels(url: &str, access: &Access, tls: bool) -> Result<Self> {
        let wrong = |why: &dyn std::fmt::Display| {
            Error::invalid(format!(
                "broker '{}' is not like sentinel://HOST:{SENTINEL_PORT};sentinel://HOST/0?master_name=NAME ({why})",
                without_password(url)
            ))
        };
        let parts: Vec<&str> = url.split(';').collect();
        let read = |part: &&str| sentinel(part, tls).map_err(|e| wrong(&e));
        let all: Vec<ConnectionInfo> = parts.iter().map(read).collect::<Result<_>>()?;
        let said = |name| parts.iter().find_map(|part| parameter(part, name));
        let name = said("master_name").filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| wrong(&"master_name is missing"))?;
        let settings = all.iter().map(ConnectionInfo::redis_settings);
        let database = settings.clone().map(redis::RedisConnectionInfo::db).max().unwrap_or(0);
        let given = settings.clone().find_map(|s| Some((s.username(), s.password()?)));
        let password = access.password()?.or_else(|| given.map(|(_, word)| word.to_owned()));
        let is_open = password.is_none() && !all.iter().all(|info| is_local(info.addr()));
        let hosts: Vec<String> = all.iter().map(|info| place(info.addr())).collect();
        let hosts = hosts.join(";").replace("rediss://", "sentinels://");
        let hosts = hosts.replace("redis://", "sentinel://");
        let shown = format!("{hosts}/{database}?master_name={name}");

        let addresses = all.iter().map(|info| info.addr().clone());
        let kind = SentinelServerType::Master;
        let mut sentinels = SentinelClientBuilder::new(addresses, &name, kind)
            .map_err(|e| wrong(&e))?
            .set_client_to_redis_db(database)
            .set_client_to_redis_tcp_settings(tcp_settings())
            .set_client_to_sentinel_tcp_settings(tcp_settings());
        if let Some(user) = given.and_then(|(user, _)| user) {
            sentinels = sentinels.set_client_to_redis_username(user);
        }
        if let Some(password) = password {
            sentinels = sentinels.set_client_to_redis_password(password);
        }
        if let Some(password) = said("sentinel_password") {
            sentinels = sentinels.set_client_to_sentinel_password(password);
        }
        if tls {
            let secure = redis::TlsMode::Secure;
            sentinels = sentinels.set_client_to_redis_tls_mode(secure);
        }
        if let Some(certificates) = access.certificates()? {
            if !tls {
                return Err(wrong(&"certificates are for TLS: sentinels://"));
            }
            sentinels = sentinels
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
        let way = Way::Sentinels(Arc::new(Mutex::new(sentinels.build().map_err(|e| wrong(&e))?)));
        Ok(Self { way, shown, database, is_open })
    }
}

/// A sentinel, with what its part of the address says of Redis.
fn sentinel(part: &str, tls: bool) -> redis::RedisResult<ConnectionInfo> {
    let rest = part.split_once("://").map_or(part, |(_, rest)| rest);
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
    let port = if port { String::new() } else { format!(":{SENTINEL_PORT}") };
    let scheme = if tls { "rediss" } else { "redis" };
    let path = path.split('?').next().unwrap_or_default();
    format!("{scheme}://{authority}{port}{path}").into_connection_info()
}

/// A parameter of an address, `?NAME=VALUE&…`.
fn parameter(url: &str, name: &str) -> Option<String> {
    let all = url.split_once('?')?.1;
    let value = all.split('&').find_map(|one| one.strip_prefix(name)?.strip_prefix('='))?;
    // Escapes are read as in passwords.
    let read = format!("redis://:{value}@host").into_connection_info().ok()?;
    Some(read.redis_settings().password().unwrap_or_default().to_owned())
}

/// Where it is, without a database.
fn place(address: &ConnectionAddr) -> String {
    let host_of =
        |host: &str| if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    match address {
        ConnectionAddr::Tcp(host, port) => format!("redis://{}:{port}", host_of(host)),
        ConnectionAddr::TcpTls { host, port, .. } => format!("rediss://{}:{port}", host_of(host)),
        ConnectionAddr::Unix(path) => format!("unix://{}", path.display()),
        _ => "Redis".to_owned(),
    }
}

/// Whether no other machine reaches it.
fn is_local(address: &ConnectionAddr) -> bool {
    match address {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => {
            matches!(host.as_str(), "localhost" | "::1") || host.starts_with("127.")
        }
        _ => true,
    }
}

/// An address as given, with what stands before `@` left out.
fn without_password(url: &str) -> String {
    if url.contains(';') {
        return url.split(';').map(without_password).collect::<Vec<_>>().join(";");
    }
    match (url.find("://"), url.rfind('@')) {
        _ if url.contains('?') => without_password(url.split('?').next().unwrap_or_default()),
        (Some(scheme), Some(at)) if at > scheme => format!("{}://…{}", &url[..scheme], &url[at..]),
        (None, Some(at)) => format!("…{}", &url[at..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Address> {
        Address::read(url, &Access::default())
    }

    #[test]
    fn no_text_holds_a_password() {
        let address = read("redis://me:secret@[::1]:7000/3").unwrap();
        assert_eq!(address.shown, "redis://[::1]:7000/3");
        assert_eq!((address.database, address.is_open), (3, false));
        for bad in [
            "redis://me:secret@host:x/0",
            "http://me:secret@host",
            "me:secret@host",
            "unix:///run/x.sock?db=x&pass=secret",
        ] {
            let error = read(bad).err().unwrap();
            assert!(!error.message().contains("secret"), "{error}");
            assert!(error.message().contains("redis://HOST:6379/0"), "{error}");
        }
        assert!(read("redis://redis.example/0").unwrap().is_open);
        assert!(!read("redis://:x@redis.example/0").unwrap().is_open);
        let socket = read("redis+socket:///run/redis.sock?virtual_host=2").unwrap();
        assert_eq!(socket.shown, "unix:///run/redis.sock/2");
    }

    #[test]
    fn sentinels_are_written_as_in_celery() {
        let address =
            read("sentinel://:secret@[::1];sentinel://b.example:7/2?master_name=mine").unwrap();
        assert_eq!(
            address.shown,
            "sentinel://[::1]:26379;sentinel://b.example:7/2?master_name=mine"
        );
        assert_eq!((address.database, address.is_open), (2, false));
        assert!(read("sentinel://b.example/0?master_name=mine").unwrap().is_open);
        let tls = read("sentinels://a;sentinels://b?x=1&master_name=m%20e").unwrap();
        assert_eq!(tls.shown, "sentinels://a:26379;sentinels://b:26379/0?master_name=m e");
        for bad in [
            "sentinel://:secret@a:1/0",
            "sentinel://me:secret@a:1;sentinel://me:secret@b:x/0?master_name=m",
            "sentinel://a/0?sentinel_password=secret",
        ] {
            let error = read(bad).err().unwrap();
            assert!(!error.message().contains("secret"), "{error}");
            assert!(error.message().contains("?master_name=NAME"), "{error}");
        }
    }

    #[test]
    fn certificates_are_for_tls() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, "no certificate").unwrap();
        let access = |file: &Path| Access { authority: Some(file.to_owned()), ..Access::default() };
        let error = Address::read("rediss://host", &access(&file)).err().unwrap();
        assert!(error.message().contains("holds no certificate"), "{error}");
        let error = Address::read("rediss://host", &access(&dir.path().join("no"))).err().unwrap();
        assert!(error.message().contains("--broker-cacert"), "{error}");
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----").unwrap();
        for plain in ["redis://host", "sentinel://host?master_name=m"] {
            let error = Address::read(plain, &access(&file)).err().unwrap();
            assert!(error.message().contains("TLS"), "{error}");
        }
    }
}
