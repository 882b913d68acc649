//! Requests to a server that is away, or breaks off.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use super::*;

/// A server that reads a request's head on each new connection, writes the next of `answers` and hangs up; the
/// heads come out at the other end.
fn scripted<const N: usize>(answers: [&'static str; N]) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, heads) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut connection, _) = listener.accept().unwrap();
            let mut head = String::new();
            let mut reader = BufReader::new(&connection);
            while reader.read_line(&mut head).unwrap() > 2 {}
            sender.send(head.to_lowercase()).unwrap();
            connection.write_all(answer.as_bytes()).unwrap();
        }
    });
    (url, heads)
}

fn client(url: String, patience: u32) -> Client {
    let args = ServerArgs { server: url, token: None, cacert: None };
    Client::new(&args).unwrap().patient(&PatienceArgs { patience })
}

#[test]
fn a_job_is_asked_for_again_by_the_same_key() {
    let answer =
        "HTTP/1.1 201 Created\r\nconnection: close\r\ncontent-length: 10\r\n\r\n{\"id\":\"x\"}";
    let (url, heads) = scripted(["", "HTTP/1.1 201 Created\r\ncontent-le", answer]);
    let (client, said) = (client(url, 20), std::cell::Cell::new(0));
    let say = |_: &str| said.set(said.get() + 1);
    let job = client.patiently(&say, || client.post("/v1/jobs", None, Some("key"))).unwrap();
    assert_eq!((job["id"].as_str(), said.get()), (Some("x"), 1));
    let heads: Vec<String> = heads.iter().collect();
    assert_eq!(heads.len(), 3);
    assert!(heads.iter().all(|head| head.contains("idempotency-key: key")), "{heads:?}");
}

#[test]
fn an_output_is_read_on_where_the_server_was_away() {
    let first = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123";
    let rest =
        "HTTP/1.1 206 Partial Content\r\nconnection: close\r\ncontent-length: 6\r\n\r\n456789";
    let (url, heads) = scripted(["", first, "", rest]);
    let mut file = tempfile::tempfile().unwrap();
    client(url, 20).download("/v1/jobs/x/output", &file).unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "0123456789");
    assert!(heads.iter().last().unwrap().contains("range: bytes=4-"));
}

#[test]
fn without_patience_a_request_is_made_once() {
    let (url, heads) = scripted([""]);
    let client = client(url, 0);
    let say = |text: &str| panic!("{text}");
    let answer = client.patiently(&say, || client.json("/v1/jobs"));
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(heads.iter().count(), 1);
}
