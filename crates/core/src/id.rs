//! Names of jobs, attempts and nodes. Their randomness is handed in, so they are values like any other.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

macro_rules! hex_id {
    ($name:ident, $what:literal, $doc:literal) => {
        #[doc = $doc]
        ///
        /// 128 bits, written as 32 lower-case hexadecimal digits; safe as a file name.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(u128);

        impl $name {
            /// The id made of `bits`, which the caller draws at random.
            pub fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            /// Its 128 bits.
            pub fn bits(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() == 32 && text.bytes().all(hex) {
                    if let Ok(bits) = u128::from_str_radix(text, 16) {
                        return Ok(Self(bits));
                    }
                }
                Err(Error::invalid(format!(
                    concat!($what, " '{}' is not 32 lower-case hexadecimal digits"),
                    text
                )))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": "^[0-9a-f]{32}$" })
            }
        }
    };
}

hex_id!(JobId, "job", "What a user submitted.");
hex_id!(AttemptId, "attempt", "One try at one task.");
hex_id!(NodeId, "node", "A worker node: the process that takes tasks and supervises slots.");
hex_id!(StoreId, "store", "A store: the directory that a server and its nodes share.");

/// An engine by the digest of its versions: nodes of one engine make the same bytes.
///
/// 48 bits, written as 12 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EngineId(u64);

impl EngineId {
    /// The id made of the first six bytes of a digest.
    pub fn from_digest(digest: &[u8]) -> Self {
        Self(digest.iter().take(6).fold(0, |bits, byte| bits << 8 | u64::from(*byte)))
    }
}

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl fmt::Debug for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EngineId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let bits = u64::from_str_radix(text, 16).ok();
        bits.filter(|_| text.len() == 12 && text.bytes().all(hex)).map(Self).ok_or_else(|| {
            Error::invalid(format!("engine '{text}' is not 12 lower-case hexadecimal digits"))
        })
    }
}

impl From<EngineId> for String {
    fn from(id: EngineId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for EngineId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_32_hex_digits_and_come_back() {
        let id = AttemptId::from_bits(0xab);
        assert_eq!(id.to_string(), "000000000000000000000000000000ab");
        assert_eq!(id.to_string().parse::<AttemptId>().unwrap(), id);
    }

    #[test]
    fn anything_else_is_refused_with_what_was_given() {
        for bad in ["", "AB", "../../etc/passwd", &"+".repeat(32), &"F".repeat(32)] {
            let error = bad.parse::<JobId>().unwrap_err();
            assert!(error.message().contains(bad), "{error}");
            assert!(bad.parse::<EngineId>().is_err());
        }
        let engine = EngineId::from_digest(&[0, 1, 2, 3, 4, 255, 9]);
        assert_eq!(engine.to_string(), "0001020304ff");
        assert_eq!("0001020304ff".parse::<EngineId>().unwrap(), engine);
    }
}
