//! The words of Frameloom and its pure functions: time, ids, pipelines, plans, tasks, errors, metrics.
//!
//! This crate knows no runtime, no file, no network, no clock and no source of randomness: whoever
//! calls it hands those in. So everything here can be tested by value.

pub mod catalogue;
pub mod detection;
pub mod edited;
pub mod error;
pub mod fingerprint;
pub mod frame_task;
pub mod id;
pub mod metrics;
pub mod needs;
pub mod pipeline;
pub mod plan;
pub mod planner;
pub mod probe;
pub mod scheduler;
pub mod slot;
pub mod spec;
pub mod time;
pub mod track;
pub mod verify;
pub mod wire;

pub use error::{Error, ErrorKind, Result};
