//! A server, a Redis and nodes, each on a host of its own, around a store on a small disk.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use frameloom_core::{Error, Result};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::disk::{Disk, View, make_dir};
use crate::fault::{CLOCKED, NODES};
use crate::journals::Journals;
use crate::net::{Host, address, bridge};
use crate::part::{Fallen, Part};
use crate::relay::Relay;
use crate::{call, pause};

/// Nodes that come and go beside those that work all the time.
const SPARE: usize = 2;

/// The node of another engine.
pub const STRANGER: usize = NODES + SPARE;

/// The host numbers of Redis, of the server and of the first node.
const REDIS: u8 = 2;
const SERVER: u8 = 3;
const FIRST: u8 = 4;

/// The port of a relay is this with the number of the host that uses it, and with 0 for clients.
const RELAYS: u16 = 7_000;

/// The disk's size in MiB.
const DISK: u32 = 1_024;

/// How long all of it may take to come up.
const COMES_UP_WITHIN: Duration = Duration::from_secs(90);

/// A node.
pub struct Node {
    pub(crate) part: Part,
    pub(crate) relay: Relay,
    pub(crate) view: View,
    pub(crate) host: Rc<Host>,
}

/// All of it; what was started ends with it.
pub struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) server: Part,
    pub(crate) redis: Part,
    pub(crate) server_host: Rc<Host>,
    pub(crate) redis_host: Rc<Host>,
    pub(crate) server_relay: Relay,
    pub(crate) clients_relay: Relay,
    pub(crate) server_view: View,
    pub(crate) disk: Disk,
    pub(crate) place: PathBuf,
    /// Whether the kernel can make a cable slow and lossy.
    pub(crate) netem: bool,
    /// Whether somebody wants all of it to end.
    interrupted: Arc<AtomicBool>,
    _runtime: Runtime,
}

/// The library that gives a process a clock of its own.
fn faketime() -> Result<PathBuf> {
    let dirs = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut paths = dirs.map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"));
    paths.find(|path| path.exists()).ok_or_else(|| {
        Error::not_found("libfaketime is needed for clocks that jump: scripts/setup.sh test")
    })
}

/// Sets the clock of the node that has one of its own.
pub(crate) fn set_clock(place: &Path, seconds: i64) -> Result<()> {
    let (path, fresh) = (place.join("clock"), place.join("clock.tmp"));
    std::fs::write(&fresh, format!("{seconds:+}\n"))
        .and_then(|()| std::fs::rename(&fresh, &path))
        .map_err(|e| Error::io("cannot set a clock", &e))
}

/// Has a program's clock be the one that [`set_clock`] sets; time that has passed is never false, only the time of day.
fn with_clock(command: &mut Command, library: &Path, place: &Path) {
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", place.join("clock"))
        .env("FAKETIME_CACHE_DURATION", "1")
        .env("FAKETIME_DONT_RESET", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("NO_FAKE_STAT", "1");
}

/// Becomes true once this process is told to end, and keeps it from ending at once.
fn interrupted(runtime: &Runtime) -> Result<Arc<AtomicBool>> {
    let _inside = runtime.enter();
    let told = Arc::new(AtomicBool::new(false));
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind).map_err(|e| Error::io("cannot wait for signals", &e))?;
        let told = Arc::clone(&told);
        runtime.spawn(async move {
            signals.recv().await;
            told.store(true, Ordering::Relaxed);
        });
    }
    Ok(told)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A process that waits for a store that stands still cannot be killed.
        self.nodes.iter_mut().for_each(|node| node.view.mend());
        self.server_view.mend();
    }
}

impl Cluster {
    /// Starts one of the program `binary` in `place`, in the namespaces in which this process is alone.
    ///
    /// # Errors
    /// Unavailable where a part does not come up.
    pub fn start(binary: &Path, place: &Path, seed: u64) -> Result<Self> {
        bridge()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| Error::io("cannot start", &e))?;
        for part in ["logs", "views", "redis"] {
            make_dir(&place.join(part))?;
        }
        let disk = Disk::mount(place.join("disk"), DISK)?;
        let redis_host = Rc::new(Host::new(REDIS)?);
        let server_host = Rc::new(Host::new(SERVER)?);
        let relay = |number: u16, six: bool, to: SocketAddr| {
            let at = SocketAddr::new(address(1, six), RELAYS + number);
            Relay::start(runtime.handle(), at, to, seed ^ u64::from(number))
        };
        let to_redis = |six: bool| SocketAddr::new(redis_host.address(six), 6_379);
        let clients_relay = relay(0, false, SocketAddr::new(server_host.address(false), 8_080))?;
        let server_relay = relay(u16::from(SERVER), false, to_redis(false))?;
        let server_view = View::of(&disk, place.join("views/server"), false)?;
        let log = |name: &str| place.join("logs").join(name).with_extension("log");

