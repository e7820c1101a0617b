//! Recipe values that are written as short texts: lengths, shapes and devices.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The longest stage in epochs; keeps the arithmetic on steps exact.
const MOST_EPOCHS: f64 = 1e6;
/// The longest stage in steps.
const MOST_STEPS: u64 = 1_000_000_000_000;
/// The largest extent of an input in each direction.
const MOST_EXTENT: usize = 65_536;

/// A text that isn't the value it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not `<number>ep` or `<whole number>st`, or beyond the longest stage.
    #[error("`{text}` is not a length")]
    Length {
        /// The text as given.
        text: String,
    },
    /// Not `CxHxW` with whole numbers from 1 to 65536.
    #[error("`{text}` is not an input shape")]
    Shape {
        /// The text as given.
        text: String,
    },
    /// Neither a length nor a percentage from 0 to 100.
    #[error("`{text}` is neither a length nor a percentage")]
    Portion {
        /// The text as given.
        text: String,
    },
    /// Not one of the device names.
    #[error("`{text}` is not a device")]
    Device {
        /// The text as given.
        text: String,
    },
    /// An empty pattern, or a regular expression that is none.
    #[error("`{text}` is not a pattern of site names: {reason}")]
    Pattern {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ValueError {
    /// The code of a finding about this text.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Length { .. } => "bad-length",
            Self::Shape { .. } => "bad-shape",
            Self::Portion { .. } => "bad-length",
            Self::Device { .. } => "bad-device",
            Self::Pattern { .. } => "bad-pattern",
        }
    }

    /// What a right text looks like.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Length { .. } => {
                "write epochs as `8ep` (`0.5ep` for half an epoch, at most 1000000ep) or steps as `1200st`, without a space"
            }
            Self::Shape { .. } => {
                "write channels, height and width as `CxHxW`, for example `3x32x32`; each from 1 to 65536"
            }
            Self::Portion { .. } => {
                "write epochs as `1ep`, steps as `100st`, or a share of the stage as `5%` (from 0 to 100), without a space"
            }
            Self::Device { .. } => "write `auto`, `cpu`, `cuda` or `cuda:N`, for example `cuda:1`",
            Self::Pattern { .. } => {
                "write a glob (`layer4.*`), or a regular expression between slashes (`/^layer[34]\\./`); `dimbit inspect` lists the sites"
            }
        }
    }
}

/// How long a stage (or its warm-up) lasts; `8ep` or `1200st` in a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Length {
    /// Passes over the training images; may be fractional.
    Epochs(f64),
    /// Optimizer steps, one a batch.
    Steps(u64),
}

impl Length {
    /// The number of optimizer steps when an epoch has `steps_per_epoch` of them.
    ///
    /// A part of a step counts as a whole one, so that no positive length comes to nothing.
    pub fn steps(self, steps_per_epoch: usize) -> u64 {
        match self {
            Self::Epochs(epochs) => (epochs * steps_per_epoch as f64).ceil() as u64,
            Self::Steps(steps) => steps,
        }
    }

    /// The number of epochs when an epoch has `steps_per_epoch` steps; infinite where it has none.
    pub fn epochs(self, steps_per_epoch: usize) -> f64 {
        match self {
            Self::Epochs(epochs) => epochs,
            Self::Steps(0) => 0.0,
            Self::Steps(steps) => steps as f64 / steps_per_epoch as f64,
        }
    }

    /// Whether this is no time at all, in either unit.
    pub fn is_zero(self) -> bool {
        match self {
            Self::Epochs(epochs) => epochs == 0.0,
            Self::Steps(steps) => steps == 0,
        }
    }
}

impl FromStr for Length {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let epochs = || {
            let digits = text.strip_suffix("ep")?;
            // f64's own parser also takes signs, exponents, `inf` and `nan`.
            let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            let epochs = digits.parse::<f64>().ok()?;
            (plain && epochs <= MOST_EPOCHS).then_some(Self::Epochs(epochs))
        };
        let steps = || {
            let digits = text.strip_suffix("st")?;
            let steps = whole(digits)?;
            (steps <= MOST_STEPS).then_some(Self::Steps(steps))
        };
        epochs().or_else(steps).ok_or_else(|| ValueError::Length { text: text.into() })
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epochs(epochs) => write!(f, "{epochs}ep"),
            Self::Steps(steps) => write!(f, "{steps}st"),
        }
    }
}

/// A part of a stage: a length of its own (`1ep`, `100st`), or a share of the stage's length (`5%`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Portion {
    /// So long, whatever the stage's length.
    Length(Length),
    /// Percent of the stage's length, from 0 to 100.
    Percent(f64),
}

impl Portion {
    /// The length of this part of a stage of length `stage`, in the stage's unit if it is a share.
    pub fn of(self, stage: Length) -> Length {
        match (self, stage) {
            (Self::Length(length), _) => length,
            (Self::Percent(percent), Length::Epochs(epochs)) => Length::Epochs(epochs * percent / 100.0),
            (Self::Percent(percent), Length::Steps(steps)) => {
                Length::Steps((steps as f64 * percent / 100.0).ceil() as u64)
            }
        }
    }

