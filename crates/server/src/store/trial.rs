//! Whether server and nodes can do with each other's files what they have to: tried when a node begins.
//!
//! The node makes `NODE.ask`; the server reads, renames and removes that, and makes `NODE.answer`, with which the node
//! does the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use frameloom_core::id::NodeId;
use frameloom_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::{MOST_SMALL, Store, io};

/// Directories that nodes and the server write into; each may be mounted by itself.
const PARTS: [&str; 2] = ["nodes", "frames"];

/// How long the server may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// What to do where files are not shared.
const ADVICE: &str = "run server and nodes as one user, or as users of one group to which the store belongs \
                      (chgrp GROUP DIR; chmod 2770 DIR)";

/// `NODE.ask` and `NODE.answer`.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    user: u32,
    group: u32,
    /// What the server could not do with the node's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

impl Note {
    fn ours(trouble: Option<String>) -> Self {
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        Self { user: user.as_raw(), group: group.as_raw(), trouble }
    }
}

fn me() -> String {
    let Note { user, group, .. } = Note::ours(None);
    format!("user {user}, group {group}")
}

impl Store {
    /// Has what is made in the store belong to the group of its directories, which may write there: nodes may be
    /// other users of that group.
    ///
    /// # Errors
    /// Of the file system.
    pub fn share(&self) -> Result<()> {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        for part in ["nodes", "jobs", "frames", "trash"] {
            let path = self.root.join(part);
            let failed = || io(format!("cannot share '{}' with its group", path.display()));
            let meta = fs::metadata(&path).map_err(failed())?;
            // Somebody else's is as its owner wants it.
            if meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o2070 != 0o2070 {
                let mode = meta.mode() | 0o2070;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(failed())?;
            }
        }
        Ok(())
    }

    /// Tries what a node does to a store: makes a file, renames it, reads it back, removes it.
    ///
    /// # Errors
    /// Conflict with what the system says: where it fails, and what to do; Exhausted where the store is full.
    pub fn try_out(&self, node: NodeId) -> Result<()> {
        PARTS.into_iter().try_for_each(|part| self.try_out_in(part, node))
    }

