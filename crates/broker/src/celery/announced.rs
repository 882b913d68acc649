//! The server of a database: what it says of itself to nodes.

use std::time::Duration;

use frameloom_core::id::{EngineId, StoreId};
use frameloom_core::wire::PROTOCOL;
use frameloom_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::Celery;

/// The key that says which store the server of this database works on.
const SERVER_KEY: &str = "frameloom.server";

/// Sets KEYS[1] to ARGV[1] for ARGV[3] seconds, unless what is there is not of store ARGV[2]: then answers that.
const ANNOUNCE: &str = "local held = redis.call('get', KEYS[1])
if held then
  local read, said = pcall(cjson.decode, held)
  if not read or type(said) ~= 'table' or said.store ~= ARGV[2] then return held end
end
redis.call('set', KEYS[1], ARGV[1], 'EX', ARGV[3])
return false";

/// Removes KEYS[1] where it is of store ARGV[1].
const WITHDRAW: &str = "local held = redis.call('get', KEYS[1])
if held then
  local read, said = pcall(cjson.decode, held)
  if read and type(said) == 'table' and said.store == ARGV[1] then redis.call('del', KEYS[1]) end
end
return 0";

/// How long a server is believed that says nothing, in seconds.
const SERVER_LASTS: u64 = 15;

/// How far clocks may be apart.
const MOST_SKEW: Duration = Duration::from_secs(30);

/// What a server says of itself to nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The store that it works on.
    pub store: StoreId,
    /// Its engine.
    pub engine: EngineId,
    /// The version of its messages.
    pub protocol: u32,
    /// Its clock, in milliseconds since 1970.
    pub time_ms: i64,
}

impl Announcement {
    /// What a server of this store says now.
    pub fn now(store: StoreId, engine: EngineId) -> Self {
        let time_ms = jiff::Timestamp::now().as_millisecond();
        Self { store, engine, protocol: PROTOCOL, time_ms }
    }

    /// Whether a node's clock, in milliseconds since 1970, goes with the server's.
    ///
    /// # Errors
    /// Conflict, saying by how much not.
    pub fn clock_fits(&self, now_ms: i64) -> Result<()> {
        let apart = Duration::from_millis(now_ms.abs_diff(self.time_ms));
        if apart > MOST_SKEW {
            return Err(Error::conflict(format!(
                "this machine's clock and the server's are {} s apart; set them by NTP",
                apart.as_secs()
            )));
        }
        Ok(())
    }
}

impl Celery {
    /// Says to nodes which store this server works on. Repeat it every few seconds.
    ///
    /// # Errors
    /// Unavailable where Redis does not answer; Conflict where a server with another store says so: then
    /// nothing is changed.
    pub async fn announce(&self, said: &Announcement) -> Result<()> {
        let text = serde_json::to_string(said)
            .map_err(|e| Error::internal("cannot write JSON").with_source(e))?;
        let mut command = redis::pipe();
        command.cmd("EVAL").arg(ANNOUNCE).arg(1).arg(SERVER_KEY);
        command.arg(text).arg(said.store.to_string()).arg(SERVER_LASTS);
        let (there,): (Option<String>,) = self.shared.ask(&command).await?;
        match there.map(|there| self.read_announcement(&there)).transpose()? {
            None => Ok(()),
            Some(other) => Err(Error::conflict(format!(
                "another server, with store {}, uses {}; give one of both another database number",
                other.store,
                self.address()
            ))),
        }
    }

    /// Takes back what was announced for a store: its server ends.
    pub async fn withdraw(&self, store: StoreId) {
        let mut command = redis::pipe();
        command.cmd("EVAL").arg(WITHDRAW).arg(1).arg(SERVER_KEY).arg(store.to_string()).ignore();
        let done: Result<()> = self.shared.ask(&command).await;
        // It ends by itself soon.
        drop(done);
    }

    /// What the server of this database says; `None` where there is none.
    ///
    /// # Errors
    /// Unavailable where Redis does not answer; Conflict where somebody else uses the key.
    pub async fn announced(&self) -> Result<Option<Announcement>> {
        let (text,): (Option<String>,) = self.shared.ask(redis::pipe().get(SERVER_KEY)).await?;
        text.map(|text| self.read_announcement(&text)).transpose()
    }

    fn read_announcement(&self, text: &str) -> Result<Announcement> {
        serde_json::from_str(text).map_err(|e| {
            Error::conflict(format!(
                "the key '{SERVER_KEY}' in {} is not a server's of this version; \
                 use another database number",
                self.shared.link.shown()
            ))
            .with_source(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_be_half_a_minute_apart() {
        let said = Announcement::now(StoreId::from_bits(1), EngineId::from_digest(&[0; 6]));
        assert!(said.clock_fits(said.time_ms - 29_000).is_ok());
        let error = said.clock_fits(said.time_ms + 3_600_000).unwrap_err();
        assert!(error.message().contains("3600 s apart"), "{error}");
    }
}
