//! Webhooks: when a job ends, a signed message goes to the address that its client gave.
//!
//! Each is sent until it is taken, ever more seldom, and after a restart too; after a day it is given
//! up. A receiver may get one twice, and knows it by the job's id.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use frameloom_core::wire::Decision;
use frameloom_core::{Error, ErrorKind, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::sync::Semaphore;

use super::job::Job;
use super::jobs::{Jobs, now_ms};

/// Longest address.
const MOST_URL: usize = 2048;

/// Webhooks that are on their way at a time: a receiver that does not answer holds each for a while.
const MOST_AT_A_TIME: usize = 8;

/// How long is waited between two tries, at least and at most.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// What became of webhooks since the server began.
#[derive(Debug)]
pub(crate) struct Hooks {
    places: Semaphore,
    /// Those that are still to be taken.
    pub(crate) waiting: AtomicU64,
    pub(crate) taken: AtomicU64,
    /// Tries that failed.
    pub(crate) refused: AtomicU64,
    pub(crate) given_up: AtomicU64,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            places: Semaphore::new(MOST_AT_A_TIME),
            waiting: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        }
    }
}

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

/// How long to wait after a try that failed, so long after the job's end: as long again, so that a
/// server that is started anew goes on as before. `None` where it has been tried for long enough.
fn wait(age: Duration, longest: Duration) -> Option<Duration> {
    (age < longest).then(|| age.clamp(WAITS.0, WAITS.1))
}

/// What came of a try.
enum Tried {
    Taken,
    /// The job is gone, or at work again: it will tell of its next end.
    Void,
}

/// Sends a job's webhook in the background, if it has one that was not taken yet.
pub(crate) fn notify(jobs: &Arc<Jobs>, job: &Arc<Job>) {
    let (Some(_), Some(ended)) = (&job.submission.webhook, job.ended_ms()) else { return };
    let (jobs, job) = (Arc::clone(jobs), Arc::clone(job));
    tokio::spawn(async move {
        let hooks = &jobs.hooks;
        hooks.waiting.fetch_add(1, Ordering::Relaxed);
        while let Err(error) = once(&jobs, &job, ended).await {
            hooks.refused.fetch_add(1, Ordering::Relaxed);
            let age = Duration::from_millis((now_ms() - ended).max(0).unsigned_abs());
            let Some(wait) = wait(age, jobs.config.webhook_for) else {
                hooks.given_up.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, job = %job.id(), "a webhook is given up");
                settle(&jobs, &job, ended, Decision::Unheard);
                break;
            };
            tracing::warn!(%error, job = %job.id(), again_in = ?wait, "a webhook was not taken");
            tokio::time::sleep(wait).await;
        }
        hooks.waiting.fetch_sub(1, Ordering::Relaxed);
    });
}

async fn once(jobs: &Arc<Jobs>, job: &Arc<Job>, ended: i64) -> Result<()> {
    // Never closed.
    let place = jobs.hooks.places.acquire().await;
    let (sender, sent) = (Arc::clone(jobs), Arc::clone(job));
    let tried = tokio::task::spawn_blocking(move || send(&sender, &sent, ended)).await;
    drop(place);
    let tried = tried.unwrap_or_else(|e| Err(Error::internal("its sender ended").with_source(e)));
    if let Tried::Taken = tried? {
        jobs.hooks.taken.fetch_add(1, Ordering::Relaxed);
        settle(jobs, job, ended, Decision::Notified);
    }
    Ok(())
}

/// Writes down what became of the webhook, unless the job is at work again.
fn settle(jobs: &Jobs, job: &Job, ended: i64, decision: Decision) {
    let _deciding = job.deciding();
    if job.ended_ms() == Some(ended)
        && jobs.holds(job)
        && let Err(error) = jobs.decide(job, decision)
    {
        // It is sent once more where the server is started anew.
        tracing::warn!(%error, job = %job.id(), "cannot write down what became of a webhook");
    }
}

fn send(jobs: &Jobs, job: &Job, ended: i64) -> Result<Tried> {
    let Some(url) = &job.submission.webhook else { return Ok(Tried::Void) };
    if job.ended_ms() != Some(ended) || !jobs.holds(job) {
        return Ok(Tried::Void);
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
    (jobs.parts.post)(url, &headers, &body).map(|()| Tried::Taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_is_away_is_tried_ever_more_seldom_for_a_day() {
        let day = Duration::from_secs(24 * 3600);
        let (mut age, mut waits) = (Duration::ZERO, Vec::new());
        while let Some(next) = wait(age, day) {
            waits.push(next.as_secs());
            age += next;
        }
        assert_eq!(waits[..6], [1, 1, 2, 4, 8, 16]);
        assert_eq!(waits[11..14], [1024, 2048, 3600]);
        // 4096 s are over after thirteen, and of the 86,400 23 hours are left, the last begun.
        assert_eq!(waits.len(), 13 + 23, "{waits:?}");
        assert!(age >= day && age < day + WAITS.1);
        assert_eq!(wait(Duration::ZERO, Duration::ZERO), None);
    }

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
