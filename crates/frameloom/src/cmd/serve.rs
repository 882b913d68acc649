//! `frameloom serve`: the engine with an HTTP API and a dashboard around it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use frameloom_broker::celery::{Announcement, Celery, WorkerConfig};
use frameloom_broker::{Broker, Memory};
use frameloom_core::id::{AttemptId, JobId, NodeId, StoreId};
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::engine::{self, EngineConfig, Links};
use frameloom_server::epoch::Epoch;
use frameloom_server::serve::{
    Listener, Parts, Secret, ServeConfig, Server, Sights, Tls, Tokens, TraceConfig, is_full,
};
use frameloom_server::store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::broker::BrokerArgs;
use super::listen::{Place, bind_all, listeners, own_addresses, places, remove_sockets};
use super::shown;
use super::units::{bytes, kept, poll_time, roots, time};
use crate::node::{Node, NodeConfig};
use crate::slot::apart;
use crate::{client, random};

/// How often a server tells nodes of itself.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(5);

/// How long a silent server or node is believed.
const LEASE: Duration = Duration::from_secs(10);

/// How to serve.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  frameloom serve --data /var/lib/frameloom\n  \
    frameloom serve --data D --listen '[::]:8080' --tokens tokens.txt --tls-cert cert.pem --tls-key key.pem\n  \
    curl -T in.mp4 'http://127.0.0.1:8080/v1/process?f=blur:sigma=3' -o out.mp4\n\n\
    Ctrl-C or SIGTERM lets segments at work finish (30 s at most) and stops; a second one stops at once.\n\
    Jobs that are not over go on when the server is started again.")]
pub(crate) struct ServeArgs {
    // As an attribute: in a doc comment an IPv6 address reads as a link.
    #[arg(
        long,
        value_name = "ADDRESS",
        help = "Address to listen on: IP:PORT, [IP6]:PORT or unix:PATH; may be given more than once \
                [default: 127.0.0.1:8080 and [::1]:8080]",
        long_help = "Address to listen on: IP:PORT, [IP6]:PORT or unix:PATH; may be given more than once \
                     [default: 127.0.0.1:8080 and [::1]:8080].\n\n\
                     '[::]:8080' answers IPv4 and IPv6. Port 0 takes a free one. An address that is not \
                     loopback needs --tokens and TLS, or --insecure."
    )]
    listen: Vec<String>,

    /// Where jobs, sources and outputs are kept.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Segments done at a time on this machine, 1 to 256 [default: one a core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: Option<u16>,

    /// File of tokens, `name:token`, `name:token:admin` or `name:token:metrics` a line; a job belongs to a
    /// name, and others do not see it. `metrics` opens /metrics and /v1/scale only.
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,

    /// Certificate chain for TLS, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Key of the certificate, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Listen beyond this machine without tokens or TLS: whoever reaches the port gets in.
    #[arg(long)]
    insecure: bool,

    /// Host name by which clients call the server, beside its addresses; '*' takes any.
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,

    /// Directory whose files may be sources by path; with ':rw' outputs may be written there, too.
    #[arg(long, value_name = "DIR[:rw]")]
    allow_path: Vec<String>,

    /// Room of the store that is kept free: bytes, or with K, M, G, T.
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    min_free: String,

    /// Largest source that is taken.
    #[arg(long, value_name = "SIZE", default_value = "20G")]
    max_upload: String,

    /// Jobs that are not over, at most; further ones get status 429.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_jobs: usize,

    /// Room that uploads which are not whole may take together; they are kept for a day.
    #[arg(long, value_name = "SIZE", default_value = "100G")]
    max_partial: String,

    /// Largest file for a filter (a model, labels, regions) that is taken.
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    max_file: String,

    /// Room that the files of one client for filters may take together; they are kept for a day after
    /// their last use.
    #[arg(long, value_name = "SIZE", default_value = "4G")]
    max_files: String,

    /// How long a finished job's source is kept, and a job that made no output: a number with s, m,
    /// h or d, or 'forever'.
    #[arg(long, value_name = "TIME", default_value = "7d")]
    keep: String,

    /// How long outputs are kept, with all that is known of their jobs.
    #[arg(long, value_name = "TIME", default_value = "forever")]
    keep_outputs: String,

    /// Host that webhooks may go to, as HOST or HOST:PORT; may be given more than once.
    #[arg(long, value_name = "HOST[:PORT]")]
    webhook_host: Vec<String>,

    /// How long after a job's end its webhook is sent again until it is taken.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = time)]
    webhook_for: Duration,

    /// File with the secret by which webhooks are signed.
    #[arg(long, value_name = "FILE")]
    webhook_secret: Option<PathBuf>,

    /// Let everybody read /metrics.
    #[arg(long)]
    open_metrics: bool,

    /// How the server tells of itself on standard error; FRAMELOOM_LOG chooses how much.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,

    /// How tasks reach slots: 'memory', within this process, or a Redis that nodes receive from.
    #[arg(
        long,
        value_name = "URL",
        default_value = "memory",
        env = "FRAMELOOM_BROKER",
        hide_env_values = true
    )]
    broker: String,

    #[command(flatten)]
    broker_access: BrokerArgs,

    /// Do no segments here: nodes do them.
    #[arg(long, conflicts_with = "slots")]
    no_local_slots: bool,

    /// Celery task that clients may have frames sent to, as NAME@QUEUE with '*' and '?'; may be given
    /// more than once.
    #[arg(long, value_name = "NAME@QUEUE")]
    allow_task: Vec<String>,

    /// Directory that nodes may find elsewhere: sources by path beneath it are named by NAME and the
    /// path from there; may be given more than once.
    #[arg(long, value_name = "NAME=DIR")]
    root: Vec<String>,

    /// How often the store is looked at where nobody calls, 10ms to 10s.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = poll_time)]
    poll: Duration,

    /// Memory that a slot may take, in MiB, 64 or more.
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    slot_memory: u64,

    /// Seconds that a slot at work may be silent before it is stopped, 1 or more.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    slot_timeout: u64,

    /// Abort at this step, or with STEP:N when it comes the Nth time, to try how the next server goes on.
    #[arg(long, value_name = "STEP", hide = true)]
    fault: Option<String>,
}

