//! A way between two hosts that can be made slow, lossy or dead: a relay of TCP connections, for kernels without netem.
//!
//! What TCP makes of lost packets is imitated, not the loss itself: a part of the stream that is lost comes after one or more
//! timeouts of retransmission, and one that is lost again and again ends the connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use frameloom_core::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::seed::Seed;

/// TCP's shortest timeout of retransmission on Linux; it doubles each time.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// So often a part may be lost.
const MOST_LOST: u32 = 4;

/// Parts of a stream that are under way in one direction at most.
const UNDER_WAY: usize = 64;

/// What a relay does to what goes through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Open,
    /// All comes so much later, in each direction.
    Slow(Duration),
    /// So many of a hundred parts are lost, and sent again.
    Lossy(u8),
    /// Nothing comes through; connections stay, and are made.
    Held,
}

impl Mode {
    /// How much later a part comes; `None` where it never does.
    fn late(self, seed: &mut Seed) -> Option<Duration> {
        match self {
            Self::Open | Self::Held => Some(Duration::ZERO),
            Self::Slow(by) => Some(by),
            Self::Lossy(percent) => {
                let mut late = Duration::ZERO;
                for again in 0..MOST_LOST {
                    if !seed.chance(percent) {
                        return Some(late);
                    }
                    late += AGAIN_AFTER * 2u32.pow(again);
                }
                None
            }
        }
    }
}

/// A relay; it ends with its runtime.
#[derive(Debug)]
pub struct Relay {
    mode: watch::Sender<Mode>,
}

impl Relay {
    /// Has connections to `at` be connections to `to`.
    ///
    /// # Errors
    /// Of the network.
    pub fn start(handle: &Handle, at: SocketAddr, to: SocketAddr, seed: u64) -> Result<Self> {
        let (mode, watched) = watch::channel(Mode::Open);
        let listener = handle
            .block_on(TcpListener::bind(at))
            .map_err(|e| Error::io(format!("cannot listen on {at}"), &e))?;
        handle.spawn(accept(listener, to, watched, Seed::new(seed)));
        Ok(Self { mode })
    }

    /// Does this from now on.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn accept(
    listener: TcpListener,
    to: SocketAddr,
    mode: watch::Receiver<Mode>,
    mut seed: Seed,
) {
    loop {
        // One that has gone already is none.
        if let Ok((near, _)) = listener.accept().await {
            let (mode, seed) = (mode.clone(), Seed::new(seed.draw()));
            tokio::spawn(async move { drop(carry(near, to, mode, seed).await) });
        }
    }
}

/// Carries a connection; it ends at both sides where it breaks at one.
async fn carry(
    near: TcpStream,
    to: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    mut seed: Seed,
) -> io::Result<()> {
    open(&mut mode).await?;
    let far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let there = pump(near_in, far_out, mode.clone(), Seed::new(seed.draw()));
    let back = pump(far_in, near_out, mode, seed);
    tokio::try_join!(there, back).map(drop)
}

/// Waits until something comes through.
async fn open(mode: &mut watch::Receiver<Mode>) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    mode.wait_for(|mode| *mode != Mode::Held).await.map(drop).map_err(gone)
}

/// Carries one direction. What is late keeps nothing from being under way behind it.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mode: watch::Receiver<Mode>,
    mut seed: Seed,
) -> io::Result<()> {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let mut opened = mode.clone();
    let takes = async move {
        let (mut due, mut buffer) = (Instant::now(), vec![0; 64 << 10]);
        loop {
            let n = from.read(&mut buffer).await?;
            let now = *mode.borrow();
            let late = now.late(&mut seed).ok_or(io::ErrorKind::ConnectionReset)?;
            due = due.max(Instant::now() + late);
            if sender.send((due, buffer[..n].to_vec())).await.is_err() || n == 0 {
                return Ok(());
            }
        }
    };
    let gives = async move {
        while let Some((due, part)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            open(&mut opened).await?;
            if part.is_empty() {
                break;
            }
            to.write_all(&part).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(takes, gives).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener as Listener, TcpStream as Stream};

    /// A relay before a server that answers each byte by the same.
    fn echo() -> (tokio::runtime::Runtime, Relay, Stream) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let server = Listener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in server.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while matches!(stream.read(&mut byte), Ok(1)) {
                        if stream.write_all(&byte).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let free = Listener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let relay = Relay::start(runtime.handle(), free, to, 1).unwrap();
        let stream = Stream::connect(free).unwrap();
        (runtime, relay, stream)
    }

    fn ask(stream: &mut Stream) -> io::Result<u8> {
        let mut byte = [7];
        stream.write_all(&byte)?;
        byte[0] = 0;
        stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    #[test]
    fn what_is_sent_comes_and_late_where_it_is_to_be_late() {
        let (_runtime, relay, mut stream) = echo();
        assert_eq!(ask(&mut stream).unwrap(), 7);
        relay.set(Mode::Slow(Duration::from_millis(150)));
        let begun = std::time::Instant::now();
        assert_eq!(ask(&mut stream).unwrap(), 7);
        assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    }

    #[test]
    fn nothing_comes_through_while_it_is_held_and_all_of_it_after() {
        let (_runtime, relay, mut stream) = echo();
        relay.set(Mode::Held);
        stream.write_all(&[7]).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut byte = [0];
        assert!(stream.read(&mut byte).is_err(), "it comes through");
        relay.set(Mode::Open);
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [7]);
    }

    #[test]
    fn loss_delays_by_timeouts_and_ends_a_connection_at_last() {
        let mut seed = Seed::new(5);
        let late: Vec<_> = (0..100_000).map(|_| Mode::Lossy(20).late(&mut seed)).collect();
        let share = |what: Option<u64>| {
            let what = what.map(Duration::from_millis);
            late.iter().filter(|l| **l == what).count()
        };
        assert!((79_000..81_000).contains(&share(Some(0))));
        assert!((15_000..17_000).contains(&share(Some(200))));
        assert!((3_000..3_500).contains(&share(Some(600))));
        assert!((100..220).contains(&share(None)), "{}", share(None));

        let (_runtime, relay, mut stream) = echo();
        relay.set(Mode::Lossy(100));
        assert!(ask(&mut stream).is_err(), "a connection without any packet goes on");
    }
}
