//! Framing on the socket pair between a node and its slot.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use frameloom_core::{Error, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest message, in bytes.
pub(super) const MOST: u32 = 64 << 20;

/// Most descriptors with one message: a frame has neighbours, and filters take files.
const MOST_DESCRIPTORS: usize = 72;

/// A message as it goes over the socket: its length, its text.
pub(super) fn encode<T: Serialize>(message: &T) -> Result<([u8; 4], Vec<u8>)> {
    let text = serde_json::to_vec(message)
        .map_err(|e| Error::internal("cannot write JSON").with_source(e))?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= MOST);
    let length = length.ok_or_else(|| Error::internal("a message to a slot is too long"))?;
    Ok((length.to_le_bytes(), text))
}

/// The message of a text.
pub(super) fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_slice(text)
        .map_err(|e| Error::internal("a message between node and slot is malformed").with_source(e))
}

/// Sends a message's length, and descriptors with it; one system call.
pub(super) fn send_head(
    socket: impl AsFd,
    head: &[u8; 4],
    descriptors: &[BorrowedFd<'_>],
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(rustix::io::Errno::MSGSIZE);
    }
    let flags = SendFlags::NOSIGNAL;
    match sendmsg(socket, &[IoSlice::new(head)], &mut control, flags)? {
        4 => Ok(()),
        // The socket's buffer is never that full: one message waits in it at most.
        _ => Err(rustix::io::Errno::IO),
    }
}

/// The slot's end of the socket, blocking.
pub(super) struct Peer(pub(super) UnixStream);

impl Peer {
    /// Another hold on the same socket.
    ///
    /// # Errors
    /// Exhausted where there are no descriptors left.
    pub(super) fn another(&self) -> Result<Self> {
        self.0.try_clone().map(Self).map_err(|e| Error::io("the socket to the node", &e))
    }

    /// Waits for a message and the descriptors with it; `None` where the node has gone.
    ///
    /// # Errors
    /// Unavailable where the socket breaks; Internal for a malformed message.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<OwnedFd>)>> {
        let broken = |e: std::io::Error| Error::io("the socket to the node", &e);
        let mut head = [0u8; 4];
        let mut filled = 0;
        let mut descriptors = Vec::new();
        while filled < head.len() {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut head[filled..])];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let got = match recvmsg(&self.0, &mut parts, &mut control, flags) {
                Ok(got) => got.bytes,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(broken(e.into())),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    descriptors.extend(received);
                }
            }
            if got == 0 {
                return Ok(None);
            }
            filled += got;
        }
        let length = u32::from_le_bytes(head);
        if length > MOST {
            return Err(Error::internal("a message from the node is too long"));
        }
        let mut text = vec![0; length as usize];
        self.0.read_exact(&mut text).map_err(broken)?;
        Ok(Some((decode(&text)?, descriptors)))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// Unavailable where the socket breaks.
    pub(super) fn send<T: Serialize>(&mut self, message: &T) -> Result<()> {
        let (head, text) = encode(message)?;
        self.0
            .write_all(&[&head[..], &text].concat())
            .map_err(|e| Error::io("the socket to the node", &e))
    }
}
