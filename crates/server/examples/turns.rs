//! How many tasks a second go through engine, memory broker and store, and what a poll costs, with slots
//! that only sleep.
//!
//! `turns PLAN DATA SLOTS MILLISECONDS SECONDS`: PLAN is what `frameloom plan IN --json` prints; each
//! of its segments is a task. DATA is a directory that is made and removed again: on tmpfs, or on disk.

#![expect(clippy::print_stdout, reason = "it prints what it measures")]

mod sleeper;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use frameloom_broker::{Broker, Memory};
use frameloom_core::catalogue::Catalogue;
use frameloom_core::id::{AttemptId, JobId, NodeId};
use frameloom_core::plan::Plan;
use frameloom_core::wire::{Beat, JobFile, NodeInfo, PROTOCOL, Queue, SourceRef, Submission};
use frameloom_core::{Error, Result};
use frameloom_server::engine::{self, Begin, EngineConfig, JobEvent, Links};
use frameloom_server::resume::Found;
use frameloom_server::serve::JobRequest;
use frameloom_server::store::Store;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the engine looks where nobody calls.
const POLL: Duration = Duration::from_millis(10);

/// For how long polls are counted.
const IDLE: Duration = Duration::from_secs(5);

/// CPU time of this process, in seconds.
fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
        .as_secs_f64()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next =
        |what: &str| args.next().ok_or_else(|| Error::invalid(format!("{what} is missing")));
    let (plan, data) = (next("PLAN")?, PathBuf::from(next("DATA")?));
    let mut number = |what: &str| -> Result<u32> {
        next(what)?.parse().map_err(|_| Error::invalid(format!("{what} is no number")))
    };
    let (slots, sleep) = (number("SLOTS")?, number("MILLISECONDS")?);
    let seconds = number("SECONDS")?;
    let failed = |e: std::io::Error| Error::io(format!("cannot read '{plan}'"), &e);
    let text = std::fs::read(&plan).map_err(failed)?;
    let plan: Plan = serde_json::from_slice(&text)
        .map_err(|e| Error::invalid("this is no plan").with_source(e))?;
    std::fs::create_dir(&data)
        .map_err(|e| Error::io(format!("cannot make '{}'", data.display()), &e))?;
    let measured = measure(&data, plan, slots, sleep, seconds).await;
    std::fs::remove_dir_all(&data).map_err(|e| Error::io("cannot tidy", &e))?;
    measured
}

async fn measure(
    data: &std::path::Path,
    plan: Plan,
    slots: u32,
    sleep: u32,
    seconds: u32,
) -> Result<()> {
    let store = Arc::new(Store::open(data)?);
    let (broker, wake) = (Arc::new(Memory::new()), Arc::new(Notify::new()));
    let (ids, done) = (AtomicU64::new(1), Arc::new(AtomicU64::new(0)));
    let stop = CancellationToken::new();
    let versions = plan.engine.clone();
    let segments = plan.segments.len();
    sleepers(&store, &broker, &wake, &versions, (slots, sleep), &stop)?;
    let config = EngineConfig {
        poll: POLL,
        lease: Duration::from_secs(10),
        // As `frameloom serve` has it.
        window: (slots as usize).div_ceil(2),
        new_id: Box::new(move || AttemptId::from_bits(ids.fetch_add(1, Ordering::Relaxed).into())),
        fault: Box::new(|_| Ok(())),
        hold: Box::new(|| false),
        before_commit: Box::new(|| Ok(())),
        gpu_for: None,
    };
    let links = Links { store: Arc::clone(&store), broker, wake };
    let handle = engine::start(config, links);
    let id = JobId::from_bits(1);
    let job = job(id)?;
    store.job(id).create(&job, |_| Ok(()))?;
    let found = Found {
        id,
        plan: Some((AttemptId::from_bits(u128::MAX), plan)),
        segments: Vec::new(),
        concat: None,
        open: Vec::new(),
        publishing: None,
        home: None,
    };
    let (cancel, counted) = (CancellationToken::new(), Arc::clone(&done));
    let begin = Begin {
        job,
        found: Some(found),
        home: None,
        priority: 5,
        watcher: Box::new(move |event| {
            if let JobEvent::Accepted { .. } = event {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }),
        cancel: cancel.clone(),
    };
    let running = tokio::spawn(async move { handle.run(begin).await.map(drop) });
    while done.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(POLL).await;
    }
    let (begun, used, before) = (Instant::now(), cpu(), done.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(seconds.into())).await;
    let took = begun.elapsed().as_secs_f64();
    let turns = done.load(Ordering::Relaxed) - before;
    #[expect(clippy::cast_precision_loss, reason = "counts, for display")]
    let rate = turns as f64 / took;
    println!("{segments} tasks, {slots} slots, {sleep} ms a task: {rate:.0} turns a second");
    println!("  with {:.2} cores, sleepers included", (cpu() - used) / took);
    stop.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (begun, used) = (Instant::now(), cpu());
    tokio::time::sleep(IDLE).await;
    let polls = begun.elapsed().as_secs_f64() / POLL.as_secs_f64();
    println!(
        "  a poll takes {:.3} ms of CPU ({} tasks done, every {} ms)",
        (cpu() - used) * 1000.0 / polls,
        done.load(Ordering::Relaxed),
        POLL.as_millis()
    );
    cancel.cancel();
    // It ends as cancelled.
    drop(running.await);
    Ok(())
}

/// A job that nobody reads.
fn job(id: JobId) -> Result<JobFile> {
    let submission = Submission {
        owner: "anyone".into(),
        created_ms: 0,
        priority: 5,
        upload: true,
        upload_size: None,
        output: None,
        idempotency: None,
        webhook: None,
    };
    Ok(JobFile {
        id,
        spec: JobRequest::default().spec(&Catalogue(&[]))?,
        source: SourceRef { path: "/".into(), name: "none".into(), root: None },
        frame_metrics: false,
        submission: Some(submission),
    })
}

/// Begins a node whose slots sleep.
fn sleepers(
    store: &Arc<Store>,
    broker: &Arc<Memory>,
    wake: &Arc<Notify>,
    engine: &frameloom_core::plan::Engine,
    (slots, sleep): (u32, u32),
    stop: &CancellationToken,
) -> Result<()> {
    let id = NodeId::from_bits(1);
    let info = NodeInfo {
        name: "sleeper".into(),
        host: "here".into(),
        pid: std::process::id(),
        slots,
        gpu_slots: 0,
        engine: engine.clone(),
        protocol: PROTOCOL,
        within_server: true,
        started_ms: 0,
    };
    store.write_node(id, &info)?;
    let free = Arc::new(AtomicU32::new(slots));
    let (beating, left) = (Arc::clone(store), Arc::clone(&free));
    tokio::spawn(async move {
        for counter in 1.. {
            let free_slots = left.load(Ordering::Relaxed);
            let beat = Beat { counter, free_slots, ..Beat::default() };
            if let Err(error) = beating.write_beat(id, &beat) {
                return eprintln!("{error}");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let queue = Queue::Segment(info.engine.id());
    for _ in 0..slots {
        let (store, broker, wake) = (Arc::clone(store), Arc::clone(broker), Arc::clone(wake));
        let (free, stop) = (Arc::clone(&free), stop.clone());
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    message = broker.receive(queue) => message,
                };
                let Ok(message) = message else { return };
                free.fetch_sub(1, Ordering::Relaxed);
                if let Err(error) = sleeper::work(&store, id, &message, sleep).await {
                    eprintln!("{error}");
                }
                free.fetch_add(1, Ordering::Relaxed);
                wake.notify_one();
            }
        });
    }
    Ok(())
}
