//! The Redis that tasks go by: its options, and the way to it.

use std::path::PathBuf;

use clap::Args;
use frameloom_broker::celery::{Access, Celery};
use frameloom_core::id::StoreId;
use frameloom_core::{Error, Result};

/// What goes with `--broker`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BrokerArgs {
    /// File with Redis' password.
    #[arg(long, value_name = "FILE", requires = "broker")]
    broker_password_file: Option<PathBuf>,

    /// Authority that has signed the certificate of a Redis with TLS (rediss://), as PEM [default: the system's].
    #[arg(long, value_name = "FILE", requires = "broker")]
    broker_cacert: Option<PathBuf>,

    /// Certificate of this machine, as PEM, for a Redis that asks for one.
    #[arg(long, value_name = "FILE", requires = "broker_key")]
    broker_cert: Option<PathBuf>,

    /// Key of --broker-cert, as PEM.
    #[arg(long, value_name = "FILE", requires = "broker_cert")]
    broker_key: Option<PathBuf>,
}

impl BrokerArgs {
    /// Connects to the Redis at `url`, and says what should be set otherwise there.
    pub(crate) async fn connect(&self, url: &str, store: StoreId) -> Result<Celery> {
        if !url.contains("://") {
            return Err(Error::invalid(format!(
                "--broker '{}' is neither 'memory' nor an address like redis://HOST:6379/0",
                url.rsplit('@').next().unwrap_or_default()
            )));
        }
        let access = Access {
            password: self.broker_password_file.clone(),
            authority: self.broker_cacert.clone(),
            identity: self.broker_cert.clone().zip(self.broker_key.clone()),
        };
        let celery = Celery::connect(url, &access, store).await?;
        for warning in celery.warnings().await {
            tracing::warn!("{warning}");
        }
        Ok(celery)
    }
}
