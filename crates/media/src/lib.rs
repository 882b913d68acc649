//! The media engine: probing, planning, decoding, filters, encoding, joining.
//!
//! The only crate with native libraries. It knows no runtime, broker, server or store: sources and
//! outputs come in as open descriptors, and nothing here opens a file or a socket.
#![expect(unsafe_code, reason = "FFmpeg is a C library; each block says why it is sound")]

mod captions;
mod color;
mod compare;
mod concat;
mod convert;
mod decode;
mod demux;
mod detect;
mod discontinuity;
mod ebml;
mod encode;
mod engine;
mod entry;
mod ff;
mod filter;
mod follow;
mod frame;
mod frame_file;
mod frame_runner;
mod hdr;
mod index;
mod io;
mod io_out;
mod picture;
mod pieces;
mod planning;
mod preview;
mod probe;
mod seek;
mod seg_file;
mod segment;
mod sheet;
mod source;
mod streams;
mod strip;
mod tags;
mod validate;

pub use compare::{Compared, compare};
pub use concat::{Made, concat};
pub use detect::{ModelInfo, RuntimeInfo, cuda, models, runtime, runtime_or_advice};
pub use engine::{engine, init};
pub use filter::{Back, Elsewhere, Exchange, Files, GraphFilters, catalogue, graph_filters};
pub use follow::{action_hides, hides_things, is_detector, tells_of_things, track};
pub use frame_runner::FrameRunner;
pub use picture::picture;
pub use planning::make_plan;
pub use preview::Preview;
pub use probe::probe;
pub use segment::{Given, Progress, SegmentRunner};
pub use validate::validate;
