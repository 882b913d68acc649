#![allow(unreachable_pub, dead_code, reason = "each test file takes what it needs")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
//! Certificates of a test's own, and a Redis that shows one.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Redis;

/// An authority that signs certificates.
pub struct Authority(tempfile::TempDir);

fn openssl(args: &[&str], dir: &Path) {
    let done = Command::new("openssl").args(args).current_dir(dir).stderr(Stdio::null()).status();
    assert!(done.expect("openssl is needed: scripts/setup.sh test").success(), "{args:?}");
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

impl Authority {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = ["req", "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=a test"];
        openssl(&[&made[..], &NEW_KEY].concat(), dir.path());
        Self(dir)
    }

    /// Its own certificate.
    pub fn file(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    /// A certificate for an address, and its key.
    pub fn signs(&self, address: &str) -> (PathBuf, PathBuf) {
        let at = |end: &str| format!("{address}.{end}");
        let (key, wish, cert, more) = (at("key"), at("csr"), at("pem"), at("ext"));
        let dir = self.0.path();
        let made = ["req", "-keyout", &key, "-out", &wish, "-subj", "/CN=a test's"];
        openssl(&[&made[..], &NEW_KEY].concat(), dir);
        std::fs::write(dir.join(&more), format!("subjectAltName=IP:{address}")).unwrap();
        let by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", &more];
        openssl(&[&["x509", "-req", "-in", &wish, "-out", &cert][..], &by].concat(), dir);
        (dir.join(cert), dir.join(key))
    }
}

/// A Redis with TLS beside what it has without.
pub struct RedisWithTls {
    pub plain: Redis,
    port: u16,
}

impl RedisWithTls {
    /// With a certificate for an address; `clients` is whether it asks for theirs: `yes` or `no`.
    pub fn start(authority: &Authority, address: &str, clients: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (cert, key) = authority.signs(address);
        let [ca, cert, key] = [authority.file(), cert, key].map(|path| path.display().to_string());
        let number = port.to_string();
        let plain = Redis::start(&[
            "--tls-port",
            &number,
            "--tls-ca-cert-file",
            &ca,
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-auth-clients",
            clients,
        ]);
        Self { plain, port }
    }

    pub fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}/0", self.port)
    }
}