/// How a server tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines of text.
    Text,
    /// Lines of JSON.
    Json,
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::not_found(format!("'{}' does not exist", shown(path)))
        }
        _ => Error::io(format!("cannot read '{}'", shown(path)), &e),
    })
}

fn config(args: &ServeArgs, places: &[Place], slots: usize) -> Result<ServeConfig> {
    let tokens = match &args.tokens {
        Some(path) => {
            let text = read(path)?;
            Tokens::parse(&String::from_utf8_lossy(&text)).map_err(|e| e.at(shown(path)))?
        }
        None => Tokens::default(),
    };
    let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    for place in places {
        let Place::Tcp(address) = place else { continue };
        hosts.push(address.ip().to_string());
        let open = !address.ip().is_loopback();
        if open && !args.insecure && !(tokens.are_asked_for() && args.tls_cert.is_some()) {
            return Err(Error::invalid(format!(
                "--listen {address} is reached from other machines: give --tokens and --tls-cert with --tls-key, \
                 or --insecure where the network or a proxy keeps others out"
            )));
        }
    }
    hosts.extend(args.allow_host.iter().map(|host| host.to_ascii_lowercase()));
    if places.iter().any(|place| matches!(place, Place::Tcp(a) if a.ip().is_unspecified())) {
        hosts.extend(own_addresses());
    }
    let mut paths = Vec::new();
    for text in &args.allow_path {
        let (dir, writable) =
            text.strip_suffix(":rw").map_or((text.as_str(), false), |d| (d, true));
        let dir = std::fs::canonicalize(dir)
            .map_err(|e| Error::io(format!("--allow-path '{}'", shown(Path::new(dir))), &e))?;
        paths.push((dir, writable));
    }
    Ok(ServeConfig {
        tokens,
        tls: args.tls_cert.is_some(),
        hosts,
        paths,
        min_free: bytes(&args.min_free, "min-free")?,
        max_upload: bytes(&args.max_upload, "max-upload")?,
        max_jobs: args.max_jobs,
        max_partial: bytes(&args.max_partial, "max-partial")?,
        max_file: bytes(&args.max_file, "max-file")?,
        max_files: bytes(&args.max_files, "max-files")?,
        keep: kept(&args.keep, "keep")?,
        keep_outputs: kept(&args.keep_outputs, "keep-outputs")?,
        slots,
        allowed_tasks: args.allow_task.clone(),
        roots: roots(&args.root)?,
        open_metrics: args.open_metrics,
        webhook_hosts: args.webhook_host.iter().map(|host| host.to_ascii_lowercase()).collect(),
        webhook_for: args.webhook_for,
        webhook_secret: webhook_secret(args.webhook_secret.as_deref())?,
        traces: TraceConfig::of(|name| std::env::var(name).ok()),
    })
}

fn webhook_secret(file: Option<&Path>) -> Result<Option<Secret>> {
    let Some(file) = file else { return Ok(None) };
    let secret = String::from_utf8(read(file)?).unwrap_or_default().trim().to_owned();
    if secret.len() < 16 {
        return Err(Error::invalid(format!(
            "--webhook-secret '{}': a secret has 16 characters or more",
            shown(file)
        )));
    }
    Ok(Some(Secret(secret)))
}

