//! The media engine: probing, planning, decoding, filters, encoding, joining.
//!
//! The only crate with native libraries. It knows no runtime, broker, server or store: sources and
//! outputs come in as open descriptors, and nothing here opens a file or a socket.
#![expect(unsafe_code, reason = "FFmpeg is a C library; each block says why it is sound")]

mod demux;
mod entry;
mod ff;
pub mod filter;
pub mod frame;
mod io;