        let redis = Part::new("redis", log("redis"), redis_program(&redis_host, place));
        let broker = format!("redis://10.77.0.1:{}/0", RELAYS + u16::from(SERVER));
        let (host, program) = (Rc::clone(&server_host), binary.to_owned());
        let data = server_view.path().to_owned();
        let server = Part::new(
            "server",
            log("server"),
            Box::new(move || {
                let mut command = host.program(&program);
                command
                    .args(["serve", "--listen", "[::]:8080", "--insecure", "--allow-host"])
                    .args(["10.77.0.1", "--no-local-slots", "--min-free", "24M", "--broker"])
                    .args([&broker, "--data"])
                    .arg(&data)
                    .env("FRAMELOOM_TEST_FAULTS", "1")
                    .env("FRAMELOOM_LOG", "info");
                command
            }),
        );
        let library = faketime()?;
        set_clock(place, 0)?;
        let mut nodes = Vec::new();
        for (i, number) in (0..=STRANGER).zip(FIRST..) {
            // Half of them by each family, one with a view that remembers what was absent.
            let six = i % 2 == 1;
            let name = format!("node{i}");
            let host = Rc::new(Host::new(number)?);
            let view = View::of(&disk, place.join("views").join(&name), i == 1)?;
            let relay = relay(number.into(), six, to_redis(six))?;
            let hub = if six { "[fd77::1]" } else { "10.77.0.1" };
            let broker = format!("redis://{hub}:{}/0", RELAYS + u16::from(number));
            let stranger = place.join("libonnxruntime.so.0.0.1");
            std::fs::write(&stranger, "").map_err(|e| Error::io("cannot write a file", &e))?;
            let (at, program, data) = (Rc::clone(&host), binary.to_owned(), view.path().to_owned());
            let (library, place) = (library.clone(), place.to_owned());
            let (path, named) = (log(&name), name.clone());
            let make = move || {
                let mut command = at.program(&program);
                command
                    .args(["worker", "--slots", "1", "--name", &named, "--broker", &broker])
                    .arg("--data")
                    .arg(&data)
                    .env("FRAMELOOM_TEST_FAULTS", "1")
                    .env("FRAMELOOM_LOG", "info");
                match i {
                    CLOCKED => with_clock(&mut command, &library, &place),
                    // Its ONNX Runtime has another name, so its engine is another.
                    STRANGER => drop(command.env("FRAMELOOM_ONNXRUNTIME", &stranger)),
                    _ => {}
                }
                command
            };
            let part = Part::new(&name, path, Box::new(make));
            nodes.push(Node { part, relay, view, host });
        }
        let netem = redis_host.netem(Some(&["delay", "1ms"])).is_ok();
        if netem {
            redis_host.netem(None)?;
        }
        let mut cluster = Self {
            nodes,
            server,
            redis,
            server_host,
            redis_host,
            server_relay,
            clients_relay,
            server_view,
            disk,
            place: place.to_owned(),
            netem,
            interrupted: interrupted(&runtime)?,
            _runtime: runtime,
        };
        cluster.come_up()?;
        Ok(cluster)
    }

    fn come_up(&mut self) -> Result<()> {
        self.redis.start()?;
        let socket = self.socket();
        self.until("redis", &mut |_| UnixStream::connect(&socket).is_ok())?;
        self.server.start()?;
        let named = self.disk.path().join("store.json");
        self.until("server", &mut |_| named.exists())?;
        for node in &mut self.nodes[..NODES] {
            node.part.start()?;
        }
        let journals = Journals::on(self.disk.path())?;
        self.until("node0", &mut |cluster| {
            let pids = cluster.nodes.iter().filter_map(|node| node.part.pid());
            journals.beating(&pids.collect::<Vec<_>>()) == NODES
        })
    }

    fn until(&mut self, name: &str, wanted: &mut dyn FnMut(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + COMES_UP_WITHIN;
        while !wanted(self) {
            if let Some(fallen) = self.tend()?.into_iter().next() {
                let words =
                    format!("{} ends with {}: {}", fallen.name, fallen.status, fallen.words);
                return Err(Error::unavailable(words));
            }
            if Instant::now() > end {
                let log = self.place.join("logs").join(name).with_extension("log");
                let words = crate::part::last_words(&log);
                return Err(Error::timeout(format!("the cluster does not come up: {words}")));
            }
            pause(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The address that clients call the server by.
    pub fn url(&self) -> String {
        format!("http://10.77.0.1:{RELAYS}")
    }

    /// Where the store lies; this sees at once what is there.
    pub fn store(&self) -> &Path {
        self.disk.path()
    }

    /// Starts anew what has ended by itself.
    ///
    /// # Errors
    /// Cancelled once this process is told to end; Unavailable where something cannot be started.
    pub fn tend(&mut self) -> Result<Vec<Fallen>> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Error::cancelled("the bench was told to end"));
        }
        let nodes = self.nodes.iter_mut().map(|node| &mut node.part);
        let parts = [&mut self.redis, &mut self.server].into_iter().chain(nodes);
        let mut fallen = Vec::new();
        for part in parts {
            fallen.extend(part.tend()?);
        }
        Ok(fallen)
    }

    fn socket(&self) -> PathBuf {
        self.place.join("redis/socket")
    }

    /// Has Redis forget everything.
    pub(crate) fn flush(&self) -> Result<()> {
        let failed = |e: std::io::Error| Error::io("cannot empty Redis", &e);
        let mut stream = UnixStream::connect(self.socket()).map_err(failed)?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed)?;
        stream.write_all(b"FLUSHALL\r\n").map_err(failed)?;
        let mut said = [0; 5];
        stream.read_exact(&mut said).map_err(failed)?;
        if &said == b"+OK\r\n" { Ok(()) } else { Err(Error::unavailable("Redis keeps all")) }
    }

    /// Has Redis come back empty when it is started next.
    pub(crate) fn lose_redis(&self) -> Result<()> {
        let dir = self.place.join("redis");
        call(Command::new("rm").arg("-rf").arg(&dir))?;
        make_dir(&dir)
    }
}

/// Redis as it is deployed: what it is told is on its disk within a second.
fn redis_program(host: &Rc<Host>, place: &Path) -> Box<dyn Fn() -> Command> {
    let (host, dir) = (Rc::clone(host), place.join("redis"));
    Box::new(move || {
        let mut command = host.program("redis-server");
        command
            .args(["--port", "6379", "--bind", "10.77.0.2", "fd77::2", "--protected-mode", "no"])
            .args(["--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"])
            .args(["--unixsocket", "socket"])
            .arg("--dir")
            .arg(&dir)
            .current_dir(&dir);
        command
    })
}