    /// Whether this is no time at all.
    pub fn is_zero(self) -> bool {
        match self {
            Self::Length(length) => length.is_zero(),
            Self::Percent(percent) => percent == 0.0,
        }
    }
}

impl FromStr for Portion {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let percent = || {
            let digits = text.strip_suffix('%')?;
            let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            let percent = digits.parse::<f64>().ok()?;
            (plain && percent <= 100.0).then_some(Self::Percent(percent))
        };
        let length = || text.parse().ok().map(Self::Length);
        percent().or_else(length).ok_or_else(|| ValueError::Portion { text: text.into() })
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => length.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// The shape of one input image; `3x32x32` in a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InputShape {
    /// Channels.
    pub channels: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
}

impl InputShape {
    /// `[channels, height, width]`.
    pub fn extents(self) -> [i64; 3] {
        // No extent that is read exceeds `MOST_EXTENT`.
        [self.channels, self.height, self.width].map(|extent| extent as i64)
    }
}

impl FromStr for InputShape {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let extents: Option<Vec<usize>> =
            text.split('x').map(|part| whole(part).filter(|n| (1..=MOST_EXTENT).contains(n))).collect();
        match extents.as_deref() {
            Some(&[channels, height, width]) => Ok(Self { channels, height, width }),
            _ => Err(ValueError::Shape { text: text.into() }),
        }
    }
}

impl fmt::Display for InputShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// Where the run computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The first CUDA device where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number; plain `cuda` is number 0.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let device = match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(whole::<u16>).map(|number| Self::Cuda(number.into())),
        };
        device.ok_or_else(|| ValueError::Device { text: text.into() })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// Parses digits alone: the standard parser would also take a sign.
fn whole<T: FromStr>(digits: &str) -> Option<T> {
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Ties a text value to serde's string conversions and to its JSON Schema.
macro_rules! text_value {
    ($type:ty, $schema:tt) => {
        impl TryFrom<String> for $type {
            type Error = ValueError;

            fn try_from(text: String) -> Result<Self, ValueError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

pub(super) use text_value;

text_value!(Length, {
    "type": "string",
    "format": "length",
    "pattern": "^([0-9]+(\\.[0-9]*)?|\\.[0-9]+)ep$|^[0-9]+st$",
    "examples": ["8ep", "1200st"]
});
text_value!(Portion, {
    "type": "string",
    "format": "portion",
    "pattern": "^([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(ep|%)$|^[0-9]+st$",
    "examples": ["5%", "1ep", "100st"]
});
text_value!(InputShape, {
    "type": "string",
    "format": "shape",
    "pattern": "^[0-9]+x[0-9]+x[0-9]+$",
    "examples": ["3x32x32"]
});
text_value!(Device, {
    "type": "string",
    "format": "device",
    "pattern": "^(auto|cpu|cuda(:[0-9]+)?)$",
    "examples": ["auto", "cuda:0"]
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_and_write_the_same_text() {
        for text in ["8ep", "0.5ep", "0ep", "1200st", "1000000ep"] {
            assert_eq!(text.parse::<Length>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "ep",
            "8",
            "8 ep",
            "-1ep",
            "+1ep",
            "1e3ep",
            "infep",
            "nanep",
            ".ep",
            "1.5st",
            "st",
            "1000001ep",
            "99999999999999999999st",
            "8EP",
        ] {
            assert!(text.parse::<Length>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_length_counts_steps_up_and_epochs_exactly() {
        assert_eq!(Length::Epochs(0.5).steps(63), 32);
        assert_eq!(Length::Steps(126).epochs(63), 2.0);
        assert_eq!(Length::Steps(7).steps(63), 7);
        assert!(Length::Epochs(0.0).is_zero() && Length::Steps(0).is_zero());
    }

    #[test]
    fn a_portion_is_a_length_or_a_share_of_the_stage() {
        for text in ["5%", "0.5%", "0%", "100%", "1ep", "100st"] {
            assert_eq!(text.parse::<Portion>().unwrap().to_string(), text);
        }
        for text in ["%", "5 %", "-1%", "100.1%", "1e1%", "nan%", "5", "", ".%"] {
            assert!(text.parse::<Portion>().is_err(), "{text}");
        }
        let five: Portion = "5%".parse().unwrap();
        assert_eq!(five.of(Length::Epochs(8.0)), Length::Epochs(0.4));
        // No positive share comes to nothing.
        assert_eq!(five.of(Length::Steps(30)), Length::Steps(2));
        assert_eq!(Portion::Length(Length::Steps(7)).of(Length::Epochs(8.0)), Length::Steps(7));
        assert!("0%".parse::<Portion>().unwrap().is_zero() && !five.is_zero());
    }

    #[test]
    fn shapes_and_devices_refuse_what_they_cannot_mean() {
        assert_eq!("3x32x40".parse(), Ok(InputShape { channels: 3, height: 32, width: 40 }));
        for text in ["3x32", "3x32x32x1", "0x32x32", "3x-1x2", "3x32x65537", "axbxc", ""] {
            assert!(text.parse::<InputShape>().is_err(), "{text}");
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        assert_eq!(Device::Cuda(3).to_string().parse(), Ok(Device::Cuda(3)));
        for text in ["gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", "cuda:99999"] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
    }
}
