//! `frameloom worker`: a node of its own, on any machine that mounts the server's store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use frameloom_broker::celery::{Announcement, Celery};
use frameloom_core::id::NodeId;
use frameloom_core::wire::PROTOCOL;
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::serve::{Listener, serve_node};
use frameloom_server::store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::broker::BrokerArgs;
use super::listen::{bind_all, listeners, places, remove_sockets};
use super::serve::{LogFormat, show};
use super::shown;
use super::units::{roots, time, visibility};
use crate::node::{Node, NodeConfig};
use crate::random;

/// How often a node without a server looks for one.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a node looks whether the server has tried its files.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// How often a node looks whether the server is still the one that it knows.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(10);

/// How to work.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  frameloom worker --broker redis://HOST/0 --data /mnt/frameloom\n  \
    frameloom worker --broker redis://HOST/0 --data /mnt/frameloom --slots 4 --name gpu-3 --listen 127.0.0.1:9100\n\n\
    DIR is the server's --data, mounted here and writable. No port is open but --listen's.\n\
    SIGTERM, Ctrl-C or 'celery control shutdown' finishes the tasks at work and ends; once more ends at once."
)]
pub(crate) struct WorkerArgs {
    /// The Redis that the server sends tasks by.
    #[arg(long, value_name = "URL", env = "FRAMELOOM_BROKER", hide_env_values = true)]
    broker: String,

    #[command(flatten)]
    broker_access: BrokerArgs,

    /// The server's store, as this machine sees it.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Segments done at a time, and as many single frames beside them, 1 to 256 [default: one a core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: Option<u16>,

    /// Queues to receive from: 'frameloom.cpu' for segments, 'frameloom.gpu' for those that need a GPU
    /// (device=cuda, encoders of hardware), 'frameloom.frame' for single frames, 'frameloom.control' for plans
    /// and joins [default: all, 'frameloom.gpu' where there is an NVIDIA GPU].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    queues: Vec<QueueKind>,

    /// Segments that need a GPU done at a time, beside the others, 1 to 64 [default: 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    gpu_slots: Option<u16>,

    /// After how long a frame that a Celery client has sent, and that is not done, is given to another
    /// node: as Celery's visibility_timeout, a number with s, m or h, 10s or more.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = visibility)]
    visibility_timeout: Duration,

    /// The node's name, as lists and Celery's tools show it [default: the host's with the process id].
    #[arg(long, value_name = "NODE", value_parser = node_name)]
    name: Option<String>,

    /// How long tasks at work may take after SIGTERM: a number with s, m or h.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    drain_timeout: Duration,

    /// Address of this node's own /metrics and /healthz; whoever reaches it may read them.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,

    /// Where a root that the server names lies on this machine; may be given more than once.
    #[arg(long, value_name = "NAME=DIR")]
    root: Vec<String>,

    /// How the node tells of itself on standard error; FRAMELOOM_LOG chooses how much.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,

    /// Memory that a slot may take, in MiB, 64 or more.
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    slot_memory: u64,

    /// Seconds that a slot at work may be silent before it is stopped, 1 or more.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    slot_timeout: u64,
}

/// What a node receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum QueueKind {
    /// Segments, on processors.
    #[value(name = "frameloom.cpu")]
    Cpu,
    /// Segments that need a GPU.
    #[value(name = "frameloom.gpu")]
    Gpu,
    /// Single frames, of jobs with --granularity frame and of whoever sends some.
    #[value(name = "frameloom.frame")]
    Frame,
    /// Plans and joins.
    #[value(name = "frameloom.control")]
    Control,
}

impl WorkerArgs {
    /// Whether it receives from a queue.
    fn listens(&self, queue: QueueKind) -> bool {
        let asked = self.queues.contains(&queue);
        asked || (self.queues.is_empty() && queue != QueueKind::Gpu)
    }