    fn try_out_in(&self, part: &str, node: NodeId) -> Result<()> {
        let dir = self.root.join(part);
        let fresh = dir.join(format!("{node}.tmp"));
        let path = dir.join(format!("{node}.try"));
        let failed = |what: &'static str| {
            let shown = dir.display().to_string();
            move |e: std::io::Error| {
                let full = Error::io(format!("cannot {what} in the store, in '{shown}'"), &e);
                if full.kind() == ErrorKind::Exhausted {
                    return full;
                }
                Error::conflict(format!(
                    "cannot {what} in the store, in '{shown}', as {} ({e}); mount it writable, and {ADVICE}",
                    me()
                ))
            }
        };
        fs::write(&fresh, node.to_string()).map_err(failed("make a file"))?;
        fs::rename(&fresh, &path).map_err(failed("rename a file"))?;
        let read = fs::read_to_string(&path).map_err(failed("read a file"))?;
        fs::remove_file(&path).map_err(failed("remove a file"))?;
        if read == node.to_string() {
            Ok(())
        } else {
            Err(Error::conflict(format!("the store '{}' does not keep files", self.root.display())))
        }
    }

    /// Asks the server to try this node's files, and tries the server's. `wait` is called between looks.
    ///
    /// # Errors
    /// Conflict: what one of both cannot do with the other's files, and what to do.
    pub async fn try_with_server<W: Future<Output = ()>>(
        &self,
        node: NodeId,
        wait: impl Fn() -> W,
    ) -> Result<()> {
        let asked = |part| Path::new(part).join(format!("{node}.ask"));
        for part in PARTS {
            self.write_json(&asked(part), &Note::ours(None), false)?;
        }
        let mut said = Ok(());
        for part in PARTS {
            if said.is_ok() {
                said = self.answered(part, node, &wait).await;
            }
            // The server has removed it where it could.
            drop(fs::remove_file(self.root.join(asked(part))));
        }
        said
    }

    async fn answered<W: Future<Output = ()>>(
        &self,
        part: &str,
        node: NodeId,
        wait: &impl Fn() -> W,
    ) -> Result<()> {
        let name = format!("{node}.answer");
        let shown = self.root.join(part);
        let shown = shown.display();
        let end = Instant::now() + ANSWERS_WITHIN;
        while !self.lists(Path::new(part), &name).unwrap_or(false) {
            if Instant::now() > end {
                return Err(Error::conflict(format!(
                    "the server does not answer in '{shown}' within {} s: does it run on this store, and can it write \
                     there? (this node is {})",
                    ANSWERS_WITHIN.as_secs(),
                    me()
                )));
            }
            wait().await;
        }
        let note = self.taken(part, &name).map_err(|(what, e)| {
            Error::conflict(format!(
                "this node ({}) cannot {what} a file that the server made in '{shown}' ({e}); {ADVICE}",
                me()
            ))
        })?;
        match note.trouble {
            Some(trouble) => Err(Error::conflict(format!("in '{shown}' {trouble}; {ADVICE}"))),
            None => Ok(()),
        }
    }

    /// Reads a note of the other side, renames and removes it; an error says what cannot be done.
    fn taken(&self, part: &str, name: &str) -> std::result::Result<Note, (&'static str, String)> {
        let relative = Path::new(part).join(name);
        let note: Option<Note> =
            self.read_json(&relative, MOST_SMALL).map_err(|e| ("read", e.message().to_owned()))?;
        let note = note.ok_or_else(|| ("read", "it is gone".to_owned()))?;
        let (from, to) =
            (self.root.join(&relative), self.root.join(part).join(format!("{name}.tried")));
        fs::rename(&from, &to).map_err(|e| ("rename", e.to_string()))?;
        fs::remove_file(&to).map_err(|e| ("remove", e.to_string()))?;
        Ok(note)
    }

    /// Answers nodes that ask whether the server can do with their files what it has to.
    ///
    /// # Errors
    /// Of the file system, where nobody can be answered.
    pub fn answer_nodes(&self) -> Result<()> {
        for part in PARTS {
            let path = self.root.join(part);
            let what = || io(format!("cannot read '{}'", path.display()));
            for entry in fs::read_dir(&path).map_err(what())? {
                let name = entry.map_err(what())?.file_name();
                let name = name.to_str().unwrap_or_default();
                let Some(node) = name.strip_suffix(".ask").and_then(|n| n.parse::<NodeId>().ok())
                else {
                    continue;
                };
                let answer = PathBuf::from(part).join(format!("{node}.answer"));
                if self.root.join(&answer).exists() {
                    continue;
                }
                let trouble = self.taken(part, name).err().map(|(what, e)| {
                    format!("the server ({}) cannot {what} a file that this node made ({e})", me())
                });
                if let Some(trouble) = &trouble {
                    tracing::warn!(%node, trouble, "a node's files cannot be used");
                }
                self.write_json(&answer, &Note::ours(trouble), false)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use frameloom_core::ErrorKind;

    use super::*;

    #[tokio::test]
    async fn each_tries_the_others_files() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        store.share().unwrap();
        let node = NodeId::from_bits(1);
        let answers = || async { store.answer_nodes().unwrap() };
        store.try_with_server(node, answers).await.unwrap();
        for part in PARTS {
            let left = fs::read_dir(root.path().join(part)).unwrap().count();
            assert_eq!(left, 0, "files are left in {part}");
        }
        // A server that begins just then answers it, too.
        let begins = || async {
            store.tidy();
            store.answer_nodes().unwrap();
        };
        store.try_with_server(node, begins).await.unwrap();
        // A link in its place is not followed, and the node hears of it.
        let spoils = || async {
            let asked = root.path().join("nodes").join(format!("{node}.ask"));
            fs::remove_file(&asked).unwrap();
            std::os::unix::fs::symlink("/etc/hostname", asked).unwrap();
            store.answer_nodes().unwrap();
        };
        let error = store.try_with_server(node, spoils).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.message().contains("the server (user "), "{error}");
        assert!(error.message().contains("cannot read a file that this node made"), "{error}");
        assert!(error.message().contains("chmod 2770"), "{error}");
    }
}
