//! What filters exist and what they take: plain data, filled from the media crate's table and
//! handed to whoever checks a request, prints help, makes a form or writes the documentation.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pipeline::FilterSpec;
use crate::{Error, Result};

/// Which input frames an output frame needs. The runner, not the filter, reads the extra ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Footprint {
    /// The frame itself alone.
    PerFrame,
    /// A fixed number of frames around it.
    Window {
        /// Frames before it.
        before: u32,
        /// Frames after it.
        after: u32,
    },
    /// A state that has settled after so many frames, near enough though never exactly.
    Warmup {
        /// Frames to run through before the first that counts.
        frames: u32,
    },
    /// All frames before it: the timeline cannot be cut.
    Sequential,
}

impl Footprint {
    /// The footprint of this filter followed by `next`: windows add up, `Sequential` wins.
    #[must_use]
    pub fn then(self, next: Footprint) -> Footprint {
        use Footprint::{PerFrame, Sequential, Warmup, Window};
        match (self, next) {
            (Sequential, _) | (_, Sequential) => Sequential,
            (PerFrame, other) | (other, PerFrame) => other,
            (Window { before: a, after: b }, Window { before: c, after: d }) => {
                Window { before: a.saturating_add(c), after: b.saturating_add(d) }
            }
            (Warmup { frames }, Warmup { frames: more }) => {
                Warmup { frames: frames.saturating_add(more) }
            }
            // A window beside a warm-up that needs frames after itself cannot be said in one word.
            (Warmup { frames }, Window { before, after })
            | (Window { before, after }, Warmup { frames }) => {
                if after == 0 {
                    Warmup { frames: frames.saturating_add(before) }
                } else {
                    Window { before: before.saturating_add(frames), after }
                }
            }
        }
    }

    /// Frames to decode before a segment's first one.
    pub fn before(self) -> u32 {
        match self {
            Self::Window { before, .. } => before,
            Self::Warmup { frames } => frames,
            Self::PerFrame | Self::Sequential => 0,
        }
    }

    /// Frames to decode after a segment's last one.
    pub fn after(self) -> u32 {
        match self {
            Self::Window { after, .. } => after,
            _ => 0,
        }
    }
}

/// What values a parameter takes.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum ParamKind {
    /// A whole number from `min` to `max`, both included; where `odd`, only odd ones.
    Integer {
        /// Least value.
        min: i64,
        /// Greatest value.
        max: i64,
        /// Only odd values.
        odd: bool,
    },
    /// A number from `min` to `max`, both included.
    Number {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
    },
    /// `true` or `false`.
    Boolean,
    /// One of a few words.
    Choice {
        /// The words.
        values: &'static [&'static str],
    },
    /// A region `x,y,w,h` in pixels, or each in percent of the frame (`10%,10%,50%,50%`).
    Region,
    /// A file that comes along with the job, or one of a few words.
    File {
        /// The words.
        words: &'static [&'static str],
    },
    /// Free text.
    Text,
}

/// One parameter of a filter.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ParamInfo {
    /// Its key.
    pub name: &'static str,
    /// What values it takes.
    #[serde(flatten)]
    pub kind: ParamKind,
    /// The value where none is given, as a user would write it; `None` where it is optional
    /// without a value or, with `required`, must be given.
    pub default: Option<&'static str>,
    /// Whether it must be given.
    pub required: bool,
    /// What the value means, with its unit, in one sentence.
    pub help: &'static str,
}

/// One filter.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FilterInfo {
    /// Its name.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub summary: &'static str,
    /// More: what it equals in OpenCV or FFmpeg, what to choose.
    pub details: &'static str,
    /// An example that works as it stands.
    pub example: &'static str,
    /// Its parameters, in the order of the help.
    pub params: &'static [ParamInfo],
}

/// A coordinate of a region.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Pixels.
    Pixels(u32),
    /// Percent of the frame's width or height, 0..=100.
    Percent(f64),
}

impl Length {
    fn parse(text: &str) -> Option<Self> {
        if let Some(percent) = text.strip_suffix('%') {
            let value: f64 = percent.parse().ok()?;
            (0.0..=100.0).contains(&value).then_some(Self::Percent(value))
        } else {
            text.parse().ok().map(Self::Pixels)
        }
    }