    /// Segments that need a GPU done at a time.
    ///
    /// # Errors
    /// Invalid where their number is given and their queue is not.
    fn gpu_slots(&self) -> Result<usize> {
        match (self.listens(QueueKind::Gpu), self.queues.is_empty()) {
            (true, _) => Ok(self.gpu_slots.map_or(super::GPU_SLOTS, usize::from)),
            (false, true) => Ok(super::gpu_slots(self.gpu_slots)),
            (false, false) if self.gpu_slots.is_some() => Err(Error::invalid(
                "--gpu-slots is for nodes that listen to 'frameloom.gpu'; add it to --queues",
            )),
            (false, false) => Ok(0),
        }
    }
}

/// A name that is safe in a list and in Celery's host names.
fn node_name(text: &str) -> std::result::Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 letters, digits, '-', '_' and '.'".into())
    }
}

/// Works until it is told to stop.
pub(crate) fn run(args: WorkerArgs) -> Result<u8> {
    if args.broker == "memory" {
        return Err(Error::invalid(
            "--broker 'memory' is within the server's process; give the Redis that it uses, like redis://HOST/0",
        ));
    }
    let data = std::fs::canonicalize(&args.data).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(format!(
            "--data '{}' does not exist; mount the server's store there",
            shown(&args.data)
        )),
        _ => Error::io(format!("cannot use --data '{}'", shown(&args.data)), &e),
    })?;
    super::share_with_group();
    let places = if args.listen.is_empty() { Vec::new() } else { places(&args.listen)? };
    let sockets = bind_all(&places)?;
    let slots = super::slots(args.slots);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(slots.clamp(2, 8))
        .enable_all()
        .build()
        .map_err(|e| Error::io("cannot start", &e))?;
    let ended = runtime.block_on(async {
        let listeners = listeners(sockets, &places, None)?;
        work(&args, &data, slots, listeners).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    remove_sockets(&places);
    ended
}

async fn work(
    args: &WorkerArgs,
    data: &Path,
    slots: usize,
    listeners: Vec<Listener>,
) -> Result<u8> {
    let failed = |e: std::io::Error| Error::io("cannot watch signals", &e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let named = || {
        Error::conflict(format!(
            "--data '{}' is not the store of a server: it holds no store.json; mount the server's --data there",
            shown(data)
        ))
    };
    let id = NodeId::from_bits(random::bits()?);
    let store = Arc::new(Store::mounted(data)?);
    let store_id = store.known_as()?.ok_or_else(named)?;
    store.try_out(id)?;
    let celery = Arc::new(args.broker_access.connect(&args.broker, store_id).await?);
    celery.restore_after(args.visibility_timeout);
    let server = tokio::select! {
        server = server(&celery) => server?,
        _ = interrupt.recv() => return Ok(130),
        _ = terminate.recv() => return Ok(143),
    };
    if server.store != store_id {
        return Err(Error::conflict(format!(
            "--data '{}' is store {store_id}, and the server at {} works on store {}; mount its --data there",
            shown(data),
            celery.address(),
            server.store
        )));
    }
    server.clock_fits(jiff::Timestamp::now().as_millisecond())?;
    let trying = store.try_with_server(id, || tokio::time::sleep(TRY_EVERY));
    tokio::select! {
        tried = trying => tried?,
        _ = interrupt.recv() => return Ok(130),
        _ = terminate.recv() => return Ok(143),
    }
    let engine = frameloom_media::engine();
    let like = engine.id() == server.engine && server.protocol == PROTOCOL;
    if !like {
        tracing::warn!(
            "the server's engine is {} of version {}, this node's {} of version {PROTOCOL} ({}, {}); \
             it gets segments of plans that its own engine made, and no others: install the same versions",
            server.engine,
            server.protocol,
            engine.id(),
            engine.ffmpeg,
            engine.encoders
        );
    }
    let config = NodeConfig {
        name: args
            .name
            .clone()
            .unwrap_or_else(|| format!("{}-{}", super::host_name(), std::process::id())),
        slots: if args.listens(QueueKind::Cpu) { slots } else { 0 },
        gpu_slots: args.gpu_slots()?,
        frame_slots: if args.listens(QueueKind::Frame) { slots } else { 0 },
        control: like && args.listens(QueueKind::Control),
        within_server: false,
        celery: Some(Arc::clone(&celery)),
        roots: roots(&args.root)?,
        slot: super::slot_config(args.slot_memory << 20, Duration::from_secs(args.slot_timeout))?,
        beat: Duration::from_secs(1),
        hopeless: None,
    };
    let broker = Arc::clone(&celery) as Arc<dyn frameloom_broker::Broker>;
    let node = Node::new(id, Arc::clone(&store), broker, Arc::new(Notify::new()), config);
    let (stop, good_bye) = (CancellationToken::new(), CancellationToken::new());
    let seen = show(&celery, &node, good_bye.clone());
    for listener in listeners {
        super::print(&format!("listening on {}\n", listener.address()))?;
        let (told, refused) = (Arc::clone(&node), Arc::clone(&celery));
        let metrics = move || {
            format!(
                "{}# HELP frameloom_node_refused_total Messages that nobody should have sent.\n\
                 # TYPE frameloom_node_refused_total counter\n\
                 frameloom_node_refused_total {}\n",
                told.metrics(),
                refused.refused()
            )
        };
        tokio::spawn(serve_node(listener, Arc::new(metrics), stop.clone()));
    }
    let info = node.info();
    eprintln!(
        "frameloom: node {} works for the server at {}: {} slots, engine {}",
        info.name,
        celery.address(),
        info.slots,
        info.engine.id()
    );
    let running = tokio::spawn(Arc::clone(&node).run(stop.clone()));
    tokio::pin!(running);
    let mut stopping: Option<(Instant, u8)> = None;
    let mut look = tokio::time::interval(LOOK_AGAIN_EVERY);
    let mut elsewhere = None;
    let code = loop {
        if stopping.is_none() && node.is_drained() {
            // By remote control.
            stopping = Some((Instant::now(), 0));
        }
        let deadline = stopping.map(|(since, _)| since + args.drain_timeout);
        let late = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let code = tokio::select! {
            _ = &mut running => break 0,
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
            _ = look.tick() => {
                let Ok(Some(said)) = celery.announced().await else { continue };
                if said.store != store_id && elsewhere.is_none() {
                    frameloom_broker::celery::Steered::drain(&*node);
                    elsewhere = Some(said.store);
                } else if said.engine != server.engine || said.protocol != server.protocol {
                    node.stand_apart();
                }
                continue;
            }
            () = late => {
                eprintln!("frameloom: the tasks at work are given up; others do them");
                break stopping.map_or(0, |(_, code)| code);
            }
        };
        if let Some((_, first)) = stopping {
            break first;
        }
        eprintln!("frameloom: tasks at work finish first; once more ends at once");
        frameloom_broker::celery::Steered::drain(&*node);
        stopping = Some((Instant::now(), code));
    };
    stop.cancel();
    if code != 0 {
        drop(tokio::time::timeout(Duration::from_secs(5), &mut running).await);
    }
    good_bye.cancel();
    drop(tokio::time::timeout(Duration::from_secs(2), seen).await);
    store.forget_node(id);
    if let Some(store) = elsewhere {
        return Err(Error::conflict(format!(
            "the server at {} works on another store now, {store}; mount its --data and start again",
            celery.address()
        )));
    }
    Ok(code)
}

/// Waits for a server that tells of itself.
async fn server(celery: &Celery) -> Result<Announcement> {
    let mut told = false;
    loop {
        match celery.announced().await {
            Ok(Some(server)) => return Ok(server),
            Ok(None) => {
                if !told {
                    tracing::warn!(
                        "no server tells of itself at {}; waiting for one",
                        celery.address()
                    );
                    told = true;
                }
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tracing::warn!(%error, "waiting for the broker");
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
