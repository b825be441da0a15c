//! Edit distance between programs.

use rapidfuzz::distance::levenshtein;

/// The Levenshtein distance of two programs in characters.
pub fn distance(a: &str, b: &str) -> usize {
    below(a, b, usize::MAX).expect("a distance without a limit is found")
}

/// Programs for one target differ in little: the distance is first looked for up to this, which costs a fraction.
const LIKELY: usize = 31;

/// The distance, if it is less than `limit`. A low limit makes it cheap.
fn below(a: &str, b: &str, limit: usize) -> Option<usize> {
    let args = levenshtein::Args::default().score_cutoff(limit.checked_sub(1)?).score_hint(LIKELY);
    // Of ASCII, bytes are characters, and bytes are compared without hashing.
    if a.is_ascii() && b.is_ascii() {
        levenshtein::distance_with_args(a.bytes(), b.bytes(), &args)
    } else {
        levenshtein::distance_with_args(a.chars(), b.chars(), &args)
    }
}

/// The place of the candidate that is nearest to `text`, the earliest among equals.
pub fn nearest<'a>(text: &str, candidates: impl ExactSizeIterator<Item = &'a str>) -> Option<usize> {
    // A single one is nearest, however far.
    if candidates.len() == 1 {
        return Some(0);
    }
    let mut best: Option<(usize, usize)> = None;
    for (i, candidate) in candidates.enumerate() {
        if let Some(found) = below(text, candidate, best.map_or(usize::MAX, |(_, distance)| distance)) {
            best = Some((i, found));
        }
    }
    best.map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn distances_count_characters() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("für", "fur"), 1);
        assert_eq!(distance("fur", "日本fur"), 2);
        assert_eq!(distance("", "abc"), 3);
    }

    proptest! {
        #[test]
        fn the_nearest_has_the_least_distance(text in "[abé]{0,80}", candidates in prop::collection::vec("[abé]{0,80}", 0..6)) {
            let least = candidates.iter().enumerate().map(|(i, candidate)| (distance(&text, candidate), i)).min();
            let found = nearest(&text, candidates.iter().map(String::as_str));
            prop_assert_eq!(found, least.map(|(_, i)| i));
        }
    }

    #[test]
    fn the_earliest_of_equals_is_nearest() {
        assert_eq!(nearest("abcd", ["xbxd", "abxd", "xbcd"].into_iter()), Some(1));
        assert_eq!(nearest("abcd", [].into_iter()), None);
    }
}