/// Waits while the counter of another server is watched.
#[expect(clippy::disallowed_methods, reason = "only time shows that a counter stands still")]
fn watch(time: Duration) {
    std::thread::sleep(time);
}

/// Serves until it is told to stop.
pub(crate) fn run(args: ServeArgs) -> Result<u8> {
    let slots = if args.no_local_slots { 0 } else { super::slots(args.slots) };
    if args.no_local_slots && args.broker == "memory" {
        return Err(Error::invalid(
            "--no-local-slots leaves nobody to do the work: give --broker redis://HOST/0, and start \
             'frameloom worker' on other machines",
        ));
    }
    if args.broker == "memory" && !args.allow_task.is_empty() {
        return Err(Error::invalid(
            "--allow-task needs --broker redis://HOST/0, which Celery workers share",
        ));
    }
    if let Some(pattern) = args.allow_task.iter().find(|pattern| !pattern.contains('@')) {
        return Err(Error::invalid(format!(
            "--allow-task '{pattern}' is not NAME@QUEUE, like 'mytasks.*@python'"
        )));
    }
    if args.broker != "memory" {
        super::share_with_group();
    }
    let places = places(&args.listen)?;
    let config = config(&args, &places, slots)?;
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(Tls::new(&read(cert)?, &read(key)?)?),
        _ => None,
    };
    std::fs::create_dir_all(&args.data)
        .map_err(|e| Error::io(format!("cannot make '{}'", shown(&args.data)), &e))?;
    let data = std::fs::canonicalize(&args.data)
        .map_err(|e| Error::io(format!("cannot use '{}'", shown(&args.data)), &e))?;
    let sockets = bind_all(&places)?;
    let store = Arc::new(Store::open(&data)?);
    if args.broker != "memory" {
        store.share()?;
    }
    let epoch = Arc::new(store.pressing(|| Epoch::take(&data, LEASE, &mut watch))?);
    store.tidy();
    let store_id = store.name(StoreId::from_bits(random::bits()?))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(slots.clamp(2, 8))
        .enable_all()
        .build()
        .map_err(|e| Error::io("cannot start", &e))?;
    let stopped = runtime.block_on(async {
        let listeners = listeners(sockets, &places, tls.as_ref())?;
        serve(&args, config, slots, (store, store_id), epoch, listeners).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    remove_sockets(&places);
    stopped
}

/// Shows a node to Celery's tools until `good_bye`.
pub(super) fn show(
    celery: &Celery,
    node: &Arc<Node>,
    good_bye: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let info = node.info();
    let config = WorkerConfig {
        name: info.name.clone(),
        slots: info.slots as usize,
        version: info.engine.frameloom.clone(),
    };
    let steered = Arc::clone(node) as Arc<dyn frameloom_broker::celery::Steered>;
    let (events, showing) = celery.show(config, steered, async move { good_bye.cancelled().await });
    node.tell_by(events);
    tokio::spawn(showing)
}

/// Tells nodes which store this server works on, now and on.
async fn announce(celery: &Arc<Celery>, store: StoreId, stop: &CancellationToken) -> Result<()> {
    let engine = frameloom_media::engine().id();
    celery.announce(&Announcement::now(store, engine)).await?;
    let (celery, stop) = (Arc::clone(celery), stop.clone());
    tokio::spawn(async move {
        let mut displaced = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(ANNOUNCE_EVERY) => {}
            }
            match celery.announce(&Announcement::now(store, engine)).await {
                Ok(()) if displaced => {
                    tracing::info!("nodes hear of this server again");
                    displaced = false;
                }
                Ok(()) => {}
                // The other one is never overwritten; nodes of this one end, and say why.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    if !displaced {
                        tracing::error!(%error, "nodes do not hear of this server any more");
                    }
                    displaced = true;
                }
                Err(error) => tracing::debug!(%error, "nodes do not hear of this server"),
            }
        }
    });
    Ok(())
}