    /// In pixels of a side `whole` pixels long, to the nearest pixel.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "percent of a u32 is within u32"
    )]
    pub fn resolve(self, whole: u32) -> u32 {
        match self {
            Self::Pixels(pixels) => pixels,
            Self::Percent(percent) => (f64::from(whole) * percent / 100.0).round() as u32,
        }
    }
}

/// A region of the frame as given; see [`Region::resolve`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// Left edge.
    pub x: Length,
    /// Upper edge.
    pub y: Length,
    /// Width, above zero.
    pub w: Length,
    /// Height, above zero.
    pub h: Length,
}

impl Region {
    fn parse(text: &str) -> Option<Self> {
        let parts: Option<Vec<Length>> =
            text.split(',').map(|part| Length::parse(part.trim())).collect();
        match parts?.as_slice() {
            &[x, y, w, h] => {
                let empty = |l| {
                    matches!(l, Length::Pixels(0)) || matches!(l, Length::Percent(p) if p <= 0.0)
                };
                (!empty(w) && !empty(h)).then_some(Self { x, y, w, h })
            }
            _ => None,
        }
    }

    /// `(x, y, w, h)` in pixels of a frame of `width` × `height`.
    ///
    /// # Errors
    /// Invalid where nothing of the region lies inside the frame, or it reaches past its edge.
    pub fn resolve(self, width: u32, height: u32) -> Result<(u32, u32, u32, u32)> {
        let (x, y) = (self.x.resolve(width), self.y.resolve(height));
        let (w, h) = (self.w.resolve(width).max(1), self.h.resolve(height).max(1));
        let fits = |at: u32, len: u32, whole: u32| at.checked_add(len).is_some_and(|e| e <= whole);
        if fits(x, w, width) && fits(y, h, height) {
            Ok((x, y, w, h))
        } else {
            Err(Error::invalid(format!(
                "region {x},{y},{w},{h} reaches outside the frame of {width}x{height} pixels"
            )))
        }
    }
}

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub enum ParamValue {
    /// Of [`ParamKind::Integer`].
    Integer(i64),
    /// Of [`ParamKind::Number`].
    Number(f64),
    /// Of [`ParamKind::Boolean`].
    Boolean(bool),
    /// Of [`ParamKind::Choice`] or [`ParamKind::Text`].
    Text(String),
    /// Of [`ParamKind::Region`].
    Region(Region),
}

/// The checked values of one filter, defaults filled in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Params(BTreeMap<&'static str, ParamValue>);

/// A key that the filter's table row does not have is a bug of the filter.
fn no_such(key: &str) -> Error {
    Error::internal(format!("parameter '{key}' is not in the filter's table row"))
}

impl Params {
    /// The whole number at `key`.
    ///
    /// # Errors
    /// Internal where the table row has no such number without a value.
    pub fn integer(&self, key: &str) -> Result<i64> {
        match self.0.get(key) {
            Some(ParamValue::Integer(value)) => Ok(*value),
            _ => Err(no_such(key)),
        }
    }

    /// The number at `key`.
    ///
    /// # Errors
    /// Internal where the table row has no such number without a value.
    pub fn number(&self, key: &str) -> Result<f64> {
        match self.0.get(key) {
            Some(ParamValue::Number(value)) => Ok(*value),
            _ => Err(no_such(key)),
        }
    }

    /// The truth value at `key`.
    ///
    /// # Errors
    /// Internal where the table row has none.
    pub fn boolean(&self, key: &str) -> Result<bool> {
        match self.0.get(key) {
            Some(ParamValue::Boolean(value)) => Ok(*value),
            _ => Err(no_such(key)),
        }
    }

    /// The word or text at `key`.
    ///
    /// # Errors
    /// Internal where the table row has none.
    pub fn text(&self, key: &str) -> Result<&str> {
        match self.0.get(key) {
            Some(ParamValue::Text(value)) => Ok(value),
            _ => Err(no_such(key)),
        }
    }

    /// The whole number at `key`, if one was given.
    pub fn optional_integer(&self, key: &str) -> Option<i64> {
        self.integer(key).ok()
    }

    /// The region at `key`, if one was given.
    pub fn region(&self, key: &str) -> Option<Region> {
        match self.0.get(key) {
            Some(ParamValue::Region(region)) => Some(*region),
            _ => None,
        }
    }
}

