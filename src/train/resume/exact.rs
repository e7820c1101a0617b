//! Numbers in JSON that come back to the last bit and may be infinite or none at all: as texts. For `#[serde(with)]`.

use serde::{Deserialize, Deserializer, Serializer, de};

/// Writes the shortest text that stands for this number alone.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{value:?}"))
}

/// Reads it again.
///
/// # Errors
/// If it is no number.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| de::Error::custom(format!("`{text}` is no number")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Number(#[serde(with = "super")] f64);

    proptest! {
        #[test]
        fn every_number_comes_back(value in any::<f64>()) {
            let json = serde_json::to_string(&Number(value)).unwrap();
            let back: Number = serde_json::from_str(&json).unwrap();
            prop_assert!(back.0.to_bits() == value.to_bits() || (back.0.is_nan() && value.is_nan()), "{json}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        assert!(serde_json::from_str::<Number>("\"many\"").is_err() && serde_json::from_str::<Number>("null").is_err());
    }
}
