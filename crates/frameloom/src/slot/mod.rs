//! Slots: child processes that do one task at a time and open nothing.
//!
//! Node and slot talk over one Unix socket pair: a length, then JSON; open descriptors travel with
//! the length.

pub(crate) mod apart;
pub(crate) mod child;
#[cfg(test)]
mod fuzz;
pub(crate) mod parent;
pub(crate) mod sandbox;
mod syscalls;
mod wire;
