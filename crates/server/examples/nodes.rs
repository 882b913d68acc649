//! Nodes whose slots only sleep, to see how many tasks a second go through server, broker and store.
//!
//! `nodes BROKER DATA NODES SLOTS MILLISECONDS`, beside `frameloom serve --broker BROKER --data DATA
//! --no-local-slots`. What they "make" is no video: joining it fails, which ends the try.

mod sleeper;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use frameloom_broker::Broker;
use frameloom_broker::celery::{Access, Celery};
use frameloom_core::id::NodeId;
use frameloom_core::wire::{Beat, NodeInfo, Queue};
use frameloom_core::{Error, Result};
use frameloom_server::store::Store;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next =
        |what: &str| args.next().ok_or_else(|| Error::invalid(format!("{what} is missing")));
    let (broker, data) = (next("BROKER")?, next("DATA")?);
    let mut number = |what: &str| -> Result<u32> {
        next(what)?.parse().map_err(|_| Error::invalid(format!("{what} is no number")))
    };
    let (nodes, slots, sleep) = (number("NODES")?, number("SLOTS")?, number("MILLISECONDS")?);
    let store = Arc::new(Store::mounted(data.as_ref())?);
    let named =
        store.known_as()?.ok_or_else(|| Error::not_found("no server has used this store"))?;
    let celery = Arc::new(Celery::connect(&broker, &Access::default(), named).await?);
    let server = store.nodes()?.into_iter().find_map(|node| store.read_node(node).ok().flatten());
    let server = server.ok_or_else(|| Error::not_found("no server runs on this store"))?;
    let done = Arc::new(AtomicU64::new(0));
    for n in 0..nodes {
        let id = NodeId::from_bits(u128::from(n) + 1);
        let info = NodeInfo {
            name: format!("sleeper-{n}"),
            slots,
            gpu_slots: 0,
            within_server: false,
            ..server.clone()
        };
        store.write_node(id, &info)?;
        let free = Arc::new(AtomicU32::new(slots));
        let (beating, left) = (Arc::clone(&store), Arc::clone(&free));
        tokio::spawn(async move {
            for counter in 1.. {
                let free_slots = left.load(Ordering::Relaxed);
                let beat = Beat { counter, free_slots, ..Beat::default() };
                drop(beating.write_beat(id, &beat));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        for _ in 0..slots {
            let (store, celery) = (Arc::clone(&store), Arc::clone(&celery));
            let (free, done) = (Arc::clone(&free), Arc::clone(&done));
            let queue = Queue::Segment(info.engine.id());
            tokio::spawn(async move {
                while let Ok(message) = celery.receive(queue).await {
                    free.fetch_sub(1, Ordering::Relaxed);
                    let slept = sleeper::work(&store, id, &message, sleep).await;
                    free.fetch_add(1, Ordering::Relaxed);
                    done.fetch_add(u64::from(slept.is_ok()), Ordering::Relaxed);
                }
            });
        }
    }
    tokio::signal::ctrl_c().await.map_err(|e| Error::io("cannot watch signals", &e))
}
