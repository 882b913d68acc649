//! Webhooks: when a job ends, a signed message goes to the address that its client gave.
//!
//! Each is sent until it is taken: after a restart, too. A receiver may get one twice, and knows it
//! by the job's id.

use std::sync::Arc;
use std::time::Duration;

use frameloom_core::wire::Decision;
use frameloom_core::{Error, ErrorKind, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::job::Job;
use super::jobs::{Jobs, now_ms};
use crate::journal::Journal;

/// Longest address.
const MOST_URL: usize = 2048;

/// How long to wait after each try that failed; then it is given up until the server starts anew.
const WAITS: [u64; 6] = [1, 5, 30, 120, 600, 3600];

/// Checks an address that a client gave: HTTP or HTTPS to a host among `hosts`.
///
/// # Errors
/// Invalid where it is none; Forbidden for another host.
pub(crate) fn check(url: &str, hosts: &[String]) -> Result<()> {
    let wrong = |why: &str| Error::invalid(format!("webhook '{}': {why}", url.escape_debug()));
    if url.len() > MOST_URL || url.contains(|c: char| c.is_control() || c == ' ' || c == '\\') {
        return Err(wrong("it is no address"));
    }
    let uri: axum::http::Uri = url.parse().map_err(|_| wrong("it is no address"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("it does not begin with http:// or https://"));
    }
    let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("it must hold no user name"));
    }
    let (host, whole) = (authority.host().to_ascii_lowercase(), authority.as_str());
    if hosts.iter().any(|known| *known == host || known.eq_ignore_ascii_case(whole)) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Forbidden,
        format!(
            "webhook '{}': the server is started with --webhook-host {} for that",
            url.escape_debug(),
            host.escape_debug()
        ),
    ))
}

/// `t=SECONDS,v1=HEX`: the HMAC-SHA256 of the time, a dot and the body.
fn signature(secret: &[u8], seconds: i64, body: &str) -> Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret)
        .map_err(|_| Error::internal("a key that HMAC does not take"))?;
    mac.update(format!("{seconds}.{body}").as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("t={seconds},v1={hex}"))
}

/// Sends a job's webhook in the background, if it has one that was not taken yet.
pub(crate) fn notify(jobs: &Arc<Jobs>, job: &Arc<Job>) {
    if job.submission.webhook.is_none() {
        return;
    }
    let (jobs, job) = (Arc::clone(jobs), Arc::clone(job));
    tokio::spawn(async move {
        for wait in std::iter::once(0).chain(WAITS) {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            let (jobs, sent) = (Arc::clone(&jobs), Arc::clone(&job));
            let tried = tokio::task::spawn_blocking(move || send(&jobs, &sent)).await;
            match tried {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    tracing::warn!(%error, job = %job.id(), "a webhook was not taken")
                }
                Err(error) => tracing::error!(%error, "a webhook's sender ended"),
            }
        }
    });
}

fn send(jobs: &Jobs, job: &Job) -> Result<()> {
    let Some(url) = &job.submission.webhook else { return Ok(()) };
    // A job that is at work again tells of its next end.
    if !job.state().is_terminal() || !jobs.holds(job) {
        return Ok(());
    }
    check(url, &jobs.config.webhook_hosts)?;
    let body = serde_json::to_string(&job.view(jobs.config.kept()))
        .map_err(|e| Error::internal("cannot write a webhook").with_source(e))?;
    let mut headers = vec![
        ("content-type".to_owned(), "application/json".to_owned()),
        ("frameloom-event".to_owned(), "job.ended".to_owned()),
    ];
    if let Some(secret) = &jobs.config.webhook_secret {
        let signed = signature(secret.as_bytes(), now_ms() / 1000, &body)?;
        headers.push(("frameloom-signature".to_owned(), signed));
    }
    (jobs.parts.post)(url, &headers, &body)?;
    (jobs.parts.before_commit)()?;
    let dir = jobs.parts.store.job(job.id());
    let (mut journal, _) = Journal::open(&dir.journal())?;
    journal.append(&[Decision::Notified])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_hosts_are_called() {
        let hosts = ["hooks.example".to_owned(), "localhost:9000".to_owned()];
        check("https://hooks.example/a?b=c", &hosts).unwrap();
        check("http://HOOKS.example:81/", &hosts).unwrap();
        check("http://localhost:9000/x", &hosts).unwrap();
        for url in [
            "http://localhost:9001/",
            "http://169.254.169.254/latest",
            "http://hooks.example.evil/",
        ] {
            assert_eq!(check(url, &hosts).unwrap_err().kind(), ErrorKind::Forbidden, "{url}");
        }
        for url in [
            "ftp://hooks.example/",
            "http://hooks.example@evil/",
            "hooks.example",
            "",
            "http://a b/",
            "http://evil\\@hooks.example/",
        ] {
            assert_eq!(check(url, &hosts).unwrap_err().kind(), ErrorKind::Invalid, "{url}");
        }
    }

    #[test]
    fn signatures_are_those_that_openssl_makes() {
        // printf '1.{}' | openssl dgst -sha256 -hmac key
        assert_eq!(
            signature(b"key", 1, "{}").unwrap(),
            "t=1,v1=1ba6b8171186efc613e8bcc0cbdab2748f24984d7c5a84faa2637afa0e40d224"
        );
    }
}
