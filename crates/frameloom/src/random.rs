//! The one source of randomness: ids.

use frameloom_core::{Error, Result};

/// 128 random bits.
///
/// # Errors
/// Unavailable where the system gives none.
pub(crate) fn bits() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::unavailable("the system gives no random numbers").with_source(e))?;
    Ok(u128::from_ne_bytes(bytes))
}
