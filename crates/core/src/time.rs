//! Exact time: ticks of a rational time base. No float ever decides anything.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A ratio of two whole numbers, such as a frame rate of 30000/1001 or a sample aspect ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Rational {
    /// Numerator.
    pub num: i32,
    /// Denominator; 0 where the ratio is unknown.
    pub den: i32,
}

impl Rational {
    /// `num/den` as it stands, not reduced.
    pub const fn new(num: i32, den: i32) -> Self {
        Self { num, den }
    }

    /// Whether both parts are above zero, i.e. the ratio is known.
    pub fn is_known(self) -> bool {
        self.num > 0 && self.den > 0
    }

    /// The ratio as a float, for display and for choices that need no exactness; 0 where unknown.
    pub fn to_f64(self) -> f64 {
        if self.den == 0 { 0.0 } else { f64::from(self.num) / f64::from(self.den) }
    }
}

impl fmt::Display for Rational {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.num, self.den)
    }
}

/// How a rescaled tick is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
    /// To the nearest tick, halves away from zero.
    Nearest,
}

/// Seconds a tick, as a rational above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Rational", into = "Rational")]
#[schemars(with = "Rational")]
pub struct TimeBase {
    num: i32,
    den: i32,
}

impl TimeBase {
    /// Microseconds, FFmpeg's `AV_TIME_BASE_Q`.
    pub const MICROS: Self = Self { num: 1, den: 1_000_000 };

    /// `num/den` seconds a tick.
    ///
    /// # Errors
    /// Invalid where a part is not above zero.
    pub fn new(num: i32, den: i32) -> Result<Self> {
        if num > 0 && den > 0 {
            Ok(Self { num, den })
        } else {
            Err(Error::invalid(format!("time base {num}/{den} is not above zero")))
        }
    }

    /// Numerator, above zero.
    pub fn num(self) -> i32 {
        self.num
    }

    /// Denominator, above zero.
    pub fn den(self) -> i32 {
        self.den
    }

    /// `ticks` of this base in ticks of `to`; `None` where the result does not fit 64 bits.
    pub fn rescale(self, ticks: i64, to: TimeBase, rounding: Rounding) -> Option<i64> {
        let num = i128::from(ticks) * i128::from(self.num) * i128::from(to.den);
        let den = i128::from(self.den) * i128::from(to.num);
        let down = num.div_euclid(den);
        let rest = num.rem_euclid(den);
        let value = match rounding {
            Rounding::Down => down,
            Rounding::Up => down + i128::from(rest != 0),
            Rounding::Nearest => {
                let up = rest * 2 > den || (rest * 2 == den && num >= 0);
                down + i128::from(up)
            }
        };
        i64::try_from(value).ok()
    }

    /// `micros` microseconds in ticks of this base, rounded up, so that a border at a time never
    /// takes in a frame before it.
    pub fn ticks_of_micros(self, micros: i64) -> Option<i64> {
        Self::MICROS.rescale(micros, self, Rounding::Up)
    }

    /// `ticks` in seconds, for display only.
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    pub fn seconds(self, ticks: i64) -> f64 {
        ticks as f64 * f64::from(self.num) / f64::from(self.den)
    }
}

impl From<TimeBase> for Rational {
    fn from(base: TimeBase) -> Self {
        Self::new(base.num, base.den)
    }
}

impl TryFrom<Rational> for TimeBase {
    type Error = Error;

    fn try_from(ratio: Rational) -> Result<Self> {
        Self::new(ratio.num, ratio.den)
    }
}

impl fmt::Display for TimeBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.num, self.den)
    }
}

/// A half-open interval of presentation time `[start, end)` in ticks; `None` is open-ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub struct Interval {
    /// First tick that belongs to it.
    pub start: Option<i64>,
    /// First tick that no longer does.
    pub end: Option<i64>,
}

impl Interval {
    /// All of time.
    pub const ALL: Self = Self { start: None, end: None };

    /// Whether a frame with this pts belongs to the interval.
    pub fn contains(self, pts: i64) -> bool {
        !self.is_before(pts) && self.end.is_none_or(|end| pts < end)
    }