/// The filters of an installation.
#[derive(Debug, Clone, Copy)]
pub struct Catalogue(pub &'static [FilterInfo]);

impl Catalogue {
    /// The filter of this name.
    ///
    /// # Errors
    /// Invalid, naming the nearest filter there is.
    pub fn find(&self, name: &str) -> Result<&'static FilterInfo> {
        self.0.iter().find(|info| info.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|info| info.name).collect();
            Error::invalid(format!(
                "unknown filter '{name}'{}; 'frameloom filters' lists them",
                did_you_mean(name, &names)
            ))
        })
    }

    /// The files that filters take, by the values of their parameters, each once.
    ///
    /// # Errors
    /// Invalid for an unknown filter.
    pub fn files(&self, filters: &[FilterSpec]) -> Result<Vec<String>> {
        let mut files = Vec::new();
        for spec in filters {
            let info = self.find(&spec.name)?;
            for (key, value) in &spec.params {
                let param = info.params.iter().find(|param| param.name == key);
                if let Some(ParamKind::File { words }) = param.map(|param| &param.kind)
                    && !words.contains(&value.as_str())
                    && !files.contains(value)
                {
                    files.push(value.clone());
                }
            }
        }
        Ok(files)
    }

    /// Checks the values of `spec` against the filter's table row and fills in defaults.
    ///
    /// # Errors
    /// Invalid for an unknown filter, an unknown key, or a value outside its range; the message
    /// ends with the filter's usage line.
    pub fn check(&self, spec: &FilterSpec) -> Result<Params> {
        let info = self.find(&spec.name)?;
        let fail = |message: String| {
            Error::invalid(format!("filter '{spec}': {message}\n  usage: {}", info.usage()))
        };
        let mut values = BTreeMap::new();
        for param in info.params {
            if let Some(default) = param.default {
                let value = param.kind.parse(default).map_err(|expected| {
                    Error::internal(format!(
                        "default '{default}' of '{}' is not {expected}",
                        param.name
                    ))
                })?;
                values.insert(param.name, value);
            }
        }
        for (key, text) in &spec.params {
            let Some(param) = info.params.iter().find(|param| param.name == key) else {
                let names: Vec<&str> = info.params.iter().map(|param| param.name).collect();
                return Err(fail(format!(
                    "unknown parameter '{key}'{}",
                    did_you_mean(key, &names)
                )));
            };
            let value = param
                .kind
                .parse(text)
                .map_err(|expected| fail(format!("'{key}={text}' is not {expected}")))?;
            values.insert(param.name, value);
        }
        for param in info.params.iter().filter(|param| param.required) {
            if !values.contains_key(param.name) {
                return Err(fail(format!("'{}' must be given", param.name)));
            }
        }
        Ok(Params(values))
    }
}

impl FilterInfo {
    /// `blur:sigma=0.1..64 (1.5):roi=x,y,w,h`: keys, ranges and defaults in one line.
    pub fn usage(&self) -> String {
        let mut line = self.name.to_owned();
        for param in self.params {
            let default = param.default.map(|d| format!(" ({d})")).unwrap_or_default();
            line += &format!(":{}={}{default}", param.name, param.kind.range());
        }
        line
    }
}

impl ParamKind {
    /// The range as a user reads it: `0..=255`, `true|false`, `x,y,w,h`.
    pub fn range(&self) -> String {
        match self {
            Self::Integer { min, max, odd } => {
                format!("{min}..={max}{}", if *odd { " odd" } else { "" })
            }
            Self::Number { min, max } => format!("{min}..={max}"),
            Self::Boolean => "true|false".into(),
            Self::Choice { values } => values.join("|"),
            Self::Region => "x,y,w,h".into(),
            Self::File { words } => {
                words.iter().copied().chain(["FILE"]).collect::<Vec<_>>().join("|")
            }
            Self::Text => "TEXT".into(),
        }
    }

