//! The pipeline as a user writes it: `-f NAME:key=value:key=value`, one filter a flag, in order.
//!
//! This module reads text into names and raw values; whether a filter and its values exist is
//! for [`crate::catalogue`] to say.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The name of the filter that takes the rest of its argument as a libavfilter graph.
pub const GRAPH_FILTER: &str = "ffmpeg";

/// One filter as written: a name, and raw values by key in the order given.
///
/// In JSON and on the command line it is the text `blur:sigma=3`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FilterSpec {
    /// The filter's name, e.g. `blur`.
    pub name: String,
    /// Values by key, in the order given. For [`GRAPH_FILTER`] the one key is `graph`.
    pub params: Vec<(String, String)>,
}

impl JsonSchema for FilterSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FilterSpec".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "NAME:key=value:key=value" })
    }
}

impl std::str::FromStr for FilterSpec {
    type Err = Error;

    /// Reads `NAME[:key=value]...`. `\:` is a colon, `\\` a backslash, `'…'` quotes. For
    /// `ffmpeg:GRAPH` the rest after the first colon is the graph, untouched.
    ///
    /// # Errors
    /// Invalid with the position of what is wrong.
    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = match text.split_once(':') {
            Some((name, rest)) => (name, Some(rest)),
            None => (text, None),
        };
        let is_name_char = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(is_name_char) {
            return Err(Error::invalid(format!(
                "filter '{text}': a filter starts with its name, like 'blur:sigma=3'; see 'frameloom filters'"
            )));
        }
        if name == GRAPH_FILTER {
            let graph = rest.unwrap_or("");
            if graph.trim().is_empty() {
                return Err(Error::invalid(format!(
                    "filter '{text}': a graph must follow, like 'ffmpeg:hflip'"
                )));
            }
            return Ok(Self { name: name.into(), params: vec![("graph".into(), graph.into())] });
        }
        let mut params: Vec<(String, String)> = Vec::new();
        for part in rest.map(|rest| split_values(text, rest)).transpose()?.unwrap_or_default() {
            let (key, value) = part.ok_or_else(|| {
                Error::invalid(format!("filter '{text}': parameters are written key=value"))
            })?;
            if params.iter().any(|(seen, _)| *seen == key) {
                return Err(Error::invalid(format!("filter '{text}': '{key}' is given twice")));
            }
            params.push((key, value));
        }
        Ok(Self { name: name.into(), params })
    }
}

/// Splits `key=value:key=value`; `None` for a part without an unquoted `=`.
fn split_values(text: &str, rest: &str) -> Result<Vec<Option<(String, String)>>> {
    let mut parts = Vec::new();
    let (mut key, mut word) = (None, String::new());
    let mut quoted = false;
    let mut chars = rest.chars();
    let mut finish = |key: &mut Option<String>, word: &mut String| {
        let value = std::mem::take(word);
        parts.push(key.take().filter(|key| !key.is_empty()).map(|key| (key, value)));
    };
    while let Some(c) = chars.next() {
        match c {
            '\'' => quoted = !quoted,
            '\\' if !quoted => match chars.next() {
                Some(next) => word.push(next),
                None => {
                    return Err(Error::invalid(format!(
                        "filter '{text}': nothing follows the last '\\'"
                    )));
                }
            },
            ':' if !quoted => finish(&mut key, &mut word),
            '=' if !quoted && key.is_none() => key = Some(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    if quoted {
        return Err(Error::invalid(format!("filter '{text}': a quote (') is not closed")));
    }
    finish(&mut key, &mut word);
    Ok(parts)
}

impl fmt::Display for FilterSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (key, value) in &self.params {
            if self.name == GRAPH_FILTER {
                write!(f, ":{value}")?;
            } else {
                // A key ends at the first '=' that is not escaped.
                let key = Quoted(key).to_string().replace('=', "\\=");
                write!(f, ":{key}={}", Quoted(value))?;
            }
        }
        Ok(())
    }
}

/// A value written so that reading gives it back.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if matches!(c, ':' | '\\' | '\'') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        Ok(())
    }
}

impl From<FilterSpec> for String {
    fn from(spec: FilterSpec) -> String {
        spec.to_string()
    }
}

impl TryFrom<String> for FilterSpec {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> FilterSpec {
        text.parse().unwrap()
    }

    #[test]
    fn names_and_values() {
        assert_eq!(parse("gray").params, []);
        assert_eq!(
            parse("edges:low=50:overlay=true").params,
            [("low".into(), "50".into()), ("overlay".into(), "true".into())]
        );
    }

    #[test]
    fn colons_are_escaped_or_quoted() {
        assert_eq!(parse(r"x:a=1\:2:b='3:4=5'").params[0].1, "1:2");
        assert_eq!(parse(r"x:a=1\:2:b='3:4=5'").params[1].1, "3:4=5");
    }

    #[test]
    fn a_graph_is_taken_as_it_stands() {
        let graph = r"drawtext=text='a\:b',scale=w=10:h=20";
        assert_eq!(parse(&format!("ffmpeg:{graph}")).params[0].1, graph);
    }

    #[test]
    fn what_is_wrong_is_said_and_quoted() {
        for bad in [
            "",
            ":",
            "a b",
            "blur:",
            "blur:sigma",
            "blur:=3",
            "blur:a=1:a=2",
            "blur:a='",
            "blur:a=\\",
            "ffmpeg:",
            "ffmpeg",
        ] {
            let error = bad.parse::<FilterSpec>().unwrap_err();
            assert!(error.message().contains(&format!("'{bad}'")), "{error}");
        }
    }

    #[test]
    fn keys_are_escaped_as_values_are() {
        for text in ["A:':'=", "a:'x=y'=1:z=2", "a:x\\\\=1"] {
            let spec: FilterSpec = text.parse().unwrap();
            assert_eq!(parse(&spec.to_string()), spec, "{text}");
        }
    }

    proptest! {
        #[test]
        fn writing_and_reading_gives_the_same(key in "[a-z]{1,8}", value in "\\PC{0,20}") {
            let spec = FilterSpec { name: "blur".into(), params: vec![(key, value)] };
            prop_assert_eq!(parse(&spec.to_string()), spec);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}") {
            if let Ok(spec) = text.parse::<FilterSpec>() {
                prop_assert_eq!(parse(&spec.to_string()), spec);
            }
        }
    }
}