    /// Whether `pts` lies before the interval's start.
    pub fn is_before(self, pts: i64) -> bool {
        self.start.is_some_and(|start| pts < start)
    }
}

/// Reads a time as users write it: seconds (`90`, `1.5`) or `[hh:]mm:ss[.f]`; answers microseconds.
///
/// # Errors
/// Invalid where the text is no such time, is negative, or exceeds 64-bit microseconds.
pub fn parse_time(text: &str) -> Result<i64> {
    let wrong = || {
        Error::invalid(format!(
            "'{text}' is not a time; write seconds ('90' or '1.5') or '[hh:]mm:ss[.f]' ('1:30' or '00:01:30.25')"
        ))
    };
    let digits = |part: &str| -> Option<i64> {
        (!part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
        part.parse().ok()
    };
    let parts: Vec<&str> = text.split(':').collect();
    let Some((last, upper)) = parts.split_last() else { return Err(wrong()) };
    if upper.len() > 2 {
        return Err(wrong());
    }
    let (whole, fraction) = match last.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (*last, None),
    };
    let mut seconds = match (whole, fraction) {
        ("", Some(fraction)) if upper.is_empty() && !fraction.is_empty() => 0,
        _ => digits(whole).ok_or_else(wrong)?,
    };
    if !upper.is_empty() && seconds >= 60 {
        return Err(wrong());
    }
    let mut unit: i64 = 60;
    for (place, part) in upper.iter().rev().enumerate() {
        let value = digits(part).ok_or_else(wrong)?;
        if place + 1 < upper.len() && value >= 60 {
            return Err(wrong());
        }
        seconds =
            value.checked_mul(unit).and_then(|add| seconds.checked_add(add)).ok_or_else(wrong)?;
        unit *= 60;
    }
    let mut micros = seconds.checked_mul(1_000_000).ok_or_else(wrong)?;
    if let Some(fraction) = fraction {
        if !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let six: String = fraction.chars().chain("000000".chars()).take(6).collect();
        micros = digits(&six).and_then(|f| micros.checked_add(f)).ok_or_else(wrong)?;
    }
    Ok(micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_as_users_write_them() {
        for (text, micros) in [
            ("0", 0),
            ("90", 90_000_000),
            ("1.5", 1_500_000),
            (".25", 250_000),
            ("1:30", 90_000_000),
            ("00:01:30.25", 90_250_000),
            ("100:00:00", 360_000_000_000),
            ("1.1234567", 1_123_456),
        ] {
            assert_eq!(parse_time(text).unwrap(), micros, "{text}");
        }
        for bad in ["", "-1", "1:2:3:4", "1:60", "1:61:00", "a", "1.x", ":", "1:", "+3", " 1", "."]
        {
            assert!(parse_time(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn an_interval_holds_its_start_and_not_its_end() {
        let interval = Interval { start: Some(0), end: Some(10) };
        assert!(interval.contains(0) && interval.contains(9));
        assert!(!interval.contains(-1) && !interval.contains(10));
        assert!(Interval::ALL.contains(i64::MIN));
    }

    proptest! {
        #[test]
        fn rescaling_there_and_back_is_exact_to_a_finer_base(t in -1i64 << 40..1i64 << 40) {
            let coarse = TimeBase::new(1001, 30000).unwrap();
            let fine = TimeBase::new(1, 30000).unwrap();
            let there = coarse.rescale(t, fine, Rounding::Nearest).unwrap();
            prop_assert_eq!(fine.rescale(there, coarse, Rounding::Nearest), Some(t));
        }

        #[test]
        fn rounding_brackets_the_value(t in any::<i32>(), num in 1i32..5000, den in 1i32..100_000) {
            let from = TimeBase::new(num, den).unwrap();
            let to = TimeBase::new(1, 1000).unwrap();
            let at = |r| from.rescale(i64::from(t), to, r).unwrap();
            prop_assert!(at(Rounding::Down) <= at(Rounding::Nearest));
            prop_assert!(at(Rounding::Nearest) <= at(Rounding::Up));
            prop_assert!(at(Rounding::Up) - at(Rounding::Down) <= 1);
        }
    }
}
