//! Sizes and durations on the command line.

use odmoe_backend::KvFormat;
use odmoe_backend_cpu::{KernelSet, UnknownKernelSet};
use odmoe_formats::ByteCount;
use std::str::FromStr;
use std::time::Duration;

/// A text that is no quantity. The message says how to write one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// No size.
    #[error("{0:?} is no size; write a number with a unit, such as 128MiB, 1.5GiB or 6GB")]
    Size(String),
    /// More than 2^64 bytes, or negative.
    #[error("{0:?} is out of range")]
    Range(String),
    /// No share.
    #[error("{0:?} is no share; write more than 0% and at most 100%")]
    Percent(String),
    /// No expert cache size.
    #[error(
        "{0:?} is no cache size; write auto, a size such as 128MiB, or a share of all experts such as 25%"
    )]
    ExpertCache(String),
    /// No KV cache size.
    #[error(
        "{0:?} is no KV cache size; write auto, a number of tokens such as 8192, or a size such as 512MiB"
    )]
    KvCache(String),
    /// No KV format.
    #[error("{0:?} is no KV format; write f16, f32 or q8_0")]
    KvFormat(String),
    /// No duration.
    #[error("{0:?} is no duration; write seconds, such as 30 or 0.5")]
    Seconds(String),
    /// Neither a duration nor none.
    #[error("{0:?} is no time-out; write seconds, such as 600, or none")]
    Patience(String),
}

/// A number of bytes with a unit: `128MiB`, `6GB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// As the rest of the program counts.
    pub const fn count(self) -> ByteCount {
        ByteCount(self.0)
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let unknown = || QuantityError::Size(text.to_owned());
        let trimmed = text.trim();
        let end = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(unknown()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            let bytes = whole.checked_mul(factor);
            return bytes
                .map(Self)
                .ok_or_else(|| QuantityError::Range(text.to_owned()));
        }
        let bytes = number.parse::<f64>().map_err(|_| unknown())? * factor as f64;
        // 2^64 is the first float that does not fit.
        if bytes < u64::MAX as f64 {
            Ok(Self(bytes as u64))
        } else {
            Err(QuantityError::Range(text.to_owned()))
        }
    }
}

/// How much memory experts get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ExpertCacheSize {
    /// All experts, or what the memory limit leaves.
    Auto,
    /// That much.
    Bytes(ByteCount),
    /// A share of all routed-expert bytes, in percent.
    Percent(f64),
}

impl FromStr for ExpertCacheSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let trimmed = text.trim();
        if trimmed.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        if let Some(number) = trimmed.strip_suffix('%') {
            let percent = number
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|p| *p > 0.0 && *p <= 100.0);
            return percent
                .map(Self::Percent)
                .ok_or_else(|| QuantityError::Percent(text.to_owned()));
        }
        match trimmed.parse::<ByteSize>() {
            Ok(size) => Ok(Self::Bytes(size.count())),
            Err(QuantityError::Range(_)) => Err(QuantityError::Range(text.to_owned())),
            Err(_) => Err(QuantityError::ExpertCache(text.to_owned())),
        }
    }
}

/// How much the KV cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCacheSize {
    /// The model's context for every running sequence, within a quarter of what the base leaves.
    Auto,
    /// That many tokens.
    Tokens(usize),
    /// That many bytes.
    Bytes(ByteCount),
}

impl FromStr for KvCacheSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let trimmed = text.trim();
        if trimmed.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        if let Ok(tokens) = trimmed.parse::<usize>() {
            return if tokens > 0 {
                Ok(Self::Tokens(tokens))
            } else {
                Err(QuantityError::Range(text.to_owned()))
            };
        }
        let size = trimmed.parse::<ByteSize>();
        size.map(|size| Self::Bytes(size.count()))
            .map_err(|_| QuantityError::KvCache(text.to_owned()))
    }
}

/// A duration in seconds, with a fraction if need be; more than none and at most a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl FromStr for Seconds {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let number = text.trim().strip_suffix('s').unwrap_or(text.trim());
        let seconds = number
            .parse::<f64>()
            .ok()
            .filter(|s| *s > 0.0 && *s <= 86_400.0);
        seconds
            .map(|s| Self(Duration::from_secs_f64(s)))
            .ok_or_else(|| QuantityError::Seconds(text.to_owned()))
    }
}

/// A duration in seconds, or `none` where nothing is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(pub Option<Duration>);

impl FromStr for Patience {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        if text.trim().eq_ignore_ascii_case("none") {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(Seconds(duration)) => Ok(Self(Some(duration))),
            Err(_) => Err(QuantityError::Patience(text.to_owned())),
        }
    }
}

/// `f16`, `f32` or `q8_0`, in any case.
pub fn parse_kv_format(text: &str) -> Result<KvFormat, QuantityError> {
    let found = KvFormat::ALL
        .into_iter()
        .find(|format| format.name().eq_ignore_ascii_case(text));
    found.ok_or_else(|| QuantityError::KvFormat(text.to_owned()))
}

/// A kernel set by name.
pub fn parse_kernels(text: &str) -> Result<KernelSet, UnknownKernelSet> {
    KernelSet::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("128MiB", 128 << 20),
            ("6GB", 6_000_000_000),
            (" 1.5 gib ", 3 << 29),
            ("2k", 2048),
            ("0.5KB", 500),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in [
            "",
            "MiB",
            "12 parsecs",
            "-1",
            "1.2.3MB",
            "1e3",
            "nan",
            "\u{ff11}MB",
        ] {
            assert!(
                matches!(text.parse::<ByteSize>(), Err(QuantityError::Size(_))),
                "{text}"
            );
        }
        for text in ["18446744073709551616", "17000000TiB", "99999999999.5TB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn cache_sizes() {
        assert_eq!("Auto".parse(), Ok(ExpertCacheSize::Auto));
        assert_eq!("12.5 %".parse(), Ok(ExpertCacheSize::Percent(12.5)));
        assert_eq!(
            "1MiB".parse(),
            Ok(ExpertCacheSize::Bytes(ByteCount(1 << 20)))
        );
        for text in ["0%", "101%", "-5%", "NaN%", "%"] {
            assert!(
                matches!(
                    text.parse::<ExpertCacheSize>(),
                    Err(QuantityError::Percent(_))
                ),
                "{text}"
            );
        }
        assert!(matches!(
            "half".parse::<ExpertCacheSize>(),
            Err(QuantityError::ExpertCache(_))
        ));
        assert_eq!("8192".parse(), Ok(KvCacheSize::Tokens(8192)));
        assert_eq!("8KiB".parse(), Ok(KvCacheSize::Bytes(ByteCount(8192))));
        assert_eq!("auto".parse(), Ok(KvCacheSize::Auto));
        assert!("0".parse::<KvCacheSize>().is_err() && "much".parse::<KvCacheSize>().is_err());
    }

    #[test]
    fn durations() {
        assert_eq!("0.5".parse(), Ok(Seconds(Duration::from_millis(500))));
        assert_eq!("30s".parse(), Ok(Seconds(Duration::from_secs(30))));
        for text in ["0", "-1", "inf", "nan", "1e99", "soon"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }
}
