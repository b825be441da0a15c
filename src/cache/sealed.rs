//! JSON files that know whether they are whole: `{"check":"<BLAKE3 of the record's text>","record":{..}}`.
//!
//! A record is a few kilobytes that decide whether hours of work are done again. Being valid JSON is no proof of being
//! what was written, so each file carries the hash of its own text. Any JSON tool reads it.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;

const HEAD: &str = "{\"check\":\"";
const MIDDLE: &str = "\",\"record\":";
const TAIL: &str = "}\n";
const HEX_LEN: usize = 64;

/// Why a file is not what was once written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsealable {
    #[error("the file is cut short or not one of ours")]
    Shape,
    #[error("the file's text does not match its own check: it was altered")]
    Check,
    #[error("the record cannot be understood: {0}")]
    Json(#[from] serde_json::Error),
}

/// Returns the text of a file that holds `value`.
pub(super) fn seal<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let body = serde_json::to_string(value)?;
    Ok(format!("{HEAD}{}{MIDDLE}{body}{TAIL}", Digest::of_bytes(body.as_bytes())).into_bytes())
}

/// Returns what `seal` was given.
pub(super) fn unseal<T: DeserializeOwned>(text: &[u8]) -> Result<T, Unsealable> {
    let rest = text.strip_prefix(HEAD.as_bytes()).ok_or(Unsealable::Shape)?;
    let (check, rest) = rest.split_at_checked(HEX_LEN).ok_or(Unsealable::Shape)?;
    let body = rest
        .strip_prefix(MIDDLE.as_bytes())
        .and_then(|rest| rest.strip_suffix(TAIL.as_bytes()))
        .ok_or(Unsealable::Shape)?;
    if Digest::of_bytes(body).to_string().as_bytes() != check {
        return Err(Unsealable::Check);
    }
    Ok(serde_json::from_slice(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_comes_back_and_is_json() {
        let text = seal(&vec![("a", 0.1_f64), ("b", f64::MIN_POSITIVE)]).unwrap();
        let back: Vec<(String, f64)> = unseal(&text).unwrap();
        assert_eq!(back, [("a".to_owned(), 0.1), ("b".to_owned(), f64::MIN_POSITIVE)]);
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(json["record"][0][0], "a");
    }

    #[test]
    fn no_flipped_bit_and_no_cut_is_accepted() {
        let text = seal(&vec![1, 22, 333]).unwrap();
        for length in 0..text.len() {
            assert!(unseal::<Vec<i32>>(&text[..length]).is_err(), "cut at {length}");
        }
        for place in 0..text.len() {
            for bit in 0..8 {
                let mut other = text.clone();
                other[place] ^= 1 << bit;
                assert!(unseal::<Vec<i32>>(&other).is_err(), "bit {bit} of byte {place}");
            }
        }
    }
}