async fn serve(
    args: &ServeArgs,
    config: ServeConfig,
    slots: usize,
    (store, store_id): (Arc<Store>, StoreId),
    epoch: Arc<Epoch>,
    listeners: Vec<Listener>,
) -> Result<u8> {
    let failed = |e: std::io::Error| Error::io("cannot watch signals", &e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let celery = match args.broker.as_str() {
        "memory" => None,
        url => Some(Arc::new(args.broker_access.connect(url, store_id).await?)),
    };
    let stop = CancellationToken::new();
    if let Some(celery) = &celery {
        announce(celery, store_id, &stop).await?;
    }
    let broker: Arc<dyn Broker> = match &celery {
        Some(celery) => Arc::clone(celery) as Arc<dyn Broker>,
        None => Arc::new(Memory::new()),
    };
    let wake = Arc::new(Notify::new());
    let slot_config =
        super::slot_config(args.slot_memory << 20, Duration::from_secs(args.slot_timeout))?;
    let node_config = NodeConfig {
        name: format!("{}-server", super::host_name()),
        slots,
        gpu_slots: if celery.is_some() && slots > 0 { super::gpu_slots(None) } else { 0 },
        frame_slots: slots,
        control: true,
        within_server: true,
        celery: celery.clone(),
        roots: roots(&args.root)?,
        slot: slot_config.clone(),
        beat: Duration::from_millis(200),
        hopeless: None,
    };
    let stop_node = CancellationToken::new();
    let id = NodeId::from_bits(random::bits()?);
    let node =
        Node::new(id, Arc::clone(&store), Arc::clone(&broker), Arc::clone(&wake), node_config);
    let good_bye = CancellationToken::new();
    let seen = celery.as_ref().map(|celery| show(celery, &node, good_bye.clone()));
    let node_ended = tokio::spawn(Arc::clone(&node).run(stop_node.clone()));

    let draining = CancellationToken::new();
    let (held, watched) = (Arc::clone(&store), draining.clone());
    let min_free = config.min_free;
    let (deciding, ending) = (Arc::clone(&epoch), Arc::clone(&epoch));
    let engine = engine::start(
        EngineConfig {
            poll: args.poll,
            lease: LEASE,
            // One waits for each slot that may soon be free: a new job has its turn after these.
            window: slots.div_ceil(2),
            new_id: Box::new(|| AttemptId::from_bits(random::bits().unwrap_or_default())),
            fault: super::fault(args.fault.clone()),
            hold: Box::new(move || watched.is_cancelled() || is_full(&held, min_free)),
            before_commit: Box::new(move || deciding.check()),
            gpu_for: celery.as_ref().map(|_| frameloom_media::engine().id()),
        },
        Links { store: Arc::clone(&store), broker, wake },
    );
    let parts = Parts {
        store: Arc::clone(&store),
        engine,
        catalogue: frameloom_media::catalogue(),
        sights: Sights {
            looks: frameloom_media::tells_of_things,
            hides: frameloom_media::hides_things,
        },
        versions: frameloom_media::engine(),
        checks: Box::new(apart::ask("checks", slot_config.clone())),
        pictures: Box::new(apart::ask("pictures", slot_config)),
        post: Box::new(client::post_text),
        new_id: Box::new(|| random::bits().map(JobId::from_bits)),
        before_commit: Box::new(move || ending.check()),
        fault: super::fault(args.fault.clone()),
    };
    let server = Arc::new(Server::new(parts, config, stop.clone())?);
    let mut lines = String::new();
    for listener in &listeners {
        lines += &format!("listening on {}\n", listener.address());
    }
    let serving = {
        let server = Arc::clone(&server);
        tokio::spawn(async move { server.serve(listeners).await })
    };
    super::print(&lines)?;

    let answers = celery.is_some();
    let mut counter = 0;
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    let mut stopping: Option<(tokio::time::Instant, u8)> = None;
    let code = loop {
        let code = tokio::select! {
            _ = interrupt.recv() => Some(130),
            _ = terminate.recv() => Some(143),
            _ = beat.tick() => None,
        };
        counter += 1;
        match store.pressing(|| epoch.beat(counter)) {
            // The lock on the epoch tells that this server lives, too.
            Err(error) if error.kind() == ErrorKind::Exhausted => {
                tracing::error!(%error, "cannot tell that the server lives");
            }
            told => told?,
        }
        if answers && let Err(error) = store.answer_nodes() {
            tracing::warn!(%error, "nodes that begin are not answered");
        }
        if let Err(error) = epoch.check() {
            stop.cancel();
            stop_node.cancel();
            return Err(error);
        }
        match (code, &stopping) {
            (Some(_), Some((_, first))) => break *first,
            (Some(code), None) => {
                eprintln!("frameloom: segments at work finish first; once more stops at once");
                server.drain();
                draining.cancel();
                stopping = Some((tokio::time::Instant::now(), code));
            }
            (None, _) => {}
        }
        if let Some((since, code)) = stopping
            && (node.is_idle() || since.elapsed() > Duration::from_secs(30))
        {
            break code;
        }
    };
    stop.cancel();
    stop_node.cancel();
    drop(tokio::time::timeout(Duration::from_secs(5), serving).await);
    drop(tokio::time::timeout(Duration::from_secs(5), node_ended).await);
    good_bye.cancel();
    if let (Some(celery), Some(seen)) = (celery, seen) {
        drop(tokio::time::timeout(Duration::from_secs(2), seen).await);
        drop(tokio::time::timeout(Duration::from_secs(2), celery.withdraw(store_id)).await);
    }
    Ok(code)
}
