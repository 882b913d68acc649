//! The way to a real Redis with TLS, by certificates that are right and wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;

use frameloom_broker::celery::{Access, Celery};
use frameloom_broker::contract;
use frameloom_core::ErrorKind;
use frameloom_core::id::StoreId;
use support::tls::{Authority, RedisWithTls};

async fn refused(url: &str, access: &Access) -> String {
    let error = Celery::connect(url, access, StoreId::from_bits(1)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let text = error.message().to_owned();
    assert!(!text.contains('\n') && text.starts_with(url), "{text}");
    text
}

fn by(file: PathBuf) -> Access {
    Access { authority: Some(file), ..Access::default() }
}

#[tokio::test]
async fn keeps_the_contract_over_tls_and_says_which_authority_is_wrong() {
    let (authority, other) = (Authority::new(), Authority::new());
    let redis = RedisWithTls::start(&authority, "127.0.0.1", "no");
    let broker =
        Celery::connect(&redis.url(), &by(authority.file()), StoreId::from_bits(1)).await.unwrap();
    contract::check(&broker).await;

    let text = refused(&redis.url(), &by(other.file())).await;
    let which = format!("not signed by --broker-cacert '{}'", other.file().display());
    assert!(text.contains(&which), "{text}");
    let text = refused(&redis.url(), &Access::default()).await;
    assert!(text.contains("give the one that did as --broker-cacert FILE"), "{text}");
    let plain = redis.plain.url().replace("redis://", "rediss://");
    let error = Celery::connect(&plain, &by(authority.file()), StoreId::from_bits(1)).await;
    let error = error.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("does it speak TLS there?"), "{error}");

    let elsewhere = RedisWithTls::start(&authority, "10.9.8.7", "no");
    let text = refused(&elsewhere.url(), &by(authority.file())).await;
    assert!(text.contains("does not fit it") && text.contains("10.9.8.7"), "{text}");
}

#[tokio::test]
async fn a_redis_may_ask_for_a_certificate_of_this_machine() {
    let (authority, other) = (Authority::new(), Authority::new());
    let redis = RedisWithTls::start(&authority, "127.0.0.1", "yes");
    let text = refused(&redis.url(), &by(authority.file())).await;
    assert!(text.contains("give --broker-cert and --broker-key"), "{text}");
    let access = Access { identity: Some(other.signs("127.0.0.1")), ..by(authority.file()) };
    let text = refused(&redis.url(), &access).await;
    assert!(text.contains("refuses this machine's certificate"), "{text}");
    let access = Access { identity: Some(authority.signs("127.0.0.1")), ..by(authority.file()) };
    Celery::connect(&redis.url(), &access, StoreId::from_bits(1)).await.unwrap();
}
