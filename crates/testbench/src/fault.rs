//! What is done to a cluster.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// Nodes that work all the time.
pub const NODES: usize = 4;

/// The node whose clock jumps.
pub const CLOCKED: usize = 3;

/// How long a silent node is believed.
pub const LEASE: Duration = Duration::from_secs(10);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The server is killed, and another is started on its store.
    ServerKilled,
    /// The server is asked to end, and started again.
    ServerStopped,
    /// The server is frozen, and goes on.
    ServerFrozen,
    /// A node is killed, and started again.
    NodeKilled,
    /// A node is frozen with its slots, and goes on.
    NodeFrozen,
    /// A slot that is at work is killed.
    SlotKilled,
    /// Redis is killed, and comes back with what it wrote to its disk.
    RedisKilled,
    /// Redis is killed, and comes back empty.
    RedisLost,
    /// Redis forgets everything (FLUSHALL).
    RedisEmptied,
    /// Redis is frozen, and goes on.
    RedisFrozen,
    /// Everything is killed at once, and started again.
    AllKilled,
    /// The server's cable is pulled.
    ServerCut,
    /// Nothing comes through between server and Redis; their connections stay.
    ServerFromRedisCut,
    /// A node's cable is pulled, or nothing comes through between it and Redis.
    NodeCut,
    /// Redis' cable is pulled.
    RedisCut,
    /// Nothing comes through between clients and the server.
    ClientsCut,
    /// Everything comes 300 ms late, both ways.
    NetSlow,
    /// A fifth of what is sent is lost, and sent again by TCP.
    NetLossy,
    /// Others take all room of the store, to the last byte.
    DiskFull,
    /// The store answers once in two seconds only.
    StoreSlow,
    /// The store does not answer a node at all.
    NodeStoreCut,
    /// The store does not answer the server at all.
    ServerStoreCut,
    /// A node's clock jumps by hours or days, and back.
    ClockJumped,
    /// A node of another engine joins, and leaves.
    OtherVersion,
    /// Two nodes more join, and are drained.
    Scaled,
}

/// The part of a cluster that a fault is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The server's process.
    Server,
    /// The nodes.
    Nodes,
    /// Redis' process.
    Redis,
    /// What is between them.
    Net,
    /// The store.
    Store,
    /// All of it.
    All,
}

/// Whose tasks have to be done before a fault is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concerned {
    /// All that are sent.
    All,
    /// Those in a node's hands.
    Node(usize),
    /// None.
    Nobody,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 25] = [
        Kind::ServerKilled,
        Kind::ServerStopped,
        Kind::ServerFrozen,
        Kind::NodeKilled,
        Kind::NodeFrozen,
        Kind::SlotKilled,
        Kind::RedisKilled,
        Kind::RedisLost,
        Kind::RedisEmptied,
        Kind::RedisFrozen,
        Kind::AllKilled,
        Kind::ServerCut,
        Kind::ServerFromRedisCut,
        Kind::NodeCut,
        Kind::RedisCut,
        Kind::ClientsCut,
        Kind::NetSlow,
        Kind::NetLossy,
        Kind::DiskFull,
        Kind::StoreSlow,
        Kind::NodeStoreCut,
        Kind::ServerStoreCut,
        Kind::ClockJumped,
        Kind::OtherVersion,
        Kind::Scaled,
    ];

    /// Its name, as reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServerKilled => "server_killed",
            Self::ServerStopped => "server_stopped",
            Self::ServerFrozen => "server_frozen",
            Self::NodeKilled => "node_killed",
            Self::NodeFrozen => "node_frozen",
            Self::SlotKilled => "slot_killed",
            Self::RedisKilled => "redis_killed",
            Self::RedisLost => "redis_lost",
            Self::RedisEmptied => "redis_emptied",
            Self::RedisFrozen => "redis_frozen",
            Self::AllKilled => "all_killed",
            Self::ServerCut => "server_cut",
            Self::ServerFromRedisCut => "server_from_redis_cut",
            Self::NodeCut => "node_cut",
            Self::RedisCut => "redis_cut",
            Self::ClientsCut => "clients_cut",
            Self::NetSlow => "net_slow",
            Self::NetLossy => "net_lossy",
            Self::DiskFull => "disk_full",
            Self::StoreSlow => "store_slow",
            Self::NodeStoreCut => "node_store_cut",
            Self::ServerStoreCut => "server_store_cut",
            Self::ClockJumped => "clock_jumped",
            Self::OtherVersion => "other_version",
            Self::Scaled => "scaled",
        }
    }

    /// What it is about; two faults at once are about different parts.
    pub fn about(self) -> About {
        match self {
            Self::ServerKilled | Self::ServerStopped | Self::ServerFrozen => About::Server,
            Self::NodeKilled
            | Self::NodeFrozen
            | Self::SlotKilled
            | Self::ClockJumped
            | Self::OtherVersion
            | Self::Scaled => About::Nodes,
            Self::RedisKilled | Self::RedisLost | Self::RedisEmptied | Self::RedisFrozen => {
                About::Redis
            }
            Self::ServerCut
            | Self::ServerFromRedisCut
            | Self::NodeCut
            | Self::RedisCut
            | Self::ClientsCut
            | Self::NetSlow
            | Self::NetLossy => About::Net,
            Self::DiskFull | Self::StoreSlow | Self::NodeStoreCut | Self::ServerStoreCut => {
                About::Store
            }
            Self::AllKilled => About::All,
        }
    }

    /// Whether the time to recover counts from the fault, as others take over; else from when it is mended.
    pub fn counts_at_once(self) -> bool {
        matches!(
            self,
            Self::NodeKilled
                | Self::NodeFrozen
                | Self::SlotKilled
                | Self::NodeCut
                | Self::NodeStoreCut
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What it is.
    pub kind: Kind,
    /// Which node, below [`NODES`].
    pub node: usize,
    /// How long until it is mended.
    pub lasts: Duration,
    /// Which way it is done where there are several, and by how much a clock jumps.
    pub way: u64,
}

impl Fault {
    /// Whose tasks have to be done before it is over.
    pub fn concerns(&self) -> Concerned {
        match self.kind {
            Kind::NodeKilled
            | Kind::NodeFrozen
            | Kind::SlotKilled
            | Kind::NodeCut
            | Kind::NodeStoreCut => Concerned::Node(self.node),
            Kind::ClockJumped => Concerned::Node(CLOCKED),
            Kind::OtherVersion | Kind::Scaled => Concerned::Nobody,
            _ => Concerned::All,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if let Concerned::Node(node) = self.concerns() {
            write!(f, " {node}")?;
        }
        write!(f, " for {:.1} s", self.lasts.as_secs_f64())
    }
}