    /// Reads a value; the error says what was expected.
    fn parse(&self, text: &str) -> Result<ParamValue, String> {
        let value = match self {
            Self::Integer { min, max, odd } => text
                .parse()
                .ok()
                .filter(|v: &i64| (min..=max).contains(&v) && (!odd || v % 2 != 0))
                .map(ParamValue::Integer),
            Self::Number { min, max } => text
                .parse()
                .ok()
                .filter(|v: &f64| v.is_finite() && (min..=max).contains(&v))
                .map(ParamValue::Number),
            Self::Boolean => match text {
                "true" | "yes" | "1" => Some(ParamValue::Boolean(true)),
                "false" | "no" | "0" => Some(ParamValue::Boolean(false)),
                _ => None,
            },
            Self::Choice { values } => {
                values.contains(&text).then(|| ParamValue::Text(text.to_owned()))
            }
            Self::Region => Region::parse(text).map(ParamValue::Region),
            Self::File { .. } if text.is_empty() => None,
            Self::File { .. } | Self::Text => Some(ParamValue::Text(text.to_owned())),
        };
        value.ok_or_else(|| match self {
            Self::Integer { min, max, odd } => {
                let what = if *odd { "an odd number" } else { "a whole number" };
                format!("{what} from {min} to {max}")
            }
            Self::Number { min, max } => format!("a number from {min} to {max}"),
            Self::Boolean => "true or false".into(),
            Self::Choice { values } => format!("one of {}", values.join(", ")),
            Self::Region => {
                "a region x,y,w,h in pixels or percent, like '0,0,320,240' or '25%,25%,50%,50%'"
                    .into()
            }
            Self::File { .. } => "the name of a file".into(),
            Self::Text => "text".into(),
        })
    }
}

/// `, did you mean 'blur'?` where something is near, else nothing.
pub fn did_you_mean(word: &str, known: &[&str]) -> String {
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .min()
        .filter(|(distance, name)| *distance <= (name.len() / 2).max(1))
        .map(|(_, name)| format!(", did you mean '{name}'?"))
        .unwrap_or_default()
}

/// The value of `all` that a word names, the default where there is none; `what` is what a user calls it.
///
/// # Errors
/// Invalid, naming all of them and the nearest.
pub fn one_of<T: Copy + Default>(
    what: &str,
    word: Option<&str>,
    all: &[T],
    name: impl Fn(&T) -> &'static str,
) -> Result<T> {
    let Some(word) = word else { return Ok(T::default()) };
    all.iter().copied().find(|value| name(value) == word).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(&name).collect();
        let near = did_you_mean(word, &names);
        Error::invalid(format!("{what} '{word}' is none of {}{near}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CATALOGUE: Catalogue = Catalogue(&[FilterInfo {
        name: "blur",
        summary: "",
        details: "",
        example: "blur",
        params: &[
            ParamInfo {
                name: "sigma",
                kind: ParamKind::Number { min: 0.1, max: 64.0 },
                default: Some("1.5"),
                required: false,
                help: "",
            },
            ParamInfo {
                name: "roi",
                kind: ParamKind::Region,
                default: None,
                required: false,
                help: "",
            },
        ],
    }]);

    fn check(text: &str) -> Result<Params> {
        CATALOGUE.check(&text.parse()?)
    }

    #[test]
    fn defaults_are_filled_in_and_values_taken() {
        assert_eq!(check("blur").unwrap().number("sigma").unwrap(), 1.5);
        assert_eq!(check("blur:sigma=3").unwrap().number("sigma").unwrap(), 3.0);
        let region = check("blur:roi=25%,0,50%,10").unwrap().region("roi").unwrap();
        assert_eq!(region.resolve(200, 100).unwrap(), (50, 0, 100, 10));
        assert!(region.resolve(200, 5).is_err());
    }

    #[test]
    fn an_unknown_filter_names_the_nearest() {
        let error = check("blurr").unwrap_err();
        assert!(error.message().contains("did you mean 'blur'?"), "{error}");
        assert!(!check("xyzzy").unwrap_err().message().contains("did you mean"));
    }

    #[test]
    fn wrong_values_are_quoted_with_range_and_usage() {
        for bad in ["sigma=0", "sigma=-3", "sigma=NaN", "sigma=inf", "sigma=abc", "roi=1,2,3"] {
            let error = check(&format!("blur:{bad}")).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            assert!(error.message().contains(&format!("'{bad}'")), "{error}");
            assert!(error.message().contains("usage: blur:sigma=0.1..=64 (1.5)"), "{error}");
        }
        assert!(check("blur:sgma=3").unwrap_err().message().contains("did you mean 'sigma'?"));
    }

    #[test]
    fn footprints_of_a_chain_add_up() {
        use Footprint::{PerFrame, Sequential, Warmup, Window};
        let window = Window { before: 1, after: 2 };
        assert_eq!(PerFrame.then(window).then(window), Window { before: 2, after: 4 });
        assert_eq!(window.then(Sequential), Sequential);
        assert_eq!(Warmup { frames: 50 }.then(window), Window { before: 51, after: 2 });
    }
}
