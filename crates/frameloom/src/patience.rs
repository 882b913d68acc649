//! How long, and how often, a server that is away is tried again.

use std::time::{Duration, Instant};

use clap::Args;

/// Seconds for which a server that does not answer is tried again, where the user names none.
const PATIENCE_S: u32 = 30;

/// How long to wait for a server that is away.
#[derive(Debug, Args)]
pub(crate) struct PatienceArgs {
    /// Seconds for which a server that does not answer, or breaks off, is tried again; 0 gives up at once.
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE_S)]
    pub(crate) patience: u32,
}

impl PatienceArgs {
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.patience.into())
    }
}

impl Default for PatienceArgs {
    fn default() -> Self {
        Self { patience: PATIENCE_S }
    }
}

/// Tries of one thing, further apart each time.
pub(crate) struct Tries {
    patience: Duration,
    /// When the server was last heard of, or first missed.
    since: Instant,
    pub(crate) count: u32,
}

impl Tries {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, since: Instant::now(), count: 0 }
    }

    /// There was progress: the next try is the first.
    pub(crate) fn progress(&mut self) {
        self.count = 0;
    }

    /// The server was there until now.
    pub(crate) fn heard(&mut self) {
        self.since = Instant::now();
    }

    /// Waits for the next try, and answers false where patience is at its end.
    #[expect(clippy::disallowed_methods, reason = "nothing tells when a server is back")]
    pub(crate) fn again(&mut self) -> bool {
        if self.count == 0 {
            self.heard();
        }
        let left = self.patience.saturating_sub(self.since.elapsed());
        if left.is_zero() {
            return false;
        }
        self.count += 1;
        let pause = Duration::from_millis(200) * 2u32.pow(self.count.min(5));
        std::thread::sleep(pause.min(left));
        true
    }
}
