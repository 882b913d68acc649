//! The engine that runs jobs: store, journal, scheduling, accepting, publishing.
//!
//! It orchestrates and decides, and never touches a pixel or parses media: what it reads was
//! perhaps written by a hostile slot, so names are computed, sizes capped and links not followed.

pub mod engine;
pub mod epoch;
#[cfg(test)]
mod hostile;
pub mod journal;
pub mod publish;
pub mod resume;
pub mod serve;
pub mod store;
pub mod summary;
